//! Who gets which message, and when.

use it::broker::unique;
use it::frame::{self, Args};
use it::value::table;
use it::{Broker, Channel, PATIENCE, Value};

fn filled(channel: &Channel, count: u32) -> String {
    let queue = channel.declare("", &[]).unwrap().name;
    (0..count).for_each(|number| channel.send(&queue, &number.to_string()));
    queue
}

#[test]
fn prefetch_holds_back_what_is_not_acknowledged() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 5);
    channel.prefetch(2);
    channel.consume(&queue, "c", &[]).unwrap();

    let held = [channel.next(), channel.next()];
    channel.expect_silence();
    channel.ack(held[0].tag);

    assert_eq!(channel.next().text(), "2");
    channel.expect_silence();
}

#[test]
fn a_prefetch_without_global_counts_for_each_consumer() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 5);
    channel.prefetch(1);

    channel.consume(&queue, "a", &[]).unwrap();
    channel.consume(&queue, "b", &[]).unwrap();

    let mut consumers = [channel.next().consumer, channel.next().consumer];
    consumers.sort();
    assert_eq!(consumers, ["a", "b"]);
    channel.expect_silence();
}

#[test]
fn a_global_prefetch_is_shared_by_the_channel() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 5);
    channel.prefetch_shared(3);

    channel.consume(&queue, "a", &[]).unwrap();
    channel.consume(&queue, "b", &[]).unwrap();

    let held = [channel.next(), channel.next(), channel.next()];
    channel.expect_silence();
    channel.ack_all(held[2].tag);
    (0..2).for_each(|_| drop(channel.next()));
}

#[test]
fn a_global_prefetch_freed_by_one_queue_serves_another() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (first, second) = (filled(&channel, 3), filled(&channel, 3));
    channel.prefetch_shared(3);
    channel.consume(&first, "a", &[]).unwrap();
    channel.consume(&second, "b", &[]).unwrap();
    let held = [channel.next(), channel.next(), channel.next()];
    assert!(held.iter().all(|message| message.consumer == "a"));

    channel.ack_all(held[2].tag);

    for _ in 0..3 {
        assert_eq!(channel.next().consumer, "b");
    }
}

#[test]
fn a_prefetch_raised_later_reaches_consumers_that_already_run() {
    let Some(program) = Broker::start_own("keeps the prefetch that a consumer began with") else {
        return;
    };
    let connection = it::Connection::open(program.address, &it::Login::default()).unwrap();
    let channel = connection.channel();
    let queue = filled(&channel, 5);
    channel.prefetch(1);
    channel.consume(&queue, "c", &[]).unwrap();
    drop(channel.next());
    channel.expect_silence();

    channel.prefetch(3);

    let more = [channel.next(), channel.next()];
    assert_eq!(more[1].text(), "2");
    channel.expect_silence();
}

#[test]
fn requeued_messages_come_back_in_their_old_order_before_younger_ones() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 4);
    let taken: Vec<_> = (0..3).map(|_| channel.get(&queue, false).unwrap().unwrap()).collect();

    channel.nack(taken[2].tag, [false, true]);
    channel.nack(taken[0].tag, [false, true]);
    channel.nack(taken[1].tag, [false, true]);

    let again: Vec<_> = (0..4).map(|_| channel.take_soon(&queue)).collect();
    let seen: Vec<_> = again.iter().map(|message| (message.text(), message.redelivered)).collect();
    assert_eq!(seen, [("0", true), ("1", true), ("2", true), ("3", false)]);
}

#[test]
fn a_consumer_of_higher_priority_is_served_first_until_it_is_full() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.prefetch(2);
    channel.consume(&queue, "low", &[]).unwrap();
    channel.consume(&queue, "high", &table([("x-priority", 10.into())])).unwrap();

    (0..4).for_each(|number| channel.send(&queue, &number.to_string()));

    let consumers: Vec<_> =
        (0..4).map(|_| channel.next()).map(|message| (message.consumer, message.tag)).collect();
    let high = consumers.iter().filter(|(consumer, _)| consumer == "high").count();
    assert_eq!((high, consumers.len() - high), (2, 2));
    assert_eq!(consumers[0].0, "high");
}

#[test]
fn an_exclusive_consumer_refuses_others() {
    let broker = Broker::start();
    let connection = broker.connect();
    let (first, second) = (connection.channel(), connection.channel());
    let queue = first.declare("", &[]).unwrap().name;
    first.consume_flagged(&queue, "only", [false, true], &[]).unwrap();

    let close = second.consume(&queue, "other", &[]).unwrap_err();

    assert_eq!(
        (close.code, close.text),
        (403, format!("ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"))
    );
    let third = connection.channel();
    first.cancel("only").unwrap();
    third.consume(&queue, "other", &[]).unwrap();
    let refused =
        connection.channel().consume_flagged(&queue, "exclusive", [false, true], &[]).unwrap_err();
    assert_eq!(refused.code, 403);
}

#[test]
fn a_single_active_consumer_gets_everything_until_it_goes() {
    let broker = Broker::start();
    let connection = broker.connect();
    let (first, second) = (connection.channel(), connection.channel());
    let queue =
        first.declare("", &table([("x-single-active-consumer", true.into())])).unwrap().name;
    first.consume(&queue, "active", &[]).unwrap();
    second.consume(&queue, "waiting", &[]).unwrap();

    ["1", "2"].iter().for_each(|body| first.send(&queue, body));
    assert_eq!([first.next().text(), first.next().text()], ["1", "2"]);
    second.expect_silence();
    first.close().unwrap();

    let taken_over = [second.next(), second.next()];
    assert_eq!([taken_over[0].text(), taken_over[1].text()], ["1", "2"]);
    assert!(taken_over.iter().all(|message| message.redelivered));
}

#[test]
fn deleting_a_queue_tells_its_consumers_after_the_one_who_deleted() {
    let broker = Broker::start();
    let (connection, other) = (broker.connect(), broker.connect());
    let channel = connection.channel();
    let name = unique("deleted");
    channel.declare_durable(&name, &[]).unwrap();
    channel.consume(&name, "mine", &[]).unwrap();
    let theirs = other.channel();
    theirs.consume(&name, "theirs", &[]).unwrap();

    channel.delete(&name, [false, false]).unwrap();

    assert_eq!(channel.next_cancel(PATIENCE).as_deref(), Some("mine"));
    assert_eq!(theirs.next_cancel(PATIENCE).as_deref(), Some("theirs"));
}

#[test]
fn a_client_that_did_not_ask_for_it_hears_nothing_of_a_cancelled_consumer() {
    let broker = Broker::start();
    let login = it::Login { capabilities: Vec::new(), ..it::Login::default() };
    let connection = it::Connection::open(broker.address(), &login).unwrap();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.consume(&queue, "c", &[]).unwrap();

    connection.channel().delete(&queue, [false, false]).unwrap();

    assert_eq!(channel.next_cancel(it::SILENCE), None);
}

#[test]
fn cancelling_stops_deliveries_and_leaves_the_unacknowledged_alone() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 1);
    channel.consume(&queue, "c", &[]).unwrap();
    let held = channel.next();

    channel.cancel("c").unwrap();
    channel.cancel("unknown tags are fine").unwrap();
    channel.send(&queue, "later");
    channel.expect_silence();
    channel.ack(held.tag);

    assert_eq!(channel.take_all(&queue), ["later"]);
}

#[test]
fn closing_a_channel_returns_what_it_held() {
    let broker = Broker::start();
    let connection = broker.connect();
    let (first, second) = (connection.channel(), connection.channel());
    let queue = filled(&first, 2);
    first.consume(&queue, "c", &[]).unwrap();
    (0..2).for_each(|_| drop(first.next()));

    first.close().unwrap();

    assert_eq!(second.take_all(&queue), ["0", "1"]);
}

#[test]
fn without_acknowledgements_nothing_is_held_and_prefetch_does_not_count() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 10);
    channel.prefetch(1);

    channel.consume_flagged(&queue, "c", [true, false], &[]).unwrap();

    let bodies: Vec<String> = (0..10).map(|_| channel.next().text().to_owned()).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[test]
fn recover_gives_everything_back_redelivered() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 3);
    channel.consume(&queue, "c", &[]).unwrap();
    (0..3).for_each(|_| drop(channel.next()));

    channel.recover(true).unwrap();

    let again: Vec<_> =
        (0..3).map(|_| channel.next()).map(|m| (m.text().to_owned(), m.redelivered)).collect();
    assert_eq!(again, [("0".to_owned(), true), ("1".to_owned(), true), ("2".to_owned(), true)]);
}

#[test]
fn fetched_messages_say_how_many_are_left_and_share_the_tags_with_deliveries() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 3);

    let fetched = channel.get(&queue, false).unwrap().unwrap();
    assert_eq!((fetched.tag, fetched.left), (1, 2));
    channel.consume(&queue, "c", &[]).unwrap();

    assert_eq!((channel.next().tag, channel.next().tag), (2, 3));
    assert!(channel.get(&queue, false).unwrap().is_none());
}

#[test]
fn settling_what_was_not_delivered_closes_the_channel() {
    let broker = Broker::start();
    let connection = broker.connect();
    let unknown = |tag| (406, format!("PRECONDITION_FAILED - unknown delivery tag {tag}"));
    type Attempt = fn(&Channel);
    let attempts: [(Attempt, u64); 5] = [
        (|channel| channel.ack(99), 99),
        (|channel| channel.ack(0), 0),
        (|channel| channel.ack_all(7), 7),
        (|channel| channel.reject(3, true), 3),
        (|channel| channel.nack(4, [false, false]), 4),
    ];
    for (attempt, tag) in attempts {
        let channel = connection.channel();

        attempt(&channel);

        let close = channel.closed();
        assert_eq!((close.code, close.text), unknown(tag));
    }
}

#[test]
fn acknowledging_twice_closes_the_channel_and_acknowledging_all_of_nothing_does_not() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 1);
    channel.ack_all(0);
    channel.sync();
    let message = channel.get(&queue, false).unwrap().unwrap();
    channel.ack(message.tag);

    channel.ack(message.tag);

    assert_eq!(channel.closed().code, 406);
}

#[test]
fn a_consumer_tag_is_chosen_by_the_server_or_unique_on_its_channel() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;

    let chosen = channel.consume(&queue, "", &[]).unwrap();
    assert!(chosen.starts_with("amq.ctag-") && chosen.len() == "amq.ctag-".len() + 22, "{chosen}");
    channel.consume(&queue, "mine", &[]).unwrap();
    let close = channel.consume(&queue, "mine", &[]).unwrap_err();

    assert_eq!((close.code, close.of_connection), (530, true));
    assert_eq!(close.text, "NOT_ALLOWED - attempt to reuse consumer tag 'mine'");
}

#[test]
fn prefetch_by_size_and_recover_without_requeue_are_not_implemented() {
    let broker = Broker::start();
    let qos = Args::default().long(10).short(1).octet(0);

    let by_size = broker.connect().channel().call((60, 10), &qos, (60, 11)).unwrap_err();
    let recover = broker.connect().channel().recover(false).unwrap_err();

    assert_eq!((by_size.code, &*by_size.text), (540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)"));
    assert_eq!((recover.code, &*recover.text), (540, "NOT_IMPLEMENTED - requeue=false"));
}

#[test]
fn a_consumer_priority_that_is_no_number_closes_the_channel() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;

    let close =
        channel.consume(&queue, "c", &table([("x-priority", Value::from("a"))])).unwrap_err();

    assert_eq!(close.code, 406);
}

#[test]
fn what_a_lost_connection_held_goes_to_others() {
    let broker = Broker::start();
    let (connection, lost) = (broker.connect(), broker.connect());
    let channel = connection.channel();
    let name = unique("lost");
    channel.declare_durable(&name, &[]).unwrap();
    ["1", "2"].iter().for_each(|body| channel.send(&name, body));
    let other = lost.channel();
    other.consume(&name, "c", &[]).unwrap();
    (0..2).for_each(|_| drop(other.next()));

    drop((other, lost));

    let again = [channel.take_soon(&name), channel.take_soon(&name)];
    assert_eq!([again[0].text(), again[1].text()], ["1", "2"]);
    assert!(again.iter().all(|message| message.redelivered));
    channel.delete(&name, [false, false]).unwrap();
}

#[test]
fn shared_prefetch_that_a_cancelled_consumer_had_goes_to_another_queue() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (queue, other) = (filled(&channel, 3), filled(&channel, 1));
    channel.prefetch_shared(1);
    channel.consume(&queue, "a", &[]).unwrap();
    let held = channel.next();
    channel.consume(&other, "b", &[]).unwrap();

    // In one turn of the broker: the next message of the first queue may be on its way to nobody.
    let both = [
        frame::method(channel.number, 60, 80, &Args::default().longlong(held.tag).octet(0)),
        frame::method(channel.number, 60, 30, &Args::default().text("a").octet(0)),
    ];
    connection.send(&both.concat());

    let message = loop {
        let message = channel.next();
        if message.consumer == "b" {
            break message;
        }
        channel.ack(message.tag);
    };
    assert_eq!(message.text(), "0");
}

#[test]
fn what_was_taken_for_a_consumer_without_acknowledgements_comes_before_its_end() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = filled(&channel, 2000);

    // In one turn of the broker: messages are on their way when the consumer ends.
    let tag = "c";
    let consume = Args::default().short(0).text(&queue).text(tag);
    let consume = consume.bits(&[false, true, false, false]).table(&[]);
    let both = [
        frame::method(channel.number, 60, 20, &consume),
        frame::method(channel.number, 60, 30, &Args::default().text(tag).octet(0)),
    ];
    connection.send(&both.concat());

    let mut came = 0;
    loop {
        let event = channel.next_event(PATIENCE).expect("an end");
        match event.id {
            (60, 60) => came += 1,
            (60, 31) => break,
            other => assert_eq!(other, (60, 21)),
        }
    }
    channel.expect_silence();
    let left = channel.inspect(&queue).unwrap().messages;
    assert_eq!(came + left, 2000, "{came} came, {left} are left");
}
