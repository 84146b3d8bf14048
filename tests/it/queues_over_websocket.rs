//! Queues over WebSocket: Zaqar's actions in JSON and MessagePack, their errors, and what keeps a connection in bounds.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use it::socket::{Socket, request};
use it::{Broker, PATIENCE, Program};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message};

/// Starts the program, unless a foreign broker is under test.
fn start(settings: &[&str]) -> Option<Program> {
    Broker::start_own_with("has no queue service", settings)
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

#[test]
fn queues_are_made_listed_shown_and_removed() {
    let Some(program) = start(&[]) else { return };
    let mut socket = Socket::of(&program);

    let create = json!({ "queue_name": "q", "metadata": { "colour": "red" } });
    assert_eq!(socket.ask("queue_create", create.clone()), (201, json!("Queue q created.")));
    assert_eq!(socket.ask("queue_create", create).0, 204);
    assert_eq!(
        socket.ask("queue_list", json!({ "detailed": true })),
        (200, json!({ "queues": [{ "name": "q", "metadata": { "colour": "red" } }] }))
    );
    assert_eq!(
        socket.ask("queue_get", json!({ "queue_name": "q" })),
        (200, json!({ "colour": "red" }))
    );
    assert_eq!(socket.ask("queue_get", json!({ "queue_name": "none" })), (200, json!({})));
    let empty = json!({ "messages": { "claimed": 0, "free": 0, "total": 0 } });
    assert_eq!(socket.ask("queue_get_stats", json!({ "queue_name": "q" })), (200, empty.clone()));
    assert_eq!(socket.ask("queue_get_stats", json!({ "queue_name": "none" })), (404, empty));
    assert_eq!(
        socket.ask("queue_delete", json!({ "queue_name": "q" })),
        (204, json!("Queue q removed."))
    );
    assert_eq!(socket.ask("queue_list", json!({})), (200, json!({ "queues": [] })));
}

#[test]
fn messages_are_posted_listed_claimed_and_deleted() {
    let Some(program) = start(&[]) else { return };
    let mut socket = Socket::of(&program);
    let post = json!({ "queue_name": "q", "messages": [
        { "body": { "n": 1.50 }, "ttl": 300 }, { "body": "two" }, { "body": null }
    ] });

    let (status, posted) = socket.ask("message_post", post);
    assert_eq!(status, 201);
    let ids = texts(&posted["message_ids"]);
    assert_eq!(ids.len(), 3);
    assert_eq!(
        socket.ask("message_list", json!({ "queue_name": "q" })).1,
        json!({ "messages": [] })
    );
    let (_, listed) =
        socket.ask("message_list", json!({ "queue_name": "q", "echo": true, "limit": 2 }));
    assert_eq!(listed["messages"][0]["body"], json!({ "n": 1.50 }));
    assert_eq!(listed["messages"][0]["ttl"], 300);
    assert_eq!(listed["messages"][1]["id"], ids[1].as_str());
    let (status, one) =
        socket.ask("message_get", json!({ "queue_name": "q", "message_id": ids[1] }));
    assert_eq!((status, &one["messages"]["body"]), (200, &json!("two")));
    let many = json!({ "queue_name": "q", "message_ids": [ids[0], "nonsense", ids[2]] });
    assert_eq!(socket.ask("message_get_many", many).1["messages"].as_array().unwrap().len(), 2);

    let (status, claim) =
        socket.ask("claim_create", json!({ "queue_name": "q", "limit": 1, "ttl": 100 }));
    assert_eq!((status, &claim["messages"][0]["id"]), (201, &json!(ids[0])));
    let id = claim["claim_id"].as_str().unwrap();
    let held = json!({ "queue_name": "q", "message_id": ids[0] });
    assert_eq!(socket.ask("message_delete", held).0, 403);
    assert_eq!(socket.ask("claim_get", json!({ "queue_name": "q", "claim_id": id })).1["ttl"], 100);
    assert_eq!(
        socket.ask("claim_update", json!({ "queue_name": "q", "claim_id": id, "ttl": 200 })),
        (204, json!(format!("Claim {id} updated.")))
    );
    let with_claim = json!({ "queue_name": "q", "message_id": ids[0], "claim_id": id });
    assert_eq!(socket.ask("message_delete", with_claim), (204, json!({})));
    assert_eq!(
        socket.ask("claim_delete", json!({ "queue_name": "q", "claim_id": id })),
        (204, json!(format!("Claim {id} deleted.")))
    );

    let (status, popped) =
        socket.ask("message_delete_many", json!({ "queue_name": "q", "pop": 1 }));
    assert_eq!((status, &popped["messages"][0]["body"]), (200, &json!("two")));
    assert_eq!(
        socket.ask("message_delete_many", json!({ "queue_name": "q", "message_ids": [ids[2]] })).0,
        204
    );
    assert_eq!(
        socket.ask("claim_create", json!({ "queue_name": "q" })),
        (204, json!({ "claim_id": null }))
    );
    assert_eq!(socket.ask("queue_purge", json!({ "queue_name": "q" })), (204, json!({})));
}

#[test]
fn binary_requests_are_answered_in_binary() {
    let Some(program) = start(&[]) else { return };
    let mut socket = Socket::of(&program);
    let post = request(
        "message_post",
        json!({ "queue_name": "q", "messages": [{ "body": [1, -1, 2.5, "é", null] }] }),
    );
    let mut ask = |request: &Value| {
        let bytes = rmp_serde::to_vec_named(request).unwrap();
        socket.inner.send(Message::binary(bytes)).unwrap();
        match socket.next_message() {
            Message::Binary(bytes) => rmp_serde::from_slice::<Value>(&bytes).unwrap(),
            other => panic!("not binary: {other:?}"),
        }
    };

    assert_eq!(ask(&post)["headers"]["status"], 201);
    let listed = ask(&request("message_list", json!({ "queue_name": "q", "echo": true })));

    assert_eq!(listed["body"]["messages"][0]["body"], json!([1, -1, 2.5, "é", null]));
    assert_eq!(listed["request"]["body"], json!({ "queue_name": "q", "echo": true }));
    let bad = ask(&json!([1, 2]));
    assert_eq!(bad["body"]["error"], "Unexpected body type. Expected dict or dict like.");
}

#[test]
fn what_is_wrong_is_said_and_the_connection_goes_on() {
    let Some(program) = start(&[]) else { return };
    let mut socket = Socket::of(&program);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let mut error = |text: &str| {
        socket.inner.send(Message::text(text)).unwrap();
        let answer = socket.next_json();
        assert_eq!(answer["headers"]["status"], 400, "{answer}");
        answer["body"]["error"].as_str().unwrap().to_owned()
    };

    assert!(error("{").starts_with("Can't decode text (JSON) request. "));
    assert!(error(&deep).starts_with("Can't decode text (JSON) request. "));
    assert_eq!(error("[]"), "Unexpected body type. Expected dict or dict like.");
    assert_eq!(error("{}"), "None is not a valid action");
    assert_eq!(error(r#"{"action":"dance"}"#), "dance is not a valid action");
    assert_eq!(error(&request("queue_create", json!({})).to_string()), "Schema validation failed.");

    let (status, body) =
        socket.ask("message_post", json!({ "queue_name": "q", "messages": [{ "ttl": 60 }] }));
    assert_eq!((status, &body["exception"]), (400, &json!("Bad request. Missing \"body\" field.")));
    let (status, body) = socket.ask("queue_create", json!({ "queue_name": "no such name" }));
    assert_eq!(status, 400);
    assert!(body["exception"].as_str().unwrap().contains("queue name"), "{body}");
    assert_eq!(socket.ask("message_get", json!({ "queue_name": "q", "message_id": "x" })).0, 404);
    assert_eq!(socket.ask("pool_list", json!({})).0, 403);
    assert_eq!(socket.ask("ping_node", json!({})).0, 204);
    assert!(socket.ask("get_home_doc", json!({})).1["resources"].is_object());
}

#[test]
fn authenticate_succeeds_where_nobody_is_asked_and_tokens_are_not_said_again() {
    let Some(program) = start(&[]) else { return };
    let mut socket = Socket::of(&program);

    socket.send(&json!({
        "action": "authenticate",
        "headers": { "X-Project-ID": "p", "X-Auth-Token": "canary" }
    }));
    let answer = socket.next_json();

    assert_eq!(answer["body"], json!({ "message": "Authentified." }));
    assert!(!answer.to_string().contains("canary"), "{answer}");
}

#[test]
fn answers_come_in_order_and_say_which_request_they_are_for() {
    let Some(program) = start(&[]) else { return };
    let mut socket = Socket::of(&program);

    for id in 0..500 {
        let mut post =
            request("message_post", json!({ "queue_name": "q", "messages": [{ "body": id }] }));
        post["request_id"] = json!(id);
        socket.inner.write(Message::text(post.to_string())).unwrap();
        if id % 10 == 0 {
            let mut list = request("queue_list", json!({}));
            list["request_id"] = json!(format!("list {id}"));
            socket.inner.write(Message::text(list.to_string())).unwrap();
        }
    }
    socket.inner.flush().unwrap();

    for id in 0..500 {
        let answer = socket.next_json();
        assert_eq!(
            (&answer["request_id"], &answer["headers"]["status"]),
            (&json!(id), &json!(201))
        );
        if id % 10 == 0 {
            assert_eq!(socket.next_json()["request_id"], format!("list {id}"));
        }
    }
}

#[test]
fn a_message_of_the_socket_is_an_amqp_message_and_the_other_way_round() {
    let Some(program) = start(&[]) else { return };
    let mut socket = Socket::of(&program);
    let mut post =
        request("message_post", json!({ "queue_name": "q", "messages": [{ "body": { "a": 1 } }] }));
    post["headers"]["X-Project-ID"] = json!("/");
    socket.send(&post);
    assert_eq!(socket.next_json()["headers"]["status"], 201);

    let login = it::Login::default();
    let connection = it::Connection::open(program.address, &login).unwrap();
    let channel = connection.channel();
    let message = channel.take_soon("q");
    assert_eq!(message.body, b"{\"a\":1}");
    channel.publish("", "q", &it::Properties::default(), b"plain");
    channel.sync();

    let mut list = request("message_list", json!({ "queue_name": "q" }));
    list["headers"]["X-Project-ID"] = json!("/");
    socket.send(&list);
    assert_eq!(socket.next_json()["body"]["messages"][0]["body"], "plain");
}

#[test]
fn pages_of_other_hosts_may_not_connect_unless_they_are_named() {
    let Some(program) = start(&["queues.websocket_origins=https://dashboard.example.org"]) else {
        return;
    };
    let address = program.queues.unwrap();
    let connect = |origin: &str| {
        let mut request = format!("ws://{address}/v2").into_client_request().unwrap();
        request.headers_mut().insert("Origin", origin.parse().unwrap());
        let stream = TcpStream::connect(address).unwrap();
        tungstenite::client(request, stream).map(drop).map_err(|error| error.to_string())
    };

    assert_eq!(connect(&format!("http://{address}")), Ok(()));
    assert_eq!(connect("https://dashboard.example.org"), Ok(()));
    let refused = connect("https://evil.example").unwrap_err();
    assert!(refused.contains("403"), "{refused}");
}

#[test]
fn the_listener_for_sockets_serves_them_as_well() {
    let Some(program) = start(&["queues.websocket_listen=127.0.0.1:0"]) else { return };

    let mut socket = Socket::open(program.websocket.unwrap());

    assert_eq!(socket.ask("queue_list", json!({})).0, 200);
}

#[test]
fn a_message_that_is_too_large_ends_the_connection_with_its_code() {
    let Some(program) = start(&["queues.max_messages_post_size=1KiB"]) else { return };
    let mut socket = Socket::of(&program);

    // The server may stop reading before all of it is sent.
    drop(socket.inner.send(Message::text("x".repeat(1024 * 1024))));

    assert_eq!(socket.closed_with(), CloseCode::Size);
}

#[test]
fn frames_that_break_the_protocol_end_the_connection() {
    let Some(program) = start(&[]) else { return };
    for (frame, code) in [
        // Not masked; text that is no UTF-8; a reserved bit, which compression would need.
        (&b"\x81\x02{}"[..], CloseCode::Protocol),
        (b"\x81\x81\0\0\0\0\xff", CloseCode::Invalid),
        (b"\xc1\x82\0\0\0\0{}", CloseCode::Protocol),
    ] {
        let mut socket = Socket::of(&program);
        socket.inner.get_mut().write_all(frame).unwrap();

        assert_eq!(socket.closed_with(), code, "{frame:?}");
    }
}

#[test]
fn a_peer_that_does_not_answer_pings_is_dropped() {
    let Some(program) = start(&["queues.websocket_ping=1s"]) else { return };
    let mut silent = Socket::of(&program).inner.into_inner();
    let mut polite = Socket::of(&program);
    let begun = Instant::now();

    let dropped = std::thread::spawn(move || silent.read_to_end(&mut Vec::new()).map(drop));
    // Reading answers the pings that come.
    let mut pings = 0;
    while !dropped.is_finished() || pings < 3 {
        pings += u32::from(matches!(polite.inner.read().unwrap(), Message::Ping(_)));
        assert!(begun.elapsed() < PATIENCE, "the silent peer is still there");
    }

    let end = dropped.join().unwrap();
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    assert_eq!(polite.ask("queue_list", json!({})).0, 200);
}

#[test]
fn who_does_not_read_is_not_read_from_and_costs_little() {
    let Some(program) = start(&[]) else { return };
    let mut flood = Socket::of(&program);
    let mut other = Socket::of(&program);
    assert_eq!(other.ask("queue_list", json!({})).0, 200);
    let before = program.resident_bytes();
    let frame = request("queue_list", json!({ "marker": "x".repeat(10_000) })).to_string();
    flood.inner.get_mut().set_write_timeout(Some(Duration::from_millis(300))).unwrap();

    // Until the server takes no more, which it must not do for more than buffers hold.
    let mut sent = 0_u64;
    let stopped = loop {
        match flood.inner.send(Message::text(frame.clone())) {
            Ok(()) => sent += frame.len() as u64,
            Err(Error::Io(error)) => break error.kind(),
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 1 << 30, "the server reads on and on");
    };

    assert!(matches!(stopped, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stopped}");
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 8 * 1024 * 1024, "{grown} bytes more");
    assert_eq!(other.ask("queue_list", json!({})).0, 200);
}

#[test]
fn a_goodbye_is_answered() {
    let Some(program) = start(&[]) else { return };
    let mut socket = Socket::of(&program);

    socket.inner.close(None).unwrap();

    assert!(matches!(socket.inner.read(), Ok(Message::Close(_))));
    assert!(matches!(socket.inner.read(), Err(Error::ConnectionClosed)));
}

#[test]
fn a_server_that_stops_says_goodbye() {
    let Some(mut program) = start(&[]) else { return };
    let mut socket = Socket::of(&program);
    assert_eq!(socket.ask("queue_list", json!({})).0, 200);

    program.terminate();

    assert_eq!(socket.closed_with(), CloseCode::Away);
    assert!(program.stop().success());
}
