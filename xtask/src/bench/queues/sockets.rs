//! Subscribers on WebSockets: what ten thousand cost that wait, and how soon one post reaches a thousand.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::Own;
use super::services::{CLIENT, PATIENCE, PROJECT, Running, Service, Services};
use crate::bench::tool::median;
use crate::install;
use crate::websocket::Socket;

/// Memory that a subscriber who waits may take.
const IDLE_KIB_MAX: f64 = 20.0;

/// Time in which one post must have reached all sockets.
const REACH_MS_MAX: f64 = 50.0;

/// How long a service takes until its memory is what it needs when idle.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

/// Open files that the largest row needs on either side.
const FILES: u32 = 16_384;

/// Connects subscribers that get nothing, and divides the memory they take.
///
/// # Errors
///
/// If a connection fails.
pub(super) fn idle(services: &Services, quick: bool) -> anyhow::Result<Vec<Own>> {
    let count: u32 = if quick { 1_000 } else { 10_000 };
    let running = services.start(Service::Ours)?;
    let warm = subscribe(&running, "warm", 10)?;
    std::thread::sleep(SETTLES_WITHIN);
    let before = running.rss_kib()?;
    let sockets = subscribe(&running, "idle", count)?;
    std::thread::sleep(SETTLES_WITHIN);
    let each = (running.rss_kib()? - before) / f64::from(count);
    drop((warm, sockets));
    println!("  {each:.1} KiB each");
    let what = format!("RSS of each of {count} idle WebSocket subscribers");
    Ok(vec![Own { what, value: each, unit: "KiB", limit: IDLE_KIB_MAX }])
}

/// Posts one message after the other, each once the one before has reached every socket.
///
/// # Errors
///
/// If a connection fails or a message does not come.
pub(super) fn reach(services: &Services, quick: bool) -> anyhow::Result<Vec<Own>> {
    let count: u32 = if quick { 100 } else { 1_000 };
    let running = services.start(Service::Ours)?;
    let mut sockets = subscribe(&running, "reach", count)?;
    let mut connection = running.connect();
    let mut took = Vec::new();
    for number in 0..20 {
        let body =
            json!({ "messages": [{ "ttl": 60, "body": { "n": number, "x": "x".repeat(1000) } }] });
        let began = Instant::now();
        connection.expect(201, "POST", "/v2/queues/reach/messages", &body)?;
        // One after the other: who was reached before his turn costs one read.
        let received = sockets.iter_mut().map(Socket::receive_text);
        let received = received.collect::<anyhow::Result<Vec<_>>>()?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
        for text in received {
            let pushed: Value = serde_json::from_slice(&text)?;
            ensure!(pushed.pointer("/body/n") == Some(&json!(number)), "pushed was {pushed}");
        }
    }
    let middle = median(&took).context("no post")?;
    println!("  {middle:.1} ms");
    let what = format!("from a post to the last of {count} sockets, p50");
    Ok(vec![Own { what, value: middle, unit: "ms", limit: REACH_MS_MAX }])
}

fn subscribe(running: &Running, queue: &str, count: u32) -> anyhow::Result<Vec<Socket>> {
    for pid in [std::process::id(), running.pid] {
        let mut prlimit = std::process::Command::new("prlimit");
        install::run(prlimit.args([
            "--pid",
            &pid.to_string(),
            &format!("--nofile={FILES}:{FILES}"),
        ]))?;
    }
    let headers = json!({ "Client-ID": CLIENT, "X-Project-ID": PROJECT });
    let body = json!({ "queue_name": queue, "ttl": 43_200 });
    let request = json!({ "action": "subscription_create", "headers": headers, "body": body });
    let mut sockets = Vec::new();
    for _ in 0..count {
        let mut socket = Socket::connect(running.address, PATIENCE)?;
        socket.send(&request)?;
        sockets.push(socket);
    }
    for socket in &mut sockets {
        let answer: Value = socket.receive()?;
        ensure!(answer.pointer("/headers/status") == Some(&json!(201)), "answered was {answer}");
    }
    Ok(sockets)
}
