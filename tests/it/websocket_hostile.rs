//! What a peer sends over a WebSocket to break something: every action with members of every wrong kind.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use it::socket::{Socket, request};
use it::{Broker, PATIENCE, Program};
use serde_json::{Value, json};
use tungstenite::Message;

const SETTINGS: &[&str] = &["queues.admin_mode=true", "queues.pooling=true", "queues.policy=open"];

/// Each action with members that it knows.
const ACTIONS: &[(&str, &[&str])] = &[
    ("queue_list", &["marker", "limit", "detailed"]),
    ("queue_create", &["queue_name", "metadata"]),
    ("queue_get", &["queue_name"]),
    ("queue_get_stats", &["queue_name"]),
    ("queue_delete", &["queue_name"]),
    ("queue_purge", &["queue_name", "resource_types"]),
    ("message_post", &["queue_name", "messages"]),
    ("message_list", &["queue_name", "marker", "limit", "echo", "include_claimed"]),
    ("message_get", &["queue_name", "message_id"]),
    ("message_get_many", &["queue_name", "message_ids"]),
    ("message_delete", &["queue_name", "message_id", "claim_id"]),
    ("message_delete_many", &["queue_name", "message_ids", "claim_ids", "pop"]),
    ("claim_create", &["queue_name", "limit", "ttl", "grace"]),
    ("claim_get", &["queue_name", "claim_id"]),
    ("claim_update", &["queue_name", "claim_id", "ttl", "grace"]),
    ("claim_delete", &["queue_name", "claim_id"]),
    ("subscription_create", &["queue_name", "subscriber", "ttl", "options"]),
    ("subscription_list", &["queue_name", "marker", "limit"]),
    ("subscription_get", &["queue_name", "subscription_id"]),
    ("subscription_delete", &["queue_name", "subscription_id"]),
    ("subscription_ack", &["subscription_id", "delivery"]),
    ("pool_list", &["marker", "limit", "detailed"]),
    ("pool_create", &["pool_name", "weight", "uri", "flavor", "options"]),
    ("pool_update", &["pool_name", "weight", "uri", "flavor", "options"]),
    ("pool_get", &["pool_name", "detailed"]),
    ("pool_delete", &["pool_name"]),
    ("flavor_list", &["marker", "limit", "detailed"]),
    ("flavor_create", &["flavor_name", "pool_list", "pool_name", "capabilities"]),
    ("flavor_update", &["flavor_name", "pool_list", "pool_name", "capabilities"]),
    ("flavor_get", &["flavor_name"]),
    ("flavor_delete", &["flavor_name"]),
];

fn start() -> Option<Program> {
    Broker::start_own_with("has no queue service", SETTINGS)
}

fn junk() -> Vec<Value> {
    let long = "x".repeat(70_000);
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(1.5),
        json!(""),
        json!("../../etc/passwd"),
        json!("\u{0}\r\n\u{202e}"),
        json!(long),
        json!([]),
        json!([null, 7, {"a": []}]),
        json!({"a": {"": null}, "body": 7, "ttl": "x", "filter": 7, "durable_name": [], "ack": 1}),
        deep,
    ]
}

/// What the members are that are not junk.
fn plain(member: &str) -> Value {
    match member {
        "queue_name" => json!("q"),
        "messages" => json!([{"body": 1}]),
        "limit" | "pop" => json!(1),
        "ttl" | "grace" | "delivery" | "weight" => json!(60),
        "detailed" | "echo" | "include_claimed" => json!(true),
        "message_ids" | "claim_ids" | "resource_types" | "pool_list" => json!(["a"]),
        "metadata" | "options" | "capabilities" => json!({}),
        _ => json!("a"),
    }
}

#[test]
fn no_member_of_any_action_breaks_the_service_or_its_connection() {
    let Some(program) = start() else { return };
    let mut socket = Socket::of(&program);
    let junk = junk();

    for (action, members) in ACTIONS {
        for wrong in *members {
            for value in &junk {
                let body: serde_json::Map<String, Value> = members
                    .iter()
                    .map(|name| {
                        let value = if name == wrong { value.clone() } else { plain(name) };
                        ((*name).to_owned(), value)
                    })
                    .collect();

                let (status, said) = socket.ask(action, Value::Object(body));

                assert!((200..500).contains(&status), "{action} {wrong}: {status} {said}");
            }
        }
    }
    for value in &junk {
        for body in [json!({}), value.clone()] {
            let mut asked = request("queue_list", body);
            asked["headers"] = value.clone();
            socket.send(&asked);
            assert_eq!(socket.next_json()["headers"]["status"], 400, "{value}");
        }
        socket.send(&json!({"action": value, "headers": {}, "body": {}}));
        assert_eq!(socket.next_json()["headers"]["status"], 400, "{value}");
    }
    assert_eq!(socket.ask("ping_node", json!({})).0, 204);
}

#[test]
fn message_pack_that_json_does_not_have_is_refused_and_the_connection_goes_on() {
    let Some(program) = start() else { return };
    let mut socket = Socket::of(&program);
    let deep = [vec![0x91; 5000], vec![0xc0]].concat();
    for bytes in [
        vec![],
        vec![0xc1],
        // Lengths that nothing follows: a map, an array, a text, bytes.
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0xdb, 0xff, 0xff, 0xff, 0xff],
        vec![0xc6, 0xff, 0xff, 0xff, 0xff],
        // An extension, a key that is no text, a text that is no UTF-8, two documents.
        vec![0xd6, 0xff, 0, 0, 0, 0],
        vec![0x81, 0x01, 0x01],
        vec![0x81, 0xa6, b'a', b'c', b't', b'i', b'o', b'n', 0xa2, 0xff, 0xfe],
        vec![0x80, 0x80],
        deep,
    ] {
        socket.inner.send(Message::binary(bytes.clone())).unwrap();

        let Message::Binary(answer) = socket.next_message() else { panic!("not binary") };
        let answer: Value = rmp_serde::from_slice(&answer).unwrap();
        assert_eq!(answer["headers"]["status"], 400, "{:?}", &bytes[..bytes.len().min(12)]);
    }
    let nested = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    socket.inner.send(Message::text(nested)).unwrap();
    assert_eq!(socket.next_json()["headers"]["status"], 400);
    assert_eq!(socket.ask("ping_node", json!({})).0, 204);
}

#[test]
fn a_flood_of_requests_does_not_disturb_another_connection() {
    const FLOODERS: usize = 4;
    let Some(program) = start() else { return };
    let address = program.queues.unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let mut flooders = Vec::new();
    for number in 0..FLOODERS {
        let mut socket = Socket::open(address);
        let stream = socket.inner.get_ref().try_clone().unwrap();
        let asked = request("message_list", json!({"queue_name": format!("q{number}")}));
        let sent = Arc::clone(&sent);
        let flooder = std::thread::spawn(move || {
            let text = asked.to_string();
            // Nobody reads the answers, so writing comes to a stop.
            while socket.inner.send(Message::text(text.clone())).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        flooders.push((stream, flooder));
    }

    let mut other = Socket::open(address);
    let deadline = Instant::now() + PATIENCE;
    while sent.load(Ordering::Relaxed) <= 1000 {
        assert!(Instant::now() < deadline, "no flood: {sent:?}");
        std::thread::yield_now();
    }
    for _ in 0..50 {
        assert_eq!(other.ask("ping_node", json!({})).0, 204);
    }

    // What each may have under way is bounded by some MiB.
    assert!(program.resident_bytes() < 256 * 1024 * 1024, "{}", program.resident_bytes());
    for (stream, flooder) in flooders {
        stream.shutdown(Shutdown::Both).unwrap();
        flooder.join().unwrap();
    }
    assert_eq!(other.ask("ping_node", json!({})).0, 204);
}
