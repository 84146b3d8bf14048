//! A publish repeated with the same `x-dedup-id` counts once.

use it::broker::unique;
use it::value::table;
use it::{Broker, Channel, Connection, Login, PATIENCE, Program, Properties};

const WHY: &str = "does not know x-dedup-id";

fn open(program: &Program) -> Channel {
    Connection::open(program.address, &Login::default()).unwrap().channel()
}

fn numbered(id: &str) -> Properties {
    Properties { delivery_mode: Some(2), ..Properties::with_headers([("x-dedup-id", id.into())]) }
}

#[test]
fn a_repeated_publish_is_confirmed_and_not_stored_again() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    let queue = unique("dedup");
    channel.declare_durable(&queue, &[]).unwrap();
    channel.confirms();

    for (id, body) in [("1", "first"), ("1", "repeated"), ("2", "second"), ("1", "repeated")] {
        channel.publish("", &queue, &numbered(id), body.as_bytes());
    }

    assert!(channel.wait_confirms(4).is_empty());
    assert_eq!(channel.take_all(&queue), ["first", "second"]);
}

#[test]
fn a_publish_that_was_consumed_already_is_still_known() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("q", &[]).unwrap();
    channel.confirms();
    channel.publish("", "q", &numbered("1"), b"x");
    channel.wait_confirms(1);
    assert_eq!(channel.take_all("q"), ["x"]);

    channel.publish("", "q", &numbered("1"), b"x");
    channel.sync();

    assert!(channel.take_all("q").is_empty());
}

#[test]
fn the_same_id_at_another_exchange_is_another_message() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("q", &[]).unwrap();
    channel.bind("q", "amq.direct", "q", &[]).unwrap();

    channel.publish("", "q", &numbered("1"), b"default");
    channel.publish("amq.direct", "q", &numbered("1"), b"direct");
    channel.sync();

    assert_eq!(channel.take_all("q"), ["default", "direct"]);
}

#[test]
fn ids_are_remembered_over_a_kill() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("q", &[]).unwrap();
    channel.confirms();
    channel.publish("", "q", &numbered("1"), b"x");
    channel.wait_confirms(1);

    program.restart();
    let channel = open(&program);
    channel.confirms();
    channel.publish("", "q", &numbered("1"), b"x");
    channel.wait_confirms(1);

    assert_eq!(channel.take_all("q"), ["x"]);
}

#[test]
fn a_publish_in_an_open_transaction_that_is_rolled_back_does_not_count() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("q", &[]).unwrap();
    channel.transaction(10).unwrap();
    channel.publish("", "q", &numbered("1"), b"undone");
    channel.transaction(30).unwrap();

    channel.publish("", "q", &numbered("1"), b"done");
    channel.transaction(20).unwrap();

    assert_eq!(channel.take_all("q"), ["done"]);
}

#[test]
fn a_publish_that_one_queue_refused_reaches_all_when_it_is_repeated() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    let full = table([("x-max-length", 1.into()), ("x-overflow", "reject-publish".into())]);
    channel.declare_durable("full", &full).unwrap();
    channel.declare_durable("roomy", &[]).unwrap();
    channel.send("full", "in the way");
    channel.sync();
    for queue in ["full", "roomy"] {
        channel.bind(queue, "amq.fanout", "", &[]).unwrap();
    }
    channel.confirms();

    let accepted = || {
        channel.publish("amq.fanout", "", &numbered("1"), b"x");
        channel.next_confirm(PATIENCE).expect("an answer").accepted
    };
    assert!(!accepted());
    channel.purge("full").unwrap();
    assert!(accepted());

    assert_eq!(channel.take_all("full"), ["x"]);
    assert_eq!(channel.take_all("roomy"), ["x"]);
}
