//! One end of a connection: takes bytes, gives events, appends answers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    capabilities::Capabilities,
    channel::{Channels, State},
    content::{Frame, Split, split_frame},
    error::{Close, Failure, ReplyCode, short_text},
    event::Event,
    frame::{FRAME_MIN_SIZE, FRAME_OVERHEAD_BYTES, HEARTBEAT, PROTOCOL_HEADER, payload_max},
    method::{ChannelOpen, ConnectionClose, ConnectionCloseOk, ConnectionOpenOk, Method},
    options::{ClientOptions, MESSAGE_BYTES_CEILING, ServerOptions},
    snippet,
    timers::Timers,
};

/// How long a peer has to answer `connection.close`, or to close the socket after our `close-ok`.
pub const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// One end of an AMQP connection without its socket and without its clock.
///
/// The owner reads bytes and hands them to [`Connection::handle_bytes`] until that gives `None`, writes whatever was
/// appended to the output, tells [`Connection::sent`], and calls [`Connection::handle_timeout`] at
/// [`Connection::poll_timeout`]. Events that need a decision are answered by a command such as
/// [`Connection::authenticated`]; a command in the wrong phase (the handshake ran out of time meanwhile) does nothing.
#[derive(Debug)]
pub struct Connection {
    pub(crate) phase: Phase,
    pub(crate) payload_max: u32,
    pub(crate) message_bytes_max: u64,
    pub(crate) channels: Channels,
    pub(crate) side: Side,
    pub(crate) timers: Timers,
    pub(crate) channel_max: u16,
    pub(crate) peer: Capabilities,
}

/// Which end this is.
#[derive(Debug)]
pub(crate) enum Side {
    Server(Arc<ServerOptions>),
    /// The options are dropped when the handshake is over.
    Client(Option<Box<ClientOptions>>),
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Server: waits for the protocol header.
    Header,
    /// Server: waits for `start-ok`.
    StartOk,
    /// Server: the owner checks a login.
    Login,
    /// Server: waits for `secure-ok`.
    SecureOk,
    /// Server: waits for `tune-ok`.
    TuneOk,
    /// Server: waits for `open`.
    Open,
    /// Server: the owner opens the virtual host.
    VirtualHost,
    /// Client: waits for `start`.
    Start,
    /// Client: waits for `tune`, or `secure`.
    Tune,
    /// Client: waits for `open-ok`.
    OpenOk,
    /// Channels may be opened.
    Running,
    /// `close` is sent, not answered.
    Closing,
    /// Nothing the peer sends counts any more, but it may close the socket itself.
    Draining,
    /// The socket is to be closed.
    Finished,
}

impl Connection {
    /// The end that was connected to. Waits for the protocol header.
    #[must_use]
    pub fn server(options: Arc<ServerOptions>, now: Instant) -> Self {
        Self {
            phase: Phase::Header,
            payload_max: payload_max(FRAME_MIN_SIZE),
            message_bytes_max: options.message_bytes_max.min(MESSAGE_BYTES_CEILING),
            channels: Channels::default(),
            timers: Timers::new(now, options.handshake_deadline),
            side: Side::Server(options),
            channel_max: 0,
            peer: Capabilities::default(),
        }
    }

    /// The end that connects. Writes the protocol header.
    #[must_use]
    pub fn client(options: ClientOptions, now: Instant, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(PROTOCOL_HEADER);
        Self {
            phase: Phase::Start,
            // A server's introduction may be longer than the smallest frame.
            payload_max: payload_max(options.frame_max),
            message_bytes_max: options.message_bytes_max.min(MESSAGE_BYTES_CEILING),
            channels: Channels::default(),
            timers: Timers::new(now, options.handshake_deadline),
            side: Side::Client(Some(Box::new(options))),
            channel_max: 0,
            peer: Capabilities::default(),
        }
    }

    /// Takes one event out of `input`, which then begins behind it; answers go to `out`.
    ///
    /// `None` means that `input` has no whole frame left, or that the owner has to decide first
    /// ([`Event::Authenticate`], [`Event::Open`]). Keep what is left (less than [`Connection::frame_max`] in the first
    /// case) and present it again with more bytes behind it. Errors of the peer are an event, too:
    /// [`Event::Failed`].
    #[inline]
    pub fn handle_bytes<'a>(
        &mut self,
        now: Instant,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        if input.is_empty() {
            return None;
        }
        self.timers.received(now);
        loop {
            if self.phase != Phase::Running
                && let Some(result) = self.handle_before_frame(input, out)
            {
                return result;
            }
            let (frame, rest) = match split_frame(input, self.payload_max) {
                Split::Frame(frame, rest) => (frame, rest),
                Split::Partial => return None,
                broken => return Some(self.fail_split(&broken, input, out)),
            };
            *input = rest;
            let event = if self.phase == Phase::Running {
                self.handle_open_frame(frame, input, out)
            } else {
                self.handle_other_phase(frame, out)
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// What has become due: a heartbeat in `out`, or the end of the connection as an event.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Event<'static>> {
        self.timers.passed(now);
        match self.phase {
            Phase::Finished => None,
            Phase::Running => self.handle_heartbeat(now, out),
            Phase::Closing | Phase::Draining => {
                self.timers.deadline_has_passed(now).then(|| self.finish())
            }
            Phase::Header
            | Phase::StartOk
            | Phase::Login
            | Phase::SecureOk
            | Phase::TuneOk
            | Phase::Open
            | Phase::VirtualHost
            | Phase::Start
            | Phase::Tune
            | Phase::OpenOk => self.timers.deadline_has_passed(now).then(|| {
                self.fail(ReplyCode::ResourceError, "handshake took too long", (0, 0), out)
            }),
        }
    }

    /// The owner wrote bytes to the socket: the next heartbeat can wait.
    #[inline]
    pub const fn sent(&mut self, now: Instant) {
        self.timers.sent(now);
    }

    /// The owner stops reading for a while: silence is no failure until [`Connection::resume_reading`].
    pub const fn pause_reading(&mut self) {
        self.timers.pause_reading();
    }

    /// The owner reads again.
    pub const fn resume_reading(&mut self, now: Instant) {
        self.timers.resume_reading(now);
    }

    /// Closes the connection: writes `connection.close` and waits for the answer, [`Event::Closed`].
    ///
    /// The code's name is put in front of `text` if it is not there. Before a client has logged in there is no frame:
    /// the connection is finished at once.
    pub fn close(
        &mut self,
        code: ReplyCode,
        text: &str,
        class_method: (u16, u16),
        out: &mut Vec<u8>,
    ) -> Close {
        match self.phase {
            Phase::Running | Phase::VirtualHost | Phase::OpenOk => {
                self.write_close(code, &code.text(text), class_method, out);
                Close::WithFrame
            }
            Phase::Closing | Phase::Draining => Close::WithFrame,
            Phase::Finished
            | Phase::Header
            | Phase::StartOk
            | Phase::Login
            | Phase::SecureOk
            | Phase::TuneOk
            | Phase::Open
            | Phase::Start
            | Phase::Tune => {
                self.abort();
                Close::SocketOnly
            }
        }
    }

    /// Ends the connection without a frame, for example because a login response is malformed.
    pub fn abort(&mut self) {
        self.phase = Phase::Finished;
        self.timers.clear_deadline();
        self.channels.clear();
    }

    /// Closes a channel: everything on it but close and close-ok is ignored until [`Event::ChannelClosed`].
    ///
    /// The code's name is put in front of `text` if it is not there. Does nothing if the channel is not open.
    pub fn close_channel(
        &mut self,
        channel: u16,
        code: ReplyCode,
        text: &str,
        class_method: (u16, u16),
        out: &mut Vec<u8>,
    ) {
        let closing = matches!(self.channels.state(channel), None | Some(State::Closing));
        if self.phase == Phase::Running && !closing {
            self.write_channel_close(channel, code, text, class_method, out);
        }
    }

    /// Client: writes `channel.open`; [`Event::ChannelOpened`] follows.
    ///
    /// # Errors
    ///
    /// [`OpenChannelError`] if the connection is not open, the number is 0 or in use, or there are too many.
    pub fn open_channel(
        &mut self,
        channel: u16,
        out: &mut Vec<u8>,
    ) -> Result<(), OpenChannelError> {
        if self.phase != Phase::Running || self.is_server() {
            return Err(OpenChannelError::NotRunning);
        }
        if channel == 0 || self.channels.state(channel).is_some() {
            return Err(OpenChannelError::InUse(channel));
        }
        if self.channel_max != 0 && channel > self.channel_max {
            return Err(OpenChannelError::TooMany(self.channel_max));
        }
        self.channels.insert(channel, State::Opening);
        self.send(channel, ChannelOpen {}, out);
        Ok(())
    }

    /// Server, after [`Event::Open`]: the virtual host is open.
    pub fn opened(&mut self, out: &mut Vec<u8>) {
        if self.phase == Phase::VirtualHost {
            self.run();
            self.send(0, ConnectionOpenOk {}, out);
        }
    }

    /// Whether channels may be opened and used.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether nothing more will come or go, so that the socket is to be closed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// Whether methods may be sent on this channel.
    #[must_use]
    pub fn is_channel_open(&self, channel: u16) -> bool {
        let state = self.channels.state(channel);
        self.is_open() && matches!(state, Some(State::Open | State::Content(_)))
    }

    /// When to call [`Connection::handle_timeout`] next, `None` if never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Finished => None,
            Phase::Running => self.timers.beat_at().into_iter().chain(self.timers.dead_at()).min(),
            _ => self.timers.deadline(),
        }
    }

    /// Longest frame in bytes as agreed, its eight octets of overhead included.
    #[inline]
    #[must_use]
    pub const fn frame_max(&self) -> u32 {
        self.payload_max + FRAME_OVERHEAD_BYTES
    }

    /// Most channels open at once as agreed, 0 for no limit.
    #[must_use]
    pub const fn channel_max(&self) -> u16 {
        self.channel_max
    }

    /// The agreed heartbeat, `None` if there is none.
    #[must_use]
    pub const fn heartbeat(&self) -> Option<Duration> {
        self.timers.heartbeat()
    }

    /// What the peer announced in its properties; nothing before [`Event::Authenticate`] or [`Event::Started`].
    #[must_use]
    pub const fn peer_capabilities(&self) -> Capabilities {
        self.peer
    }

    #[inline]
    pub(crate) const fn is_server(&self) -> bool {
        matches!(self.side, Side::Server(_))
    }

    /// The handshake is over.
    pub(crate) fn run(&mut self) {
        self.phase = Phase::Running;
        self.timers.clear_deadline();
        if let Side::Client(options) = &mut self.side {
            *options = None;
        }
    }

    /// Appends a method whose strings are known to fit: fixed texts, or cut by [`short_text`].
    pub(crate) fn send<'m>(
        &mut self,
        channel: u16,
        method: impl Into<Method<'m>>,
        out: &mut Vec<u8>,
    ) {
        let encoded = method.into().encode(channel, out);
        debug_assert_eq!(encoded, Ok(()), "texts of our own fit");
    }

    /// Ends the connection for what the peer did: with `connection.close` if it is open, otherwise without a word.
    #[cold]
    pub(crate) fn fail(
        &mut self,
        code: ReplyCode,
        detail: &str,
        (class_id, method_id): (u16, u16),
        out: &mut Vec<u8>,
    ) -> Event<'static> {
        let text = code.text(detail);
        let close = if self.phase == Phase::Running {
            self.write_close(code, &text, (class_id, method_id), out);
            Close::WithFrame
        } else {
            self.abort();
            Close::SocketOnly
        };
        Event::Failed(Failure { code, text, class_id, method_id, close })
    }

    pub(crate) fn write_close(
        &mut self,
        code: ReplyCode,
        text: &str,
        (class_id, method_id): (u16, u16),
        out: &mut Vec<u8>,
    ) {
        self.phase = Phase::Closing;
        self.timers.set_deadline(CLOSE_WAIT);
        self.channels.clear();
        let reply_text = short_text(text);
        let reply_code = code.number();
        self.send(0, ConnectionClose { reply_code, reply_text, class_id, method_id }, out);
    }

    /// The peer's `connection.close`: answers it.
    pub(crate) fn handle_close<'a>(
        &mut self,
        close: ConnectionClose<'a>,
        out: &mut Vec<u8>,
    ) -> Event<'a> {
        self.send(0, ConnectionCloseOk {}, out);
        self.phase = Phase::Draining;
        self.timers.set_deadline(CLOSE_WAIT);
        self.channels.clear();
        Event::CloseRequested {
            code: close.reply_code,
            text: close.reply_text,
            class_method: (close.class_id, close.method_id),
        }
    }

    /// Nothing more is to come.
    pub(crate) fn finish(&mut self) -> Event<'static> {
        self.abort();
        Event::Closed
    }

    fn handle_heartbeat(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Event<'static>> {
        if self.timers.dead_at().is_some_and(|at| at <= now) {
            self.abort();
            let secs = self.timers.heartbeat().unwrap_or_default().as_secs();
            let code = ReplyCode::ConnectionForced;
            let text = code.text(&format!("missed heartbeats, timeout: {secs}s"));
            let close = Close::SocketOnly;
            return Some(Event::Failed(Failure { code, text, class_id: 0, method_id: 0, close }));
        }
        if self.timers.beat_at().is_some_and(|at| at <= now) {
            out.extend_from_slice(HEARTBEAT);
            self.timers.sent(now);
        }
        None
    }

    /// A frame that cannot be taken apart. Where the next one begins is anybody's guess, so nothing after it counts.
    #[cold]
    fn fail_split(
        &mut self,
        broken: &Split<'_>,
        input: &mut &[u8],
        out: &mut Vec<u8>,
    ) -> Event<'static> {
        *input = &[];
        if self.phase == Phase::Closing {
            return self.finish();
        }
        let detail = match *broken {
            Split::TooLarge(head) => snippet::too_large(head, self.payload_max),
            Split::WrongEnd(Frame { kind, payload, .. }, end) => {
                snippet::wrong_end(kind, payload, end)
            }
            Split::Partial | Split::Frame(..) => String::new(),
        };
        let failed = self.fail(ReplyCode::FrameError, &detail, (0, 0), out);
        if self.phase == Phase::Closing {
            self.phase = Phase::Draining;
        }
        failed
    }
}

/// Why a channel cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenChannelError {
    /// The connection is not open, or this is the server's end.
    #[error("the connection is not open")]
    NotRunning,
    /// The number is taken, or 0.
    #[error("channel {0} is in use")]
    InUse(u16),
    /// The number is over the agreed limit.
    #[error("channels must have numbers up to {0}")]
    TooMany(u16),
}
