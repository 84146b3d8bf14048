//! A connection under test with a clock that only the test moves, and the bytes to feed it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use posthouse_amqp::{
    Connection,
    capabilities::Capabilities,
    error::{Close, ReplyCode},
    event::Event,
    frame::{FRAME_END, FrameHead, PROTOCOL_HEADER},
    method::{
        ChannelOpen, ConnectionClose, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk, Method,
    },
    options::ServerOptions,
    raw_table::RawTable,
    table::Table,
};

pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) out: Vec<u8>,
    pub(crate) now: Instant,
}

/// A frame of any kind, right or wrong.
pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).expect("short");
    let mut bytes = FrameHead { kind, channel, size }.encode().to_vec();
    bytes.extend_from_slice(payload);
    bytes.push(FRAME_END);
    bytes
}

pub(crate) fn method<'m>(channel: u16, method: impl Into<Method<'m>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    method.into().encode(channel, &mut bytes).expect("encodes");
    bytes
}

pub(crate) fn header(channel: u16, class_id: u16, body_len: u64, properties: &[u8]) -> Vec<u8> {
    let mut payload = class_id.to_be_bytes().to_vec();
    payload.extend_from_slice(&[0, 0]);
    payload.extend_from_slice(&body_len.to_be_bytes());
    payload.extend_from_slice(properties);
    frame(2, channel, &payload)
}

pub(crate) fn body(channel: u16, octets: &[u8]) -> Vec<u8> {
    frame(3, channel, octets)
}

pub(crate) fn close_frame(code: ReplyCode, reply_text: &str, class_method: (u16, u16)) -> Vec<u8> {
    let (class_id, method_id) = class_method;
    method(0, ConnectionClose { reply_code: code.number(), reply_text, class_id, method_id })
}

pub(crate) fn start_ok(capabilities: Capabilities) -> Vec<u8> {
    let properties = Table::from_iter([("capabilities", capabilities.to_table())]);
    let properties = properties.to_entries().expect("encodes");
    let start_ok = ConnectionStartOk {
        client_properties: RawTable::from_bytes(&properties),
        mechanism: "PLAIN",
        response: b"\0guest\0guest",
        locale: "xx_XX",
    };
    method(0, start_ok)
}

impl Peer {
    /// A server that has seen nothing yet.
    pub(crate) fn fresh(options: ServerOptions) -> Self {
        let now = Instant::now();
        Self { connection: Connection::server(Arc::new(options), now), out: Vec::new(), now }
    }

    /// A server that waits for `tune-ok`.
    pub(crate) fn tuning(options: ServerOptions) -> Self {
        let mut peer = Self::fresh(options);
        peer.feed(PROTOCOL_HEADER);
        peer.feed(&start_ok(Capabilities::CLIENT));
        peer.connection.authenticated(&mut peer.out);
        peer.take();
        peer
    }

    /// A server with an open virtual host and these limits agreed.
    pub(crate) fn tuned(options: ServerOptions, tune: ConnectionTuneOk) -> Self {
        let mut peer = Self::tuning(options);
        peer.feed(&method(0, tune));
        peer.feed(&method(0, ConnectionOpen { virtual_host: "/" }));
        peer.connection.opened(&mut peer.out);
        peer.take();
        assert!(peer.connection.is_open());
        peer
    }

    /// A server with channel 1 open, a frame limit of 4096 and two channels at most.
    pub(crate) fn open() -> Self {
        Self::open_with(ServerOptions::default())
    }

    pub(crate) fn open_with(options: ServerOptions) -> Self {
        let tune = ConnectionTuneOk { channel_max: 2, frame_max: 4096, heartbeat: 0 };
        let mut peer = Self::tuned(options, tune);
        assert_eq!(peer.feed(&method(1, ChannelOpen {})), [Event::ChannelOpened(1)]);
        peer.take();
        peer
    }

    /// All events of `input`; what no event needed must be an unfinished frame.
    pub(crate) fn feed<'a>(&mut self, input: &'a [u8]) -> Vec<Event<'a>> {
        self.feed_some(input).0
    }

    /// All events of `input`, and what is left of it.
    pub(crate) fn feed_some<'a>(&mut self, mut input: &'a [u8]) -> (Vec<Event<'a>>, &'a [u8]) {
        let mut events = Vec::new();
        while let Some(event) = self.connection.handle_bytes(self.now, &mut input, &mut self.out) {
            events.push(event);
        }
        (events, input)
    }

    /// What was written since the last time.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    pub(crate) fn pass(&mut self, time: Duration) -> Option<Event<'static>> {
        self.now += time;
        self.connection.handle_timeout(self.now, &mut self.out)
    }

    /// Feeds what must end the connection with a frame.
    pub(crate) fn check_close(
        &mut self,
        input: &[u8],
        code: ReplyCode,
        text: &str,
        id: (u16, u16),
    ) {
        let events = self.feed(input);
        let [Event::Failed(failure)] = events.as_slice() else {
            panic!("not one failure: {events:?}");
        };
        assert_eq!(failure.text, text);
        assert_eq!((failure.code, failure.class_id, failure.method_id), (code, id.0, id.1));
        assert_eq!(failure.close, Close::WithFrame);
        assert_eq!(self.take(), close_frame(code, text, id));
    }

    /// Feeds what must end the connection without a frame.
    pub(crate) fn check_drop(&mut self, input: &[u8]) {
        let events = self.feed(input);
        let [Event::Failed(failure)] = events.as_slice() else {
            panic!("not one failure: {events:?}");
        };
        assert_eq!(failure.close, Close::SocketOnly);
        assert_eq!(self.take(), b"");
        assert!(self.connection.is_finished());
        assert_eq!(self.connection.poll_timeout(), None);
    }
}
