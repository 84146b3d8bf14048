//! What a webhook answers goes to whoever asked by `reply-to`: once, whole, and only where they may publish themselves.

use std::thread;
use std::time::Instant;

use it::{
    Answer, Broker, Channel, Connection, Http, Login, PATIENCE, Program, Properties, Receiver,
};
use serde_json::{Value as Json, json};

const WHY: &str = "sends no webhooks";
const SUBSCRIPTIONS: &str = "/v2/queues/q/subscriptions";

/// A channel in the tenant that AMQP calls `/`, where the queue `q` and the durable queue `answers` are.
fn channel(program: &Program) -> Channel {
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    channel.declare_durable("q", &[]).unwrap();
    channel.declare_durable("answers", &[]).unwrap();
    channel
}

/// Has a receiver answer the messages of the queue `q`.
fn subscribe(program: &Program, receiver: &Receiver, options: &Json) {
    let mut all = json!({"form": "request", "answers": true});
    all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let body = json!({"subscriber": receiver.url(), "options": all}).to_string();
    let made = Http::new(program).with("X-Project-Id", "/").post(SUBSCRIPTIONS, &body);
    assert_eq!(made.status, 201, "{:?}", made.json());
}

fn question(reply_to: &str) -> Properties {
    Properties {
        reply_to: Some(reply_to.to_owned()),
        correlation_id: Some("c-1".to_owned()),
        message_id: Some("m-1".to_owned()),
        user_id: Some("guest".to_owned()),
        ..Properties::persistent()
    }
}

fn answering(answers: impl IntoIterator<Item = Answer>) -> Receiver {
    let answers: Vec<_> = answers.into_iter().collect();
    Receiver::answering(answers.into_iter())
}

/// Waits until a figure is what it should be.
fn metric_becomes(program: &Program, name: &str, value: f64) {
    let until = Instant::now() + 3 * PATIENCE;
    while program.metric(name) < value {
        assert!(Instant::now() < until, "{name} is {}", program.metric(name));
        thread::yield_now();
    }
    assert_eq!(program.metric(name), value, "{name}");
}

#[test]
fn an_answer_goes_to_reply_to_and_says_what_it_answers() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = channel(&program);
    let yes = Answer::status(200)
        .with("content-type", "text/plain")
        .with("content-encoding", "identity")
        .body("yes");
    let receiver = answering([yes, Answer::status(500).with("posthouse-settle", "ack").body("\0")]);
    subscribe(&program, &receiver, &json!({}));

    channel.publish("", "q", &question("answers"), b"1");
    let answer = channel.take_soon("answers");
    let unnamed = Properties { correlation_id: None, delivery_mode: None, ..question("answers") };
    channel.publish("", "q", &unnamed, b"2");
    let other = channel.take_soon("answers");

    let expected = Properties {
        content_type: Some("text/plain".to_owned()),
        correlation_id: Some("c-1".to_owned()),
        ..Properties::persistent()
    };
    assert_eq!((answer.text(), &answer.properties), ("yes", &expected));
    assert_eq!((answer.exchange.as_str(), answer.routing_key.as_str()), ("", "answers"));
    let expected = Properties {
        content_type: Some("application/octet-stream".to_owned()),
        correlation_id: Some("m-1".to_owned()),
        ..Properties::default()
    };
    assert_eq!((other.body.as_slice(), &other.properties), (b"\0".as_slice(), &expected));
    metric_becomes(&program, "posthouse_delivery_answers_total", 2.0);
    assert_eq!(program.metric("posthouse_delivery_delivered_total"), 2.0);
}

#[test]
fn only_who_is_done_with_a_message_answers_it_and_only_if_there_is_something_to_say() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = channel(&program);
    let mute = [
        Answer::status(409).body("known"),
        Answer::status(200).with("posthouse-settle", "drop").body("dropped"),
        Answer::status(204),
        Answer::status(200).body("nobody asked"),
    ];
    let receiver = answering(mute.into_iter().chain([Answer::status(200).body("last")]));
    subscribe(&program, &receiver, &json!({}));

    // One after the other, so that each gets its answer.
    for body in ["1", "2", "3", "4", "5"] {
        let properties = if body == "4" { Properties::default() } else { question("answers") };
        channel.publish("", "q", &properties, body.as_bytes());
        assert_eq!(receiver.next().body.to_string(), body);
    }

    assert_eq!(channel.take_soon("answers").text(), "last");
    assert!(channel.take("answers").is_none());
}

#[test]
fn a_direct_reply_to_is_answered_whoever_asked() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = channel(&program);
    let receiver = answering([Answer::status(200).body("yes"), Answer::status(200).body("late")]);
    subscribe(&program, &receiver, &json!({}));
    channel.consume_flagged("amq.rabbitmq.reply-to", "replies", [true, false], &[]).unwrap();

    let properties = Properties { user_id: None, ..question("amq.rabbitmq.reply-to") };
    channel.publish("", "q", &properties, b"1");

    let answer = channel.next();
    assert_eq!((answer.consumer.as_str(), answer.text()), ("replies", "yes"));
    assert_eq!(answer.properties.correlation_id.as_deref(), Some("c-1"));

    // An address of nobody: the message is done nevertheless.
    let gone = question("amq.rabbitmq.reply-to.gone");
    channel.publish("", "q", &gone, b"2");
    metric_becomes(&program, "posthouse_delivery_answers_nowhere_total", 1.0);
    assert_eq!(program.metric("posthouse_delivery_delivered_total"), 2.0);
}

/// A program with the user `limited`, who may publish to `amq.topic` and to nothing else.
fn with_limited_user() -> Option<Program> {
    // base64(salt + SHA-256(salt + "secret")), as RabbitMQ exports it.
    let hash = "kI3GCqG+cq65rBQ9tiUUCREygKhmilKrZEWKSz+H0FJ1fk4/";
    let user = |name: &str| json!({"name": name, "password_hash": hash, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []});
    let may = |user: &str, scope: &str, write: &str| json!({"user": user, "vhost": "/", "configure": scope, "write": write, "read": scope});
    let definitions = json!({
        "users": [user("limited"), user("guest")],
        "vhosts": [{"name": "/"}],
        "permissions": [may("limited", "", "^amq\\.topic$"), may("guest", ".*", ".*")],
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("definitions.json");
    std::fs::write(&file, definitions.to_string()).unwrap();
    Broker::start_own_with(WHY, &[&format!("definitions.file={}", file.display())])
}

#[test]
fn nobody_writes_by_an_answer_where_they_may_not_write() {
    let Some(program) = with_limited_user() else { return };
    let login = |user: &str| Login {
        user: user.to_owned(),
        password: "secret".to_owned(),
        ..Login::default()
    };
    let owner = Connection::open(program.address, &login("guest")).unwrap().channel();
    owner.declare_durable("q", &[]).unwrap();
    owner.declare_durable("answers", &[]).unwrap();
    owner.bind("q", "amq.topic", "#", &[]).unwrap();
    let receiver = answering(vec![Answer::status(200).body("forged"); 3]);
    subscribe(&program, &receiver, &json!({}));
    let limited = Connection::open(program.address, &login("limited")).unwrap().channel();

    let own = Properties { user_id: Some("limited".to_owned()), ..question("answers") };
    limited.publish("amq.topic", "a", &own, b"1");
    let unnamed = Properties { user_id: None, ..question("answers") };
    limited.publish("amq.topic", "a", &unnamed, b"2");
    owner.publish("", "q", &question("no-such-queue"), b"3");

    metric_becomes(&program, "posthouse_delivery_answers_nowhere_total", 3.0);
    assert_eq!(program.metric("posthouse_delivery_delivered_total"), 3.0, "each is done");
    assert_eq!(program.metric("posthouse_delivery_answers_total"), 0.0);
    assert!(owner.take("answers").is_none());
    assert_eq!(receiver.rest().len(), 3, "and none is tried again");
    assert!(program.log().contains("an answer has nowhere to go"));
}

#[test]
fn an_answer_that_is_too_long_is_a_failed_attempt_and_not_a_shorter_answer() {
    let settings = ["delivery.answer_bytes_max=1KiB"];
    let Some(program) = Broker::start_own_with(WHY, &settings) else { return };
    let channel = channel(&program);
    let long = |bytes: usize| Answer::status(200).body(vec![b'x'; bytes]);
    let receiver = answering([long(1025), long(1024)]);
    subscribe(&program, &receiver, &json!({}));

    channel.publish("", "q", &question("answers"), b"1");

    assert_eq!(channel.take_soon("answers").body.len(), 1024);
    assert_eq!(receiver.next().header("posthouse-attempt"), "1");
    assert_eq!(receiver.next().header("posthouse-attempt"), "2");
    assert_eq!(program.metric("posthouse_delivery_failed_total"), 1.0);
}

#[test]
fn a_full_queue_that_refuses_messages_refuses_answers() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = channel(&program);
    let full =
        it::value::table([("x-max-length", 1.into()), ("x-overflow", "reject-publish".into())]);
    channel.declare_durable("full", &full).unwrap();
    let receiver = answering(vec![Answer::status(200).body("yes"); 2]);
    subscribe(&program, &receiver, &json!({}));

    channel.publish("", "q", &question("full"), b"1");
    metric_becomes(&program, "posthouse_delivery_answers_total", 1.0);
    channel.publish("", "q", &question("full"), b"2");

    metric_becomes(&program, "posthouse_delivery_answers_nowhere_total", 1.0);
    assert_eq!(channel.inspect("full").unwrap().messages, 1);
}

#[test]
fn an_answer_that_was_seen_is_there_once_after_a_kill() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let channel = channel(&program);
    let receiver = answering(vec![Answer::status(200).body("yes"); 9]);
    subscribe(&program, &receiver, &json!({}));
    channel.publish("", "q", &question("answers"), b"1");
    let seen = {
        channel.consume("answers", "seer", &[]).unwrap();
        channel.next()
    };

    program.restart();

    let channel = self::channel(&program);
    assert_eq!((seen.text(), channel.take_soon("answers").text()), ("yes", "yes"));
    channel.publish("", "q", &question("answers"), b"2");
    assert_eq!(channel.take_soon("answers").text(), "yes");
    let asked: Vec<String> = receiver.rest().iter().map(|it| it.body.to_string()).collect();
    assert_eq!(asked, ["1", "2"], "the first was not asked again");
}

#[test]
fn answers_are_an_option_of_requests_only() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let mut refused = |subscriber: &str, options: Json| {
        let body = json!({"subscriber": subscriber, "options": options}).to_string();
        let (status, text) = http.post(SUBSCRIPTIONS, &body).refusal();
        assert_eq!(status, 400, "{text}");
        text
    };

    let own = "http://127.0.0.1:1/";
    assert!(refused(own, json!({"answers": true})).contains("`answers` must be left out"));
    let text = refused(own, json!({"answers": "yes", "form": "request"}));
    assert_eq!(text, "option `answers` must be true or false");
    let text = refused("amqp:/q", json!({"answers": true, "form": "request"}));
    assert!(text.contains("no http or https URL"), "{text}");
}
