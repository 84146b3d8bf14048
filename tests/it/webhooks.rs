//! Webhooks, by the real program: what is posted is sent, after a kill too, and private networks are out of reach.

use std::thread;
use std::time::{Duration, Instant, SystemTime};

use it::value::table;
use it::{Answer, Broker, Connection, Http, Login, PATIENCE, Program, Properties, Receiver};
use serde_json::{Value, json};

const WHY: &str = "sends no webhooks";
const SUBSCRIPTIONS: &str = "/v2/queues/q/subscriptions";

fn subscribe(http: &mut Http, subscriber: &str, options: &Value) {
    let body = json!({"subscriber": subscriber, "options": options}).to_string();
    let made = http.post(SUBSCRIPTIONS, &body);
    assert_eq!(made.status, 201, "{:?}", made.json());
}

fn post(http: &mut Http, body: &Value) {
    let messages = json!({"messages": [{"ttl": 300, "body": body}]}).to_string();
    assert_eq!(http.post("/v2/queues/q/messages", &messages).status, 201);
}

/// What stands in a queue, as soon as there is something.
fn found(http: &mut Http, queue: &str) -> Value {
    let until = Instant::now() + 3 * PATIENCE;
    loop {
        // A connection that says nothing for a minute is closed.
        let mut http = http.again();
        let found = http.get(&format!("/v2/queues/{queue}/messages?echo=true")).json();
        if let Some(message) = found["messages"].as_array().and_then(|list| list.first()) {
            return message["body"].clone();
        }
        assert!(Instant::now() < until, "nothing came into {queue}");
        thread::yield_now();
    }
}

#[test]
fn a_posted_message_is_sent_and_signed() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let receiver = Receiver::start([]);
    subscribe(&mut http, &receiver.url(), &json!({}));

    post(&mut http, &json!({"a": 1}));

    let request = receiver.next();
    assert_eq!(request.line(), "post /hook http/1.1");
    assert_eq!(
        request.body,
        json!({"body": {"a": 1}, "ttl": 300, "queue_name": "q", "Message_Type": "Notification"})
    );
    assert!(request.header("webhook-signature").starts_with("v1,"));
    request.header("webhook-timestamp").parse::<u64>().unwrap();
    assert_eq!(request.header("webhook-id").len(), 4 + 24);
}

#[test]
fn what_was_posted_before_a_kill_is_sent_after_it_with_the_same_id() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let receiver = Receiver::start([500, 500]);
    let policy =
        json!({"retries_with_no_delay": 0, "minimum_delay": 1, "minimum_delay_retries": 30});
    subscribe(&mut http, &receiver.url(), &json!({"_retry_policy": policy}));
    post(&mut http, &json!("a"));
    let first = receiver.next();

    program.restart();

    for _ in 0..2 {
        let again = receiver.next();
        assert_eq!(again.header("webhook-id"), first.header("webhook-id"));
        assert_eq!(again.body["body"], "a");
    }
}

#[test]
fn what_is_given_up_lies_in_the_queue_that_the_subscription_names() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let receiver = Receiver::start([404; 4]);
    let options = json!({"_retry_policy": shortest("linear"), "dead_letter_queue": "lost"});
    subscribe(&mut http, &receiver.url(), &options);

    post(&mut http, &json!({"a": 1}));

    assert_eq!(found(&mut http, "lost"), json!({"a": 1}));
    assert_eq!(receiver.rest().len(), 3);
}

/// Two retries: after the growing phase's first and second delay.
fn shortest(function: &str) -> Value {
    json!({"retry_backoff_function": function, "minimum_delay": 0, "maximum_delay": 10,
        "retries_with_no_delay": 0, "minimum_delay_retries": 0, "maximum_delay_retries": 0})
}

#[test]
fn each_of_zaqars_functions_says_when_to_try_again() {
    let expected = [
        ("linear", [0, 5]),
        ("arithmetic", [0, 10]),
        ("geometric", [1, 10]),
        ("exponential", [1, 10]),
    ];

    let Some(program) = Broker::start_own(WHY) else { return };
    let late = try_again(&mut Http::new(&program), &expected);

    // How late one is the machine decides as well, but not twice.
    if !late.is_empty() {
        drop(program);
        let program = Program::start();
        let expected = expected.iter().filter(|expected| late.contains(expected));
        let expected: Vec<_> = expected.copied().collect();
        assert_eq!(try_again(&mut Http::new(&program), &expected), []);
    }
}

/// A function for delays, and the two that it makes of [`shortest`], in seconds.
type Backoff = (&'static str, [u64; 2]);

/// Lets functions say when to try again. None may come early; those that came over five seconds late.
fn try_again(http: &mut Http, functions: &[Backoff]) -> Vec<Backoff> {
    let receivers: Vec<Receiver> = functions
        .iter()
        .map(|(function, _)| {
            let receiver = Receiver::start([500; 3]);
            let options =
                json!({"_retry_policy": shortest(function), "dead_letter_queue": function});
            subscribe(http, &receiver.url(), &options);
            receiver
        })
        .collect();
    post(http, &json!({"a": 1}));
    let mut late = Vec::new();
    for ((function, delays), receiver) in functions.iter().zip(receivers) {
        assert_eq!(found(http, function), json!({"a": 1}));
        let times: Vec<Instant> = receiver.rest().iter().map(|request| request.at).collect();
        assert_eq!(times.len(), 3, "{function}");
        for (pair, delay) in times.windows(2).zip(delays.map(Duration::from_secs)) {
            // The server counts from the answer, and in milliseconds.
            let waited = pair[1] - pair[0] + Duration::from_millis(10);
            assert!(waited >= delay, "{function}: {waited:?} instead of {delay:?}");
            if waited >= delay + Duration::from_secs(5) {
                late.push((*function, *delays));
            }
        }
    }
    late
}

#[test]
fn the_queues_policy_counts_where_the_subscription_has_none_or_somebody_says_so() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let mut policy = shortest("linear");
    policy["ignore_subscription_override"] = json!(true);
    let metadata = json!({"_retry_policy": policy, "_dead_letter_queue": "lost"});
    assert_eq!(http.put("/v2/queues/q", &metadata.to_string()).status, 201);
    let [silent, other] = [json!({}), json!({"_retry_policy": {"retries_with_no_delay": 900}})]
        .map(|options| {
            let receiver = Receiver::start([500; 900]);
            subscribe(&mut http, &receiver.url(), &options);
            receiver
        });

    post(&mut http, &json!("a"));

    for receiver in [silent, other] {
        for _ in 0..3 {
            drop(receiver.next());
        }
    }
    assert_eq!(found(&mut http, "lost"), "a");
}

#[test]
fn a_message_becomes_a_request_of_its_own_and_leaves_a_queue_that_is_there_for_that() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let at_once = table([("x-message-ttl", 0.into())]);
    channel.declare_durable("q", &at_once).unwrap();
    channel.bind("q", "amq.topic", "orders.#", &[]).unwrap();
    let receiver = Receiver::start([]);
    let mut http = Http::new(&program).with("X-Project-Id", "/");
    let options = json!({"form": "request", "path": "/events/{rk.0}/{rk.1}?q={queue}"});
    subscribe(&mut http, &receiver.url(), &options);
    let properties = Properties {
        content_type: Some("application/json".to_owned()),
        message_id: Some("m-1".to_owned()),
        user_id: Some("guest".to_owned()),
        expiration: Some("60000".to_owned()),
        ..Properties::with_headers([("traceparent", "00-1-2-01".into()), ("region", "eu".into())])
    };

    channel.publish("amq.topic", "orders.placed", &properties, br#"{"order":7}"#);

    let request = receiver.next();
    assert_eq!(request.line(), "post /events/orders/placed?q=q http/1.1");
    assert_eq!(request.body, json!({"order": 7}));
    for (name, value) in [
        ("content-type", "application/json"),
        ("idempotency-key", "m-1"),
        ("posthouse-queue", "q"),
        ("posthouse-attempt", "1"),
        ("posthouse-principal", "guest"),
        ("posthouse-h-region", "eu"),
        ("traceparent", "00-1-2-01"),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    assert!(request.header("posthouse-deadline").parse::<u64>().unwrap() <= 60_000);
    assert!(request.header("webhook-signature").starts_with("v1,"));
    assert_eq!(channel.inspect("q").unwrap().messages, 0);
}

#[test]
fn the_answer_to_a_request_of_its_own_says_what_becomes_of_the_message() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let receiver = Receiver::start([409, 422, 503]);
    let options = json!({"form": "request", "dead_letter_queue": "dead"});
    subscribe(&mut http, &receiver.url(), &options);

    // One after the other, so that each gets its answer.
    post(&mut http, &json!("known"));
    assert_eq!(receiver.next().body, json!("known"));
    post(&mut http, &json!("bad"));
    assert_eq!(receiver.next().body, json!("bad"));
    assert_eq!(found(&mut http, "dead"), json!("bad"));
    post(&mut http, &json!("later"));
    assert_eq!(receiver.next().header("posthouse-attempt"), "1");
    let again = receiver.next();

    assert_eq!((again.header("posthouse-attempt"), &again.body), ("2", &json!("later")));
    assert_eq!(program.metric("posthouse_delivery_given_up_total"), 1.0);
}

fn post_many(http: &mut Http, count: usize) {
    let messages: Vec<Value> = (0..count).map(|number| json!({"body": number})).collect();
    let body = json!({"messages": messages}).to_string();
    assert_eq!(http.post("/v2/queues/q/messages", &body).status, 201);
}

#[test]
fn retry_after_slows_the_whole_subscription_and_no_other() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let full = Answer::status(429).with("retry-after", "3600");
    let (slow, other) = (Receiver::answering([full].into_iter()), Receiver::start([]));
    subscribe(&mut http, &slow.url(), &json!({}));
    subscribe(&mut http, &other.url(), &json!({}));

    post_many(&mut http, 20);
    let first = slow.next();
    post_many(&mut http, 20);

    for _ in 0..40 {
        drop(other.next());
    }
    assert_eq!(first.body["body"], 0);
    assert_eq!(slow.rest().len(), 0, "an hour is not over");
    assert_eq!(program.metric("posthouse_delivery_resting"), 1.0);
}

#[test]
fn retry_after_in_seconds_and_as_a_date_ends_when_it_says() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let (begun, wall) = (Instant::now(), SystemTime::now());
    let date = httpdate::fmt_http_date(wall + Duration::from_secs(4));
    let receivers = [(503, "2"), (404, "2"), (429, date.as_str())].map(|(status, when)| {
        let answer = Answer::status(status).with("retry-after", when);
        let receiver = Receiver::answering([answer].into_iter());
        subscribe(&mut http, &receiver.url(), &json!({"form": "request"}));
        receiver
    });

    post_many(&mut http, 10);

    for (place, receiver) in receivers.into_iter().enumerate() {
        let first = receiver.next();
        let mut bodies = vec![first.body.as_u64().unwrap()];
        // A date has whole seconds, and the server counts in milliseconds.
        let until = if place == 2 {
            begun + Duration::from_secs(3)
        } else {
            first.at + Duration::from_secs(2)
        };
        for _ in 0..10 {
            let later = receiver.next();
            assert!(
                later.at + Duration::from_millis(10) >= until,
                "{place}: {:?}",
                until - later.at
            );
            bodies.push(later.body.as_u64().unwrap());
        }
        bodies.sort_unstable();
        assert_eq!(bodies, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
}

#[test]
fn whoever_subscribes_is_told_what_may_not_be() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let mut refused = |subscriber: &str, options: Value| {
        let body = json!({"subscriber": subscriber, "options": options}).to_string();
        let answer = http.post(SUBSCRIPTIONS, &body);
        assert_eq!(answer.status, 400, "{subscriber}");
        answer.json()["description"].as_str().unwrap().to_owned()
    };

    for address in ["http://169.254.169.254/", "http://10.0.0.1/", "http://[::1]/", "http://0xa.1/"]
    {
        let text = refused(address, json!({}));
        assert_eq!(text, "the subscriber may not be called: this address may not be called");
    }
    assert!(refused("mailto:a@b.c%0d%0aBcc:x@y.z", json!({})).contains("mail address"));
    assert!(refused("amqp:nothing", json!({})).contains("amqp:exchange/routing.key"));
    let own = "http://127.0.0.1:1/";
    assert!(refused(own, json!({"filter": "bdy.a"})).contains("`bdy`"));
    assert!(refused(own, json!({"post_headers": {"host": "x"}})).contains("`host`"));
    assert!(refused(own, json!({"signing_secret": "x"})).contains("whsec_"));
}
