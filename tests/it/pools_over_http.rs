//! Pools and flavors over HTTP: where new queues come to live.

use it::{Broker, Http};
use serde_json::json;

const WHY: &str = "has no queue service";
const SETTINGS: &[&str] = &["queues.admin_mode=true", "queues.pooling=true"];

#[test]
fn a_pool_is_made_replaced_changed_and_forgotten() {
    let Some(program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut http = Http::new(&program).with("X-Roles", "admin");
    let uri = program.directory().join("second").display().to_string();
    let pool = json!({"weight": 10, "uri": uri, "options": {"a": 1}}).to_string();

    let made = http.put("/v2/pools/second", &pool);
    assert_eq!((made.status, made.header("location")), (201, Some("/v2/pools/second")));
    assert_eq!(http.put("/v2/pools/second", &pool).status, 201);
    let shown = http.get("/v2/pools/second").json();
    let expected = json!({"name": "second", "href": "/v2/pools/second", "weight": 10, "uri": uri, "flavor": null});
    assert_eq!(shown, expected);
    assert_eq!(http.get("/v2/pools/second?detailed=true").json()["options"], json!({"a": 1}));
    let listed = http.get("/v2/pools?limit=5");
    assert_eq!(listed.header("content-location"), Some("/v2/pools?limit=5"));
    assert_eq!(listed.json()["pools"], json!([expected]));

    let conflict = http.put("/v2/pools/third", &pool).refusal();
    assert_eq!(conflict, (409, "The database URI is in use by another pool.".into()));
    let foreign =
        http.put("/v2/pools/third", r#"{"weight": 1, "uri": "mongodb://127.0.0.1"}"#).refusal();
    assert_eq!(foreign, (400, "cannot connect to mongodb://127.0.0.1".into()));
    assert_eq!(
        http.put("/v2/pools/third", "").refusal(),
        (400, "JSON could not be parsed.".into())
    );
    assert_eq!(http.patch("/v2/pools/second", r#"{"weight": 7}"#).json()["weight"], 7);
    assert_eq!(http.patch("/v2/pools/none", r#"{"weight": 7}"#).status, 404);
    assert_eq!(http.delete("/v2/pools/second").status, 204);
    assert_eq!(http.delete("/v2/pools/second").status, 204);
    assert_eq!(http.get("/v2/pools/second").refusal(), (404, "Pool second does not exist".into()));
    assert_eq!(http.with("X-Roles", "").get("/v2/pools").status, 403);
}

#[test]
fn a_queue_of_a_flavor_lives_in_its_pool_through_a_restart() {
    let Some(mut program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut http = Http::new(&program).with("X-Roles", "admin");
    let uri = program.directory().join("second").display().to_string();
    http.put("/v2/pools/second", &json!({"weight": 10, "uri": uri}).to_string());

    let unknown = http.put("/v2/flavors/gold", r#"{"pool_list": ["none"]}"#);
    let text = "Flavor gold could not be created, error:Pool none does not exist";
    assert_eq!(
        (unknown.refusal(), unknown.header("location")),
        ((400, text.into()), Some("/v2/flavors/gold"))
    );
    assert_eq!(
        http.put("/v2/flavors/gold", r#"{"pool_list": []}"#).refusal(),
        (400, "Bad Request".into())
    );
    assert_eq!(http.put("/v2/flavors/gold", r#"{"pool_list": ["second"]}"#).status, 201);
    assert_eq!(http.get("/v2/pools/second").json()["flavor"], "gold");
    let flavor = http.get("/v2/flavors/gold").json();
    assert_eq!(flavor["pool_list"], json!(["second"]));
    assert_eq!(
        flavor["capabilities"],
        json!(["FIFO", "CLAIMS", "DURABILITY", "AOD", "HIGH_THROUGHPUT"])
    );
    let refused = http.delete("/v2/pools/second").refusal();
    assert_eq!(refused, (403, "This pool is used by flavors gold; It cannot be deleted.".into()));

    assert_eq!(
        http.put("/v2/queues/q", r#"{"_flavor": "none"}"#).refusal(),
        (400, "Flavor none does not exist".into())
    );
    assert_eq!(
        http.put("/v2/queues/q", r#"{"_flavor": 7}"#).refusal(),
        (400, "Flavor 7 does not exist".into())
    );
    assert_eq!(http.put("/v2/queues/q", r#"{"_flavor": "gold"}"#).status, 201);
    http.post("/v2/queues/q/messages", r#"{"messages": [{"body": "here"}]}"#);
    program.restart();
    let mut http = Http::new(&program).with("X-Roles", "admin");
    assert_eq!(http.get("/v2/queues/q/messages?echo=true").json()["messages"][0]["body"], "here");
    assert_eq!(http.delete("/v2/flavors/gold").status, 204);
    assert_eq!(http.delete("/v2/pools/second").status, 403);
    assert_eq!(http.get("/v2/flavors").json()["flavors"], json!([]));
}

#[test]
fn a_flavor_changes_its_pools_and_keeps_the_last_of_them() {
    let Some(program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut http = Http::new(&program).with("X-Roles", "admin");
    for name in ["a", "b"] {
        let uri = format!("file:{}", program.directory().join(name).display());
        let made =
            http.put(&format!("/v2/pools/{name}"), &json!({"weight": 1, "uri": uri}).to_string());
        assert_eq!(made.status, 201);
    }
    assert_eq!(http.put("/v2/flavors/gold", r#"{"pool_list": ["a"]}"#).status, 201);

    let changed = http.patch("/v2/flavors/gold", r#"{"pool_list": ["b", "a"]}"#);
    assert_eq!((changed.status, &changed.json()["pool_list"]), (200, &json!(["a", "b"])));
    let empty = http.patch("/v2/flavors/gold", r#"{"pool_list": []}"#);
    assert_eq!(
        (empty.refusal(), empty.header("location")),
        ((400, "Bad Request".into()), Some("/v2/flavors/gold"))
    );
    let unknown = http.patch("/v2/flavors/gold", r#"{"pool_list": ["none"]}"#).json();
    let text = "Flavor gold cant be updated, error:Pool none does not exist";
    assert_eq!(unknown, json!({"title": "updatefail", "description": text}));
    assert_eq!(http.patch("/v2/flavors/tin", r#"{"pool_list": ["a"]}"#).status, 404);
    assert_eq!(
        http.patch("/v2/flavors/gold", "{}").refusal(),
        (400, "`pool_list` needs to be specified".into())
    );
    // One of two pools may go, the last may not.
    assert_eq!(http.delete("/v2/pools/a").status, 204);
    assert_eq!(http.delete("/v2/pools/b").status, 403);
    assert_eq!(http.patch("/v2/pools/b", r#"{"flavor": ""}"#).json()["flavor"], json!(null));
    assert_eq!(http.delete("/v2/pools/b").status, 204);
    // Only what is there is listed, page by page, and briefly.
    let brief = json!([{"name": "gold", "href": "/v2/flavors/gold", "pool_list": []}]);
    let listed = http.get("/v2/flavors?limit=1").json();
    assert_eq!(listed["flavors"], brief);
    let next = listed["links"][0]["href"].as_str().unwrap();
    assert_eq!(http.get(next).json(), json!({"flavors": [], "links": []}));
    let refused = http.get("/v2/flavors?limit=0").refusal();
    assert_eq!(refused, (400, "Limit must be at least 1 and no greater than 20.".into()));
}

#[test]
fn queues_spread_over_pools_by_weight_and_stay_there_through_a_restart() {
    let Some(mut program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut http = Http::new(&program).with("X-Roles", "admin");
    for (name, weight) in [("light", 1), ("heavy", 9), ("never", 0)] {
        let uri = program.directory().join(name).display().to_string();
        let pool = json!({"weight": weight, "uri": uri}).to_string();
        assert_eq!(http.put(&format!("/v2/pools/{name}"), &pool).status, 201);
    }
    let queues: Vec<String> = (0..120).map(|number| format!("/v2/queues/q{number}")).collect();
    for queue in &queues {
        let posted = http.post(&format!("{queue}/messages"), r#"{"messages": [{"body": "here"}]}"#);
        assert_eq!(posted.status, 201);
    }

    program.restart();

    let mut http = Http::new(&program).with("X-Roles", "admin");
    for queue in &queues {
        let listed = http.get(&format!("{queue}/messages?echo=true")).json();
        assert_eq!(listed["messages"][0]["body"], "here", "{queue}");
    }
    // What is never chosen holds none; of 120, both others hold some.
    assert_eq!(http.delete("/v2/pools/never").status, 204);
    assert_eq!(http.delete("/v2/pools/heavy").status, 403);
    assert_eq!(http.delete("/v2/pools/light").status, 403);
    for queue in &queues {
        assert_eq!(http.delete(queue).status, 204);
    }
    assert_eq!(http.delete("/v2/pools/heavy").status, 204);
}

#[test]
fn a_dead_letter_goes_from_pool_to_pool() {
    let Some(program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut http = Http::new(&program).with("X-Roles", "admin");
    for name in ["a", "b"] {
        let uri = program.directory().join(name).display().to_string();
        http.put(&format!("/v2/pools/{name}"), &json!({"weight": 1, "uri": uri}).to_string());
        let pools = json!({"pool_list": [name]}).to_string();
        assert_eq!(http.put(&format!("/v2/flavors/{name}"), &pools).status, 201);
    }
    http.put("/v2/queues/dead", r#"{"_flavor": "b"}"#);
    let rules = r#"{"_flavor": "a", "_max_claim_count": 1, "_dead_letter_queue": "dead"}"#;
    assert_eq!(http.put("/v2/queues/q", rules).status, 201);
    http.post("/v2/queues/q/messages", r#"{"messages": [{"body": "tired"}]}"#);

    let claimed = http.post("/v2/queues/q/claims", "");
    assert_eq!(http.delete(claimed.header("location").unwrap()).status, 204);
    assert_eq!(http.post("/v2/queues/q/claims", "").status, 204);

    let listed = http.get("/v2/queues/dead/messages?echo=true").json();
    assert_eq!(listed["messages"][0]["body"], "tired");
    assert_eq!(http.get("/v2/queues/q/stats").json()["messages"]["total"], 0);
}

#[test]
fn health_is_a_round_trip_in_every_pool() {
    let Some(program) = Broker::start_own_with(WHY, SETTINGS) else { return };
    let mut http = Http::new(&program).with("X-Roles", "admin");
    for (name, weight) in [("a", 1), ("unused", 0)] {
        let uri = program.directory().join(name).display().to_string();
        http.put(&format!("/v2/pools/{name}"), &json!({"weight": weight, "uri": uri}).to_string());
    }
    http.post("/v2/queues/q/messages", r#"{"messages": [{"body": 1}, {"body": 2}]}"#);

    let report = http.get("/v2/health").json();

    assert_eq!(report["catalog_reachable"], true);
    for part in [&report, &report["a"], &report["unused"]] {
        assert_eq!(part["storage_reachable"], true);
        let steps = part["operation_status"].as_object().unwrap();
        assert_eq!(steps.len(), 8);
        assert!(steps.values().all(|step| step["succeeded"] == true), "{steps:?}");
    }
    assert_eq!(report["a"]["message_volume"], json!({"free": 2, "claimed": 0, "total": 2}));
    assert_eq!(report["unused"]["message_volume"]["total"], 0);
    assert_eq!(http.get("/v2/queues").json()["queues"].as_array().unwrap().len(), 1);
}

#[test]
fn without_pooling_there_are_none() {
    let Some(program) = Broker::start_own_with(WHY, &["queues.admin_mode=true"]) else { return };

    assert_eq!(Http::new(&program).with("X-Roles", "admin").get("/v2/pools").status, 404);
}

#[test]
fn with_pools_too_the_first_message_of_a_queue_is_fetched_while_nothing_else_happens() {
    let Some(program) = Broker::start_own_with("has no pools", SETTINGS) else { return };
    let channel = it::Connection::open(program.address, &it::Login::default()).unwrap().channel();
    channel.declare_durable("q", &[]).unwrap();
    channel.confirms();
    channel.publish("", "q", &it::Properties::persistent(), b"first");
    assert!(channel.wait_confirms(1).is_empty());

    let fetched = channel.get("q", false).unwrap().expect("a message");

    assert_eq!(fetched.text(), "first");
}
