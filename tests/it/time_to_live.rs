//! Messages and queues that end by themselves.

use std::time::{Duration, Instant};

use it::broker::unique;
use it::value::table;
use it::{Broker, Channel, Close, Connection, Message, PATIENCE, Properties, Value};

fn dying_into(dead: &str, more: Option<(&str, Value)>) -> Vec<(String, Value)> {
    let mut arguments =
        table([("x-dead-letter-exchange", "".into()), ("x-dead-letter-routing-key", dead.into())]);
    arguments.extend(more.map(|(name, value)| (name.to_owned(), value)));
    arguments
}

/// Whether a queue is there, asked without renewing its lease.
fn is_there(channel: &Channel, queue: &str) -> bool {
    channel.publish_flagged("", queue, [true, false], &Properties::default(), b"");
    channel.sync();
    channel.next_return(Duration::ZERO).is_none()
}

fn wait_until_gone(channel: &Channel, queue: &str) {
    let deadline = Instant::now() + PATIENCE;
    while is_there(channel, queue) {
        assert!(Instant::now() < deadline, "`{queue}` is still there");
        channel.connection.listen(Duration::from_millis(10)).unwrap();
    }
}

#[test]
fn the_smaller_of_queue_and_message_ttl_wins() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let dead = channel.declare("", &[]).unwrap().name;
    let short =
        channel.declare("", &dying_into(&dead, Some(("x-message-ttl", 50.into())))).unwrap().name;
    let long = channel
        .declare("", &dying_into(&dead, Some(("x-message-ttl", 60_000.into()))))
        .unwrap()
        .name;

    channel.publish("", &short, &Properties::with_expiration("60000"), b"by queue");
    assert_eq!(channel.take_soon(&dead).text(), "by queue");
    channel.publish("", &long, &Properties::with_expiration("50"), b"by message");
    assert_eq!(channel.take_soon(&dead).text(), "by message");
}

#[test]
fn a_ttl_of_zero_delivers_to_a_waiting_consumer_or_expires() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &table([("x-message-ttl", 0.into())])).unwrap().name;

    channel.send(&queue, "nobody waits");
    assert!(channel.take(&queue).is_none());
    channel.consume_flagged(&queue, "c", [true, false], &[]).unwrap();
    channel.send(&queue, "somebody waits");

    assert_eq!(channel.next().text(), "somebody waits");
}

#[test]
fn a_requeued_message_keeps_its_deadline() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();

    // A deadline that moves makes it 3.5 s every time, a machine that stands still only now and then.
    let shortest = (0..5)
        .map(|_| life_of_a_requeued_message(&channel))
        .inspect(|life| assert!(*life >= Duration::from_secs(2), "it died early: {life:?}"))
        .find(|life| *life < Duration::from_millis(3400));
    assert!(shortest.is_some(), "the deadline moved");
}

/// How long a message with two seconds to live takes to be dead-lettered, given back after one and a half.
fn life_of_a_requeued_message(channel: &Channel) -> Duration {
    let dead = channel.declare("", &[]).unwrap().name;
    let queue =
        channel.declare("", &dying_into(&dead, Some(("x-message-ttl", 2000.into())))).unwrap().name;
    loop {
        let started = Instant::now();
        channel.send(&queue, "x");
        // One that died before it was fetched says nothing.
        let Some(message) = channel.get(&queue, false).unwrap() else {
            assert_eq!(channel.take_soon(&dead).text(), "x");
            continue;
        };
        channel.connection.listen(Duration::from_millis(1500)).unwrap();
        channel.nack(message.tag, [false, true]);
        assert_eq!(channel.take_soon(&dead).text(), "x");
        return started.elapsed();
    }
}

/// RabbitMQ counts it as well, until it is the first.
#[test]
fn an_expired_message_behind_one_that_lives_is_not_delivered_but_counts_until_it_is_the_first() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.send(&queue, "lives");
    channel.publish("", &queue, &Properties::with_expiration("30"), b"dies");
    let_it_expire(&channel);

    assert_eq!(channel.inspect(&queue).unwrap().messages, 2);
    assert_eq!(channel.take_all(&queue), ["lives"]);
}

/// Waits until a message that expires after 30 ms, and was published now, is gone.
fn let_it_expire(channel: &Channel) {
    let dead = channel.declare("", &[]).unwrap().name;
    let clock = channel.declare("", &dying_into(&dead, None)).unwrap().name;
    channel.publish("", &clock, &Properties::with_expiration("30"), b"dies");
    assert_eq!(channel.take_soon(&dead).text(), "dies");
}

#[test]
fn what_expired_behind_another_is_dead_lettered_when_that_goes_though_nothing_else_happens() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let dead = channel.declare("", &[]).unwrap().name;
    let queue = channel.declare("", &dying_into(&dead, None)).unwrap().name;
    channel.send(&queue, "lives");
    channel.publish("", &queue, &Properties::with_expiration("30"), b"died");
    let_it_expire(&channel);

    assert_eq!(channel.get(&queue, true).unwrap().unwrap().text(), "lives");

    assert_eq!(channel.take_soon(&dead).text(), "died");
}

#[test]
fn what_is_given_back_after_its_deadline_is_dead_lettered_though_nothing_else_happens() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let dead = channel.declare("", &[]).unwrap().name;
    let queue = channel.declare("", &dying_into(&dead, None)).unwrap().name;
    let message = get_alive(&channel, &queue, &dead);
    connection.listen(Duration::from_millis(1200)).unwrap();
    let_it_expire(&channel);

    channel.nack(message.tag, [false, true]);

    assert_eq!(channel.take_soon(&dead).text(), "died");
}

/// Publishes a message that lives for a second and fetches it; again where that took longer and it is in `dead`.
fn get_alive(channel: &Channel, queue: &str, dead: &str) -> Message {
    let deadline = Instant::now() + PATIENCE;
    loop {
        channel.publish("", queue, &Properties::with_expiration("1000"), b"died");
        if let Some(message) = channel.get(queue, false).unwrap() {
            return message;
        }
        assert_eq!(channel.take_soon(dead).text(), "died");
        assert!(Instant::now() < deadline, "no message lives a second");
    }
}

#[test]
fn an_unacknowledged_message_does_not_expire() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let dead = channel.declare("", &[]).unwrap().name;
    let queue =
        channel.declare("", &dying_into(&dead, Some(("x-message-ttl", 30.into())))).unwrap().name;
    channel.consume(&queue, "c", &[]).unwrap();
    channel.send(&queue, "x");
    let message = channel.next();

    connection.listen(Duration::from_millis(120)).unwrap();
    channel.ack(message.tag);
    channel.sync();

    assert!(channel.take(&dead).is_none());
}

#[test]
fn an_expiration_that_is_no_number_closes_the_channel() {
    let broker = Broker::start();
    let connection = broker.connect();
    for (expiration, why) in
        [("abc", "no_integer"), ("-1", "{value_negative,-1}"), ("5a", "{leftover_string,\"a\"}")]
    {
        let channel = connection.channel();

        channel.publish("", "x", &Properties::with_expiration(expiration), b"");

        let close = channel.closed();
        assert_eq!(
            (close.code, close.text),
            (406, format!("PRECONDITION_FAILED - invalid expiration '{expiration}': {why}"))
        );
    }
}

#[test]
fn an_unused_queue_with_expires_is_deleted() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("expires");

    channel.declare_durable(&name, &table([("x-expires", 100.into())])).unwrap();

    wait_until_gone(&channel, &name);
}

#[test]
fn a_consumer_keeps_a_queue_with_expires_alive() {
    let broker = Broker::start();
    let connection = broker.connect();
    let name = unique("expires");
    let channel = consume_in_time(&connection, &name);

    connection.listen(Duration::from_millis(400)).unwrap();
    assert!(is_there(&channel, &name));
    channel.cancel("c").unwrap();

    wait_until_gone(&channel, &name);
}

/// A channel with the consumer `c` of a queue that was made with 100 ms to expire; made again where it was gone sooner.
fn consume_in_time(connection: &Connection, name: &str) -> Channel {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let channel = connection.channel();
        channel.declare_durable(name, &table([("x-expires", 100.into())])).unwrap();
        match channel.consume_flagged(name, "c", [true, false], &[]) {
            Ok(_) => return channel,
            Err(close) => assert_eq!(close.code, 404, "{}", close.text),
        }
        assert!(Instant::now() < deadline, "it expires before it is consumed");
    }
}

#[test]
fn fetching_from_a_queue_with_expires_renews_its_lease() {
    let broker = Broker::start();
    let connection = broker.connect();
    let name = unique("expires");

    let mut attempts = (0..10).map(|_| fetch_for_longer_than_the_lease(&connection, &name));
    let channel = attempts.find_map(Result::ok).expect("the machine stands still in each attempt");

    wait_until_gone(&channel, &name);
}

/// Fetches eight times in 1.2 s from a queue that expires after 600 ms; an error if the machine stood still for longer
/// than that.
fn fetch_for_longer_than_the_lease(connection: &Connection, name: &str) -> Result<Channel, Close> {
    let channel = connection.channel();
    let mut before = Instant::now();
    channel.declare_durable(name, &table([("x-expires", 600.into())])).unwrap();
    for _ in 0..8 {
        connection.listen(Duration::from_millis(150)).unwrap();
        let asking = Instant::now();
        if let Err(close) = channel.get(name, true) {
            let gap = before.elapsed();
            assert!(gap > Duration::from_millis(500), "gone {gap:?} after it was used: {close:?}");
            return Err(close);
        }
        before = asking;
    }
    Ok(channel)
}
