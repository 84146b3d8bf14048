//! A receiver of webhooks that keeps what it gets and answers as it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::PATIENCE;

/// A receiver on a port of its own, until it is dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    requests: mpsc::Receiver<Webhook>,
}

/// What a receiver got.
#[derive(Debug)]
pub struct Webhook {
    /// When it was all there.
    pub at: Instant,
    /// Its body.
    pub body: Value,
    /// In lower case.
    head: String,
    as_it_came: String,
}

/// How a receiver answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A status, and nothing else.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut head =
            format!("HTTP/1.1 {} X\r\ncontent-length: {}\r\n", self.status, self.body.len());
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("connection: close\r\n\r\n");
        [head.as_bytes(), &self.body].concat()
    }
}

impl Receiver {
    /// Answers each request with the next of some statuses, then 200, each on a connection of its own.
    #[must_use]
    pub fn start(statuses: impl IntoIterator<Item = u16>) -> Self {
        let statuses: Vec<u16> = statuses.into_iter().collect();
        Self::answering(statuses.into_iter().map(Answer::status))
    }

    /// Answers each request with the next of some answers, then 200, each on a connection of its own.
    #[must_use]
    pub fn answering(mut answers: impl Iterator<Item = Answer> + Send + 'static) -> Self {
        Self::heeding(move |_| answers.next().unwrap_or_else(|| Answer::status(200)))
    }

    /// Answers each request with what a function makes of it, each on a connection of its own.
    #[must_use]
    pub fn heeding(mut answer: impl FnMut(&Webhook) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let Some(request) = read(&mut stream) else { continue };
                let answer = answer(&request);
                // First, so that a test that sees what the answer did finds the request counted.
                if sender.send(request).is_err() {
                    return;
                }
                // Whoever was killed does not wait for it.
                drop(stream.write_all(&answer.bytes()));
            }
        });
        Self { address, requests }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What comes next.
    #[must_use]
    pub fn next(&self) -> Webhook {
        self.requests.recv_timeout(3 * PATIENCE).expect("no request came")
    }

    /// What has come and was not asked for yet.
    #[must_use]
    pub fn rest(&self) -> Vec<Webhook> {
        self.requests.try_iter().collect()
    }
}

impl Webhook {
    /// A header, in lower case like its name.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let value = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("{name} is missing: {}", self.head))
    }

    /// A header as it came; the name is in lower case.
    #[must_use]
    pub fn exact_header(&self, name: &str) -> &str {
        let of_name =
            |line: &'_ str| line.split_once(": ").is_some_and(|it| it.0.eq_ignore_ascii_case(name));
        let line = self.as_it_came.lines().find(|line| of_name(line));
        line.and_then(|line| line.split_once(": "))
            .map_or_else(|| panic!("{name} is missing: {}", self.as_it_came), |found| found.1)
    }

    /// The request's first line, in lower case.
    #[must_use]
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

fn read(stream: &mut TcpStream) -> Option<Webhook> {
    let mut bytes = Vec::new();
    loop {
        let mut some = [0; 4096];
        let length = stream.read(&mut some).ok().filter(|length| *length > 0)?;
        bytes.extend_from_slice(&some[..length]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str(body)
        {
            let (as_it_came, head) = (head.to_owned(), head.to_lowercase());
            return Some(Webhook { at: Instant::now(), body, head, as_it_came });
        }
    }
}
