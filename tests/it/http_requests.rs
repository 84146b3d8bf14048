//! Rules for every request of the queue service: headers, paths, methods, limits, hostile input.

use std::time::Instant;

use it::http::{CLIENT, OTHER_CLIENT};
use it::{Broker, Http};

const WHY: &str = "has no queue service";

#[test]
fn the_versions_need_no_headers_and_everything_else_does() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut bare = Http::new(&program).with("Client-ID", "").with("X-Project-Id", "");

    let versions = bare.get("/");
    assert_eq!((versions.status, versions.json()["versions"][0]["id"].as_str()), (300, Some("2")));
    for path in ["/v2/", "/v2/ping", "/v2/queues", "/v2/nonsense"] {
        let refused = bare.get(path);
        assert_eq!(
            (refused.status, refused.json()["title"].as_str()),
            (400, Some("Missing header value"))
        );
        assert_eq!(refused.header("vary"), Some("Accept"));
    }
    assert!(versions.header("x-openstack-request-id").unwrap().starts_with("req-"));
}

#[test]
fn what_a_request_says_about_itself_is_checked_in_zaqars_order() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let title = |http: Http, path: &str| {
        let mut http = http;
        let reply = http.send("PUT", path, Some("{}"));
        let title = if reply.body.is_empty() {
            String::new()
        } else {
            reply.json()["title"].as_str().unwrap().to_owned()
        };
        (reply.status, title)
    };
    let http = || Http::new(&program);
    let queue = "/v2/queues/q";

    let form = http()
        .with("Content-Type", "Application/X-WWW-Form-Urlencoded")
        .with("Accept", "text/plain");
    assert_eq!(title(form, queue), (400, "Invalid Content-Type".into()));
    assert_eq!(
        title(http().with("Accept", "text/plain").with("Client-ID", ""), queue),
        (406, String::new())
    );
    // An empty one admits everything, as if it were not there.
    assert_eq!(
        title(http().with("Accept", " ").with("Client-ID", "x"), queue),
        (400, "Wrong UUID value".into())
    );
    assert_eq!(title(http().with("Client-ID", "x"), queue), (400, "Wrong UUID value".into()));
    assert_eq!(title(http().with("X-Project-Id", ""), queue), (400, "Project-Id Missing".into()));
    assert_eq!(
        title(http().with("X-Project-Id", &"p".repeat(257)), queue),
        (400, "Invalid queue identification".into())
    );
    assert_eq!(title(http(), "/v2/queues/a%20b"), (400, "Invalid queue identification".into()));
    assert_eq!(
        title(http(), &format!("/v2/queues/{}", "x".repeat(65))),
        (400, "Invalid queue identification".into())
    );
    assert_eq!(title(http(), "/v2/topics/a%20b"), (400, "Invalid topic identification".into()));
    assert_eq!(
        title(http().with("Client-ID", "{30387F0039A011E2BE4BA8D15F34BAE2}"), queue),
        (201, String::new())
    );

    let mut empty = http();
    empty.write(
        format!(
            "GET /v2/queues HTTP/1.1\r\nHost: h\r\nClient-ID: {CLIENT}\r\nX-Project-Id: \r\n\r\n"
        )
        .as_bytes(),
    );
    assert_eq!(empty.read(true).unwrap().json()["title"], "Empty project header not allowed");
}

#[test]
fn paths_are_exact_and_methods_are_told() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);

    for path in [
        "/v2",
        "/v2/queues/x/",
        "/v2/nonsense",
        "/v1.1/queues",
        "/v2/health",
        "/v2/queues/x/messages/1/2",
    ] {
        let missing = http.get(path);
        assert_eq!(
            (missing.status, missing.json()["title"].as_str()),
            (404, Some("404 Not Found")),
            "{path}"
        );
    }
    // Zaqar takes it for a queue without a name.
    let nameless = http.get("/v2/queues/");
    assert_eq!(
        (nameless.status, nameless.json()["title"].as_str()),
        (400, Some("Invalid queue identification"))
    );
    let refused = http.send("HEAD", "/v2/queues/x", None);
    assert_eq!(
        (refused.status, refused.header("allow")),
        (405, Some("DELETE, GET, PATCH, PUT, OPTIONS"))
    );
    let refused = http.get("/v2/queues/x/claims");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("POST, OPTIONS")));
    assert_eq!(refused.json(), serde_json::json!({"title": "405 Method Not Allowed"}));
    let options = http.again().with("Client-ID", "").send("OPTIONS", "/v2/queues/x/stats", None);
    assert_eq!(
        (options.status, options.header("allow"), options.header("content-length")),
        (200, Some("GET"), Some("0"))
    );
    assert_eq!(http.send("HEAD", "/v2/ping", None).status, 204);
    let ping = http.get("/v2/ping");
    assert_eq!((ping.status, ping.header("content-type"), ping.body.len()), (204, None, 0));
}

#[test]
fn the_home_document_says_what_there_is() {
    let Some(program) = Broker::start_own_with(
        WHY,
        &["queues.admin_mode=true", "queues.enable_deprecated_api_versions=1.1"],
    ) else {
        return;
    };
    let mut http = Http::new(&program);

    let home = http.get("/v2/");
    assert_eq!(home.header("content-type"), Some("application/json-home"));
    assert_eq!(home.header("cache-control"), Some("max-age=86400"));
    let resources = &home.json()["resources"];
    assert_eq!(resources["rel/queue"]["href-template"], "/v2/queues/{queue_name}");
    assert_eq!(
        resources["rel/queue"]["hints"]["allow"],
        serde_json::json!(["GET", "PUT", "DELETE", "PATCH"])
    );
    assert_eq!(resources["rel/health"]["href"], "/v2/health");
    assert_eq!(http.get("/").json()["versions"][0]["status"], "DEPRECATED");
    let old = http.get("/v1.1/").json();
    assert_eq!(
        old["resources"]["rel/queue"]["hints"]["allow"],
        serde_json::json!(["PUT", "DELETE"])
    );
    assert!(old["resources"].get("rel/queue_share").is_none());
}

#[test]
fn health_is_a_round_trip_for_administrators() {
    let Some(program) = Broker::start_own_with(WHY, &["queues.admin_mode=true"]) else { return };
    let mut http = Http::new(&program);

    assert_eq!(http.get("/v2/health").status, 403);
    let report = http.again().with("X-Roles", "admin").get("/v2/health");

    let report = report.json();
    assert_eq!(report["storage_reachable"], true);
    let steps = report["operation_status"].as_object().unwrap();
    assert!(steps.len() >= 8 && steps.values().all(|step| step["succeeded"] == true), "{report}");
    assert_eq!(report["message_volume"]["total"], 0);
    assert_eq!(http.get("/v2/queues").json()["queues"], serde_json::json!([]));
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read_and_the_connection_goes_on() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let large = format!("{{\"messages\": [{{\"body\": \"{}\"}}]}}", "x".repeat(1_000_000));

    let refused = http.post("/v2/queues/q/messages", &large);
    assert_eq!(
        refused.refusal(),
        (400, "Message collection size is too large. Max size 262144".into())
    );
    let refused = http.put("/v2/queues/r", &large);
    assert_eq!(refused.refusal(), (400, "Queue metadata is too large. Max size: 65536".into()));
    assert_eq!(http.post("/v2/queues/q/claims", &large).status, 413);

    assert_eq!(http.get("/v2/ping").status, 204);
}

#[test]
fn an_endless_body_is_not_read_to_its_end() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let head = format!(
        "POST /v2/queues/q/messages HTTP/1.1\r\nHost: h\r\nClient-ID: {CLIENT}\r\nX-Project-Id: p\r\nContent-Length: 100000000000\r\n\r\n"
    );

    http.write(head.as_bytes());
    for _ in 0..1024 {
        http.write(&[b'x'; 16 * 1024]);
    }

    // The answer, or a connection that is closed: never a server that goes on reading.
    if let Some(reply) = http.read(true) {
        assert_eq!(reply.status, 400);
    }
    assert_eq!(Http::new(&program).get("/v2/ping").status, 204);
}

#[test]
fn hostile_documents_are_refused_and_nothing_else_happens() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let parsed = "Request body could not be parsed.";

    for body in [
        "[",
        "nonsense",
        "null",
        "1",
        "\"x\"",
        "{\"messages\": [}",
        "{\"messages\": [{\"body\": \"\u{1}\"}]}",
    ] {
        assert_eq!(
            http.post("/v2/queues/q/messages", body).refusal(),
            (400, parsed.into()),
            "{body}"
        );
    }
    let deep =
        format!("{{\"messages\": [{{\"body\": {}{}}}]}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(http.post("/v2/queues/q/messages", &deep).refusal(), (400, parsed.into()));
    assert_eq!(
        http.post("/v2/queues/q/messages", "{\"messages\": [{\"body\": 9223372036854775808}]}")
            .refusal(),
        (400, "JSON contains integer that is too large.".into())
    );
    assert_eq!(
        http.post("/v2/queues/q/messages", "").refusal(),
        (400, "Request body can not be empty".into())
    );
    assert_eq!(
        http.send("POST", "/v2/queues/q/messages", Some("")).refusal(),
        (400, parsed.into())
    );
    let mut bytes = format!("POST /v2/queues/q/messages HTTP/1.1\r\nHost: h\r\nClient-ID: {CLIENT}\r\nX-Project-Id: p\r\nContent-Length: 4\r\n\r\n").into_bytes();
    bytes.extend_from_slice(b"[\"\xff\"");
    http.write(&bytes);
    assert_eq!(http.read(true).unwrap().refusal(), (400, parsed.into()));
    assert_eq!(http.get("/v2/queues/q/stats").json()["messages"]["total"], 0);
}

#[test]
fn a_head_that_is_too_large_or_too_slow_ends_its_connection() {
    let Some(program) =
        Broker::start_own_with(WHY, &["queues.idle_timeout=3s", "queues.body_timeout=300ms"])
    else {
        return;
    };

    let mut large = Http::new(&program);
    large.write(format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200_000)).as_bytes());
    assert!(large.read(true).is_none_or(|reply| reply.status == 431));

    let mut slow = Http::new(&program);
    let begun = Instant::now();
    slow.write(b"GET / HTTP/1.1\r\nHost: ");
    assert!(slow.read(true).is_none_or(|reply| reply.status == 408));
    assert!(begun.elapsed() < it::PATIENCE);

    let mut slow = Http::new(&program);
    slow.write(format!("POST /v2/queues/q/messages HTTP/1.1\r\nHost: h\r\nClient-ID: {CLIENT}\r\nX-Project-Id: p\r\nContent-Length: 40\r\n\r\n{{").as_bytes());
    assert_eq!(slow.read(true).unwrap().status, 408);
}

#[test]
fn connections_over_the_limit_are_closed_at_once() {
    let Some(program) = Broker::start_own_with(WHY, &["queues.connections_max=1"]) else { return };
    let mut first = Http::new(&program);
    assert_eq!(first.get("/").status, 300);

    let mut second = Http::new(&program);
    second.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");

    assert!(second.read(true).is_none());
    assert_eq!(first.get("/").status, 300);
}

#[test]
fn requests_that_come_together_are_answered_in_order() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let head = format!("Host: h\r\nClient-ID: {CLIENT}\r\nX-Project-Id: p\r\n");

    http.write(format!("PUT /v2/queues/a HTTP/1.1\r\n{head}\r\nGET /v2/queues HTTP/1.1\r\n{head}\r\nDELETE /v2/queues/a HTTP/1.1\r\n{head}\r\n").as_bytes());

    assert_eq!(http.read(true).unwrap().status, 201);
    assert_eq!(http.read(true).unwrap().json()["queues"][0]["name"], "a");
    assert_eq!(http.read(true).unwrap().status, 204);
}

#[test]
fn a_stopping_server_answers_the_request_that_it_has() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    assert_eq!(http.get("/").status, 300);

    let begun = Instant::now();
    assert!(program.stop().success());

    assert!(begun.elapsed() < it::PATIENCE);
    assert!(http.read(true).is_none());
}

#[test]
fn projects_do_not_see_each_other() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut own = Http::new(&program);
    let mut other =
        Http::new(&program).with("X-Project-Id", "other").with("Client-ID", OTHER_CLIENT);
    let posted = own.post("/v2/queues/q/messages", "{\"messages\": [{\"body\": 1}]}").json();
    let href = posted["resources"][0].as_str().unwrap().to_owned();
    let claim = own.post("/v2/queues/q/claims", "").header("location").unwrap().to_owned();
    other.put("/v2/queues/q", "");

    assert_eq!(
        other.get("/v2/queues/q/messages?echo=true&include_claimed=true").json()["messages"],
        serde_json::json!([])
    );
    assert_eq!(other.get(&href).status, 404);
    assert_eq!(other.get(&claim).status, 404);
    assert_eq!(other.delete(&href).status, 204);
    assert_eq!(other.delete(&claim).status, 204);
    assert_eq!(other.delete("/v2/queues/q").status, 204);

    assert_eq!(own.get(&href).status, 200);
    assert_eq!(own.get(&claim).status, 200);
}
