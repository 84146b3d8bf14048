//! A queue is the same queue through every door: posted over HTTP and consumed by AMQP, and the other way round.

use it::{Broker, Channel, Connection, Http, Login, Program, Properties};
use serde_json::{Value as Json, json};

const WHY: &str = "has no queue service";

/// AMQP and HTTP in the same tenant, which AMQP calls `/`.
fn doors(program: &Program) -> (Channel, Http) {
    let amqp = Connection::open(program.address, &Login::default()).unwrap().channel();
    (amqp, Http::new(program).with("X-Project-Id", "/"))
}

fn bodies(page: &Json) -> Vec<Json> {
    page["messages"].as_array().unwrap().iter().map(|message| message["body"].clone()).collect()
}

#[test]
fn what_is_posted_over_http_is_consumed_by_amqp() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let (amqp, mut http) = doors(&program);
    http.post(
        "/v2/queues/q/messages",
        r#"{"messages": [{"ttl": 60, "body": {"a": [1]}}, {"body": "x"}]}"#,
    );

    amqp.declare_durable("q", &[]).unwrap();
    let first = amqp.get("q", false).unwrap().unwrap();

    assert_eq!(first.body, br#"{"a": [1]}"#);
    let properties = &first.properties;
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(
        (properties.delivery_mode, properties.expiration.as_deref()),
        (Some(2), Some("60000"))
    );
    assert_eq!(properties.app_id.as_deref(), Some(it::http::CLIENT));
    assert!(properties.timestamp.is_some());
}

#[test]
fn what_is_published_by_amqp_is_read_over_http() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let (amqp, mut http) = doors(&program);
    amqp.declare_durable("q", &[]).unwrap();
    amqp.confirms();
    let typed =
        |kind: &str| Properties { content_type: Some(kind.to_owned()), ..Properties::default() };
    amqp.publish("", "q", &typed("application/json"), b"{\"a\": 1}");
    amqp.publish("", "q", &typed("application/json"), b"not json");
    amqp.publish("", "q", &Properties::default(), "text \u{e9}".as_bytes());
    amqp.publish("", "q", &Properties::default(), b"\xff\x00");
    let expiring = Properties { expiration: Some("100000".to_owned()), ..Properties::default() };
    amqp.publish("", "q", &expiring, b"e");
    amqp.wait_confirms(5);

    let page = http.get("/v2/queues/q/messages").json();

    let expected =
        [json!({"a": 1}), json!("not json"), json!("text \u{e9}"), json!("/wA="), json!("e")];
    assert_eq!(bodies(&page), expected);
    assert_eq!(page["messages"][4]["ttl"], 100);
    let href = page["messages"][0]["href"].as_str().unwrap();
    assert_eq!(http.delete(href).status, 204);
    assert_eq!(http.get("/v2/queues/q/stats").json()["messages"]["total"], 4);
}

#[test]
fn a_claimed_message_is_not_delivered_and_an_unacked_one_is_not_claimed() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let (amqp, mut http) = doors(&program);
    let posted =
        http.post("/v2/queues/q/messages", r#"{"messages": [{"body": 1}, {"body": 2}]}"#).json();
    amqp.declare_durable("q", &[]).unwrap();
    let claimed = http.post("/v2/queues/q/claims?limit=1", "");
    assert_eq!(bodies(&claimed.json()), [json!(1)]);

    let unacked = amqp.get("q", false).unwrap().unwrap();
    assert_eq!(unacked.body, b"2");
    assert!(amqp.get("q", false).unwrap().is_none());
    assert_eq!(http.post("/v2/queues/q/claims", "").status, 204);
    let stats = http.get("/v2/queues/q/stats").json();
    assert_eq!((&stats["messages"]["claimed"], &stats["messages"]["free"]), (&json!(2), &json!(0)));
    // An unacked message is held by somebody who has no claim id.
    assert_eq!(http.delete(posted["resources"][1].as_str().unwrap()).status, 403);

    http.delete(claimed.header("location").unwrap());
    let released = amqp.get("q", false).unwrap().unwrap();
    assert_eq!((released.body.as_slice(), released.redelivered), (&b"1"[..], true));
    amqp.nack(released.tag, [false, true]);
    amqp.nack(unacked.tag, [false, true]);
    amqp.declare_durable("q", &[]).unwrap();
    assert_eq!(bodies(&http.post("/v2/queues/q/claims", "").json()), [json!(1), json!(2)]);
}

#[test]
fn a_message_of_the_other_door_is_delivered_to_a_waiting_consumer() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let (amqp, mut http) = doors(&program);
    amqp.declare_durable("q", &[]).unwrap();
    amqp.consume("q", "c", &[]).unwrap();

    http.post("/v2/queues/q/messages", r#"{"messages": [{"body": 7}]}"#);

    assert_eq!(amqp.next().body, b"7");
}

#[test]
fn a_queue_of_a_project_is_a_queue_of_the_virtual_host_of_that_name() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let (amqp, mut http) = doors(&program);
    amqp.declare_durable("made-by-amqp", &[]).unwrap();
    amqp.declare_durable("with spaces", &[]).unwrap();
    http.put("/v2/queues/made-by-http", "");

    let listed = http.get("/v2/queues").json();
    let names: Vec<_> = listed["queues"]
        .as_array()
        .unwrap()
        .iter()
        .map(|queue| queue["name"].as_str().unwrap())
        .collect();

    assert_eq!(names, ["made-by-amqp", "made-by-http"]);
    assert_eq!(Http::new(&program).get("/v2/queues").json()["queues"], json!([]));
}
