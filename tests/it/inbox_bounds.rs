//! What the inbox and the queue service bear of clients that take their time: bodies that come slowly, answers that nobody
//! reads.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use it::{Broker, Connection, Http, Login, PATIENCE, Program};
use serde_json::json;

const MIB: usize = 1024 * 1024;
const HEAD: &str = "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nContent-Type: application/json\r\n";

fn start(settings: &[&str]) -> Option<Program> {
    let usual = ["inbox.listen=127.0.0.1:0", "inbox.routes=*/* = queue q"];
    let program = Broker::start_own_with("has no inbox", &[&usual, settings].concat())?;
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    connection.channel().declare_durable("q", &[]).unwrap();
    Some(program)
}

/// A request with a payload of so many bytes. All have one id, so that only the first is kept.
fn request(payload_bytes: usize) -> String {
    let body = json!({
        "uuid": "0190d2c8-5d5e-7c6a-9b1f-000000000001", "message_source": "shop",
        "message_type": "orders.placed", "origin_create_time": "2026-11-21T12:00:00Z",
        "payload": "x".repeat(payload_bytes)
    });
    let body = body.to_string();
    format!(
        "POST /inbox/ HTTP/1.1\r\nHost: h\r\n{HEAD}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A sender that holds nearly all memory for bodies: it has sent its request but for this rest.
fn hold_the_memory(address: SocketAddr, request: &str) -> (Http, String) {
    let (most, rest) = request.split_at(request.len() - 10);
    let began = Instant::now();
    while began.elapsed() < 3 * PATIENCE {
        let mut slow = Http::connect(address);
        slow.write(most.as_bytes());
        for _ in 0..10 {
            // Small ones first, so that those that look are seldom faster.
            for _ in 0..10 {
                assert_eq!(post(address, &self::request(1)), 201);
            }
            if post(address, request) == 503 {
                return (slow, rest.to_owned());
            }
        }
        // One of those that looked was faster.
        slow.write(rest.as_bytes());
        assert_eq!(slow.read(true).unwrap().status, 503);
    }
    panic!("nobody is refused");
}

/// The status of a request on a connection of its own.
fn post(address: SocketAddr, request: &str) -> u16 {
    let mut http = Http::connect(address);
    http.write(request.as_bytes());
    let reply = http.read(true).unwrap();
    assert_eq!(reply.header("retry-after"), (reply.status == 503).then_some("1"));
    reply.status
}

#[test]
fn slow_large_bodies_beyond_the_memory_for_them_are_refused_and_small_ones_go_on() {
    let settings =
        ["inbox.message_bytes_max=2MiB", "inbox.body_memory_max=2056KiB", "inbox.body_timeout=10m"];
    let Some(program) = start(&settings) else { return };
    let address = program.inbox.unwrap();
    let large = request(2 * MIB - 100);

    let (mut first, rest) = hold_the_memory(address, &large);
    let mut others: Vec<_> = (0..8).map(|_| Http::connect(address)).collect();
    for other in &mut others {
        other.write(large.split_at(large.len() - 10).0.as_bytes());
    }
    for _ in 0..20 {
        assert_eq!(post(address, &request(100)), 201, "a small one goes on");
    }

    for mut other in others {
        other.write(rest.as_bytes());
        assert_eq!(other.read(true).unwrap().status, 503);
    }
    first.write(rest.as_bytes());
    assert_eq!(first.read(true).unwrap().status, 201);
    assert_eq!(post(address, &large), 201, "there is memory again");
}

/// Sends the same request over and over and reads no answer, until the connection is closed.
fn ask_and_never_listen(address: SocketAddr, request: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(3 * PATIENCE)).unwrap();
    let began = Instant::now();
    let error = loop {
        if let Err(error) = stream.write_all(request.as_bytes()) {
            break error;
        }
        assert!(began.elapsed() < 3 * PATIENCE, "everything is taken");
    };
    let closed = [std::io::ErrorKind::BrokenPipe, std::io::ErrorKind::ConnectionReset];
    assert!(closed.contains(&error.kind()), "not closed: {error}");
}

/// Sends a request until it is taken: on a slow machine its connection may be idle for too long.
fn wait_until_taken(address: SocketAddr, request: &str) {
    let began = Instant::now();
    loop {
        let mut http = Http::connect(address);
        http.write(request.as_bytes());
        if let Some(reply) = http.read(true) {
            assert_eq!(reply.status, 201);
            return;
        }
        assert!(began.elapsed() < PATIENCE, "no answer");
    }
}

#[test]
fn a_sender_that_never_reads_its_answers_is_closed_and_costs_bounded_memory() {
    let Some(program) = start(&["inbox.idle_timeout=1s"]) else { return };
    let request = request(MIB);
    let address = program.inbox.unwrap();
    wait_until_taken(address, &request);
    let before = program.resident_bytes();

    std::thread::scope(|scope| {
        let senders: Vec<_> =
            (0..8).map(|_| scope.spawn(|| ask_and_never_listen(address, &request))).collect();
        while senders.iter().any(|sender| !sender.is_finished()) {
            let more = program.resident_bytes().saturating_sub(before);
            assert!(more < 128 * MIB as u64, "{more} bytes more");
            std::thread::yield_now();
        }
    });

    let began = Instant::now();
    while program.metric("posthouse_inbox_connections") > 0.0 {
        assert!(began.elapsed() < PATIENCE, "they are not gone");
        std::thread::yield_now();
    }
}

/// Posts until there is an answer, as [`wait_until_taken`].
fn post_to_queue(program: &Program, messages: &str) {
    let head = "POST /v2/queues/q/messages HTTP/1.1\r\nHost: h";
    let client = "Client-ID: 3381af92-2b9e-11e3-b191-71861300734c\r\nX-Project-ID: p";
    let length = messages.len();
    let request = format!("{head}\r\n{client}\r\nContent-Length: {length}\r\n\r\n{messages}");
    wait_until_taken(program.queues.unwrap(), &request);
}

#[test]
fn a_client_of_the_queue_service_that_never_reads_its_answers_is_closed_and_costs_bounded_memory() {
    let settings = ["queues.idle_timeout=1s"];
    let Some(program) = Broker::start_own_with("has no queue service", &settings) else { return };
    let message = json!({"messages": [{"ttl": 300, "body": "x".repeat(200_000)}]}).to_string();
    for _ in 0..10 {
        post_to_queue(&program, &message);
    }
    let ask = "GET /v2/queues/q/messages?echo=true HTTP/1.1\r\nHost: h\r\nClient-ID: 3381af92-2b9e-11e3-b191-71861300734c\r\nX-Project-ID: p\r\n\r\n";

    let before = program.resident_bytes();
    std::thread::scope(|scope| {
        let asking =
            scope.spawn(|| ask_and_never_listen(program.queues.unwrap(), &ask.repeat(100)));
        while !asking.is_finished() {
            let more = program.resident_bytes().saturating_sub(before);
            // The answer to each of hundreds of requests would be 2 MiB.
            assert!(more < 128 * MIB as u64, "{more} bytes more");
            std::thread::yield_now();
        }
    });

    assert_eq!(Http::new(&program).get("/v2/queues").status, 200, "others are served");
}
