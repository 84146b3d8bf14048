//! Every route × own project, other project, no project, no role, reader, administrator: made from the OpenAPI document,
//! so that no route can be forgotten.

use it::http::OTHER_CLIENT;
use it::{Broker, Http};
use serde_json::{Value as Json, json};

const WHY: &str = "has no queue service";
const CANARY: &str = "canary-2718";

/// One method of one path, with the policy's name for it.
#[derive(Debug)]
struct Route {
    method: String,
    path: String,
    rule: String,
    body: Option<&'static str>,
}

/// All routes that a policy rules, with the own project's names and ids filled in.
fn routes(http: &mut Http, own: &Own) -> Vec<Route> {
    let document = http.get("/openapi.json").json();
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let Some(rule) = operation["x-policy-rule"].as_str() else { continue };
            let path = path
                .replace("{queue_name}", "q")
                .replace("{topic_name}", "t")
                .replace("{pool_name}", "none")
                .replace("{flavor_name}", "none")
                .replace(
                    "{message_id}",
                    if path.contains("topics") { &own.topic_message } else { &own.message },
                )
                .replace("{claim_id}", &own.claim)
                .replace(
                    "{subscription_id}",
                    if path.contains("topics") { "none" } else { &own.subscription },
                );
            routes.push(Route {
                method: method.to_uppercase(),
                body: body_for(&path, method),
                rule: rule.to_owned(),
                path,
            });
        }
    }
    assert!(routes.len() > 40, "{}", routes.len());
    routes
}

fn body_for(path: &str, method: &str) -> Option<&'static str> {
    match (method, path.rsplit('/').next().unwrap()) {
        ("post", "messages") => Some(r#"{"messages": [{"body": 1}]}"#),
        ("post", "subscriptions") => Some(r#"{"subscriber": "http://127.0.0.1:1/other"}"#),
        ("put", "confirm") => Some(r#"{"confirmed": true}"#),
        ("patch", _) if path.contains("subscriptions") => Some(r#"{"ttl": 7777}"#),
        ("patch", _) if path.contains("claims") => Some(r#"{"ttl": 7777}"#),
        ("patch", _) => Some(r#"[{"op": "add", "path": "/metadata/x", "value": 1}]"#),
        ("post", "share") => Some("{}"),
        _ => None,
    }
}

/// What the own project has.
struct Own {
    message: String,
    topic_message: String,
    claim: String,
    subscription: String,
}

fn last_segment(path: &str) -> String {
    path.rsplit('/').next().unwrap().to_owned()
}

fn furnish(http: &mut Http) -> Own {
    let body = json!({"messages": [{"ttl": 9000, "body": CANARY}, {"ttl": 9000, "body": CANARY}]})
        .to_string();
    http.put("/v2/queues/q", &json!({"note": CANARY}).to_string());
    let posted = http.post("/v2/queues/q/messages", &body).json();
    let claim = http.post("/v2/queues/q/claims?limit=1", r#"{"ttl": 5000}"#);
    let subscriber =
        json!({"subscriber": format!("http://127.0.0.1:1/{CANARY}"), "ttl": 9000}).to_string();
    let subscription = http.post("/v2/queues/q/subscriptions", &subscriber).json();
    let topic = http.post("/v2/topics/t/messages", &body).json();
    Own {
        message: last_segment(posted["resources"][1].as_str().unwrap()),
        topic_message: last_segment(topic["resources"][0].as_str().unwrap()),
        claim: last_segment(claim.header("location").unwrap()),
        subscription: subscription["subscription_id"].as_str().unwrap().to_owned(),
    }
}

/// Everything that the own project has, without ages.
fn inventory(http: &mut Http, own: &Own) -> Json {
    let mut all: Vec<Json> = [
        "/v2/queues?detailed=true".to_owned(),
        "/v2/topics?detailed=true".to_owned(),
        "/v2/queues/q/messages?echo=true&include_claimed=true".to_owned(),
        "/v2/topics/t/messages?echo=true&include_claimed=true".to_owned(),
        "/v2/queues/q/subscriptions".to_owned(),
        format!("/v2/queues/q/claims/{}", own.claim),
    ]
    .iter()
    .map(|path| http.get(path).json())
    .collect();
    all.iter_mut().for_each(forget_ages);
    json!(all)
}

fn forget_ages(value: &mut Json) {
    match value {
        Json::Object(members) => {
            members.remove("age");
            members.values_mut().for_each(forget_ages);
        }
        Json::Array(items) => items.iter_mut().for_each(forget_ages),
        _ => {}
    }
}

fn as_patch(http: Http, route: &Route) -> Http {
    match route.body {
        Some(body) if body.starts_with('[') => {
            http.with("Content-Type", "application/openstack-messaging-v2.0-json-patch")
        }
        _ => http.with("Content-Type", ""),
    }
}

#[test]
fn no_route_shows_or_changes_what_another_project_has() {
    let settings = [
        "queues.admin_mode=true",
        "queues.pooling=true",
        "queues.policy=open",
        "queues.signed_url.secret=s",
    ];
    let Some(program) = Broker::start_own_with(WHY, &settings) else { return };
    let mut own = Http::new(&program);
    let things = furnish(&mut own);
    let before = inventory(&mut own, &things);
    assert!(before.to_string().matches(CANARY).count() >= 6, "{before}");
    let mut other =
        Http::new(&program).with("X-Project-Id", "other").with("Client-ID", OTHER_CLIENT);

    for route in routes(&mut own, &things) {
        other = as_patch(other, &route);
        let reply = other.send(&route.method, &route.path, route.body);
        let shown = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(reply.status < 500, "{route:?}: {} {shown}", reply.status);
        assert!(!shown.contains(CANARY), "{route:?}: {shown}");
    }
    for query in ["?pop=20", &format!("?ids={},{}", things.message, things.topic_message)] {
        other.delete(&format!("/v2/queues/q/messages{query}"));
    }

    assert_eq!(inventory(&mut own, &things), before);
}

#[test]
fn what_no_policy_rules_shows_nothing_or_has_its_right_in_the_path() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let document = Http::new(&program).get("/openapi.json").json();
    let mut open: Vec<String> = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if operation["x-policy-rule"].is_null() {
                open.push(format!("{method} {path}"));
            }
        }
    }
    open.sort();

    let expected = ["get /", "get /openapi.json", "get /v2/", "post /v2/settle/{token}"];
    assert_eq!(open, expected, "a new one needs a test of who may use it");
}

#[test]
fn an_address_to_settle_at_is_of_no_use_for_another_projects_message() {
    let settings = ["delivery.settle_url=http://127.0.0.1", "queues.policy=open"];
    let Some(program) = Broker::start_own_with(WHY, &settings) else { return };
    let projects = ["own", "other"].map(|project| {
        let taking = (0..9).map(|_| it::Answer::status(202)).collect::<Vec<_>>();
        let receiver = it::Receiver::answering(taking.into_iter());
        let mut http = Http::new(&program).with("X-Project-Id", project);
        let options = json!({"form": "request", "settle_within": 3600});
        let body = json!({"subscriber": receiver.url(), "options": options}).to_string();
        assert_eq!(http.post("/v2/queues/q/subscriptions", &body).status, 201);
        let body = json!({"messages": [{"ttl": 9000, "body": CANARY}]}).to_string();
        assert_eq!(http.post("/v2/queues/q/messages", &body).status, 201);
        let request = receiver.next();
        let url = request.exact_header("posthouse-ack-url").strip_prefix("http://127.0.0.1");
        (http, url.unwrap().to_owned(), receiver)
    });
    let [(mut own, own_path, _own), (_, other_path, _other)] = projects;

    // Names and signatures of both, put together in every way, by whoever says that they are the own project.
    let names = "/v2/settle/".len() + 56;
    for (named, signed) in [(&other_path, &own_path), (&own_path, &other_path)] {
        let forged = [named.split_at(names).0, signed.split_at(names).1].concat();
        let refused = own.post(&forged, "");
        assert_eq!(refused.status, 404);
        assert!(!String::from_utf8_lossy(&refused.body).contains(CANARY));
    }
    // The right is the address, and not who says what project they are of.
    assert_eq!(own.post(&other_path, "").status, 204);
    assert_eq!(own.post(&other_path, "").status, 410);
    assert_eq!(own.post(&own_path, "").status, 204);
}

#[test]
fn every_route_asks_the_policy_and_nobody_comes_in_without_a_project() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    let reads =
        |rule: &str| ["get", "get_all", "stats"].contains(&rule.rsplit(':').next().unwrap());
    let Some(first) =
        Broker::start_own_with(WHY, &["queues.admin_mode=true", "queues.pooling=true"])
    else {
        return;
    };
    let document = Http::new(&first).get("/openapi.json").json();
    let mut rules: Vec<String> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|methods| methods.as_object().unwrap().values())
        .filter_map(|operation| operation["x-policy-rule"].as_str().map(str::to_owned))
        .collect();
    rules.sort();
    rules.dedup();
    let line = |rule: &String| {
        let check = if reads(rule) { "role:reader or role:admin" } else { "role:admin" };
        format!("\"{rule}\": \"{check}\"\n")
    };
    std::fs::write(&policy, rules.iter().map(line).collect::<String>()).unwrap();
    drop(first);
    let chosen = format!("queues.policy={}", policy.display());
    let settings =
        ["queues.admin_mode=true", "queues.pooling=true", &chosen, "queues.signed_url.secret=s"];
    let Some(program) = Broker::start_own_with(WHY, &settings) else { return };
    let mut admin = Http::new(&program).with("X-Roles", "admin");
    let things = furnish(&mut admin);

    for route in routes(&mut admin, &things) {
        let status =
            |http: Http| as_patch(http, &route).send(&route.method, &route.path, route.body).status;
        let expected = if reads(&route.rule) { None } else { Some(403) };
        assert_eq!(status(admin.again().with("X-Roles", "")), 403, "no role: {route:?}");
        let reader = status(admin.again().with("X-Roles", "reader"));
        assert_eq!((reader == 403).then_some(403), expected, "reader: {route:?} {reader}");
        assert_eq!(status(admin.again().with("X-Project-Id", "")), 400, "no project: {route:?}");
    }
    // At last with every right, which may delete everything.
    for route in routes(&mut admin, &things) {
        let reply = as_patch(admin.again(), &route).send(&route.method, &route.path, route.body);
        assert!(reply.status != 403 || reply.json()["title"] == "Unable to delete", "{route:?}");
        assert!(reply.status < 500, "{route:?}: {}", String::from_utf8_lossy(&reply.body));
    }
}
