//! How much a queue may hold and what happens to the rest.

use it::value::table;
use it::{Broker, Properties};

#[test]
fn a_full_queue_drops_its_oldest() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &table([("x-max-length", 3.into())])).unwrap().name;

    (0..10).for_each(|number| channel.send(&queue, &number.to_string()));
    channel.sync();

    assert_eq!(channel.take_all(&queue), ["7", "8", "9"]);
}

#[test]
fn a_limit_in_bytes_counts_bodies() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &table([("x-max-length-bytes", 25.into())])).unwrap().name;

    for number in 0..5 {
        channel.publish(
            "",
            &queue,
            &Properties::default(),
            format!("{number}.........").as_bytes(),
        );
    }
    channel.sync();

    assert_eq!(channel.take_all(&queue), ["3.........", "4........."]);
}

#[test]
fn only_ready_messages_count() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &table([("x-max-length", 1.into())])).unwrap().name;
    channel.send(&queue, "held");
    let held = channel.get(&queue, false).unwrap().expect("a message").tag;

    channel.send(&queue, "ready");
    channel.sync();

    assert_eq!(channel.inspect(&queue).unwrap().messages, 1);
    channel.ack(held);
    assert_eq!(channel.take_all(&queue), ["ready"]);
}

#[test]
fn a_limit_of_zero_lets_messages_through_to_a_waiting_consumer_only() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &table([("x-max-length", 0.into())])).unwrap().name;

    channel.send(&queue, "dropped");
    channel.sync();
    channel.consume_flagged(&queue, "c", [true, false], &[]).unwrap();
    channel.send(&queue, "taken");

    assert_eq!(channel.next().text(), "taken");
}

#[test]
fn rejecting_publishes_starts_again_when_there_is_room() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let limits = table([("x-max-length", 1.into()), ("x-overflow", "reject-publish".into())]);
    let queue = channel.declare("", &limits).unwrap().name;
    channel.confirms();
    ["1", "2"].iter().for_each(|body| channel.send(&queue, body));
    assert_eq!(channel.wait_confirms(2), [2]);

    assert_eq!(channel.take_all(&queue), ["1"]);
    channel.send(&queue, "3");

    assert!(channel.next_confirm(it::PATIENCE).unwrap().accepted);
    assert_eq!(channel.take_all(&queue), ["3"]);
}
