//! Queues and topics over HTTP: lazily made, their metadata, lists, stats, purge, sharing.

use it::http::OTHER_CLIENT;
use it::{Broker, Http};
use serde_json::json;

const WHY: &str = "has no queue service";
const PATCH: &str = "application/openstack-messaging-v2.0-json-patch";

fn names(page: &serde_json::Value) -> Vec<&str> {
    page["queues"].as_array().unwrap().iter().map(|queue| queue["name"].as_str().unwrap()).collect()
}

#[test]
fn a_queue_is_made_once_and_keeps_its_first_metadata() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);

    let made = http.put("/v2/queues/q", r#"{"node": 31, "_default_message_ttl": 100}"#);
    assert_eq!(
        (made.status, made.header("location"), made.body.len()),
        (201, Some("/v2/queues/q"), 0)
    );
    let again = http.put("/v2/queues/q", r#"{"node": 32}"#);
    assert_eq!(
        (again.status, again.header("location"), again.header("content-type")),
        (204, Some("/v2/queues/q"), None)
    );

    program.restart();
    let mut http = Http::new(&program);
    let shown = http.get("/v2/queues/q").json();
    assert_eq!((&shown["node"], &shown["_default_message_ttl"]), (&json!(31), &json!(100)));
    assert_eq!(
        (&shown["_max_messages_post_size"], &shown["_dead_letter_queue"]),
        (&json!(262_144), &json!(null))
    );
    assert_eq!(http.delete("/v2/queues/q").status, 204);
    assert_eq!(http.delete("/v2/queues/q").status, 204);
    assert!(http.get("/v2/queues/q").json().get("node").is_none());
}

#[test]
fn a_queue_that_is_not_there_looks_like_an_empty_one() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);

    assert_eq!(http.get("/v2/queues/none").json().as_object().unwrap().len(), 7);
    assert_eq!(
        http.get("/v2/queues/none/stats").json(),
        json!({"messages": {"claimed": 0, "free": 0, "total": 0}})
    );
    assert_eq!(http.get("/v2/queues/none/messages").json(), json!({"messages": [], "links": []}));
    assert_eq!(http.post("/v2/queues/none/claims", "").status, 204);
    assert_eq!(http.delete("/v2/queues/none/messages?pop=1").json(), json!({"messages": []}));
    assert_eq!(http.post("/v2/queues/none/purge", "").status, 204);
    assert_eq!(http.get("/v2/queues").json(), json!({"queues": [], "links": []}));
}

#[test]
fn metadata_that_break_a_rule_are_refused() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);

    assert_eq!(
        http.put("/v2/queues/q", "[]").refusal(),
        (400, "Document type not supported.".into())
    );
    assert_eq!(
        http.put("/v2/queues/q", r#"{"_max_claim_count": "x"}"#).refusal(),
        (400, "_max_claim_count must be integer.".into())
    );
    assert_eq!(http.get("/v2/queues").json()["queues"], json!([]));
}

#[test]
fn metadata_are_changed_by_a_patch_all_or_nothing() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program).with("Content-Type", PATCH);
    let add = r#"[{"op": "add", "path": "/metadata/a", "value": {"x": [1]}}]"#;
    assert_eq!(
        http.patch("/v2/queues/q", add).refusal(),
        (404, "Queue q does not exist for project p".into())
    );
    http.put("/v2/queues/q", "");

    let shown = http.patch("/v2/queues/q", add);
    assert_eq!(
        (shown.status, &shown.json()["a"], &shown.json()["_default_message_ttl"]),
        (200, &json!({"x": [1]}), &json!(3600))
    );
    let halfway = r#"[{"op": "remove", "path": "/metadata/a"}, {"op": "replace", "path": "/metadata/b", "value": 1}]"#;
    assert_eq!(
        http.patch("/v2/queues/q", halfway).refusal(),
        (409, "Can't replace non-existent object b.".into())
    );
    let broken = r#"[{"op": "add", "path": "/metadata/_default_message_ttl", "value": 1}]"#;
    assert_eq!(http.patch("/v2/queues/q", broken).status, 400);
    assert_eq!(http.get("/v2/queues/q").json()["a"], json!({"x": [1]}));
    assert_eq!(
        http.patch("/v2/queues/q", "").refusal(),
        (400, "PATCH body could not be empty for update.".into())
    );

    let refused = http.with("Content-Type", "application/json").patch("/v2/queues/q", add);
    assert_eq!(
        (refused.status, refused.json()["title"].as_str()),
        (415, Some("415 Unsupported Media Type"))
    );
}

#[test]
fn queues_are_listed_in_pages_by_name() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    for index in 0..12 {
        http.put(&format!("/v2/queues/q{index:02}"), &format!("{{\"node\": {}}}", index % 3));
    }
    http.put("/v2/queues/other", "");

    let first = http.get("/v2/queues?with_count=true").json();
    assert_eq!((names(&first).len(), names(&first)[0], &first["count"]), (10, "other", &json!(13)));
    let next = http.get(first["links"][0]["href"].as_str().unwrap()).json();
    assert_eq!(names(&next), ["q09", "q10", "q11"]);
    let last = http.get(next["links"][0]["href"].as_str().unwrap()).json();
    assert_eq!((&last["queues"], &last["links"]), (&json!([]), &json!([])));

    assert_eq!(names(&http.get("/v2/queues?node=1").json()), ["q01", "q04", "q07", "q10"]);
    assert_eq!(names(&http.get("/v2/queues?name=q1").json()), ["q10", "q11"]);
    let detailed = http.get("/v2/queues?detailed=true&limit=1&marker=q00").json();
    assert_eq!(detailed["queues"][0]["metadata"]["node"], 1);
    assert!(detailed["links"][0]["href"].as_str().unwrap().contains("detailed=true"));
    for bad in ["limit=0", "limit=21"] {
        let refused = http.get(&format!("/v2/queues?{bad}")).refusal();
        assert_eq!(refused, (400, "Limit must be at least 1 and no greater than 20.".into()));
    }
    assert_eq!(http.get("/v2/queues?limit=x").json()["title"], "Invalid parameter");
    assert_eq!(http.get("/v2/queues?detailed=TRUE").json()["title"], "Invalid parameter");
}

#[test]
fn stats_count_messages_and_name_the_oldest_and_the_newest() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let posted = http
        .post("/v2/queues/q/messages", r#"{"messages": [{"body": 1}, {"body": 2}, {"body": 3}]}"#)
        .json();
    http.post("/v2/queues/q/claims?limit=1", "");

    let stats = http.get("/v2/queues/q/stats").json();

    let messages = &stats["messages"];
    assert_eq!(
        (&messages["claimed"], &messages["free"], &messages["total"]),
        (&json!(1), &json!(2), &json!(3))
    );
    assert_eq!(
        (&messages["oldest"]["href"], &messages["newest"]["href"]),
        (&posted["resources"][0], &posted["resources"][2])
    );
    assert_eq!(messages["oldest"].as_object().unwrap().len(), 3);
    assert!(messages["oldest"]["created"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn a_purge_removes_what_nobody_has_claimed() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    http.post("/v2/queues/q/messages", r#"{"messages": [{"body": 1}, {"body": 2}]}"#);
    http.post("/v2/queues/q/claims?limit=1", "");

    assert_eq!(http.post("/v2/queues/q/purge", r#"{"resource_types": []}"#).status, 204);
    assert_eq!(http.get("/v2/queues/q/stats").json()["messages"]["total"], 2);
    assert_eq!(http.post("/v2/queues/q/purge", r#"{"resource_types": ["messages"]}"#).status, 204);

    assert_eq!(http.get("/v2/queues/q/stats").json()["messages"]["total"], 1);
    assert_eq!(http.post("/v2/queues/q/purge", r#"{"resource_types": "messages"}"#).status, 400);
}

#[test]
fn a_pre_signed_url_lets_somebody_else_do_what_it_says_and_no_more() {
    let Some(program) = Broker::start_own_with(WHY, &["queues.signed_url.secret=secret"]) else {
        return;
    };
    let mut http = Http::new(&program);
    http.post("/v2/queues/q/messages", r#"{"messages": [{"body": 1}]}"#);

    let shared = http.post("/v2/queues/q/share", r#"{"methods": ["GET"]}"#).json();
    assert_eq!(shared["paths"], json!(["/v2/queues/q/messages"]));
    let text = |name: &str| match &shared[name] {
        serde_json::Value::Array(list) => {
            list.iter().map(|item| item.as_str().unwrap()).collect::<Vec<_>>().join(",")
        }
        other => other.as_str().unwrap().to_owned(),
    };
    let mut guest = Http::new(&program)
        .with("Client-ID", OTHER_CLIENT)
        .with("URL-Signature", &text("signature"))
        .with("URL-Expires", &text("expires"))
        .with("URL-Methods", &text("methods"))
        .with("URL-Paths", &text("paths"));

    assert_eq!(guest.get("/v2/queues/q/messages").json()["messages"][0]["body"], 1);
    assert_eq!(guest.post("/v2/queues/q/messages", "{}").status, 404);
    assert_eq!(guest.get("/v2/queues/q/stats").status, 404);
    assert_eq!(guest.with("X-Project-Id", "other").get("/v2/queues/q/messages").status, 404);
    assert_eq!(
        http.post("/v2/queues/q/share", r#"{"x": 1}"#).refusal(),
        (400, "Unknown keys: {'x'}".into())
    );
}

#[test]
fn topics_are_apart_from_queues_and_take_messages() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);

    assert_eq!(http.put("/v2/topics/t", r#"{"a": 1}"#).status, 201);
    assert_eq!(http.get("/v2/topics/t").json().as_object().unwrap().len(), 4);
    let posted = http.post("/v2/topics/t/messages", r#"{"messages": [{"body": {"x": 1}}]}"#);
    let href = posted.json()["resources"][0].as_str().unwrap().to_owned();

    assert!(href.starts_with("/v2/topics/t/messages/"));
    assert_eq!(http.get(&href).json()["body"], json!({"x": 1}));
    assert_eq!(http.get("/v2/topics/t/stats").json()["messages"]["total"], 1);
    assert_eq!(
        http.get("/v2/topics").json()["topics"][0],
        json!({"name": "t", "href": "/v2/topics/t"})
    );
    assert_eq!(http.get("/v2/queues").json()["queues"], json!([]));
    assert_eq!(http.post("/v2/topics/t/claims", "").status, 404);
    assert_eq!(http.delete("/v2/topics/t").status, 204);
}

#[test]
fn version_1_1_shows_metadata_as_they_were_sent() {
    let Some(program) = Broker::start_own_with(WHY, &["queues.enable_deprecated_api_versions=1.1"])
    else {
        return;
    };
    let mut http = Http::new(&program);

    assert_eq!(
        http.put("/v1.1/queues/q", r#"{"a": 1}"#).header("location"),
        Some("/v1.1/queues/q")
    );
    assert_eq!(http.get("/v1.1/queues/q").json(), json!({"a": 1}));
    assert_eq!(
        http.get("/v1.1/queues?detailed=true").json()["queues"][0]["metadata"],
        json!({"a": 1})
    );
    assert_eq!(http.patch("/v1.1/queues/q", "[]").status, 405);
    let posted = http.post("/v1.1/queues/q/messages", r#"{"messages": [{"body": 1}]}"#).json();
    assert!(posted["resources"][0].as_str().unwrap().starts_with("/v1.1/queues/q/messages/"));
    let link = http.get("/v1.1/queues/q/messages?echo=true").json()["links"][0]["href"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(!link.contains("include_delayed"), "{link}");
}
