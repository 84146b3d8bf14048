//! Subscriptions of others over WebSocket: the same operation, with the same checks, as over HTTP.

use it::socket::Socket;
use it::{Broker, Http, Receiver};
use serde_json::{Value, json};

const WHY: &str = "has no queue service";
const HOOK: &str = "http://127.0.0.1:1/hook";

fn create(socket: &mut Socket, mut body: Value) -> (u64, Value) {
    body["queue_name"] = json!("q");
    socket.ask("subscription_create", body)
}

#[test]
fn both_doors_refuse_the_same_with_the_same_words() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let (mut socket, mut http) = (Socket::of(&program), Http::new(&program));
    http.put("/v2/queues/q", "");

    for body in [
        json!({"subscriber": "ftp://a/"}),
        json!({"subscriber": ""}),
        json!({"subscriber": "http://"}),
        json!({"subscriber": "http://10.1.2.3/"}),
        json!({"subscriber": "http://169.254.169.254/latest"}),
        json!({"subscriber": "mailto:"}),
        json!({"subscriber": "trust+http://127.0.0.1:1/"}),
        json!({"subscriber": HOOK, "ttl": 59}),
        json!({"subscriber": HOOK, "ttl": 253_402_300_800_u64}),
        json!({"subscriber": HOOK, "options": {"filter": "who knows"}}),
        json!({"subscriber": HOOK, "options": {"post_headers": {"host": "a"}}}),
        json!({"subscriber": HOOK, "options": {"_retry_policy": {"minimum_delay": "x"}}}),
        json!({"subscriber": format!("http://127.0.0.1:1/{}", "x".repeat(3000))}),
    ] {
        let over_http = http.post("/v2/queues/q/subscriptions", &body.to_string());
        let (status, said) = create(&mut socket, body.clone());

        let (expected, words) = over_http.refusal();
        assert!(matches!(expected, 400 | 503), "{body}: {expected} {words}");
        assert_eq!(
            (u16::try_from(status).unwrap(), &said["exception"]),
            (expected, &json!(words)),
            "{body}"
        );
    }
    assert_eq!(http.get("/v2/queues/q/subscriptions").json()["subscriptions"], json!([]));
}

#[test]
fn a_subscriber_who_has_not_confirmed_keeps_its_subscription_and_one_who_has_is_a_conflict() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let (mut socket, mut http) = (Socket::of(&program), Http::new(&program));

    let (status, made) = create(&mut socket, json!({"subscriber": HOOK, "ttl": 300}));
    assert_eq!((status, &made["message"]), (201, &json!("Subscription q created.")));
    assert_eq!(create(&mut socket, json!({"subscriber": HOOK})), (201, made.clone()));
    let again = http.post("/v2/queues/q/subscriptions", &json!({"subscriber": HOOK}).to_string());
    assert_eq!((again.status, &again.json()["subscription_id"]), (201, &made["subscription_id"]));
    let path = format!("/v2/queues/q/subscriptions/{}", made["subscription_id"].as_str().unwrap());
    assert_eq!(http.put(&format!("{path}/confirm"), r#"{"confirmed": true}"#).status, 204);

    let conflict = (409, json!("Subscription q not created."));
    assert_eq!(create(&mut socket, json!({"subscriber": HOOK})), conflict);
    let (_, shown) = socket.ask(
        "subscription_get",
        json!({"queue_name": "q", "subscription_id": made["subscription_id"]}),
    );
    assert_eq!(shown, http.get(&path).json());
}

#[test]
fn who_is_subscribed_over_a_websocket_is_asked_to_confirm() {
    let settings = ["queues.require_confirmation=true", "queues.signed_url.secret=a secret"];
    let Some(program) = Broker::start_own_with(WHY, &settings) else { return };
    let receiver = Receiver::start([]);
    let (mut socket, mut http) = (Socket::of(&program), Http::new(&program));

    let (status, made) = create(&mut socket, json!({"subscriber": receiver.url()}));
    assert_eq!(status, 201, "{made}");
    let asked = receiver.next().body;

    assert_eq!(asked["Message_Type"], "SubscriptionConfirmation");
    let id = made["subscription_id"].as_str().unwrap();
    assert_eq!(asked["URL-Paths"], format!("/v2/queues/q/subscriptions/{id}/confirm"));
    let path = format!("/v2/queues/q/subscriptions/{id}");
    assert_eq!(http.get(&path).json()["confirmed"], false);
}
