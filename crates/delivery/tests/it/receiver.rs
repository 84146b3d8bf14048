//! A webhook's far end that does what a test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// Request line and headers, in lower case.
    pub(crate) head: String,
    /// Body.
    pub(crate) body: Vec<u8>,
    /// Which connection it came over, from zero.
    pub(crate) connection: usize,
    /// When it was complete.
    pub(crate) at: Instant,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// What it answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Nothing, for ever.
    Hang,
    /// The connection ends.
    Close,
    /// Bytes without end, after these.
    Endless(Vec<u8>),
}

pub(crate) fn status(code: u16) -> Answer {
    Answer::Bytes(format!("HTTP/1.1 {code} X\r\ncontent-length: 2\r\n\r\nok").into_bytes())
}

#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    /// Answers each request by what `answer` says to its place, from zero.
    pub(crate) async fn start(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&received), Arc::new(answer));
        tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, connection, Arc::clone(&log), Arc::clone(&answer)));
                connection += 1;
            }
        });
        Self { address, received }
    }

    /// How many requests there are.
    pub(crate) fn count(&self) -> usize {
        self.received.lock().unwrap().len()
    }

    /// All requests, which are forgotten.
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().unwrap())
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

async fn serve<F: Fn(usize) -> Answer>(
    mut stream: TcpStream,
    connection: usize,
    log: Arc<Mutex<Vec<Received>>>,
    answer: Arc<F>,
) {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = request(&mut stream, &mut buffer, connection).await else { return };
        let place = {
            let mut log = log.lock().unwrap();
            log.push(request);
            log.len() - 1
        };
        match answer(place) {
            Answer::Bytes(bytes) => stream.write_all(&bytes).await.unwrap(),
            Answer::Hang => std::future::pending().await,
            Answer::Close => return,
            Answer::Endless(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
                return;
            }
        }
    }
}

async fn request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    connection: usize,
) -> Option<Received> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let (line, headers) = head.split_once("\r\n").unwrap();
            let lower: Vec<String> = headers
                .split("\r\n")
                .map(|header| header.split_once(": ").unwrap())
                .map(|(name, value)| format!("{}: {value}", name.to_lowercase()))
                .collect();
            let head = format!("{line}\n{}", lower.join("\n"));
            let length: usize = lower
                .iter()
                .find_map(|header| header.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Some(Received { head, body, connection, at: Instant::now() });
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
