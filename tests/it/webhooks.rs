//! Webhooks, by the real program: what is posted is sent, after a kill too, and private networks are out of reach.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use it::{Broker, Http};
use serde_json::{Value, json};

const WHY: &str = "sends no webhooks";
const SUBSCRIPTIONS: &str = "/v2/queues/q/subscriptions";
const PATIENCE: Duration = Duration::from_secs(60);

/// A request: its head, and its body as JSON.
type Request = (String, Value);

/// Answers each request with the next of some statuses, then 200, each on a connection of its own.
fn receiver(statuses: &'static [u16]) -> (SocketAddr, Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = channel();
    thread::spawn(move || {
        let mut statuses = statuses.iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some(request) = request(&mut stream) else { continue };
            let status = statuses.next().unwrap_or(&200);
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            // Whoever was killed does not wait for it.
            drop(stream.write_all(answer.as_bytes()));
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

fn request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let mut some = [0; 4096];
        let length = stream.read(&mut some).ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&some[..length]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            return Some((head.to_lowercase(), body));
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let find = |line: &'a str| line.strip_prefix(name)?.strip_prefix(": ");
    head.lines().find_map(find).unwrap_or_else(|| panic!("{name} is missing: {head}"))
}

fn subscribe(http: &mut Http, subscriber: &str, options: &Value) {
    let body = json!({"subscriber": subscriber, "options": options}).to_string();
    let made = http.post(SUBSCRIPTIONS, &body);
    assert_eq!(made.status, 201, "{:?}", made.json());
}

fn post(http: &mut Http, body: &Value) {
    let messages = json!({"messages": [{"ttl": 300, "body": body}]}).to_string();
    assert_eq!(http.post("/v2/queues/q/messages", &messages).status, 201);
}

#[test]
fn a_posted_message_is_sent_and_signed() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let (address, requests) = receiver(&[]);
    subscribe(&mut http, &format!("http://{address}/hook"), &json!({}));

    post(&mut http, &json!({"a": 1}));

    let (head, body) = requests.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("post /hook http/1.1\r\n"), "{head}");
    assert_eq!(
        body,
        json!({"body": {"a": 1}, "ttl": 300, "queue_name": "q", "Message_Type": "Notification"})
    );
    assert!(header(&head, "webhook-signature").starts_with("v1,"));
    header(&head, "webhook-timestamp").parse::<u64>().unwrap();
    assert_eq!(header(&head, "webhook-id").len(), 4 + 24);
}

#[test]
fn what_was_posted_before_a_kill_is_sent_after_it_with_the_same_id() {
    let Some(mut program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let (address, requests) = receiver(&[500, 500]);
    let policy =
        json!({"retries_with_no_delay": 0, "minimum_delay": 1, "minimum_delay_retries": 30});
    subscribe(&mut http, &format!("http://{address}/"), &json!({"_retry_policy": policy}));
    post(&mut http, &json!("a"));
    let (first, _) = requests.recv_timeout(PATIENCE).unwrap();

    program.restart();

    for _ in 0..2 {
        let (again, body) = requests.recv_timeout(PATIENCE).unwrap();
        assert_eq!(header(&again, "webhook-id"), header(&first, "webhook-id"));
        assert_eq!(body["body"], "a");
    }
}

#[test]
fn what_is_given_up_lies_in_the_queue_that_the_subscription_names() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let (address, requests) = receiver(&[404, 404, 404, 404]);
    let policy = json!({"minimum_delay": 0, "maximum_delay": 10, "retries_with_no_delay": 0,
        "minimum_delay_retries": 0, "maximum_delay_retries": 0});
    let options = json!({"_retry_policy": policy, "dead_letter_queue": "lost"});
    subscribe(&mut http, &format!("http://{address}/"), &options);

    post(&mut http, &json!({"a": 1}));

    for _ in 0..3 {
        requests.recv_timeout(PATIENCE).unwrap();
    }
    let lost = loop {
        let found = http.get("/v2/queues/lost/messages?echo=true").json();
        if let Some(message) = found["messages"].as_array().and_then(|list| list.first()) {
            break message["body"].clone();
        }
        thread::yield_now();
    };
    assert_eq!(lost, json!({"a": 1}));
}

#[test]
fn whoever_subscribes_is_told_what_may_not_be() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let mut http = Http::new(&program);
    let mut refused = |subscriber: &str, options: Value| {
        let body = json!({"subscriber": subscriber, "options": options}).to_string();
        let answer = http.post(SUBSCRIPTIONS, &body);
        assert_eq!(answer.status, 400, "{subscriber}");
        answer.json()["description"].as_str().unwrap().to_owned()
    };

    for address in ["http://169.254.169.254/", "http://10.0.0.1/", "http://[::1]/", "http://0xa.1/"]
    {
        let text = refused(address, json!({}));
        assert_eq!(text, "the subscriber may not be called: this address may not be called");
    }
    assert!(refused("mailto:a@b.c%0d%0aBcc:x@y.z", json!({})).contains("mail address"));
    assert!(refused("amqp:nothing", json!({})).contains("amqp:exchange/routing.key"));
    let own = "http://127.0.0.1:1/";
    assert!(refused(own, json!({"filter": "bdy.a"})).contains("`bdy`"));
    assert!(refused(own, json!({"post_headers": {"host": "x"}})).contains("`host`"));
    assert!(refused(own, json!({"signing_secret": "x"})).contains("whsec_"));
}
