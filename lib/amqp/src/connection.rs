//! One end of a connection: takes bytes, gives events, appends answers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    capabilities::Capabilities,
    error::{Close, ReplyCode},
    event::Event,
    options::{ClientOptions, ServerOptions},
};

/// One end of an AMQP connection without its socket and without its clock.
#[derive(Debug)]
pub struct Connection {
    options: Arc<ServerOptions>,
}

#[expect(unused_variables, missing_docs, reason = "signatures first")]
impl Connection {
    pub fn server(options: Arc<ServerOptions>, now: Instant) -> Self {
        Self { options }
    }
    pub fn client(options: ClientOptions, now: Instant, out: &mut Vec<u8>) -> Self {
        Self { options: Arc::default() }
    }
    pub fn handle_bytes<'a>(
        &mut self,
        now: Instant,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        None
    }
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Event<'static>> {
        None
    }
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// The caller wrote bytes to the socket.
    pub fn sent(&mut self, now: Instant) {}
    /// The caller stops reading for a while (alarm): silence is then no failure.
    pub fn pause_reading(&mut self) {}
    pub fn resume_reading(&mut self, now: Instant) {}
    /// Server: after Authenticate/SecureResponse; writes Tune.
    pub fn authenticated(&mut self, out: &mut Vec<u8>) {}
    pub fn challenge(&mut self, challenge: &[u8], out: &mut Vec<u8>) {}
    /// Server: 403 close with that text if the client has authentication_failure_close, else socket only.
    pub fn refuse(&mut self, text: &str, out: &mut Vec<u8>) -> Close {
        Close::SocketOnly
    }
    /// No further frame in either direction: for a malformed login.
    pub fn abort(&mut self) {}
    /// Server: after Open; writes open-ok.
    pub fn opened(&mut self, out: &mut Vec<u8>) {}
    /// Client: after Challenge; writes secure-ok.
    pub fn respond(&mut self, response: &[u8], out: &mut Vec<u8>) {}
    /// Client: writes channel.open.
    pub fn open_channel(&mut self, channel: u16, out: &mut Vec<u8>) {}
    /// Writes connection.close; `NAME - ` is put in front of the text if it is not there.
    pub fn close(
        &mut self,
        code: ReplyCode,
        text: &str,
        class_method: (u16, u16),
        out: &mut Vec<u8>,
    ) {
    }
    pub fn close_channel(
        &mut self,
        channel: u16,
        code: ReplyCode,
        text: &str,
        class_method: (u16, u16),
        out: &mut Vec<u8>,
    ) {
    }
    pub fn is_open(&self) -> bool {
        false
    }
    /// Nothing more will come or go: close the socket.
    pub fn is_finished(&self) -> bool {
        false
    }
    pub fn is_channel_open(&self, channel: u16) -> bool {
        false
    }
    pub fn frame_max(&self) -> u32 {
        0
    }
    pub fn channel_max(&self) -> u16 {
        0
    }
    pub fn heartbeat(&self) -> Option<Duration> {
        None
    }
    pub fn peer_capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
}
