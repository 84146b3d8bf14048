//! The delayed exchange (`x-delayed-message`), which RabbitMQ has only as a plug-in.

use std::time::{Duration, Instant};

use it::broker::unique;
use it::value::table;
use it::{Broker, Channel, Connection, Login, Properties, Value};

/// Time is counted in whole milliseconds, so a delay may seem shorter by one to a finer clock.
const TICK: Duration = Duration::from_millis(1);
const WHY: &str = "has no delayed exchange";

fn delayed_exchange(channel: &Channel, kind: &str) -> String {
    let name = unique("delayed");
    let arguments = table([("x-delayed-type", kind.into())]);
    channel
        .declare_exchange(&name, "x-delayed-message", [false, true, false, false], &arguments)
        .unwrap();
    name
}

fn delay(milliseconds: i64) -> Properties {
    Properties {
        delivery_mode: Some(2),
        ..Properties::with_headers([("x-delay", milliseconds.into())])
    }
}

#[test]
fn messages_arrive_in_the_order_of_their_times_and_not_before() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let exchange = delayed_exchange(&channel, "direct");
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &exchange, "k", &[]).unwrap();
    channel.consume_flagged(&queue, "c", [true, false], &[]).unwrap();
    let started = Instant::now();

    for milliseconds in [450, 150, 300] {
        channel.publish(&exchange, "k", &delay(milliseconds), milliseconds.to_string().as_bytes());
    }

    for milliseconds in [150, 300, 450] {
        assert_eq!(channel.next().text(), milliseconds.to_string());
        assert!(started.elapsed() + TICK >= Duration::from_millis(milliseconds));
    }
}

#[test]
fn without_a_delay_or_with_one_of_zero_a_message_goes_through_at_once() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let exchange = delayed_exchange(&channel, "topic");
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &exchange, "a.#", &[]).unwrap();

    channel.publish(&exchange, "a.b", &Properties::default(), b"none");
    channel.publish(&exchange, "a.b", &delay(0), b"zero");
    channel.publish(&exchange, "a.b", &delay(-5), b"negative");
    channel.sync();

    assert_eq!(channel.take_all(&queue), ["none", "zero", "negative"]);
}

#[test]
fn a_delayed_publish_is_confirmed_at_once() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let exchange = delayed_exchange(&channel, "fanout");
    channel.confirms();
    let started = Instant::now();

    channel.publish(&exchange, "", &delay(60_000), b"x");
    channel.wait_confirms(1);

    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_binding_made_during_the_delay_counts() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();

    let mut attempts = (0..10).map(|_| bind_during_a_delay(&channel));
    let queue = attempts.find_map(|queue| queue).expect("no binding is made within 300 ms");

    assert_eq!(channel.take_soon(&queue).text(), "x");
}

/// A queue that was bound while a message had its delay; none where the machine was too slow for that.
fn bind_during_a_delay(channel: &Channel) -> Option<String> {
    let exchange = delayed_exchange(channel, "fanout");
    let queue = channel.declare("", &[]).unwrap().name;
    let started = Instant::now();
    channel.publish(&exchange, "", &delay(300), b"x");
    channel.bind(&queue, &exchange, "", &[]).unwrap();
    (started.elapsed() < Duration::from_millis(300) - TICK).then_some(queue)
}

#[test]
fn delayed_messages_survive_a_kill_and_come_on_time() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let exchange = delayed_exchange(&channel, "direct");
    channel.declare_durable("later", &[]).unwrap();
    channel.bind("later", &exchange, "k", &[]).unwrap();
    channel.confirms();
    let started = Instant::now();
    for number in 0..100 {
        channel.publish(&exchange, "k", &delay(1500 + number), number.to_string().as_bytes());
    }
    channel.wait_confirms(100);

    program.restart();

    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    channel.consume_flagged("later", "c", [true, false], &[]).unwrap();
    for number in 0..100 {
        assert_eq!(channel.next().text(), number.to_string());
        let (waited, asked) = (started.elapsed(), Duration::from_millis(1500 + number));
        assert!(
            waited + TICK >= asked,
            "message {number} came after {waited:?} instead of {asked:?}"
        );
    }
}

#[test]
fn ten_thousand_delayed_messages_all_come() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let exchange = delayed_exchange(&channel, "direct");
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &exchange, "k", &[]).unwrap();
    channel.consume_flagged(&queue, "c", [true, false], &[]).unwrap();

    for number in 0..10_000 {
        channel.publish(&exchange, "k", &delay(number * 7919 % 800), number.to_string().as_bytes());
    }

    let mut seen: Vec<u32> = (0..10_000).map(|_| channel.next().text().parse().unwrap()).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..10_000));
}

#[test]
fn a_delayed_exchange_without_its_type_is_refused() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    for arguments in [vec![], table([("x-delayed-type", Value::from("zzz"))])] {
        let name = unique("bad");

        let refused = connection.channel().declare_exchange(
            &name,
            "x-delayed-message",
            [false; 4],
            &arguments,
        );

        let close = refused.unwrap_err();
        assert_eq!((close.code, close.of_connection), (406, false), "{}", close.text);
    }
}
