//! Subscriptions over HTTP: made, listed, changed, confirmed, ended.

use it::{Broker, Http};
use serde_json::json;

const WHY: &str = "has no queue service";
const SUBSCRIPTIONS: &str = "/v2/queues/q/subscriptions";

/// Subscribes somebody; the path of the subscription.
fn subscribe(http: &mut Http, subscriber: &str) -> String {
    let made = http.post(SUBSCRIPTIONS, &json!({"subscriber": subscriber, "ttl": 300}).to_string());
    assert_eq!((made.status, made.header("location")), (201, Some(SUBSCRIPTIONS)));
    format!("{SUBSCRIPTIONS}/{}", made.json()["subscription_id"].as_str().unwrap())
}

#[test]
fn a_subscription_is_stored_and_survives_a_restart() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let body = r#"{"subscriber": "http://127.0.0.1:1/x", "ttl": 300, "options": {"a": [1]}}"#;
    let made = http.post(SUBSCRIPTIONS, body);
    let id = made.json()["subscription_id"].as_str().unwrap().to_owned();

    program.restart();
    let mut http = Http::new(&program);
    let shown = http.get(&format!("{SUBSCRIPTIONS}/{id}")).json();

    let age = shown["age"].as_u64().unwrap();
    let expected = json!({
        "id": id, "source": "q", "subscriber": "http://127.0.0.1:1/x", "ttl": 300, "age": age,
        "options": {"a": [1]}, "confirmed": false
    });
    assert_eq!(shown, expected);
    assert_eq!(http.get("/v2/queues").json()["queues"][0]["name"], "q");
    assert_eq!(http.get("/v2/queues?with_count=true").json()["count"], 1);
}

#[test]
fn a_subscriber_has_one_subscription_per_queue() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let first = subscribe(&mut http, "http://127.0.0.1:1/a");
    assert_eq!(subscribe(&mut http, "http://127.0.0.1:1/a"), first);
    let other = subscribe(&mut http, "http://127.0.0.1:1/b");

    let confirm = format!("{first}/confirm");
    let confirmed = http.put(&confirm, r#"{"confirmed": true}"#);
    assert_eq!((confirmed.status, confirmed.header("location")), (204, Some(confirm.as_str())));
    let again = http.post(SUBSCRIPTIONS, r#"{"subscriber": "http://127.0.0.1:1/a"}"#);
    let text = "Such subscription already exists.Subscriptions are unique by project + queue + subscriber URI.";
    assert_eq!(
        (again.refusal(), again.header("location")),
        ((409, text.into()), Some(SUBSCRIPTIONS))
    );
    assert_eq!(http.patch(&other, r#"{"subscriber": "http://127.0.0.1:1/a"}"#).status, 409);
    assert_eq!(
        http.put(&confirm, "{}").refusal(),
        (400, "The 'confirmed' should be boolean.".into())
    );
    assert_eq!(http.get(&first).json()["confirmed"], true);
}

#[test]
fn subscriptions_are_listed_in_pages_changed_and_ended() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let paths: Vec<_> =
        (0..12).map(|index| subscribe(&mut http, &format!("http://127.0.0.1:1/{index}"))).collect();

    let first = http.get(SUBSCRIPTIONS).json();
    assert_eq!(first["subscriptions"].as_array().unwrap().len(), 10);
    let next = http.get(first["links"][0]["href"].as_str().unwrap()).json();
    assert_eq!(next["subscriptions"].as_array().unwrap().len(), 2);

    let changed = http.patch(&paths[0], r#"{"ttl": 1000, "options": {"b": 2}}"#);
    assert_eq!((changed.status, changed.header("location")), (204, Some(paths[0].as_str())));
    let shown = http.get(&paths[0]).json();
    assert_eq!((&shown["ttl"], &shown["options"]), (&json!(1000), &json!({"b": 2})));
    assert_eq!(http.patch(&paths[0], "{}").refusal(), (400, "No subscription to create.".into()));
    assert_eq!(http.delete(&paths[0]).status, 204);
    assert_eq!(http.delete(&paths[0]).status, 204);
    let id = paths[0].rsplit('/').next().unwrap();
    assert_eq!(http.get(&paths[0]).refusal(), (404, format!("Subscription {id} does not exist")));
    assert_eq!(http.patch(&paths[0], r#"{"ttl": 100}"#).status, 404);
    assert_eq!(
        http.post("/v2/queues/q/purge", r#"{"resource_types": ["subscriptions"]}"#).status,
        204
    );
    assert_eq!(http.get(SUBSCRIPTIONS).json(), json!({"subscriptions": [], "links": []}));
}

#[test]
fn what_a_subscription_asks_for_is_checked() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);

    for (body, text) in [
        ("", "Missing parameter subscriber in body."),
        ("{}", "Missing parameter subscriber in body."),
        (r#"{"subscriber": "http://a", "ttl": "x"}"#, "TTL must be an integer."),
        (r#"{"subscriber": "http://a", "options": 1}"#, "Options must be a dict."),
        ("[]", "Document type not supported."),
    ] {
        assert_eq!(http.post(SUBSCRIPTIONS, body).refusal(), (400, text.into()), "{body}");
    }
    assert_eq!(http.post(SUBSCRIPTIONS, r#"{"subscriber": "ftp://a"}"#).status, 400);
    assert_eq!(http.post(SUBSCRIPTIONS, r#"{"subscriber": "trust+http://a"}"#).status, 503);
    assert_eq!(http.get(&format!("{SUBSCRIPTIONS}/nonsense")).status, 404);
    assert_eq!(http.get("/v2/queues").json()["queues"][0]["name"], "q");
}

#[test]
fn topics_have_subscriptions_too() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);

    let made = http.post("/v2/topics/t/subscriptions", r#"{"subscriber": "http://127.0.0.1:1/"}"#);
    let id = made.json()["subscription_id"].as_str().unwrap().to_owned();

    assert_eq!(http.get(&format!("/v2/topics/t/subscriptions/{id}")).json()["source"], "t");
    assert_eq!(http.get("/v2/queues/t/subscriptions").json()["subscriptions"], json!([]));
}
