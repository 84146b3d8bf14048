//! What leaves a queue with `_enable_encrypt_messages`: subscribers get plain text, and dead letters stay readable.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use it::{Answer, Broker, Connection, Http, Login, PATIENCE, Program, Receiver};
use serde_json::{Value, json};

const WHY: &str = "has keys of its own";
const KEY: &str = "k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const OTHER_KEY: &str = "k2:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

/// A program with the keys of a file, and an encrypted queue `q` with these rules more.
fn start(folder: &Path, rules: &Value) -> Option<(Program, Http)> {
    write_keys(folder, KEY);
    let file = format!("queues.encryption.keys_file={}", folder.join("keys").display());
    let program = Broker::start_own_with(WHY, &[&file])?;
    let mut http = Http::new(&program).with("X-Project-Id", "/");
    let mut metadata = rules.clone();
    metadata["_enable_encrypt_messages"] = json!(true);
    assert_eq!(http.put("/v2/queues/q", &metadata.to_string()).status, 201);
    Some((program, http))
}

fn write_keys(folder: &Path, keys: &str) {
    let path = folder.join("keys");
    std::fs::write(&path, keys).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn subscribe(http: &mut Http, subscriber: &str, options: &Value) {
    let body = json!({"subscriber": subscriber, "options": options}).to_string();
    let made = http.post("/v2/queues/q/subscriptions", &body);
    assert_eq!(made.status, 201, "{:?}", made.json());
}

fn post(http: &mut Http, bodies: &[Value]) {
    let messages: Vec<Value> =
        bodies.iter().map(|body| json!({"ttl": 3600, "body": body})).collect();
    let posted = http.post("/v2/queues/q/messages", &json!({"messages": messages}).to_string());
    assert_eq!(posted.status, 201, "{:?}", posted.json());
}

fn bodies(http: &Http, queue: &str) -> Vec<Value> {
    // A connection that says nothing for a minute is closed.
    let listed = http.again().get(&format!("/v2/queues/{queue}/messages?echo=true"));
    let listed = listed.json();
    listed["messages"].as_array().unwrap().iter().map(|message| message["body"].clone()).collect()
}

/// The bodies of a queue, as soon as there are so many.
fn found(http: &Http, queue: &str, count: usize) -> Vec<Value> {
    let until = Instant::now() + 3 * PATIENCE;
    loop {
        let bodies = bodies(http, queue);
        if bodies.len() >= count {
            return bodies;
        }
        assert!(Instant::now() < until, "{queue} has {bodies:?}");
        thread::yield_now();
    }
}

/// A policy that tries for as long as a test takes.
fn patient() -> Value {
    json!({"retries_with_no_delay": 0, "minimum_delay": 1, "minimum_delay_retries": 90})
}

/// A policy that gives up at once, as far as there is one: two retries in five seconds.
fn impatient() -> Value {
    json!({"minimum_delay": 0, "maximum_delay": 10, "retries_with_no_delay": 0,
        "minimum_delay_retries": 0, "maximum_delay_retries": 0})
}

#[test]
fn a_webhook_has_plain_text_before_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut program, mut http)) = start(folder.path(), &json!({})) else { return };
    let receiver = Receiver::start([500]);
    subscribe(&mut http, &receiver.url(), &json!({"_retry_policy": patient()}));

    post(&mut http, &[json!({"said": "canary"})]);
    let first = receiver.next();
    program.restart();
    let second = receiver.next();

    assert_eq!(first.body["body"], json!({"said": "canary"}));
    assert_eq!(second.body, first.body);
}

#[test]
fn a_filter_sees_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_program, mut http)) = start(folder.path(), &json!({})) else { return };
    let receiver = Receiver::start([]);
    subscribe(&mut http, &receiver.url(), &json!({"filter": "body.number == 2"}));

    post(&mut http, &[json!({"number": 1}), json!({"number": 2}), json!({"number": 3})]);

    assert_eq!(receiver.next().body["body"], json!({"number": 2}));
    assert!(receiver.rest().is_empty());
}

#[test]
fn an_exchange_that_subscribes_gets_plain_text_with_its_type() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut program, mut http)) = start(folder.path(), &json!({})) else { return };
    // Nobody has bound a queue yet, so what is posted waits over the restart.
    subscribe(&mut http, "amqp:amq.topic/orders.new", &json!({"_retry_policy": patient()}));
    post(&mut http, &[json!({"said": "canary"})]);

    program.restart();
    let amqp = Connection::open(program.address, &Login::default()).unwrap().channel();
    amqp.declare_durable("behind", &[]).unwrap();
    amqp.bind("behind", "amq.topic", "orders.#", &[]).unwrap();

    let until = Instant::now() + 3 * PATIENCE;
    let message = loop {
        if let Some(message) = amqp.get("behind", true).unwrap() {
            break message;
        }
        assert!(Instant::now() < until, "nothing came");
    };
    assert_eq!(message.body, br#"{"said":"canary"}"#);
    assert_eq!(message.properties.content_type.as_deref(), Some("application/json"));
    // What stays in the queue stays sealed.
    let kept = amqp.get("q", true).unwrap().unwrap();
    assert!(kept.body.starts_with(b"PS"), "{:?}", kept.body);
}

#[test]
fn what_no_subscriber_took_can_be_read_in_its_dead_letter_queue() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut program, mut http)) = start(folder.path(), &json!({})) else { return };
    let receiver = Receiver::start([500; 99]);
    let options = json!({"_retry_policy": impatient(), "dead_letter_queue": "lost"});
    subscribe(&mut http, &receiver.url(), &options);

    post(&mut http, &[json!({"said": "canary"})]);

    assert_eq!(found(&http, "lost", 1), [json!({"said": "canary"})]);
    program.restart();
    let mut http = Http::new(&program).with("X-Project-Id", "/");
    // What was seen may not have been durable: then it is given up once more.
    assert_eq!(found(&http, "lost", 1), [json!({"said": "canary"})]);
    let popped = http.delete("/v2/queues/lost/messages?pop=1").json();
    assert_eq!(popped["messages"][0]["body"], json!({"said": "canary"}));
}

#[test]
fn what_was_claimed_too_often_can_be_read_in_its_dead_letter_queue() {
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"_max_claim_count": 1, "_dead_letter_queue": "dead"});
    let Some((mut program, mut http)) = start(folder.path(), &rules) else { return };
    post(&mut http, &[json!({"said": "canary"})]);
    let claim = http.post("/v2/queues/q/claims", "");
    assert_eq!(claim.status, 201);
    http.delete(claim.header("location").unwrap());
    assert_eq!(http.post("/v2/queues/q/claims", "").status, 204);

    assert_eq!(bodies(&http, "dead"), [json!({"said": "canary"})]);
    program.restart();
    let mut http = Http::new(&program).with("X-Project-Id", "/");
    let claimed = http.post("/v2/queues/dead/claims", "").json();
    assert_eq!(claimed["messages"][0]["body"], json!({"said": "canary"}));
}

#[test]
fn without_its_key_a_message_is_tried_again_until_the_key_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut program, mut http)) = start(folder.path(), &json!({})) else { return };
    let takes_it = Arc::new(AtomicBool::new(false));
    let taken = Arc::clone(&takes_it);
    let receiver = Receiver::heeding(move |request| {
        let is_new = request.body["body"] == json!({"said": "new"});
        Answer::status(if is_new || taken.load(Ordering::SeqCst) { 200 } else { 500 })
    });
    subscribe(&mut http, &receiver.url(), &json!({"_retry_policy": patient()}));
    post(&mut http, &[json!({"said": "canary"})]);
    assert_eq!(receiver.next().body["body"], json!({"said": "canary"}));

    write_keys(folder.path(), OTHER_KEY);
    program.restart();
    post(&mut Http::new(&program).with("X-Project-Id", "/"), &[json!({"said": "new"})]);
    // On a slow machine the canary was tried once more before the kill.
    let next = |not: Value| loop {
        let body = receiver.next().body["body"].clone();
        if body != not {
            return body;
        }
    };
    assert_eq!(next(json!({"said": "canary"})), json!({"said": "new"}));
    write_keys(folder.path(), &format!("{OTHER_KEY}\n{KEY}"));
    takes_it.store(true, Ordering::SeqCst);
    program.restart();

    // The kill may have come between an answer and its being written down: then the new one comes again.
    assert_eq!(next(json!({"said": "new"})), json!({"said": "canary"}));
}
