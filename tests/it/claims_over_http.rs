//! Claims over HTTP: made, seen, renewed, released, running out, leading to the dead-letter queue.

use std::time::{Duration, Instant};

use it::{Broker, Connection, Http, Login, PATIENCE};
use serde_json::{Value as Json, json};

const WHY: &str = "has no queue service";
const CLAIMS: &str = "/v2/queues/q/claims";

fn post(http: &mut Http, queue: &str, bodies: &[i32]) -> Vec<String> {
    let messages: Vec<_> = bodies.iter().map(|body| json!({"ttl": 100, "body": body})).collect();
    let posted = http
        .post(&format!("/v2/queues/{queue}/messages"), &json!({"messages": messages}).to_string());
    posted.json()["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|href| href.as_str().unwrap().to_owned())
        .collect()
}

fn bodies(page: &Json) -> Vec<i64> {
    page["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["body"].as_i64().unwrap())
        .collect()
}

#[test]
fn a_claim_takes_the_oldest_and_no_other_claim_gets_them() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let hrefs = post(&mut http, "q", &[1, 2, 3]);

    let claimed = http.post("/v2/queues/q/claims?limit=2", r#"{"ttl": 300, "grace": 60}"#);
    let claim = claimed.header("location").unwrap().to_owned();
    assert_eq!((claimed.status, bodies(&claimed.json())), (201, vec![1, 2]));
    let id = claim.strip_prefix("/v2/queues/q/claims/").unwrap();
    assert_eq!(claimed.json()["messages"][0]["href"], format!("{}?claim_id={id}", hrefs[0]));
    assert_eq!(bodies(&http.post(CLAIMS, "").json()), [3]);
    let nothing = http.post(CLAIMS, "");
    assert_eq!((nothing.status, nothing.body.len(), nothing.header("location")), (204, 0, None));

    program.restart();
    let mut http = Http::new(&program);
    assert_eq!(http.post(CLAIMS, "").status, 204);
    let view = http.get(&claim).json();
    assert_eq!(
        (bodies(&view), &view["ttl"], &view["href"]),
        (vec![1, 2], &json!(300), &json!(claim))
    );
    assert_eq!(http.get("/v2/queues/q/messages?echo=true").json()["messages"], json!([]));
    assert_eq!(
        bodies(&http.get("/v2/queues/q/messages?echo=true&include_claimed=true").json()),
        [1, 2, 3]
    );
}

#[test]
fn a_claimed_message_lives_as_long_as_its_claim_and_the_grace() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    post(&mut http, "q", &[1]);

    let claimed = http.post(CLAIMS, r#"{"ttl": 200, "grace": 100}"#);
    let message = &claimed.json()["messages"][0];
    let ttl = message["ttl"].as_u64().unwrap();
    assert_eq!(ttl, 300);

    let claim = claimed.header("location").unwrap();
    assert_eq!(http.patch(claim, r#"{"ttl": 1000}"#).status, 204);
    let view = http.get(claim).json();
    assert_eq!(view["ttl"], 1000);
    assert!(view["age"].as_u64().unwrap() < 100, "{view}");
    assert_eq!(view["messages"][0]["ttl"], 1060);
}

#[test]
fn a_released_claim_gives_its_messages_back_in_order() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    post(&mut http, "q", &[1, 2, 3]);
    let claim = http.post("/v2/queues/q/claims?limit=2", "").header("location").unwrap().to_owned();

    assert_eq!(http.delete(&claim).status, 204);
    assert_eq!(http.delete(&claim).status, 204);

    let id = claim.rsplit('/').next().unwrap();
    assert_eq!(
        http.get(&claim).refusal(),
        (404, format!("Claim {id} does not exist in queue q for project p"))
    );
    assert_eq!(http.patch(&claim, "{}").status, 404);
    assert_eq!(bodies(&http.post(CLAIMS, "").json()), [1, 2, 3]);
}

#[test]
fn a_claim_of_which_nothing_is_left_is_gone() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    post(&mut http, "q", &[1]);
    let claimed = http.post(CLAIMS, "");
    let claim = claimed.header("location").unwrap();

    let href = claimed.json()["messages"][0]["href"].as_str().unwrap().to_owned();
    assert_eq!(http.delete(&href).status, 204);

    assert_eq!(http.get(claim).status, 404);
}

#[test]
fn what_a_claim_asks_for_is_checked() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let ttl =
        "The TTL for a claim may not exceed 43200 seconds, and must be at least 60 seconds long.";

    assert_eq!(http.post(CLAIMS, r#"{"ttl": 59}"#).refusal(), (400, ttl.into()));
    assert_eq!(http.post(CLAIMS, "[]").refusal(), (400, "Document type not supported.".into()));
    assert_eq!(
        http.post("/v2/queues/q/claims?limit=0", "").refusal(),
        (400, "Limit must be at least 1 and may not be greater than 20.".into())
    );
    assert_eq!(
        http.patch("/v2/queues/q/claims/x", "").refusal(),
        (400, "Request body could not be parsed.".into())
    );
    assert_eq!(http.patch("/v2/queues/q/claims/x", "{}").status, 404);
    assert_eq!(http.get("/v2/queues/q/claims/x").status, 404);
}

#[test]
fn a_claim_that_runs_out_frees_its_messages() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program).with("X-Project-Id", "/");
    http.post("/v2/queues/q/messages", r#"{"messages": [{"body": 1, "ttl": 1000}]}"#);
    // The least time that a claim may have is the longest that this test takes.
    let begun = Instant::now();
    let claimed = http.post(CLAIMS, r#"{"ttl": 60}"#);
    assert_eq!(claimed.status, 201);

    // Nobody has to ask: who waits for the message gets it when the claim ends.
    let amqp = Connection::open(program.address, &Login::default()).unwrap().channel();
    amqp.consume("q", "c", &[]).unwrap();
    let freed = amqp.delivery(Duration::from_secs(60) + 2 * PATIENCE).expect("the message");

    assert!(begun.elapsed() >= Duration::from_secs(59), "{:?}", begun.elapsed());
    assert_eq!((freed.body.as_slice(), freed.redelivered), (&b"1"[..], true));
    // A connection that says nothing for a minute is closed, so this asks on another one.
    assert_eq!(http.again().get(claimed.header("location").unwrap()).status, 404);
}

#[test]
fn a_message_that_was_claimed_too_often_goes_to_the_dead_letter_queue() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let rules = r#"{"_max_claim_count": 2, "_dead_letter_queue": "dead", "_dead_letter_queue_messages_ttl": 7200}"#;
    http.put("/v2/queues/q", rules);
    post(&mut http, "q", &[1]);

    for _ in 0..2 {
        let claim = http.post(CLAIMS, "");
        assert_eq!(claim.status, 201);
        http.delete(claim.header("location").unwrap());
    }

    assert_eq!(http.post(CLAIMS, "").status, 204);
    assert_eq!(http.get("/v2/queues/q/stats").json()["messages"]["total"], 0);
    let dead = http.get("/v2/queues/dead/messages?echo=true").json();
    assert_eq!((bodies(&dead), &dead["messages"][0]["ttl"]), (vec![1], &json!(7200)));
}
