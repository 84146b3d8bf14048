//! An HTTP/1.1 client that hides nothing: one connection, requests written as they are, answers in full.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value as Json;

use crate::{PATIENCE, Program};

/// The client id of [`Http::new`], and one of somebody else.
pub const CLIENT: &str = "3381af92-2b9e-11e3-b191-71861300734c";
/// Another client.
pub const OTHER_CLIENT: &str = "30387f00-39a0-11e2-be4b-a8d15f34bae2";

/// A connection to the queue service, for one client of one project.
#[derive(Debug)]
pub struct Http {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
    /// Sent with every request.
    pub headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Http {
    /// Connects to a program's queue service, as [`CLIENT`] in the project `p`.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn new(program: &Program) -> Self {
        Self::connect(program.queues.expect("a queue service"))
    }

    /// Connects to an address, as [`CLIENT`] in the project `p`.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        let headers = [("Client-ID", CLIENT), ("X-Project-Id", "p")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { stream: BufReader::new(stream), address, headers }
    }

    /// A further connection with the same headers.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { headers: self.headers.clone(), ..Self::connect(self.address) }
    }

    /// The same with a header set; an empty value takes it away.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        if !value.is_empty() {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// GET.
    pub fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, None)
    }

    /// DELETE.
    pub fn delete(&mut self, path: &str) -> Reply {
        self.send("DELETE", path, None)
    }

    /// PUT with a body; an empty one is none.
    pub fn put(&mut self, path: &str, body: &str) -> Reply {
        self.send("PUT", path, (!body.is_empty()).then_some(body))
    }

    /// POST with a body; an empty one is none.
    pub fn post(&mut self, path: &str, body: &str) -> Reply {
        self.send("POST", path, (!body.is_empty()).then_some(body))
    }

    /// PATCH with a body.
    pub fn patch(&mut self, path: &str, body: &str) -> Reply {
        self.send("PATCH", path, Some(body))
    }

    /// Sends a request and reads its answer.
    pub fn send(&mut self, method: &str, path: &str, body: Option<&str>) -> Reply {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: here\r\n");
        for (name, value) in &self.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        } else {
            request.push_str("\r\n");
        }
        self.write(request.as_bytes());
        self.read(method != "HEAD").expect("an answer")
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        // Who was refused early may not read it all; the answer says why.
        drop(self.stream.get_mut().write_all(bytes));
    }

    /// Reads one answer; `None` if the connection ends instead.
    pub fn read(&mut self, with_body: bool) -> Option<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        let length = reply.header("content-length").and_then(|length| length.parse().ok());
        reply.body.resize(length.filter(|_| with_body).unwrap_or(0), 0);
        self.stream.read_exact(&mut reply.body).ok()?;
        Some(reply)
    }
}

impl Reply {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The status, and the description of a refusal or nothing.
    #[must_use]
    pub fn refusal(&self) -> (u16, String) {
        let text = self.json()["description"].as_str().unwrap_or_default().to_owned();
        (self.status, text)
    }
}
