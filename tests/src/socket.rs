//! A WebSocket client of the queue service, for tests that are allowed to misbehave.

use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use crate::{PATIENCE, Program};

/// The client that requests come from.
const CLIENT: &str = "3381af92-2b9e-11e3-b191-71861300734c";

/// A WebSocket to the program.
#[derive(Debug)]
pub struct Socket {
    /// What the tests may do wrong things with.
    pub inner: WebSocket<TcpStream>,
}

impl Socket {
    /// Connects.
    ///
    /// # Panics
    ///
    /// If it may not.
    #[must_use]
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (inner, _) = tungstenite::client(format!("ws://{address}/"), stream).unwrap();
        Self { inner }
    }

    /// Connects to the program's listener for HTTP.
    #[must_use]
    pub fn of(program: &Program) -> Self {
        Self::open(program.queues.unwrap())
    }

    /// Sends a request as text.
    pub fn send(&mut self, request: &Value) {
        self.inner.send(Message::text(request.to_string())).unwrap();
    }

    /// The next message that is no ping.
    pub fn next_message(&mut self) -> Message {
        loop {
            match self.inner.read().unwrap() {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    /// The next message, which is text.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub fn next_json(&mut self) -> Value {
        match self.next_message() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("not a text: {other:?}"),
        }
    }

    /// Asks and returns status and body of the answer.
    pub fn ask(&mut self, action: &str, body: Value) -> (u64, Value) {
        self.send(&request(action, body));
        let answer = self.next_json();
        assert_eq!(answer["request"]["action"], action);
        (answer["headers"]["status"].as_u64().unwrap(), answer["body"].clone())
    }

    /// Reads until the server says goodbye; the code.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[must_use]
    pub fn closed_with(mut self) -> CloseCode {
        // It may be due only when something is over.
        self.inner.get_ref().set_read_timeout(Some(3 * PATIENCE)).unwrap();
        loop {
            match self.inner.read() {
                Ok(Message::Close(Some(frame))) => return frame.code,
                Ok(_) => {}
                Err(error) => panic!("no goodbye: {error}"),
            }
        }
    }
}

/// A request of project `p`.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "it is made on the spot")]
pub fn request(action: &str, body: Value) -> Value {
    json!({ "action": action, "headers": { "Client-ID": CLIENT, "X-Project-ID": "p" }, "body": body })
}
