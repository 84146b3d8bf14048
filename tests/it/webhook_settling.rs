//! Webhooks that are settled later: taken with 202, settled by a request to the address that came with the message.

use std::thread;
use std::time::Instant;

use it::http::OTHER_CLIENT;
use it::{Answer, Broker, Channel, Connection, Http, Login, PATIENCE, Program, Properties};
use it::{Receiver, Reply, Webhook};
use serde_json::{Value as Json, json};

const WHY: &str = "sends no webhooks";
const SUBSCRIPTIONS: &str = "/v2/queues/q/subscriptions";
const SETTLE_URL: &str = "delivery.settle_url=https://queues.example.org/base/";

fn start() -> Option<Program> {
    Broker::start_own_with(WHY, &[SETTLE_URL])
}

/// A channel in the tenant that AMQP calls `/`, where the queue `q` and the durable queue `answers` are.
fn channel(program: &Program) -> Channel {
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    channel.declare_durable("q", &[]).unwrap();
    channel.declare_durable("answers", &[]).unwrap();
    channel
}

/// Has a receiver take the messages of the queue `q` of the tenant `/`; two quick retries, then `dead`.
fn subscribe(program: &Program, receiver: &Receiver, options: &Json) -> String {
    let policy = json!({"retries_with_no_delay": 2, "minimum_delay_retries": 0, "minimum_delay": 0,
        "maximum_delay": 10, "maximum_delay_retries": 0});
    let mut all = json!({"form": "request", "settle_within": 3600, "_retry_policy": policy,
        "dead_letter_queue": "dead"});
    all.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    let body = json!({"subscriber": receiver.url(), "options": all}).to_string();
    let made = Http::new(program).with("X-Project-Id", "/").post(SUBSCRIPTIONS, &body);
    assert_eq!(made.status, 201, "{:?}", made.json());
    format!("{SUBSCRIPTIONS}/{}", made.json()["subscription_id"].as_str().unwrap())
}

/// Answers the first `count` requests with 202.
fn taking(count: usize) -> Receiver {
    Receiver::answering(vec![Answer::status(202); count].into_iter())
}

/// The path of the address that came with a message.
fn path_of(request: &Webhook) -> String {
    let url = request.exact_header("posthouse-ack-url");
    url.strip_prefix("https://queues.example.org/base").expect("the public URL").to_owned()
}

/// Settles as somebody who has nothing but the address.
fn settle(program: &Program, path: &str, settle: &str, body: &str) -> Reply {
    let bare = Http::new(program).with("Client-ID", "").with("X-Project-Id", "");
    bare.with("posthouse-settle", settle).post(path, body)
}

fn title(reply: &Reply) -> (u16, String) {
    assert!(reply.json()["description"].is_string());
    (reply.status, reply.json()["title"].as_str().unwrap().to_owned())
}

/// Waits until a figure is what it should be.
fn metric_becomes(program: &Program, name: &str, value: f64) {
    let until = Instant::now() + 3 * PATIENCE;
    while program.metric(name) != value {
        assert!(Instant::now() < until, "{name} is {} and not {value}", program.metric(name));
        thread::yield_now();
    }
}

const UNSETTLED: &str = "posthouse_delivery_unsettled";

#[test]
fn a_message_that_was_taken_is_settled_by_its_address_and_only_once() {
    let Some(program) = start() else { return };
    let channel = channel(&program);
    let receiver = taking(1);
    subscribe(&program, &receiver, &json!({}));

    channel.send("q", "1");
    let path = path_of(&receiver.next());
    metric_becomes(&program, UNSETTLED, 1.0);
    assert_eq!(program.metric("posthouse_delivery_running"), 0.0, "it has no place");
    assert_eq!(program.metric("posthouse_delivery_delivered_total"), 0.0);

    assert_eq!(settle(&program, &path, "", "").status, 204);
    let again = settle(&program, &path, "", "");
    assert_eq!(title(&again), (410, "Settled already".to_owned()));
    assert_eq!(program.metric("posthouse_delivery_delivered_total"), 1.0);
    assert_eq!(program.metric("posthouse_delivery_settled_later_total"), 1.0);
    assert_eq!(program.metric(UNSETTLED), 0.0);

    channel.send("q", "2");
    assert_eq!(receiver.next().body.to_string(), "2", "the first did not come again");
}

#[test]
fn whoever_settles_says_what_becomes_of_the_message() {
    let Some(program) = start() else { return };
    let channel = channel(&program);
    let receiver = taking(9);
    subscribe(&program, &receiver, &json!({}));

    channel.send("q", "1");
    let first = receiver.next();
    assert_eq!(settle(&program, &path_of(&first), "retry", "").status, 204);
    let second = receiver.next();
    assert_eq!(second.header("posthouse-attempt"), "2");
    assert_eq!(second.header("webhook-id"), first.header("webhook-id"));
    let bad = settle(&program, &path_of(&second), "perhaps", "");
    assert_eq!(title(&bad), (400, "Invalid API request".to_owned()));
    assert_eq!(settle(&program, &path_of(&second), "dead", "").status, 204);
    let dead = channel.take_soon("dead");
    let reason = dead.properties.header("x-posthouse-reason").unwrap();
    assert_eq!((dead.text(), reason), ("1", &"its receiver gave it up".into()));

    channel.send("q", "2");
    assert_eq!(settle(&program, &path_of(&receiver.next()), "drop", "unread").status, 204);
    metric_becomes(&program, UNSETTLED, 0.0);
    assert_eq!(program.metric("posthouse_delivery_given_up_total"), 1.0);
}

#[test]
fn what_nobody_settles_in_time_is_tried_again_by_the_policy() {
    let Some(program) = start() else { return };
    let channel = channel(&program);
    let receiver = taking(2);
    subscribe(&program, &receiver, &json!({"settle_within": 1}));

    channel.send("q", "1");

    let [first, _, third] = [(); 3].map(|()| receiver.next());
    assert_eq!(third.header("posthouse-attempt"), "3");
    let path = path_of(&first);
    metric_becomes(&program, "posthouse_delivery_delivered_total", 1.0);
    assert_eq!(program.metric("posthouse_delivery_failed_total"), 2.0);
    assert_eq!(title(&settle(&program, &path, "", "")), (410, "Too late".to_owned()));
}

#[test]
fn an_older_address_settles_as_well_and_so_does_one_that_is_used_at_once() {
    let Some(program) = start() else { return };
    let channel = channel(&program);
    let receiver = taking(9);
    subscribe(&program, &receiver, &json!({}));
    channel.send("q", "1");
    let first = path_of(&receiver.next());
    assert_eq!(settle(&program, &first, "retry", "").status, 204);
    drop(receiver.next());

    assert_eq!(settle(&program, &first, "", "").status, 204);
    metric_becomes(&program, UNSETTLED, 0.0);

    // By whoever is asked, before they have answered.
    let address = program.queues.unwrap();
    let hasty = Receiver::heeding(move |request| {
        let path = path_of(request);
        let bare = Http::connect(address).with("Client-ID", "").with("X-Project-Id", "");
        assert_eq!(bare.with("posthouse-settle", "").post(&path, "").status, 204);
        Answer::status(202)
    });
    subscribe(&program, &hasty, &json!({}));
    channel.send("q", "2");
    drop(hasty.next());
    drop(receiver.next());
    metric_becomes(&program, UNSETTLED, 1.0);
    channel.send("q", "3");
    assert_eq!(hasty.next().body.to_string(), "3", "the second is done");
}

#[test]
fn a_message_that_waits_to_be_settled_survives_a_kill_and_its_address_does_too() {
    let Some(mut program) = start() else { return };
    let channel = channel(&program);
    let receiver = taking(9);
    let options = json!({"answers": true});
    subscribe(&program, &receiver, &options);
    channel.confirms();
    for body in ["1", "2"] {
        channel.publish("", "q", &question(), body.as_bytes());
    }
    channel.wait_confirms(2);
    let before = [receiver.next(), receiver.next()];
    metric_becomes(&program, UNSETTLED, 2.0);

    program.restart();

    // Both come again, each with its id.
    let after = [receiver.next(), receiver.next()];
    for request in &after {
        let old = before.iter().find(|it| it.body == request.body).unwrap();
        assert_eq!(request.header("webhook-id"), old.header("webhook-id"));
    }
    for request in &before {
        let yes = format!("yes {}", request.body);
        assert_eq!(settle(&program, &path_of(request), "", &yes).status, 204);
    }
    let channel = self::channel(&program);
    let mut answers = [channel.take_soon("answers"), channel.take_soon("answers")]
        .map(|answer| answer.text().to_owned());
    answers.sort();
    assert_eq!(answers, ["yes 1", "yes 2"]);
    for request in &after {
        assert_eq!(settle(&program, &path_of(request), "", "no").status, 410);
    }

    // That the answers were taken is on the disk when what came after it is.
    channel.declare_durable("later", &[]).unwrap();
    channel.confirms();
    channel.publish("", "later", &Properties::persistent(), b"x");
    channel.wait_confirms(1);

    // Settled for good: a further kill brings nothing back.
    program.restart();
    let channel = self::channel(&program);
    channel.send("q", "3");
    assert_eq!(receiver.next().body.to_string(), "3");
    assert!(channel.take("answers").is_none());
}

#[test]
fn after_a_kill_a_message_is_settled_before_it_is_sent_again() {
    let Some(mut program) = start() else { return };
    let channel = channel(&program);
    let paused = Answer::status(503).with("retry-after", "3600");
    let receiver = Receiver::answering(
        [Answer::status(202), paused.clone(), Answer::status(202), paused].into_iter(),
    );
    subscribe(&program, &receiver, &json!({"answers": true}));
    channel.confirms();
    channel.publish("", "q", &question(), b"1");
    channel.wait_confirms(1);
    let first = path_of(&receiver.next());
    metric_becomes(&program, UNSETTLED, 1.0);

    // Its next attempt fails, and it waits an hour in its queue for another one.
    program.restart();
    drop(receiver.next());
    metric_becomes(&program, "posthouse_delivery_failed_total", 1.0);
    assert_eq!(settle(&program, &first, "retry", "").status, 204, "which it is anyway");
    assert_eq!(settle(&program, &first, "ack", "yes").status, 204);

    let channel = self::channel(&program);
    assert_eq!(channel.take_soon("answers").text(), "yes");
    assert_eq!(settle(&program, &first, "ack", "yes").status, 410);

    // Another one, given up while it waits.
    program.restart();
    let channel = self::channel(&program);
    channel.publish("", "q", &question(), b"2");
    let second = path_of(&receiver.next());
    assert_eq!(settle(&program, &second, "retry", "").status, 204);
    drop(receiver.next());
    metric_becomes(&program, "posthouse_delivery_failed_total", 2.0);
    assert_eq!(settle(&program, &second, "dead", "").status, 204);
    assert_eq!(channel.take_soon("dead").text(), "2");
}

fn question() -> Properties {
    Properties {
        reply_to: Some("answers".to_owned()),
        correlation_id: Some("c-1".to_owned()),
        user_id: Some("guest".to_owned()),
        ..Properties::persistent()
    }
}

#[test]
fn the_body_of_who_settles_is_the_answer_where_answers_are_wanted() {
    let Some(program) =
        Broker::start_own_with(WHY, &[SETTLE_URL, "delivery.answer_bytes_max=1KiB"])
    else {
        return;
    };
    let channel = channel(&program);
    let receiver = Receiver::answering(vec![Answer::status(202).body("no answer"); 9].into_iter());
    subscribe(&program, &receiver, &json!({"answers": true}));

    channel.publish("", "q", &question(), b"1");
    let path = path_of(&receiver.next());
    let long = settle(&program, &path, "", &"x".repeat(1025));
    assert_eq!(title(&long), (413, "413 Payload Too Large".to_owned()));
    let mut typed = Http::new(&program).with("content-type", "text/plain");
    assert_eq!(typed.post(&path, "yes").status, 204);

    let answer = channel.take_soon("answers");
    assert_eq!(answer.text(), "yes");
    assert_eq!(answer.properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(answer.properties.correlation_id.as_deref(), Some("c-1"));

    // In chunks, and to nobody.
    channel.publish("", "q", &question(), b"2");
    let path = path_of(&receiver.next());
    let mut http = Http::new(&program);
    http.write(
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes(),
    );
    http.write(b"3\r\nin \r\n6\r\nchunks\r\n0\r\n\r\n");
    assert_eq!(http.read(true).unwrap().status, 204);
    assert_eq!(channel.take_soon("answers").text(), "in chunks");
    channel.send("q", "3");
    assert_eq!(settle(&program, &path_of(&receiver.next()), "", "unheard").status, 204);
    assert!(channel.take("answers").is_none());
}

#[test]
fn no_more_wait_than_may_and_the_others_wait_in_their_queue() {
    let settings = [SETTLE_URL, "delivery.unsettled_per_subscription_max=1"];
    let Some(program) = Broker::start_own_with(WHY, &settings) else { return };
    let channel = channel(&program);
    let receiver = taking(99);
    subscribe(&program, &receiver, &json!({}));
    for number in 0..20 {
        channel.send("q", &number.to_string());
    }

    let mut seen = Vec::new();
    while seen.len() < 20 {
        let request = receiver.next();
        assert!(program.metric(UNSETTLED) <= 1.0);
        seen.push(request.body.as_u64().unwrap());
        assert_eq!(settle(&program, &path_of(&request), "", "").status, 204);
    }

    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

#[test]
fn room_for_all_is_shared_and_a_subscription_that_finds_none_gets_some_later() {
    let settings = [SETTLE_URL, "delivery.unsettled_max=1"];
    let Some(program) = Broker::start_own_with(WHY, &settings) else { return };
    let channel = channel(&program);
    let (one, other) = (taking(9), taking(9));
    subscribe(&program, &one, &json!({}));
    subscribe(&program, &other, &json!({}));
    for body in ["1", "2", "3"] {
        channel.send("q", body);
    }

    let until = Instant::now() + 3 * PATIENCE;
    let mut seen = [0, 0];
    while seen != [3, 3] {
        for (count, receiver) in seen.iter_mut().zip([&one, &other]) {
            for request in receiver.rest() {
                assert_eq!(settle(&program, &path_of(&request), "", "").status, 204);
                *count += 1;
            }
        }
        assert!(Instant::now() < until, "{seen:?}");
        thread::yield_now();
    }
}

#[test]
fn an_address_is_good_for_one_message_and_for_nothing_else() {
    let Some(program) = start() else { return };
    let channel = channel(&program);
    let (receiver, others) = (taking(9), taking(9));
    let subscription = subscribe(&program, &receiver, &json!({}));
    let body =
        json!({"subscriber": others.url(), "options": {"form": "request", "settle_within": 3600}});
    let mut other = Http::new(&program).with("X-Project-Id", "o").with("Client-ID", OTHER_CLIENT);
    assert_eq!(other.post(SUBSCRIPTIONS, &body.to_string()).status, 201);
    assert_eq!(other.post("/v2/queues/q/messages", r#"{"messages": [{"body": 1}]}"#).status, 201);
    channel.send("q", "1");
    let (own, theirs) = (path_of(&receiver.next()), path_of(&others.next()));
    metric_becomes(&program, UNSETTLED, 2.0);

    // Names of one with the signature of another, a later end, another place, garbage, and what is too long.
    let (names, _) = own.split_at("/v2/settle/".len() + 56);
    let spliced = format!("{names}{}", theirs.split_at(names.len()).1);
    let changed = |place: usize| {
        let (before, rest) = own.split_at(place);
        let digit = if rest.starts_with('0') { '1' } else { '0' };
        format!("{before}{digit}{}", rest.split_at(1).1)
    };
    let [another, later] = [24 + 15, 24 + 16 + 5].map(|it| changed("/v2/settle/".len() + it));
    let forged =
        [spliced, another, later, names.to_owned(), format!("{own}A"), own.replace("a", "A")];
    let hostile = [
        "/v2/settle/".to_owned(),
        "/v2/settle/x".to_owned(),
        "/v2/settle/%00%ff".to_owned(),
        format!("/v2/settle/{}", "0".repeat(20_000)),
        format!("/v2/settle/{}", "%C3%A9".repeat(99)),
    ];
    // By chance it is the same.
    for path in forged.iter().chain(&hostile).filter(|path| **path != own) {
        assert_eq!(settle(&program, path, "", "").status, 404, "{path}");
    }
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        assert_eq!(Http::new(&program).send(method, &own, None).status, 405);
    }
    assert_eq!(program.metric(UNSETTLED), 2.0);

    // With the subscription goes its address.
    assert_eq!(Http::new(&program).with("X-Project-Id", "/").delete(&subscription).status, 204);
    assert_eq!(settle(&program, &own, "", "").status, 404);
    assert_eq!(settle(&program, &theirs, "", "").status, 204);
    metric_becomes(&program, UNSETTLED, 0.0);
}

#[test]
fn settling_later_is_an_option_of_requests_where_we_can_be_reached() {
    let (Some(with), Some(without)) = (start(), Broker::start_own(WHY)) else { return };
    let refused = |program: &Program, subscriber: &str, options: Json| {
        let body = json!({"subscriber": subscriber, "options": options}).to_string();
        let (status, text) = Http::new(program).post(SUBSCRIPTIONS, &body).refusal();
        assert_eq!(status, 400, "{text}");
        text
    };

    let own = "http://127.0.0.1:1/";
    let good = json!({"form": "request", "settle_within": 60});
    assert!(refused(&without, own, good.clone()).contains("delivery.settle_url is not configured"));
    assert!(refused(&with, "amqp:/q", good).contains("no http or https URL"));
    assert!(refused(&with, own, json!({"settle_within": 60})).contains("`form` is no request"));
    for seconds in [json!(0), json!(43_201), json!("60"), json!(1.5)] {
        let text = refused(&with, own, json!({"form": "request", "settle_within": seconds}));
        assert!(text.contains("a number of seconds from 1 to 43200"), "{text}");
    }
}
