//! `POST /inbox/`: django-message-box's JSON becomes a message, durable before 201 and once within the window.

use std::process::Command;

use it::value::table;
use it::{Broker, Channel, Connection, Http, Login, Program, Properties, Reply, Value};
use serde_json::{Value as Json, json};

const WHY: &str = "has no inbox";
const LISTEN: &str = "inbox.listen=127.0.0.1:0";
const GUEST: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";
const ID: &str = "0190d2c8-5d5e-7c6a-9b1f-000000000001";
const OTHER_ID: &str = "0190d2c8-5d5e-7c6a-9b1f-000000000002";

/// A program whose inbox has one route, and more settings.
fn start(route: &str, settings: &[&str]) -> Option<Program> {
    let route = format!("inbox.routes={route}");
    Broker::start_own_with(WHY, &[&[LISTEN, route.as_str()], settings].concat())
}

/// A connection to the inbox, as guest.
fn sender(program: &Program) -> Http {
    Http::connect(program.inbox.expect("an inbox"))
        .with("Client-ID", "")
        .with("X-Project-Id", "")
        .with("Authorization", GUEST)
        .with("Content-Type", "application/json")
}

fn channel(program: &Program) -> Channel {
    Connection::open(program.address, &Login::default()).unwrap().channel()
}

fn message(id: &str) -> Json {
    json!({
        "uuid": id, "message_source": "shop", "message_type": "orders.placed",
        "origin_create_time": "2026-11-21T12:00:00.5Z", "payload": {"total": 1.5}
    })
}

fn post(http: &mut Http, message: &Json) -> Reply {
    http.post("/inbox/", &message.to_string())
}

fn detail(reply: &Reply) -> (u16, String) {
    (reply.status, reply.json()["detail"].as_str().expect("a detail").to_owned())
}

#[test]
fn a_message_arrives_at_its_queue_with_what_its_sender_said_of_it() {
    let Some(program) = start("shop/orders.* = queue orders", &[]) else { return };
    let channel = channel(&program);
    channel.declare_durable("orders", &[]).unwrap();

    let taken = post(&mut sender(&program), &message(ID));

    assert_eq!((taken.status, taken.json()), (201, message(ID)));
    let arrived = channel.take_soon("orders");
    assert_eq!(arrived.text(), r#"{"total":1.5}"#);
    let properties = &arrived.properties;
    assert_eq!(properties.message_id.as_deref(), Some(ID));
    assert_eq!(properties.kind.as_deref(), Some("orders.placed"));
    assert_eq!(properties.app_id.as_deref(), Some("shop"));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!((properties.timestamp, properties.delivery_mode), (Some(1_795_262_400), Some(2)));
    assert_eq!(properties.header("x-dedup-id").and_then(Value::as_text), Some(ID));
    let created = properties.header("origin_create_time").and_then(Value::as_text);
    assert_eq!(created, Some("2026-11-21T12:00:00.5Z"));
}

#[test]
fn an_exchange_gets_the_type_as_routing_key_or_what_the_route_says() {
    let routes = "shop/* = exchange amq.topic, */* = exchange amq.topic key {source}.{type}";
    let Some(program) = start(routes, &[]) else { return };
    let channel = channel(&program);
    for (queue, key) in [("plain", "orders.#"), ("keyed", "depot.orders.#")] {
        channel.declare_durable(queue, &[]).unwrap();
        channel.bind(queue, "amq.topic", key, &[]).unwrap();
    }
    let mut http = sender(&program);
    let mut of_depot = message(OTHER_ID);
    of_depot["message_source"] = "depot".into();

    assert_eq!(post(&mut http, &message(ID)).status, 201);
    assert_eq!(post(&mut http, &of_depot).status, 201);

    let (plain, keyed) = (channel.take_soon("plain"), channel.take_soon("keyed"));
    assert_eq!(
        (plain.exchange.as_str(), plain.routing_key.as_str()),
        ("amq.topic", "orders.placed")
    );
    assert_eq!(keyed.routing_key, "depot.orders.placed");
}

#[test]
fn a_duplicate_is_answered_like_the_original_and_not_delivered_again() {
    let Some(program) = start("*/* = queue q", &[]) else { return };
    let channel = channel(&program);
    channel.declare_durable("q", &[]).unwrap();
    let mut http = sender(&program);
    assert_eq!(post(&mut http, &message(ID)).status, 201);
    assert_eq!(channel.take_soon("q").properties.message_id.as_deref(), Some(ID));

    let again = post(&mut http, &message(ID));
    let other = post(&mut http, &message(OTHER_ID));

    assert_eq!((again.status, again.json(), other.status), (201, message(ID), 201));
    assert_eq!(channel.take_soon("q").properties.message_id.as_deref(), Some(OTHER_ID));
    assert!(channel.take("q").is_none());
    assert_eq!(program.metric("posthouse_inbox_accepted_total"), 2.0);
    assert_eq!(program.metric("posthouse_inbox_duplicates_total"), 1.0);
    assert_eq!(program.metric("posthouse_inbox_connections"), 1.0);
}

#[test]
fn a_message_and_its_id_survive_a_kill() {
    let Some(mut program) = start("*/* = queue q", &[]) else { return };
    channel(&program).declare_durable("q", &[]).unwrap();
    let mut http = sender(&program);
    for id in [ID, OTHER_ID] {
        assert_eq!(post(&mut http, &message(id)).status, 201);
    }
    let first = channel(&program).take_soon("q");
    assert_eq!(first.properties.message_id.as_deref(), Some(ID));
    channel(&program).sync();

    program.restart();

    let mut http = sender(&program);
    for id in [ID, OTHER_ID] {
        assert_eq!(post(&mut http, &message(id)).status, 201);
    }
    let channel = channel(&program);
    assert!(channel.take_soon("q").properties.message_id.is_some());
    // The ack of the first may not have been durable; the second is there once in any case.
    let rest: Vec<_> = std::iter::from_fn(|| channel.take("q")).collect();
    assert!(rest.len() <= 1, "{rest:?}");
    assert_eq!(program.metric("posthouse_inbox_duplicates_total"), 2.0);
}

#[test]
fn what_is_wrong_with_a_document_is_said_by_field() {
    let Some(program) = start("*/* = queue q", &[]) else { return };
    channel(&program).declare_durable("q", &[]).unwrap();
    let mut http = sender(&program);

    let mut missing = http.post("/inbox/", "{}").json();
    for field in ["uuid", "message_source", "message_type", "origin_create_time", "payload"] {
        assert_eq!(missing[field].take(), json!(["This field is required."]), "{field}");
    }
    for (field, value, error) in [
        ("uuid", json!("7"), "Must be a valid UUID."),
        ("message_source", json!(null), "This field may not be null."),
        ("message_source", json!(7), "Not a valid string."),
        ("message_type", json!(" "), "This field may not be blank."),
        ("message_type", json!("x".repeat(256)), "Ensure this field has no more than 255 bytes."),
    ] {
        let mut wrong = message(ID);
        wrong[field] = value;
        let refused = post(&mut http, &wrong);
        assert_eq!((refused.status, refused.json()), (400, json!({field: [error]})));
    }
    let mut late = message(ID);
    late["origin_create_time"] = "yesterday".into();
    assert!(post(&mut http, &late).json()["origin_create_time"][0].is_string());
    let (status, why) = detail(&http.post("/inbox/", "{"));
    assert!(status == 400 && why.starts_with("JSON parse error - "), "{why}");
    assert!(http.post("/inbox/", "[]").json()["non_field_errors"].is_array());
    let mut empty = message(ID);
    empty["payload"] = Json::Null;
    assert_eq!(post(&mut http, &empty).status, 201, "null is a payload");
}

#[test]
fn what_nobody_takes_is_not_kept_and_is_new_once_somebody_does() {
    let routes = "shop/orders.* = exchange events, depot/* = queue depot";
    let Some(program) = start(routes, &[]) else { return };
    let channel = channel(&program);
    let mut http = sender(&program);
    let mut unknown = message(ID);
    unknown["message_type"] = "stock.low".into();
    let mut to_queue = message(ID);
    to_queue["message_source"] = "depot".into();

    let (status, why) = detail(&post(&mut http, &unknown));
    assert!(status == 500 && why.contains("\"shop\"") && why.contains("\"stock.low\""), "{why}");
    let (status, why) = detail(&post(&mut http, &message(ID)));
    assert!(status == 500 && why.contains("no exchange 'events'"), "{why}");
    assert_eq!(post(&mut http, &to_queue).status, 500);
    channel.declare_exchange("events", "fanout", [false, true, false, false], &[]).unwrap();
    let (status, why) = detail(&post(&mut http, &message(ID)));
    assert!(status == 500 && why.contains("No queue takes"), "{why}");

    channel.declare_durable("q", &[]).unwrap();
    channel.bind("q", "events", "", &[]).unwrap();
    assert_eq!(post(&mut http, &message(ID)).status, 201);
    assert_eq!(channel.take_soon("q").properties.message_id.as_deref(), Some(ID));
    assert_eq!(program.metric("posthouse_inbox_unroutable_total"), 4.0);
}

#[test]
fn a_full_queue_refuses_for_all_and_the_next_attempt_reaches_all() {
    let Some(program) = start("*/* = exchange amq.fanout", &[]) else { return };
    let channel = channel(&program);
    let full = table([("x-max-length", 1.into()), ("x-overflow", "reject-publish".into())]);
    channel.declare_durable("full", &full).unwrap();
    channel.declare_durable("roomy", &[]).unwrap();
    channel.confirms();
    channel.publish("", "full", &Properties::persistent(), b"in the way");
    channel.wait_confirms(1);
    channel.bind("full", "amq.fanout", "", &[]).unwrap();
    channel.bind("roomy", "amq.fanout", "", &[]).unwrap();
    let mut http = sender(&program);

    assert_eq!(post(&mut http, &message(ID)).status, 503);

    assert_eq!(channel.inspect("roomy").unwrap().messages, 0);
    channel.purge("full").unwrap();
    assert_eq!(post(&mut http, &message(ID)).status, 201);
    for queue in ["full", "roomy"] {
        assert_eq!(channel.take_soon(queue).properties.message_id.as_deref(), Some(ID));
    }
    assert_eq!(program.metric("posthouse_inbox_unavailable_total"), 1.0);
}

/// Settings for the users `mine` and `theirs`, each with everything in a virtual host of its name, and `reader`, who may
/// not write in the first; `secret` is everyone's password.
fn users(folder: &tempfile::TempDir) -> String {
    // base64(salt + SHA-256(salt + "secret")), as RabbitMQ exports it.
    let hash = "kI3GCqG+cq65rBQ9tiUUCREygKhmilKrZEWKSz+H0FJ1fk4/";
    let user = |name: &str| json!({"name": name, "password_hash": hash, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []});
    let permission = |user: &str, vhost: &str, write: &str| json!({"user": user, "vhost": vhost, "configure": ".*", "write": write, "read": ".*"});
    let definitions = json!({
        "users": [user("mine"), user("theirs"), user("reader")],
        "vhosts": [{"name": "/"}, {"name": "my/own"}, {"name": "theirs"}],
        "permissions": [
            permission("mine", "my/own", ".*"), permission("theirs", "theirs", ".*"),
            permission("reader", "my/own", "^$"),
        ],
    });
    let file = folder.path().join("definitions.json");
    std::fs::write(&file, definitions.to_string()).unwrap();
    format!("definitions.file={}", file.display())
}

/// `Authorization` of a user whose password is `secret`.
fn basic(user: &str) -> &'static str {
    match user {
        "mine" => "Basic bWluZTpzZWNyZXQ=",
        "theirs" => "Basic dGhlaXJzOnNlY3JldA==",
        _ => "Basic cmVhZGVyOnNlY3JldA==",
    }
}

#[test]
fn a_sender_is_a_user_and_reaches_only_tenants_where_it_may_write() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = start("*/* = queue q", &[&users(&folder)]) else { return };
    let login = |user: &str, vhost: &str| Login {
        user: user.to_owned(),
        password: "secret".to_owned(),
        tenant: vhost.to_owned(),
        ..Login::default()
    };
    let own = Connection::open(program.address, &login("mine", "my/own")).unwrap().channel();
    own.declare_durable("q", &[]).unwrap();
    let their = Connection::open(program.address, &login("theirs", "theirs")).unwrap().channel();
    their.declare_durable("q", &[]).unwrap();
    let document = message(ID).to_string();
    let mut http = sender(&program).with("Authorization", basic("mine"));

    assert_eq!(http.post("/my%2Fown/inbox/", &document).status, 201);
    for path in ["/inbox/", "/theirs/inbox/", "/nowhere/inbox/"] {
        let (status, why) = detail(&http.post(path, &document));
        assert!(status == 403 && why.contains("'mine'"), "{path}: {why}");
    }
    http = http.with("Authorization", basic("reader"));
    assert_eq!(http.post("/my%2Fown/inbox/", &document).status, 403);
    // One connection may serve one user after the other.
    http = http.with("Authorization", basic("theirs"));
    assert_eq!(http.post("/my%2Fown/inbox/", &document).status, 403);
    assert_eq!(http.post("/theirs/inbox/", &document).status, 201);

    assert!(own.take("q").is_some() && own.take("q").is_none());
    assert!(their.take("q").is_some() && their.take("q").is_none());
}

#[test]
fn who_shows_nothing_or_something_wrong_is_not_let_in() {
    let Some(program) = start("*/* = queue q", &["auth.guest=true"]) else { return };
    channel(&program).declare_durable("q", &[]).unwrap();
    let document = message(ID).to_string();

    for shown in
        ["", "Basic Z3Vlc3Q6d3Jvbmc=", "Basic Z3Vlc3Q=", "Basic !", "Bearer pht_x", "guest"]
    {
        let refused = sender(&program).with("Authorization", shown).post("/inbox/", &document);
        assert_eq!(refused.status, 401, "{shown}");
        assert!(refused.header("www-authenticate").unwrap().starts_with("Basic "));
        assert!(refused.json()["detail"].is_string());
    }
    let mut twice = sender(&program);
    twice.headers.push(("Authorization".to_owned(), GUEST.to_owned()));
    assert_eq!(twice.post("/inbox/", &document).status, 400);
    assert_eq!(channel(&program).inspect("q").unwrap().messages, 0);
}

#[test]
fn passwords_do_not_cross_clear_text_where_that_is_forbidden() {
    let never = ["auth.plain_without_tls=never"];
    let Some(program) = start("*/* = queue q", &never) else { return };

    let (status, why) = detail(&post(&mut sender(&program), &message(ID)));

    assert!(status == 403 && why.contains("TLS"), "{why}");
}

/// A channel of the user `mine` in the tenant `my/own`, where the queue `q` is from now on.
fn own_channel(program: &Program) -> Channel {
    let login = Login {
        user: "mine".to_owned(),
        password: "secret".to_owned(),
        tenant: "my/own".to_owned(),
        ..Login::default()
    };
    let channel = Connection::open(program.address, &login).unwrap().channel();
    channel.declare_durable("q", &[]).unwrap();
    channel
}

#[test]
fn a_token_stands_for_a_user_in_its_tenants() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let make = |name: &str, arguments: &[&str]| {
        let mut create: Command = it::program::command();
        create.args(["token", "create", "--name", name]).args(arguments).arg("--file").arg(&file);
        let made = create.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!("Bearer {}", String::from_utf8(made.stdout).unwrap().trim())
    };
    if it::broker::foreign().is_some() {
        return;
    }
    let good = make("good", &["--project", "my/own", "--user", "mine"]);
    let foreign = make("foreign", &["--project", "theirs", "--user", "mine"]);
    let everywhere = make("everywhere", &["--project", "*", "--user", "mine"]);
    let nobody = make("nobody", &["--project", "my/own"]);
    let unknown = make("unknown", &["--project", "my/own", "--user", "somebody"]);
    let tokens = format!("inbox.tokens={}", file.display());
    let settings = [users(&folder), tokens];
    let Some(program) = start("*/* = queue q", &[&settings[0], &settings[1]]) else { return };
    let own = own_channel(&program);
    let document = message(ID).to_string();
    let status = |token: &str, path: &str| {
        sender(&program).with("Authorization", token).post(path, &document).status
    };

    assert_eq!(status(&good, "/my%2Fown/inbox/"), 201);
    assert_eq!(status(&good.replace("Bearer", "Token"), "/my%2Fown/inbox/"), 201);
    for token in [&foreign, &nobody, &unknown] {
        assert_eq!(status(token, "/my%2Fown/inbox/"), 403);
    }
    assert_eq!(
        status(&everywhere, "/theirs/inbox/"),
        403,
        "the user may not, wherever the token may"
    );
    assert_eq!(status("Bearer pht_unheard-of", "/my%2Fown/inbox/"), 401);
    assert!(own.take("q").is_some() && own.take("q").is_none());
}

/// HS256 with [`JWT_KEYS`]: the user `mine` in the project `my/own`, for the audience `posthouse`, until 2100.
const JWT: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJtaW5lIiwiYXVkIjoicG9zdGhvdXNlIiwiZXhwIjo0MTAyNDQ0ODAwLCJwcm9qZWN0X2lkIjoibXkvb3duIn0.ThgIijamWhIfbwSgWsY5iM0SpyStptbQLt9hx8LwA6A";
/// The same, until 2001.
const JWT_OVER: &str = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsiLCJ0eXAiOiJKV1QifQ.eyJzdWIiOiJtaW5lIiwiYXVkIjoicG9zdGhvdXNlIiwiZXhwIjoxMDAwMDAwMDAwLCJwcm9qZWN0X2lkIjoibXkvb3duIn0.geXdKLXOQjcvQXPc5gVWeRK326qOMdViDW7GC6Vwbzo";
const JWT_KEYS: &str = r#"{"keys": [{"kty": "oct", "kid": "k", "alg": "HS256", "k": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s"}]}"#;

#[test]
fn a_jwt_stands_for_its_user_in_the_tenants_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, JWT_KEYS).unwrap();
    std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let jwks = format!("queues.token.jwks={}", keys.display());
    let settings = [
        &users(&folder),
        jwks.as_str(),
        "inbox.jwt=true",
        "queues.token.audience=posthouse",
        "queues.token.algorithms=HS256",
    ];
    let Some(program) = start("*/* = queue q", &settings) else { return };
    let _own = own_channel(&program);
    let status = |token: &str, path: &str| {
        let shown = format!("Bearer {token}");
        sender(&program).with("Authorization", &shown).post(path, &message(ID).to_string()).status
    };

    assert_eq!(status(JWT, "/my%2Fown/inbox/"), 201);
    assert_eq!(status(JWT, "/theirs/inbox/"), 403);
    assert_eq!(status(JWT_OVER, "/my%2Fown/inbox/"), 401);
    assert_eq!(status(&format!("{JWT}x"), "/my%2Fown/inbox/"), 401);
    assert_eq!(status("pht_unheard-of", "/my%2Fown/inbox/"), 401);
}

#[test]
fn a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() {
    let small = ["inbox.message_bytes_max=64KiB"];
    let Some(program) = start("*/* = queue q", &small) else { return };
    channel(&program).declare_durable("q", &[]).unwrap();
    let mut http = sender(&program);
    let mut large = message(ID);

    large["payload"] = "x".repeat(1_000_000).into();
    let (status, why) = detail(&post(&mut http, &large));
    assert!(status == 413 && why.contains("65536"), "{why}");
    large["payload"] = "x".repeat(64 * 1024).into();
    assert_eq!(post(&mut http, &large).status, 413, "with its quotes it is just too large");
    large["payload"] = "x".repeat(64 * 1024 - 2).into();
    assert_eq!(post(&mut http, &large).status, 201);

    let mut chunked = sender(&program);
    let head = format!(
        "POST /inbox/ HTTP/1.1\r\nHost: h\r\nAuthorization: {GUEST}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    chunked.write(head.as_bytes());
    let piece = "y".repeat(0x8000);
    for _ in 0..8 {
        chunked.write(format!("8000\r\n{piece}\r\n").as_bytes());
    }
    chunked.write(b"0\r\n\r\n");
    assert_eq!(chunked.read(true).unwrap().status, 413);
    assert_eq!(channel(&program).inspect("q").unwrap().messages, 1);
}

#[test]
fn a_body_in_chunks_is_taken() {
    let Some(program) = start("*/* = queue q", &[]) else { return };
    let channel = channel(&program);
    channel.declare_durable("q", &[]).unwrap();
    let mut http = sender(&program);
    let text = message(ID).to_string();
    let (first, second) = text.split_at(20);

    http.write(
        format!(
            "POST /inbox/ HTTP/1.1\r\nHost: h\r\nAuthorization: {GUEST}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            first.len(),
            second.len()
        )
        .as_bytes(),
    );

    assert_eq!(http.read(true).unwrap().status, 201);
    assert_eq!(channel.take_soon("q").text(), r#"{"total":1.5}"#);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let Some(program) = start("*/* = queue q", &["inbox.body_timeout=500ms"]) else { return };
    channel(&program).declare_durable("q", &[]).unwrap();
    let mut http = sender(&program);

    http.write(
        format!(
            "POST /inbox/ HTTP/1.1\r\nHost: h\r\nAuthorization: {GUEST}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{\"uuid\""
        )
        .as_bytes(),
    );

    assert_eq!(http.read(true).unwrap().status, 408);
    assert!(http.read(true).is_none(), "the connection is closed");
    assert_eq!(post(&mut sender(&program), &message(ID)).status, 201, "others are served");
}

#[test]
fn only_posts_of_json_to_an_inbox_are_answered() {
    let Some(program) = start("*/* = queue q", &[]) else { return };
    let mut http = sender(&program);
    let document = message(ID).to_string();

    for path in ["/", "/inbox/x", "/a/b/inbox/", "//inbox/", "/inboxes/", "/%ff/inbox/"] {
        assert_eq!(http.post(path, &document).status, 404, "{path}");
    }
    let refused = http.get("/inbox/");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")));
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let refused = http.again().with("Content-Type", kind).post("/inbox/", &document);
        assert_eq!(refused.status, 415, "{kind}");
    }
    let packed = http.again().with("Content-Encoding", "gzip").post("/inbox/", &document);
    assert_eq!(packed.status, 415);
    let spelled = http.again().with("Content-Type", "Application/JSON; charset=utf-8");
    channel(&program).declare_durable("q", &[]).unwrap();
    assert_eq!({ spelled }.post("/inbox", &document).status, 201);
    assert_eq!(program.metric("posthouse_inbox_refused_total"), 11.0);
}

#[test]
fn while_an_alarm_is_raised_nothing_is_taken() {
    let low = ["alarms.memory_high_watermark=1MiB", "alarms.interval=10ms"];
    let Some(program) = start("*/* = queue q", &low) else { return };

    let (status, why) = detail(&post(&mut sender(&program), &message(ID)));

    assert_eq!((status, why.as_str()), (503, "The broker is low on memory."));
}

#[test]
fn a_stop_waits_for_requests_and_not_for_silent_senders() {
    let Some(mut program) = start("*/* = queue q", &[]) else { return };
    channel(&program).declare_durable("q", &[]).unwrap();
    let mut http = sender(&program);
    assert_eq!(post(&mut http, &message(ID)).status, 201);

    assert!(program.stop().success());

    assert!(http.read(true).is_none());
    assert!(!program.log().contains("connections were cut"));
}
