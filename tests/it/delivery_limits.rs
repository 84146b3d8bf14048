//! Messages that are given back too often, and consumers that hold them too long.

use std::time::Instant;

use it::broker::unique;
use it::value::table;
use it::{Broker, Channel, Connection, Login, PATIENCE, Properties, SILENCE, Value};

const PARKING: &str = "amq.posthouse.parking";

/// Gives one message back until it is no longer delivered, and answers how often it came.
fn give_back_until_gone(channel: &Channel, queue: &str) -> u32 {
    channel.consume(queue, "c", &[]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut times = 0;
    loop {
        let Some(message) = channel.delivery(SILENCE) else {
            if is_parked(channel) {
                return times;
            }
            assert!(Instant::now() < deadline, "neither delivered nor parked");
            continue;
        };
        times += 1;
        assert!(times < 100, "given back for ever");
        channel.nack(message.tag, [false, true]);
    }
}

/// Whether there is a parked message, asked on a channel of its own: without the queue it is closed.
fn is_parked(channel: &Channel) -> bool {
    channel.connection.channel().inspect(PARKING).is_ok_and(|queue| queue.messages > 0)
}

#[test]
fn without_a_dead_letter_exchange_poison_is_parked_and_not_dropped() {
    let Some(program) = Broker::start_own("drops what is given back too often") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let arguments = table([("x-queue-type", "quorum".into()), ("x-delivery-limit", 3.into())]);
    channel.declare_durable("q", &arguments).unwrap();
    channel.publish("", "q", &Properties::persistent(), b"poison");

    let times = give_back_until_gone(&channel, "q");

    assert_eq!(times, 4, "once and three times again");
    let parked = channel.take_soon(PARKING);
    assert_eq!(parked.text(), "poison");
    let reason = parked.deaths()[0].field("reason").and_then(Value::as_text);
    assert_eq!(reason, Some("delivery_limit"));
}

#[test]
fn a_quorum_queue_that_says_nothing_parks_after_twenty_times() {
    let Some(program) = Broker::start_own("has no limit before 4.0") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    channel.declare_durable("q", &table([("x-queue-type", "quorum".into())])).unwrap();
    channel.publish("", "q", &Properties::persistent(), b"poison");

    assert_eq!(give_back_until_gone(&channel, "q"), 21);
    assert_eq!(channel.take_soon(PARKING).text(), "poison");
}

#[test]
fn a_classic_queue_has_no_limit() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.send(&queue, "again");
    channel.consume(&queue, "c", &[]).unwrap();

    for _ in 0..60 {
        let message = channel.next();
        channel.nack(message.tag, [false, true]);
    }

    assert_eq!(channel.next().text(), "again");
}

#[test]
fn a_limit_of_minus_one_is_none() {
    let Some(program) = Broker::start_own("does not know -1 before 4.0") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let arguments =
        table([("x-queue-type", "quorum".into()), ("x-delivery-limit", Value::Int(-1))]);
    channel.declare_durable("q", &arguments).unwrap();
    channel.publish("", "q", &Properties::persistent(), b"again");
    channel.consume("q", "c", &[]).unwrap();

    for _ in 0..60 {
        let message = channel.next();
        channel.nack(message.tag, [false, true]);
    }

    assert_eq!(channel.next().text(), "again");
}

#[test]
fn the_count_of_deliveries_survives_a_kill() {
    let Some(mut program) = Broker::start_own("is not ours to kill") else { return };
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    channel.declare_durable("q", &table([("x-queue-type", "quorum".into())])).unwrap();
    channel.confirms();
    channel.publish("", "q", &Properties::persistent(), b"x");
    channel.wait_confirms(1);
    for _ in 0..3 {
        let message = channel.get("q", false).unwrap().unwrap();
        channel.nack(message.tag, [false, true]);
    }
    // Its confirm says that the log is synced up to here.
    channel.publish("", "q", &Properties::persistent(), b"y");
    assert!(channel.next_confirm(PATIENCE).is_some());

    program.restart();

    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let message = channel.take_soon("q");
    assert!(message.redelivered);
    assert_eq!(message.properties.header("x-delivery-count").and_then(Value::as_int), Some(3));
}

#[test]
fn a_consumer_that_holds_a_message_too_long_loses_its_channel_and_the_message() {
    let Some(program) = Broker::start_own("knows the timeout of a queue only since 3.12") else {
        return;
    };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    channel.declare_durable("q", &table([("x-consumer-timeout", 200.into())])).unwrap();
    channel.consume("q", "c", &[]).unwrap();
    channel.send("q", "held");
    drop(channel.next());

    let close = channel.closed();

    assert_eq!((close.code, close.of_connection), (406, false));
    assert!(close.text.contains("timed out"), "{}", close.text);
    let again = connection.channel().take_soon("q");
    assert_eq!((again.text(), again.redelivered), ("held", true));
}

#[test]
fn without_a_timeout_a_message_may_be_held() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = unique("held");
    channel.declare(&queue, &[]).unwrap();
    channel.send(&queue, "held");
    let message = channel.get(&queue, false).unwrap().unwrap();

    connection.listen(SILENCE).unwrap();
    channel.ack(message.tag);

    channel.sync();
}

#[test]
fn each_word_of_delayed_retries_delays_what_it_names_and_nothing_else() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    for (word, delayed_by_nack, delayed_by_reject) in
        [("all", true, true), ("failed", false, true), ("returned", true, false)]
    {
        let arguments =
            table([("x-delayed-retry-type", word.into()), ("x-delayed-retry-min", 60_000.into())]);
        let queue = channel.declare("", &arguments).unwrap().name;
        let comes_back = |give_back: &dyn Fn(u64)| {
            channel.send(&queue, "x");
            give_back(channel.take_unsettled(&queue));
            let again = channel.get(&queue, true).unwrap();
            channel.purge(&queue).unwrap();
            again.is_some()
        };

        assert_eq!(comes_back(&|tag| channel.nack(tag, [false, true])), !delayed_by_nack, "{word}");
        assert_eq!(comes_back(&|tag| channel.reject(tag, true)), !delayed_by_reject, "{word}");
    }
}

#[test]
fn looking_at_a_message_is_no_failed_delivery() {
    let Some(program) = Broker::start_own("counts it") else { return };
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let arguments = table([("x-queue-type", "quorum".into()), ("x-delivery-limit", 1.into())]);
    channel.declare_durable("q", &arguments).unwrap();
    channel.publish("", "q", &Properties::persistent(), b"stays");

    for _ in 0..3 {
        let looked = it::program::command()
            .args(["get", "q", "--body"])
            .env("POSTHOUSE_URI", format!("amqp://guest:guest@{}/", program.address))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&looked.stdout), "stays\n");
    }

    let message = channel.take_soon("q");
    assert_eq!((message.text(), message.properties.header("x-delivery-count")), ("stays", None));
}

/// What is parked goes only when it is durable.
fn wait_until_one_is_lost(program: &it::Program) {
    let deadline = Instant::now() + PATIENCE;
    while program.metric("posthouse_messages_parked_lost_total") < 0.9 {
        assert!(Instant::now() < deadline, "never counted");
    }
}

#[test]
fn a_parking_queue_is_bounded_and_counts_what_it_drops() {
    let Some(program) =
        Broker::start_own_with("has no such queue", &["limits.parking_messages_max=2"])
    else {
        return;
    };
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let arguments = table([("x-queue-type", "quorum".into()), ("x-delivery-limit", 0.into())]);
    channel.declare_durable("q", &arguments).unwrap();

    for body in ["1", "2", "3"] {
        channel.publish("", "q", &Properties::persistent(), body.as_bytes());
        channel.nack(channel.take_unsettled("q"), [false, true]);
    }
    wait_until_one_is_lost(&program);

    assert_eq!(channel.take_soon(PARKING).text(), "2");
    assert_eq!(channel.take_soon(PARKING).text(), "3");
    assert!((program.metric("posthouse_messages_parked_total") - 3.0).abs() < 0.1);
}

#[test]
fn a_parked_message_goes_after_its_time_and_is_counted() {
    let Some(program) = Broker::start_own_with("has no such queue", &["limits.parking_ttl=20ms"])
    else {
        return;
    };
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let arguments = table([("x-queue-type", "quorum".into()), ("x-delivery-limit", 0.into())]);
    channel.declare_durable("q", &arguments).unwrap();
    channel.publish("", "q", &Properties::persistent(), b"poison");

    channel.nack(channel.take_unsettled("q"), [false, true]);

    wait_until_one_is_lost(&program);
    assert_eq!(channel.inspect(PARKING).unwrap().messages, 0);
}
