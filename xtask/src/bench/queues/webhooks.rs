//! A thousand webhook subscriptions of one queue, with none and with half of the endpoints hanging.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::Own;
use super::services::{Running, Services};

/// The healthy endpoints' 99th percentile may grow so many times when the others hang.
const RATIO_MAX: f64 = 2.0;

/// Between two posts: deliveries of one are over before the next.
const BETWEEN_POSTS: Duration = Duration::from_millis(500);

/// Posts that do not count: connections are made and every endpoint shows what it is.
const WARM_POSTS: u32 = 3;

/// Posts that count: for long enough that attempts to reach the hanging ones end (15 s) and are repeated.
const POSTS: u32 = 40;

/// Both are measured so often, in turn. The better figure of each counts: what else the machine does only adds.
const ROUNDS: usize = 3;

/// Endpoints of one listener: fewer than connections that the system lets wait to be accepted (128). Out there each has a
/// listener of its own.
const ENDPOINTS_PER_LISTENER: u32 = 25;

/// How long the last delivery may take before the run is given up.
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

/// Settings with which the address guard lets deliveries reach the loopback of this machine.
const SETTINGS: [&str; 2] = ["delivery.allow=[\"127.0.0.0/8\"]", "delivery.ports=[\"1024-65535\"]"];

/// Stack of a thread that answers one connection.
const STACK_BYTES: usize = 128 << 10;

/// Measures both and divides.
///
/// # Errors
///
/// If a request fails or a delivery does not come.
pub(super) fn measure(services: &Services, quick: bool) -> anyhow::Result<Vec<Own>> {
    let (half, posts, rounds) = if quick { (50, 5, 1) } else { (500, POSTS, ROUNDS) };
    let (mut alone, mut beside) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..rounds {
        let none_hanging = healthy(services, half, 0, posts)?;
        let half_hanging = healthy(services, half, half, posts)?;
        println!("  none hanging: {none_hanging:.1} ms, half hanging: {half_hanging:.1} ms");
        (alone, beside) = (alone.min(none_hanging), beside.min(half_hanging));
    }
    let what = |text: &str| format!("webhooks: p99 of {half} healthy endpoints, {text}");
    Ok(vec![
        Own { what: what("alone"), value: alone, unit: "ms", limit: f64::INFINITY },
        Own { what: what("as many hanging"), value: beside, unit: "ms", limit: f64::INFINITY },
        Own { what: what("ratio"), value: beside / alone, unit: "×", limit: RATIO_MAX },
    ])
}

/// The 99th percentile of the time from a post to its arrival at a healthy endpoint, in milliseconds.
fn healthy(services: &Services, healthy: u32, hanging: u32, posts: u32) -> anyhow::Result<f64> {
    let running = services.start_ours(&SETTINGS)?;
    let (sender, arrivals) = channel();
    let good = endpoints(healthy, Some(&sender))?;
    let bad = endpoints(hanging, None)?;
    subscribe(&running, &good, "good", healthy)?;
    subscribe(&running, &bad, "bad", hanging)?;
    let mut connection = running.connect();
    let mut took = Vec::new();
    for number in 0..WARM_POSTS + posts {
        let began = Instant::now();
        let body = json!({ "messages": [{ "ttl": 600, "body": "x".repeat(1000) }] });
        connection.expect(201, "POST", "/v2/queues/hooks/messages", &body)?;
        let arrived = gather(&arrivals, healthy, began)?;
        if number >= WARM_POSTS {
            took.extend(arrived);
        }
        std::thread::sleep(BETWEEN_POSTS.saturating_sub(began.elapsed()));
    }
    took.sort_by(f64::total_cmp);
    took.get(took.len() * 99 / 100).copied().context("no delivery")
}

fn gather(arrivals: &Receiver<Instant>, count: u32, began: Instant) -> anyhow::Result<Vec<f64>> {
    let mut took = Vec::new();
    for number in 0..count {
        let left = DELIVERED_WITHIN.saturating_sub(began.elapsed());
        let at = arrivals
            .recv_timeout(left)
            .with_context(|| format!("{number} of {count} deliveries came"))?;
        took.push(at.saturating_duration_since(began).as_secs_f64() * 1e3);
    }
    Ok(took)
}

/// Every subscriber is a host of its own, as they are out there.
fn subscribe(
    running: &Running,
    endpoints: &[Endpoint],
    kind: &str,
    count: u32,
) -> anyhow::Result<()> {
    let mut connection = running.connect();
    let kind_octet = if kind == "good" { 1 } else { 2 };
    for (number, endpoint) in (0..count).zip(endpoints.iter().cycle()) {
        let host = format!("127.{kind_octet}.{}.{}", number / 250, number % 250 + 1);
        let subscriber = format!("http://{host}:{}/{kind}", endpoint.port);
        let body = json!({ "subscriber": subscriber, "ttl": 43_200 });
        connection.expect(201, "POST", "/v2/queues/hooks/subscriptions", &body)?;
    }
    Ok(())
}

/// Listeners for so many endpoints.
fn endpoints(count: u32, arrivals: Option<&Sender<Instant>>) -> anyhow::Result<Vec<Endpoint>> {
    let listeners = count.div_ceil(ENDPOINTS_PER_LISTENER);
    (0..listeners).map(|_| Endpoint::listen(arrivals.cloned())).collect()
}

/// A listener on all addresses of the loopback.
#[derive(Debug)]
struct Endpoint {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Endpoint {
    /// Starts one that answers and tells of each request, or, without somebody to tell, one that never answers.
    fn listen(arrivals: Option<Sender<Instant>>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("0.0.0.0:0")?;
        let port = listener.local_addr()?.port();
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        std::thread::spawn(move || {
            let mut hung = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                match &arrivals {
                    Some(arrivals) => {
                        let arrivals = arrivals.clone();
                        let answer = move || drop(answer(stream, &arrivals));
                        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                        if thread.spawn(answer).is_err() {
                            return;
                        }
                    }
                    None => hung.push(stream),
                }
            }
        });
        Ok(Self { port, ended })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))));
    }
}

/// Answers the requests of one connection.
fn answer(mut stream: TcpStream, arrivals: &Sender<Instant>) -> anyhow::Result<()> {
    let mut data = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0, "closed");
        data.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let Some(end) = data.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head =
            String::from_utf8_lossy(data.get(..end).unwrap_or_default()).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|value| value.trim().parse::<usize>().ok())
            .context("no length")?;
        if data.len() < end + 4 + length {
            continue;
        }
        arrivals.send(Instant::now())?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        data.clear();
    }
}
