//! What becomes of messages that a queue gives up.

use std::time::Instant;

use it::broker::unique;
use it::frame;
use it::value::table;
use it::{Broker, Channel, Properties, Value};

/// Declares a queue whose dead letters go to another, and answers both names.
fn queue_with_dead_letters<const N: usize>(
    channel: &Channel,
    more: [(&str, Value); N],
) -> (String, String) {
    let dead = channel.declare("", &[]).unwrap().name;
    let mut arguments = table([
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", (&dead).into()),
    ]);
    arguments.extend(table(more));
    (channel.declare("", &arguments).unwrap().name, dead)
}

fn text<'a>(death: &'a Value, key: &str) -> &'a str {
    death.field(key).and_then(Value::as_text).unwrap_or_else(|| panic!("no `{key}` in {death:?}"))
}

fn count(death: &Value) -> i64 {
    death.field("count").and_then(Value::as_int).expect("a count")
}

fn reject(channel: &Channel, queue: &str) {
    let message = channel.get(queue, false).unwrap().expect("a message to reject");
    channel.reject(message.tag, false);
}

#[test]
fn a_rejected_message_goes_to_the_dead_letter_exchange_with_its_history() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (queue, dead) = queue_with_dead_letters(&channel, []);
    channel.publish("", &queue, &Properties::with_headers([("mine", 1.into())]), b"x");

    reject(&channel, &queue);

    let message = channel.take_soon(&dead);
    let [death] = message.deaths() else { panic!("one death, not {:?}", message.deaths()) };
    assert_eq!(
        (text(death, "reason"), text(death, "queue"), text(death, "exchange")),
        ("rejected", &*queue, "")
    );
    assert_eq!(death.field("routing-keys"), Some(&Value::Array(vec![(&queue).into()])));
    assert_eq!(count(death), 1);
    assert!(
        matches!(death.field("time"), Some(Value::Timestamp(seconds)) if *seconds > 1_600_000_000)
    );
    let header = |name| message.properties.header(name).and_then(Value::as_text);
    assert_eq!(header("x-first-death-reason"), Some("rejected"));
    assert_eq!(header("x-first-death-queue"), Some(&*queue));
    assert_eq!(header("x-first-death-exchange"), Some(""));
    assert_eq!(message.properties.header("mine"), Some(&Value::Int(1)));
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("", &*dead));
}

#[test]
fn nack_without_requeue_dead_letters_several_in_order() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (queue, dead) = queue_with_dead_letters(&channel, []);
    ["1", "2", "3"].iter().for_each(|body| channel.send(&queue, body));
    let tags: Vec<u64> = (0..3).map(|_| channel.get(&queue, false).unwrap().unwrap().tag).collect();

    channel.nack(tags[2], [true, false]);

    let bodies: Vec<String> = (0..3).map(|_| channel.take_soon(&dead).text().to_owned()).collect();
    assert_eq!(bodies, ["1", "2", "3"]);
}

#[test]
fn an_expired_message_loses_its_expiration_and_remembers_it() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (queue, dead) = queue_with_dead_letters(&channel, []);

    channel.publish("", &queue, &Properties::with_expiration("30"), b"x");

    let message = channel.take_soon(&dead);
    assert_eq!(message.properties.expiration, None);
    assert_eq!(text(&message.deaths()[0], "reason"), "expired");
    assert_eq!(text(&message.deaths()[0], "original-expiration"), "30");
}

#[test]
fn a_message_dropped_from_a_full_queue_died_of_maxlen() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (queue, dead) = queue_with_dead_letters(&channel, [("x-max-length", 1.into())]);

    ["1", "2"].iter().for_each(|body| channel.send(&queue, body));

    let message = channel.take_soon(&dead);
    assert_eq!((message.text(), text(&message.deaths()[0], "reason")), ("1", "maxlen"));
    assert_eq!(channel.take_all(&queue), ["2"]);
}

#[test]
fn deaths_are_merged_by_queue_and_reason_and_the_newest_stands_first() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (work, retry) = (unique("work"), unique("retry"));
    let back = |to: &str| {
        table([("x-dead-letter-exchange", "".into()), ("x-dead-letter-routing-key", to.into())])
    };
    channel.declare(&work, &back(&retry)).unwrap();
    let mut arguments = back(&work);
    arguments.extend(table([("x-message-ttl", 10.into())]));
    channel.declare(&retry, &arguments).unwrap();
    channel.send(&work, "x");
    channel.consume(&work, "c", &[]).unwrap();

    for _ in 0..3 {
        let message = channel.next();
        channel.nack(message.tag, [false, false]);
    }

    let message = channel.next();
    let deaths: Vec<_> = message
        .deaths()
        .iter()
        .map(|death| (text(death, "queue"), text(death, "reason"), count(death)))
        .collect();
    assert_eq!(deaths, [(&*retry, "expired", 3), (&*work, "rejected", 3)]);
    let header = |name| message.properties.header(name).and_then(Value::as_text);
    assert_eq!(
        (header("x-first-death-queue"), header("x-first-death-reason")),
        (Some(&*work), Some("rejected"))
    );
}

#[test]
fn a_loop_of_expiries_without_a_rejection_ends_and_the_message_is_gone() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let name = unique("loop");
    let arguments = table([
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", (&name).into()),
        ("x-message-ttl", 10.into()),
    ]);
    channel.declare(&name, &arguments).unwrap();
    channel.send(&name, "x");

    let deadline = Instant::now() + it::PATIENCE;
    while channel.inspect(&name).unwrap().messages > 0 {
        assert!(Instant::now() < deadline, "it goes on");
    }
    // What is on its way round would be back by now.
    channel.connection.listen(it::SILENCE).unwrap();
    assert_eq!(channel.inspect(&name).unwrap().messages, 0);
}

#[test]
fn without_its_own_routing_key_a_dead_letter_keeps_the_original_one() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let exchange = unique("dlx");
    channel.exchange(&exchange, "topic").unwrap();
    let dead = channel.declare("", &[]).unwrap().name;
    let queue =
        channel.declare("", &table([("x-dead-letter-exchange", (&exchange).into())])).unwrap().name;
    channel.bind(&dead, &exchange, &queue, &[]).unwrap();
    channel.send(&queue, "x");

    reject(&channel, &queue);

    let message = channel.take_soon(&dead);
    assert_eq!((message.exchange, message.routing_key), (exchange, queue));
}

#[test]
fn a_missing_dead_letter_exchange_drops_the_message() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel
        .declare("", &table([("x-dead-letter-exchange", (&unique("none")).into())]))
        .unwrap()
        .name;
    channel.send(&queue, "x");

    reject(&channel, &queue);

    assert_eq!(channel.inspect(&queue).unwrap().messages, 0);
}

#[test]
fn reject_publish_dlx_nacks_and_dead_letters_what_does_not_fit() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let limits = [("x-max-length", 1.into()), ("x-overflow", "reject-publish-dlx".into())];
    let (queue, dead) = queue_with_dead_letters(&channel, limits);
    channel.confirms();

    ["1", "2"].iter().for_each(|body| channel.send(&queue, body));

    assert_eq!(channel.wait_confirms(2), [2]);
    assert_eq!(channel.take_soon(&dead).text(), "2");
    assert_eq!(channel.take_all(&queue), ["1"]);
}

#[test]
fn a_message_returned_too_often_to_a_quorum_queue_died_of_its_delivery_limit() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let (name, dead) = (unique("limited"), channel.declare("", &[]).unwrap().name);
    let arguments = table([
        ("x-queue-type", "quorum".into()),
        ("x-delivery-limit", 2.into()),
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", (&dead).into()),
    ]);
    channel.declare_durable(&name, &arguments).unwrap();
    channel.consume(&name, "c", &[]).unwrap();
    channel.publish("", &name, &Properties::persistent(), b"poison");

    let counts: Vec<Option<i64>> = (0..3)
        .map(|_| {
            let message = channel.next();
            channel.nack(message.tag, [false, true]);
            message.properties.header("x-delivery-count").and_then(Value::as_int)
        })
        .collect();

    assert_eq!(counts, [None, Some(1), Some(2)]);
    let message = channel.take_soon(&dead);
    assert_eq!(text(&message.deaths()[0], "reason"), "delivery_limit");
    channel.delete(&name, [false, false]).unwrap();
}

#[test]
fn a_batch_of_rejected_messages_is_one_commit() {
    let Some(program) = Broker::start_own("does not count its commits") else { return };
    let connection = it::Connection::open(program.address, &it::Login::default()).unwrap();
    let channel = connection.channel();
    channel.declare_durable("dead", &[]).unwrap();
    let arguments = table([
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", "dead".into()),
    ]);
    channel.declare_durable("q", &arguments).unwrap();
    let bodies: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    bodies.iter().for_each(|body| channel.send("q", body));
    let last = bodies.iter().map(|_| channel.get("q", false).unwrap().unwrap().tag).max().unwrap();
    let before = program.metric("posthouse_store_commits_total");

    channel.nack(last, [true, false]);
    channel.sync();

    assert!((program.metric("posthouse_store_commits_total") - before - 1.0).abs() < 0.1);
    assert_eq!(channel.take_all("dead"), bodies);
}

#[test]
fn the_strategy_of_dead_letters_is_one_of_two_words() {
    let broker = Broker::start();
    let connection = broker.connect();
    let declare = |word: &str| {
        let arguments = table([
            ("x-queue-type", "quorum".into()),
            ("x-dead-letter-exchange", "".into()),
            ("x-overflow", "reject-publish".into()),
            ("x-dead-letter-strategy", word.into()),
        ]);
        let channel = connection.channel();
        let name = unique("strategy");
        channel.declare_durable(&name, &arguments)?;
        channel.delete(&name, [false, false])
    };

    assert!(declare("at-most-once").is_ok());
    assert!(declare("at-least-once").is_ok());
    let close = declare("exactly-once").unwrap_err();

    assert_eq!(close.code, 406);
    assert!(close.text.contains("x-dead-letter-strategy"), "{}", close.text);
}

#[test]
fn a_history_too_long_for_a_consumers_frames_loses_its_oldest_deaths() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = unique("story");
    channel.declare_queue(&queue, [false; 4], &[]).unwrap();
    let death = |number: usize| {
        let fields = [("queue", format!("queue-{number}")), ("reason", "rejected".to_owned())];
        Value::Table(fields.map(|(name, text)| (name.to_owned(), Value::Text(text))).into())
    };
    let deaths: Vec<Value> = (0..500).map(death).collect();
    let properties = Properties::with_headers([
        ("x-death", Value::Array(deaths.clone())),
        ("own", Value::Text("kept".to_owned())),
    ]);
    channel.publish("", &queue, &properties, b"x");
    channel.sync();
    let login = it::Login { frame_max: 4096, ..it::Login::default() };
    let small = it::Connection::open(broker.address(), &login).unwrap().channel();

    let seen = small.get(&queue, false).unwrap().unwrap();
    small.nack(seen.tag, [false, true]);
    small.sync();

    assert!((20..500).contains(&seen.deaths().len()), "{}", seen.deaths().len());
    assert_eq!(seen.deaths(), &deaths[..seen.deaths().len()]);
    assert_eq!(seen.properties.header("own"), Some(&Value::Text("kept".to_owned())));
    assert_eq!(channel.take_soon(&queue).deaths().len(), 500, "the stored history is whole");
    channel.delete(&queue, [false, false]).unwrap();
}

#[test]
fn refusing_what_went_with_its_queue_does_not_keep_other_messages() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let [gone, there] = ["gone", "there"].map(|body| {
        let queue = channel.declare("", &[]).unwrap().name;
        channel.send(&queue, body);
        channel.consume(&queue, "", &[]).unwrap();
        (channel.next().tag, queue)
    });
    connection.channel().delete(&gone.1, [false, false]).unwrap();

    // Both in one turn of the broker.
    let nack = frame::Args::default().longlong(there.0).bits(&[false, true]);
    let reject = frame::Args::default().longlong(gone.0).bits(&[false]);
    let both = [
        frame::method(channel.number, 60, 120, &nack),
        frame::method(channel.number, 60, 90, &reject),
    ];
    connection.send(&both.concat());

    assert_eq!(channel.next().text(), "there");
    connection.close();
}
