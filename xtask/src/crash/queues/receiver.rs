//! The webhook of the rig: answers most requests with 200 and writes down what came with them.
//!
//! Some are refused and some connections end without an answer, so that a kill also meets messages that wait for another
//! attempt. What was not answered with 200 does not count as notified: it must come again.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::record::{Record, guard};

/// Longest request that is believed.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Of so many requests one is refused.
const REFUSED_EVERY: u64 = 17;

/// Of so many requests one is not answered.
const UNANSWERED_EVERY: u64 = 29;

/// A listener; ends with its value.
#[derive(Debug)]
pub(super) struct Receiver {
    /// Where it listens on the loopback.
    pub(super) port: u16,
    ended: Arc<AtomicBool>,
}

impl Receiver {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub(super) fn listen(record: &Arc<Mutex<Record>>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let ended = Arc::new(AtomicBool::new(false));
        let (record, end) = (Arc::clone(record), Arc::clone(&ended));
        let requests = Arc::new(AtomicU64::new(0));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (record, requests) = (Arc::clone(&record), Arc::clone(&requests));
                std::thread::spawn(move || drop(answer(stream, &record, &requests)));
            }
        });
        Ok(Self { port, ended })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))));
    }
}

/// Answers the requests of one connection until it ends.
fn answer(
    mut stream: TcpStream,
    record: &Mutex<Record>,
    requests: &AtomicU64,
) -> anyhow::Result<()> {
    let mut data = Vec::new();
    let mut chunk = [0; 16_384];
    loop {
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0 && data.len() < REQUEST_BYTES_MAX, "the end");
        data.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let Some(end) = data.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head =
            String::from_utf8_lossy(data.get(..end).unwrap_or_default()).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|value| value.trim().parse::<usize>().ok())
            .context("no length")?;
        let Some(body) = data.get(end + 4..end + 4 + length) else { continue };
        let notification: Value = serde_json::from_slice(body)?;
        let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(!number.is_multiple_of(UNANSWERED_EVERY), "no answer");
        if number.is_multiple_of(REFUSED_EVERY) {
            stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")?;
        } else {
            // Written down before it is answered: what was answered is not sent again.
            if let Some(body) = notification.get("body") {
                guard(record).notified(body);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        }
        data.drain(..end + 4 + length);
    }
}
