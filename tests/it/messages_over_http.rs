//! Messages over HTTP: posted, listed, fetched, deleted, taken.

use it::http::OTHER_CLIENT;
use it::{Broker, Http};
use serde_json::{Value as Json, json};

const WHY: &str = "has no queue service";
const MESSAGES: &str = "/v2/queues/q/messages";

fn bodies(page: &Json) -> Vec<Json> {
    page["messages"].as_array().unwrap().iter().map(|message| message["body"].clone()).collect()
}

/// Posts one message per body; their paths.
fn post(http: &mut Http, bodies: &[Json]) -> Vec<String> {
    let messages: Vec<_> = bodies.iter().map(|body| json!({"ttl": 300, "body": body})).collect();
    let posted = http.post(MESSAGES, &json!({"messages": messages}).to_string());
    assert_eq!(posted.status, 201);
    posted.json()["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|href| href.as_str().unwrap().to_owned())
        .collect()
}

fn id(href: &str) -> &str {
    href.rsplit('/').next().unwrap()
}

#[test]
fn a_post_is_stored_as_it_was_sent_and_survives_a_power_cut() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let text = r#"{"messages": [{"body": { "b":1.50,"a" : "\u00e9", "big": 1e400 }}, {"ttl": 60, "body": null}]}"#;

    let posted = http.post(MESSAGES, text);
    assert_eq!(posted.status, 201);
    let resources = posted.json()["resources"].as_array().unwrap().clone();
    let ids: Vec<_> = resources.iter().map(|href| id(href.as_str().unwrap()).to_owned()).collect();
    assert_eq!(posted.header("location").unwrap(), format!("{MESSAGES}?ids={}", ids.join(",")));

    program.restart();
    let mut http = Http::new(&program);
    let shown = http.get(resources[0].as_str().unwrap());
    let raw = String::from_utf8(shown.body.clone()).unwrap();
    assert!(raw.contains(r#""body":{ "b":1.50,"a" : "\u00e9", "big": 1e400 }"#), "{raw}");
    let second = http.get(resources[1].as_str().unwrap()).json();
    assert_eq!(
        (&second["ttl"], &second["body"], &second["id"]),
        (&json!(60), &json!(null), &json!(ids[1]))
    );
    assert_eq!(second["href"], resources[1]);
}

#[test]
fn refused_posts_store_nothing_but_make_the_queue() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let ttl = "The TTL for a message may not exceed 1209600 seconds, and must be at least 60 seconds long.";

    for (post, text) in [
        ("{}", "No messages were found in the request body."),
        (r#"{"messages": []}"#, "No messages to enqueu."),
        (r#"{"messages": [{"body": 1}, {"ttl": 59, "body": 2}]}"#, ttl),
        (r#"{"messages": [{"body": 1}, {"ttl": 70}]}"#, "Missing \"body\" field."),
        (r#"{"messages": [1]}"#, "Document type not supported."),
    ] {
        assert_eq!(http.post(MESSAGES, post).refusal(), (400, text.into()), "{post}");
    }

    assert_eq!(http.get("/v2/queues/q/stats").json()["messages"]["total"], 0);
    assert_eq!(http.get("/v2/queues").json()["queues"][0]["name"], "q");
}

#[test]
fn lists_leave_out_what_the_client_posted_itself() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let mut other = Http::new(&program).with("Client-ID", OTHER_CLIENT);
    post(&mut http, &[json!(1)]);
    post(&mut other, &[json!(2)]);

    assert_eq!(bodies(&http.get(MESSAGES).json()), [json!(2)]);
    assert_eq!(bodies(&other.get(MESSAGES).json()), [json!(1)]);
    assert_eq!(bodies(&http.get("/v2/queues/q/messages?echo=true").json()), [json!(1), json!(2)]);
}

#[test]
fn pages_are_stable_while_others_write() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let all: Vec<Json> = (0..25).map(|index| json!(index)).collect();
    let hrefs = post(&mut http, &all);
    let mut seen = Vec::new();
    let mut next = format!("{MESSAGES}?echo=1&limit=7");

    loop {
        let page = http.get(&next).json();
        let found = bodies(&page);
        if found.is_empty() {
            assert_eq!(page["links"], json!([]));
            break;
        }
        seen.extend(found);
        next = page["links"][0]["href"].as_str().unwrap().to_owned();
        if seen.len() == 7 {
            // What was seen goes, and something comes: the next page begins where this one ended.
            assert_eq!(http.delete(&hrefs[0]).status, 204);
            assert_eq!(http.delete(&hrefs[6]).status, 204);
            post(&mut http, &[json!(25)]);
        }
    }

    let expected: Vec<Json> = (0..26).map(|index| json!(index)).collect();
    assert_eq!(seen, expected);
    let refused = "Limit must be at least 1 and may not be greater than 20.";
    assert_eq!(http.get("/v2/queues/q/messages?limit=21").refusal(), (400, refused.into()));
    assert_eq!(
        http.get("/v2/queues/q/messages?marker=nonsense").json(),
        json!({"messages": [], "links": []})
    );
}

#[test]
fn messages_are_found_by_their_ids_whoever_holds_them() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let hrefs = post(&mut http, &[json!(0), json!(1), json!(2)]);
    http.post("/v2/queues/q/claims?limit=1", "");
    let ids: Vec<_> = hrefs.iter().map(|href| id(href)).collect();

    let found = http.get(&format!("{MESSAGES}?ids={},{}&ids=nonsense", ids[2], ids[0])).json();
    assert_eq!(bodies(&found).len(), 2);
    assert!(found.get("links").is_none());
    let none = http.get(&format!("{MESSAGES}?ids=000000000000000000000000"));
    assert_eq!((none.status, none.json()["title"].as_str()), (404, Some("Not found")));
    let many = vec!["1"; 21].join(",");
    assert_eq!(http.get(&format!("{MESSAGES}?ids={many}")).status, 400);
    let missing = http.get(&format!("{MESSAGES}/nonsense")).refusal();
    assert_eq!(missing, (404, "Message nonsense does not exist in queue q for project p".into()));
    let elsewhere = format!("/v2/queues/r/messages/{}", ids[0]);
    http.put("/v2/queues/r", "");
    assert_eq!(http.get(&elsewhere).status, 404);
    assert_eq!(http.delete(&elsewhere).status, 204);
    assert_eq!(http.get(&hrefs[0]).status, 200);
}

#[test]
fn a_claimed_message_is_deleted_with_its_claim_only() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let hrefs = post(&mut http, &[json!(1), json!(2), json!(3)]);
    let mut claim = || {
        let claimed = http.post("/v2/queues/q/claims?limit=1", "");
        claimed.header("location").unwrap().rsplit('/').next().unwrap().to_owned()
    };
    let (first, second) = (claim(), claim());
    let held = "This message is claimed; it cannot be deleted without a valid claim ID.";

    assert_eq!(http.delete(&hrefs[0]).refusal(), (403, held.into()));
    assert_eq!(
        http.delete(&format!("{}?claim_id={second}", hrefs[0])).refusal(),
        (403, held.into())
    );
    let malformed = "The specified claim does not exist or has expired.";
    assert_eq!(http.delete(&format!("{}?claim_id=x", hrefs[0])).refusal(), (400, malformed.into()));
    assert_eq!(http.delete(&format!("{}?claim_id={first}", hrefs[0])).status, 204);
    let free = "A claim was specified, but the message is not currently claimed.";
    assert_eq!(
        http.delete(&format!("{}?claim_id={first}", hrefs[2])).refusal(),
        (400, free.into())
    );
    assert_eq!(http.delete(&hrefs[2]).status, 204);
    assert_eq!(http.delete(&hrefs[2]).status, 204);
    assert_eq!(http.delete(&format!("{MESSAGES}/malformed?claim_id=x")).status, 204);
    // Deleting by a list of ids asks for no claims.
    assert_eq!(http.delete(&format!("{MESSAGES}?ids={},nonsense", id(&hrefs[1]))).status, 204);
    assert_eq!(http.get("/v2/queues/q/stats").json()["messages"]["total"], 0);
}

#[test]
fn deleting_by_ids_asks_for_claims_where_the_operator_says_so() {
    let Some(program) = Broker::start_own_with(WHY, &["queues.message_delete_with_claim_id=true"])
    else {
        return;
    };
    let mut http = Http::new(&program);
    let hrefs = post(&mut http, &[json!(1)]);
    let claimed = http.post("/v2/queues/q/claims", "");
    let claim = claimed.header("location").unwrap().rsplit('/').next().unwrap();
    let path = format!("{MESSAGES}?ids={}", id(&hrefs[0]));

    assert_eq!(http.delete(&path).status, 400);
    assert_eq!(http.delete(&format!("{path}&claim_ids=000000000000000000000000")).status, 403);
    assert_eq!(http.delete(&format!("{path}&claim_ids={claim}")).status, 204);
}

#[test]
fn a_pop_takes_the_oldest_that_nobody_claimed() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    post(&mut http, &[json!(1), json!(2), json!(3), json!(4)]);
    http.post("/v2/queues/q/claims?limit=1", "");

    let popped = http.delete("/v2/queues/q/messages?pop=2");
    assert_eq!((popped.status, bodies(&popped.json())), (200, vec![json!(2), json!(3)]));
    assert!(popped.json()["messages"][0].get("href").is_none());
    assert_eq!(popped.json()["messages"][0]["claim_id"], json!(null));

    program.restart();
    let mut http = Http::new(&program);
    assert_eq!(bodies(&http.delete("/v2/queues/q/messages?pop=20").json()), [json!(4)]);
    for (query, text) in [
        (
            "",
            "The request should have either \"ids\" or \"pop\" parameter in the request, to be able to delete.",
        ),
        ("?ids=a&pop=1", "pop and id params cannot be present together in the delete request."),
        ("?pop=21", "Pop value must be at least 1 and may not be greater than 20."),
    ] {
        assert_eq!(http.delete(&format!("{MESSAGES}{query}")).refusal(), (400, text.into()));
    }
}

#[test]
fn a_delay_counts_where_the_queue_has_one() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let delayed = r#"{"messages": [{"body": 1, "delay": 900}]}"#;
    http.post(MESSAGES, delayed);
    http.put("/v2/queues/slow", r#"{"_default_message_delay": 600}"#);
    http.post(
        "/v2/queues/slow/messages",
        r#"{"messages": [{"body": 1}, {"body": 2, "delay": 0}]}"#,
    );

    assert_eq!(bodies(&http.get("/v2/queues/q/messages?echo=true").json()), [json!(1)]);
    assert_eq!(bodies(&http.get("/v2/queues/slow/messages?echo=true").json()), [json!(2)]);
    let all = http.get("/v2/queues/slow/messages?echo=true&include_delayed=true").json();
    assert_eq!(bodies(&all), [json!(1), json!(2)]);
    assert_eq!(bodies(&http.post("/v2/queues/slow/claims", "").json()), [json!(2)]);
}

#[test]
fn checksums_are_shown_where_the_operator_says_so() {
    let Some(program) = Broker::start_own_with(WHY, &["queues.enable_checksum=true"]) else {
        return;
    };
    let mut http = Http::new(&program);
    let hrefs = post(&mut http, &[json!("abc")]);

    let sum = http.get(&hrefs[0]).json()["checksum"].clone();

    assert_eq!(sum, format!("MD5:{MD5_OF_ABC}"));
}

#[test]
fn encrypted_bodies_are_clear_to_clients_and_nowhere_on_the_disk() {
    let keys = "queues.encryption.keys=k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let Some(mut program) = Broker::start_own_with(WHY, &[keys]) else { return };
    let mut http = Http::new(&program);
    http.put("/v2/queues/q", r#"{"_enable_encrypt_messages": true}"#);
    let hrefs = post(&mut http, &[json!({"secret": "canary-4711"}), json!("canary-4711")]);
    program.restart();
    let mut http = Http::new(&program);

    assert_eq!(http.get(&hrefs[0]).json()["body"], json!({"secret": "canary-4711"}));
    assert_eq!(bodies(&http.get("/v2/queues/q/messages?echo=true").json()).len(), 2);
    let claimed = http.post("/v2/queues/q/claims?limit=1", "");
    assert_eq!(bodies(&claimed.json()), [json!({"secret": "canary-4711"})]);
    assert_eq!(bodies(&http.delete("/v2/queues/q/messages?pop=1").json()), [json!("canary-4711")]);
    program.kill();
    for file in std::fs::read_dir(program.data_directory()).unwrap() {
        let path = file.unwrap().path();
        let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        assert!(!bytes.windows(11).any(|window| window == b"canary-4711"), "{}", path.display());
    }
}

#[test]
fn without_keys_there_are_no_encrypted_queues() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);

    assert_eq!(http.put("/v2/queues/q", r#"{"_enable_encrypt_messages": true}"#).status, 400);
}

/// Of `"abc"`, with its quotes.
const MD5_OF_ABC: &str = "ebd9f4c7b06cb0aaf5d13d80e49d8b90";
