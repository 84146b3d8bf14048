//! kill -9, and everything is found again.

use it::broker::unique;
use it::value::table;
use it::{Broker, Channel, Connection, Login, Program, Properties, Value};

const WHY: &str = "is not ours to kill";

fn open(program: &Program) -> Channel {
    Connection::open(program.address, &Login::default()).unwrap().channel()
}

#[test]
fn definitions_survive_a_kill() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    let durable = [false, true, false, false];
    channel
        .declare_exchange(
            "orders",
            "topic",
            durable,
            &table([("alternate-exchange", "rest".into())]),
        )
        .unwrap();
    channel.declare_exchange("rest", "fanout", durable, &[]).unwrap();
    channel.bind_exchange("rest", "orders", "copy.#").unwrap();
    let arguments = table([("x-max-priority", 5.into()), ("x-message-ttl", 60_000.into())]);
    channel.declare_durable("paid", &arguments).unwrap();
    channel.bind("paid", "orders", "*.paid", &table([("any", Value::Bool(true))])).unwrap();
    channel.declare_durable("other", &[]).unwrap();
    channel.bind("other", "rest", "", &[]).unwrap();

    program.restart();

    let channel = open(&program);
    channel.declare_durable("paid", &arguments).unwrap();
    for key in ["eu.paid", "eu.lost", "copy.paid"] {
        channel.publish("orders", key, &Properties::default(), key.as_bytes());
    }
    channel.sync();
    assert_eq!(channel.take_all("paid"), ["eu.paid", "copy.paid"]);
    assert_eq!(channel.take_all("other"), ["eu.lost", "copy.paid"]);
}

#[test]
fn deleted_definitions_stay_deleted() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("gone", &[]).unwrap();
    channel.declare_durable("kept", &[]).unwrap();
    channel.bind("kept", "amq.direct", "k", &[]).unwrap();
    channel.unbind("kept", "amq.direct", "k").unwrap();
    channel.delete("gone", [false, false]).unwrap();

    program.restart();

    let channel = open(&program);
    assert_eq!(channel.inspect("gone").unwrap_err().code, 404);
    let channel = open(&program);
    channel.publish("amq.direct", "k", &Properties::default(), b"x");
    channel.sync();
    assert_eq!(channel.inspect("kept").unwrap().messages, 0);
}

#[test]
fn confirmed_persistent_messages_survive_in_order_with_everything_on_them() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("q", &[]).unwrap();
    channel.confirms();
    let properties = |number: u64| Properties {
        message_id: Some(number.to_string()),
        correlation_id: Some("c".to_owned()),
        ..Properties {
            delivery_mode: Some(2),
            ..Properties::with_headers([("n", Value::Long(i64::try_from(number).unwrap()))])
        }
    };
    for number in 1..=500 {
        channel.publish(
            "",
            "q",
            &properties(number),
            &vec![u8::try_from(number % 251).unwrap(); 300],
        );
    }
    channel.wait_confirms(500);

    program.restart();

    let channel = open(&program);
    channel.consume_flagged("q", "c", [true, false], &[]).unwrap();
    for number in 1..=500 {
        let message = channel.next();
        assert_eq!(message.properties, properties(number));
        assert_eq!(message.body, vec![u8::try_from(number % 251).unwrap(); 300]);
        assert!(!message.redelivered);
    }
    channel.expect_silence();
}

#[test]
fn committed_acknowledgements_survive_and_the_unacknowledged_come_back_redelivered() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("q", &[]).unwrap();
    channel.confirms();
    (0..10).for_each(|number| {
        channel.publish("", "q", &Properties::persistent(), format!("{number}").as_bytes());
    });
    channel.wait_confirms(10);
    let consumer = channel.connection.channel();
    consumer.transaction(10).unwrap();
    let held: Vec<_> = (0..6).map(|_| consumer.get("q", false).unwrap().unwrap()).collect();
    consumer.ack_all(held[2].tag);
    consumer.transaction(20).unwrap();

    program.restart();

    let channel = open(&program);
    let found: Vec<_> = std::iter::from_fn(|| channel.take("q")).collect();
    let found: Vec<_> = found.iter().map(|message| (message.text(), message.redelivered)).collect();
    assert_eq!(
        found.iter().map(|(body, _)| *body).collect::<Vec<_>>(),
        ["3", "4", "5", "6", "7", "8", "9"]
    );
    assert_eq!(
        found[..3],
        [("3", true), ("4", true), ("5", true)],
        "delivered before, so redelivered now"
    );
}

#[test]
fn committed_transactions_survive_and_open_ones_do_not() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    ["a", "b"].iter().for_each(|queue| drop(channel.declare_durable(queue, &[]).unwrap()));
    channel.transaction(10).unwrap();
    for queue in ["a", "b"] {
        channel.publish("", queue, &Properties::persistent(), b"committed");
    }
    channel.transaction(20).unwrap();
    channel.publish("", "a", &Properties::persistent(), b"open");
    channel.sync();

    program.restart();

    let channel = open(&program);
    assert_eq!(channel.take_all("a"), ["committed"]);
    assert_eq!(channel.take_all("b"), ["committed"]);
}

#[test]
fn transient_messages_and_queues_do_not_survive_a_kill() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("durable", &[]).unwrap();
    channel.declare_queue("transient", [false; 4], &[]).unwrap();
    channel.confirms();
    channel.send("durable", "transient");
    channel.publish("", "transient", &Properties::persistent(), b"x");
    channel.publish("", "durable", &Properties::persistent(), b"persistent");
    channel.wait_confirms(3);

    program.restart();

    let channel = open(&program);
    assert_eq!(channel.take_all("durable"), ["persistent"]);
    assert_eq!(channel.inspect("transient").unwrap_err().code, 404);
}

#[test]
fn a_ttl_goes_on_counting_while_the_program_is_down() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("dead", &[]).unwrap();
    let arguments = table([
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ]);
    channel.declare_durable("q", &arguments).unwrap();
    channel.confirms();
    let expiring = Properties { delivery_mode: Some(2), ..Properties::with_expiration("300") };
    channel.publish("", "q", &expiring, b"old");
    channel.wait_confirms(1);

    program.restart();

    let channel = open(&program);
    assert_eq!(channel.take_soon("dead").text(), "old");
    assert_eq!(channel.inspect("q").unwrap().messages, 0);
}

#[test]
fn what_was_dead_lettered_is_in_exactly_one_queue_after_a_kill() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("dead", &[]).unwrap();
    let arguments = table([
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ]);
    channel.declare_durable("q", &arguments).unwrap();
    channel.confirms();
    (0..50).for_each(|number| {
        channel.publish("", "q", &Properties::persistent(), format!("{number}").as_bytes());
    });
    channel.wait_confirms(50);
    for _ in 0..25 {
        let message = channel.get("q", false).unwrap().unwrap();
        channel.reject(message.tag, false);
    }

    program.restart();

    let channel = open(&program);
    let mut all = channel.take_all("q");
    all.extend(channel.take_all("dead"));
    let mut all: Vec<u32> = all.iter().map(|body| body.parse().unwrap()).collect();
    all.sort_unstable();
    assert!(all.iter().copied().eq(0..50), "{all:?}");
}

#[test]
fn a_stop_in_good_order_loses_nothing_either() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = open(&program);
    channel.declare_durable("q", &[]).unwrap();
    for number in 0..200 {
        channel.publish("", "q", &Properties::persistent(), format!("{number}").as_bytes());
    }
    channel.sync();

    assert!(program.stop().success());
    program.start_again();

    let expected: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    assert_eq!(open(&program).take_all("q"), expected);
}

#[test]
fn five_kills_in_a_row_lose_nothing() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    open(&program).declare_durable("q", &[]).unwrap();

    for round in 0..5 {
        let channel = open(&program);
        channel.confirms();
        for number in 0..20 {
            let body = format!("{}", round * 20 + number);
            channel.publish("", "q", &Properties::persistent(), body.as_bytes());
        }
        channel.wait_confirms(20);
        program.restart();
    }

    let expected: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(open(&program).take_all("q"), expected);
}

/// The store may say "not yet" just when the message becomes durable; a fetch that then waited for the next commit would
/// wait for ever on a quiet server.
#[test]
fn a_fetch_right_behind_its_publish_is_always_answered() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    for _ in 0..300 {
        let queue = unique("fresh");
        channel.declare_durable(&queue, &[]).unwrap();
        channel.publish("", &queue, &Properties::persistent(), b"x");

        assert!(channel.get(&queue, true).unwrap().is_some());

        channel.delete(&queue, [false, false]).unwrap();
    }
}
