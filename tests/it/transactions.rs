//! `tx`: all or nothing.

use it::broker::unique;
use it::value::table;
use it::{Broker, PATIENCE, Properties};

const SELECT: u16 = 10;
const COMMIT: u16 = 20;
const ROLLBACK: u16 = 30;

#[test]
fn published_messages_appear_when_the_transaction_commits_and_in_order() {
    let broker = Broker::start();
    let connection = broker.connect();
    let (channel, watcher) = (connection.channel(), connection.channel());
    let queues: Vec<String> = (0..3).map(|_| channel.declare("", &[]).unwrap().name).collect();
    channel.transaction(SELECT).unwrap();

    for body in ["1", "2"] {
        queues.iter().for_each(|queue| channel.send(queue, body));
    }
    channel.sync();
    assert!(queues.iter().all(|queue| watcher.inspect(queue).unwrap().messages == 0));
    channel.transaction(COMMIT).unwrap();

    assert!(queues.iter().all(|queue| watcher.take_all(queue) == ["1", "2"]));
}

#[test]
fn rolled_back_messages_never_appear() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.transaction(SELECT).unwrap();

    channel.send(&queue, "undone");
    channel.transaction(ROLLBACK).unwrap();
    channel.send(&queue, "done");
    channel.transaction(COMMIT).unwrap();

    assert_eq!(channel.take_all(&queue), ["done"]);
}

#[test]
fn acknowledgements_count_only_when_committed() {
    let broker = Broker::start();
    let connection = broker.connect();
    let queue = unique("tx-acks");
    let channel = connection.channel();
    channel.declare(&queue, &[]).unwrap();
    ["kept", "gone"].iter().for_each(|body| channel.send(&queue, body));
    channel.transaction(SELECT).unwrap();

    let kept = channel.get(&queue, false).unwrap().unwrap();
    channel.ack(kept.tag);
    channel.transaction(ROLLBACK).unwrap();
    let gone = channel.get(&queue, false).unwrap().unwrap();
    channel.ack(gone.tag);
    channel.transaction(COMMIT).unwrap();
    channel.close().unwrap();

    let again = connection.channel().take_soon(&queue);
    assert_eq!((again.text(), again.redelivered), ("kept", true));
    assert_eq!(connection.channel().inspect(&queue).unwrap().messages, 0);
}

#[test]
fn a_rejection_in_a_transaction_dead_letters_when_it_commits() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let dead = channel.declare("", &[]).unwrap().name;
    let arguments = table([
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", (&dead).into()),
    ]);
    let queue = channel.declare("", &arguments).unwrap().name;
    channel.send(&queue, "x");
    channel.transaction(SELECT).unwrap();
    let message = channel.get(&queue, false).unwrap().unwrap();

    channel.reject(message.tag, false);
    channel.sync();
    assert_eq!(channel.inspect(&dead).unwrap().messages, 0);
    channel.transaction(COMMIT).unwrap();

    assert_eq!(channel.take_soon(&dead).text(), "x");
}

#[test]
fn an_unroutable_mandatory_message_is_returned_before_commit_ok() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    channel.transaction(SELECT).unwrap();
    channel.publish_flagged("", &unique("nobody"), [true, false], &Properties::default(), b"x");

    connection.send(&it::frame::method(channel.number, 90, COMMIT, &it::frame::Args::default()));

    let order =
        [channel.next_event(PATIENCE).unwrap().id, channel.next_event(PATIENCE).unwrap().id];
    assert_eq!(order, [(60, 50), (90, 21)]);
}

#[test]
fn a_message_is_returned_by_the_commit_and_not_by_the_publish_or_a_rollback() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    channel.transaction(SELECT).unwrap();
    let publish = |body: &[u8]| {
        let nobody = unique("nobody");
        channel.publish_flagged("", &nobody, [true, false], &Properties::default(), body);
    };

    publish(b"undone");
    channel.sync();
    channel.transaction(ROLLBACK).unwrap();
    publish(b"done");
    connection.send(&it::frame::method(channel.number, 90, COMMIT, &it::frame::Args::default()));

    assert_eq!(channel.next_return(PATIENCE).unwrap().text(), "done");
    assert_eq!(channel.next_event(PATIENCE).unwrap().id, (90, 21));
}

#[test]
fn publishes_acks_requeues_and_dead_letters_of_a_transaction_are_one_commit() {
    let Some(program) = Broker::start_own("does not count its commits") else { return };
    let connection = it::Connection::open(program.address, &it::Login::default()).unwrap();
    let channel = connection.channel();
    for queue in ["dead", "published"] {
        channel.declare_durable(queue, &[]).unwrap();
    }
    let arguments = table([
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ]);
    for queue in ["a", "b"] {
        channel.declare_durable(queue, &arguments).unwrap();
        ["acked", "rejected", "requeued"].iter().for_each(|body| channel.send(queue, body));
    }
    channel.transaction(SELECT).unwrap();
    for queue in ["a", "b"] {
        let [acked, rejected, requeued] =
            [(); 3].map(|()| channel.get(queue, false).unwrap().unwrap().tag);
        channel.ack(acked);
        channel.reject(rejected, false);
        channel.nack(requeued, [false, true]);
    }
    channel.send("published", "x");
    channel.sync();
    let before = program.metric("posthouse_store_commits_total");

    channel.transaction(COMMIT).unwrap();

    assert!((program.metric("posthouse_store_commits_total") - before - 1.0).abs() < 0.1);
    let watcher = connection.channel();
    assert_eq!(watcher.take_all("dead"), ["rejected", "rejected"]);
    assert_eq!(watcher.take_all("published"), ["x"]);
    assert_eq!([watcher.take_all("a"), watcher.take_all("b")], [["requeued"], ["requeued"]]);
}

#[test]
fn a_rollback_undoes_refusals_and_nothing_that_was_committed() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    ["1", "2", "3"].iter().for_each(|body| channel.send(&queue, body));
    channel.transaction(SELECT).unwrap();
    let tags = [(); 3].map(|()| channel.get(&queue, false).unwrap().unwrap().tag);

    channel.reject(tags[0], false);
    channel.transaction(COMMIT).unwrap();
    channel.reject(tags[1], false);
    channel.nack(tags[2], [false, true]);
    channel.transaction(ROLLBACK).unwrap();
    // Held again, so it can be settled once more.
    channel.ack(tags[1]);
    channel.transaction(COMMIT).unwrap();
    channel.close().unwrap();

    let watcher = connection.channel();
    let again = watcher.take_soon(&queue);
    assert_eq!((again.text(), again.redelivered), ("3", true));
    assert_eq!(watcher.inspect(&queue).unwrap().messages, 0);
}

#[test]
fn committing_without_a_transaction_is_refused() {
    let broker = Broker::start();
    let connection = broker.connect();
    for method in [COMMIT, ROLLBACK] {
        let close = connection.channel().transaction(method).unwrap_err();

        assert_eq!(
            (close.code, &*close.text),
            (406, "PRECONDITION_FAILED - channel is not transactional")
        );
    }
}

#[test]
fn a_channel_cannot_both_confirm_and_be_transactional() {
    let broker = Broker::start();
    let connection = broker.connect();
    let (confirming, transactional) = (connection.channel(), connection.channel());
    confirming.confirms();
    transactional.transaction(SELECT).unwrap();
    transactional.transaction(SELECT).unwrap();

    let to_tx = confirming.transaction(SELECT).unwrap_err();
    let to_confirm =
        transactional.call((85, 10), &it::frame::Args::default().octet(0), (85, 11)).unwrap_err();

    assert_eq!(
        (to_tx.code, &*to_tx.text),
        (406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode")
    );
    assert_eq!(
        (to_confirm.code, &*to_confirm.text),
        (406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode")
    );
}

#[test]
fn a_connection_that_ends_rolls_back() {
    let broker = Broker::start();
    let (connection, other) = (broker.connect(), broker.connect());
    let queue = connection.channel().declare("", &[]).unwrap().name;
    let channel = other.channel();
    channel.transaction(SELECT).unwrap();
    channel.send(&queue, "x");
    channel.sync();

    other.close();

    assert_eq!(connection.channel().inspect(&queue).unwrap().messages, 0);
}
