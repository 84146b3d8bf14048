//! What one message costs: taking a publish apart, and putting a delivery together.
//!
//! `cargo bench -p posthouse-amqp` prints nanoseconds per message. With arguments it
//! runs one case so many times: `valgrind --tool=callgrind <binary> decode 100000` counts instructions.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program to look at, whose input is its own"
)]

use std::{hint::black_box, sync::Arc, time::Instant};

use posthouse_amqp::{
    Connection,
    encode::{encode_body, encode_content_header, encode_deliver},
    event::Event,
    frame::PROTOCOL_HEADER,
    method::{
        BasicPublish, ChannelOpen, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method,
    },
    options::ServerOptions,
    properties::Peek,
};

/// Messages in one read of a socket.
const BATCH: usize = 500;
const MESSAGES: usize = 10_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let only = arguments.next();
    let messages = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(MESSAGES);
    for (name, run) in [("decode", decode as fn(usize, usize)), ("encode", encode)] {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        for size in [16, 1024] {
            let start = Instant::now();
            run(size, messages);
            let nanos = start.elapsed().as_secs_f64() * 1e9 / messages as f64;
            println!("{name} {size:>5} B  {nanos:.1} ns per message");
        }
    }
}

/// A batch of publishes, each of three frames.
fn published(size: usize) -> Vec<u8> {
    let mut batch = Vec::new();
    for _ in 0..BATCH {
        let publish = BasicPublish { exchange: "", routing_key: "orders", ..Default::default() };
        Method::from(publish).encode(1, &mut batch).expect("short");
        encode_content_header(&mut batch, 1, size as u64, &[0x10, 0, 2]);
        encode_body(&mut batch, 1, &vec![7; size], 131_072);
    }
    batch
}

fn decode(size: usize, messages: usize) {
    let mut connection = open();
    let (batch, mut out, now) = (published(size), Vec::new(), Instant::now());
    let mut octets = 0;
    for _ in 0..messages / BATCH {
        let mut input = &black_box(&batch)[..];
        while let Some(event) = connection.handle_bytes(now, &mut input, &mut out) {
            let Event::Publish { publish, content, .. } = event else { unreachable!() };
            let peek = Peek::decode(&content.properties).expect("whole");
            octets += publish.routing_key.len() + content.body.len();
            octets += usize::from(peek.is_persistent());
        }
    }
    black_box(octets);
}

fn encode(size: usize, messages: usize) {
    let (body, mut out) = (vec![7; size], Vec::with_capacity(1024 * 1024));
    for _ in 0..messages / BATCH {
        out.clear();
        for tag in 0..BATCH as u64 {
            let (consumer, key) =
                (black_box("amq.ctag-0123456789012345678901"), black_box("orders"));
            encode_deliver(&mut out, 1, consumer, tag, false, "", key).expect("short");
            encode_content_header(&mut out, 1, body.len() as u64, black_box(&[0x10, 0, 2]));
            encode_body(&mut out, 1, black_box(&body), 131_072);
        }
        black_box(&out);
    }
}

/// A server with channel 1 open.
fn open() -> Connection {
    let (now, mut out) = (Instant::now(), Vec::new());
    let mut connection = Connection::server(Arc::new(ServerOptions::default()), now);
    let mut input = PROTOCOL_HEADER.to_vec();
    let methods: [(u16, Method<'_>); 4] = [
        (0, ConnectionStartOk { mechanism: "PLAIN", ..Default::default() }.into()),
        (0, ConnectionTuneOk { channel_max: 9, frame_max: 131_072, heartbeat: 0 }.into()),
        (0, ConnectionOpen { virtual_host: "/" }.into()),
        (1, ChannelOpen {}.into()),
    ];
    for (channel, method) in methods {
        method.encode(channel, &mut input).expect("short");
    }
    let mut rest = &input[..];
    while let Some(event) = connection.handle_bytes(now, &mut rest, &mut out) {
        match event {
            Event::Authenticate { .. } => connection.authenticated(&mut out),
            Event::Open { .. } => connection.opened(&mut out),
            _ => {}
        }
    }
    assert!(connection.is_channel_open(1));
    connection
}
