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
fn without_pooling_there_are_none() {
    let Some(program) = Broker::start_own_with(WHY, &["queues.admin_mode=true"]) else { return };

    assert_eq!(Http::new(&program).with("X-Roles", "admin").get("/v2/pools").status, 404);
}
