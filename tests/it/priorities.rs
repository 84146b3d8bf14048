//! Which message of a queue comes first.

use it::value::table;
use it::{Broker, Properties};

#[test]
fn higher_priorities_come_first_and_equal_ones_in_order() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &table([("x-max-priority", 3.into())])).unwrap().name;

    for (priority, body) in [(0, "0a"), (3, "3a"), (1, "1a"), (3, "3b"), (0, "0b"), (2, "2a")] {
        channel.publish("", &queue, &Properties::with_priority(priority), body.as_bytes());
    }

    assert_eq!(channel.take_all(&queue), ["3a", "3b", "2a", "1a", "0a", "0b"]);
}

#[test]
fn a_priority_above_the_queue_s_highest_counts_as_the_highest() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &table([("x-max-priority", 2.into())])).unwrap().name;

    for (priority, body) in [(2, "2"), (200, "200"), (1, "1")] {
        channel.publish("", &queue, &Properties::with_priority(priority), body.as_bytes());
    }

    let received = channel.take(&queue).unwrap();
    assert_eq!((received.text(), received.properties.priority), ("2", Some(2)));
    assert_eq!(channel.take_all(&queue), ["200", "1"]);
}

#[test]
fn a_requeued_message_stands_before_others_of_its_priority() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &table([("x-max-priority", 9.into())])).unwrap().name;
    for (priority, body) in [(5, "first"), (5, "second")] {
        channel.publish("", &queue, &Properties::with_priority(priority), body.as_bytes());
    }
    let first = channel.get(&queue, false).unwrap().unwrap();
    channel.publish("", &queue, &Properties::with_priority(9), b"urgent");

    channel.nack(first.tag, [false, true]);

    assert_eq!(channel.take_all(&queue), ["urgent", "first", "second"]);
}

#[test]
fn a_queue_without_priorities_ignores_them() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;

    for priority in [1, 9, 5] {
        channel.publish(
            "",
            &queue,
            &Properties::with_priority(priority),
            format!("{priority}").as_bytes(),
        );
    }

    assert_eq!(channel.take_all(&queue), ["1", "9", "5"]);
}

/// As RabbitMQ documents it: the head of a priority queue is its highest priority.
#[test]
fn a_full_queue_drops_from_its_head_even_if_that_is_the_highest_priority() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let limits = table([("x-max-priority", 9.into()), ("x-max-length", 2.into())]);
    let queue = channel.declare("", &limits).unwrap().name;

    for priority in [9, 1, 5] {
        channel.publish(
            "",
            &queue,
            &Properties::with_priority(priority),
            format!("{priority}").as_bytes(),
        );
    }

    assert_eq!(channel.take_all(&queue), ["5", "1"]);
}
