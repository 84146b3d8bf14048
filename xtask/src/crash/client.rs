//! A blocking AMQP client with one channel, which tells a server that died from a server that refused.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::wire::{BODY, Frame, HEADER, METHOD, Reader, Value, Writer, id, message_id};

/// How long an answer may take before the server counts as hung.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// How long the answer to somebody may take whom the server told to wait: longer than the rig keeps any disk full.
const BLOCKED_FOR_MAX: Duration = Duration::from_secs(60);

/// The only channel.
const CHANNEL: u16 = 1;

/// Why a connection can no longer be used.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The socket is gone: the server died or we killed it.
    Gone(String),
    /// The server closed channel or connection and said why.
    Closed { code: u16, text: String },
    /// The server did not answer in time.
    Silent(&'static str),
    /// The server sent what AMQP does not allow.
    Nonsense(String),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone(why) => write!(f, "connection lost: {why}"),
            Self::Closed { code, text } => write!(f, "server closed with {code} {text}"),
            Self::Silent(what) => write!(f, "no {what} within {} s", ANSWER_WITHIN.as_secs()),
            Self::Nonsense(what) => write!(f, "server sent nonsense: {what}"),
        }
    }
}

impl std::error::Error for Broken {}

/// What comes from the server unasked.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message; also of `basic.get`.
    Delivered(Delivered),
    /// A confirm, positive or negative.
    Confirmed { tag: u64, multiple: bool, positive: bool },
    /// A mandatory message came back.
    Returned { message_id: Option<String> },
    /// Publishers are asked to stop, or may go on.
    Blocked(bool),
    /// The server cancelled our consumer.
    Cancelled,
}

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) message_id: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// What is published beside the body.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Options {
    /// `x-delay`, in milliseconds.
    pub(crate) delay_ms: Option<i32>,
    /// Priority, 0 to 255.
    pub(crate) priority: Option<u8>,
    /// Return it if it meets no queue.
    pub(crate) mandatory: bool,
}

/// A connection with one open channel.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    taken: usize,
    frame_max: usize,
    out: Writer,
    events: VecDeque<Event>,
    /// The server said that it reads nothing for now.
    is_blocked: bool,
    /// A message whose content is still coming.
    partial: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    /// `None` for a return.
    delivery: Option<(u64, bool)>,
    message_id: Option<String>,
    body: Vec<u8>,
    left: Option<usize>,
}

impl Client {
    /// Connects as guest and opens the channel.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn connect(address: SocketAddr) -> Result<Self, Broken> {
        let stream = TcpStream::connect(address).map_err(gone)?;
        stream.set_nodelay(true).map_err(gone)?;
        stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(gone)?;
        let mut client = Self {
            stream,
            input: Vec::new(),
            taken: 0,
            frame_max: 131_072,
            out: Writer(b"AMQP\0\0\x09\x01".to_vec()),
            events: VecDeque::new(),
            is_blocked: false,
            partial: None,
        };
        client.answer(id(10, 10), "connection.start")?;
        client.out.frame(METHOD, 0, |out| {
            let blocked = [("connection.blocked", Value::Bool(true))];
            out.u32(id(10, 11)).table(&[("capabilities", Value::Table(blocked.to_vec()))]);
            out.short("PLAIN").long(b"\0guest\0guest").short("en_US");
        });
        let tune = client.answer(id(10, 30), "connection.tune")?;
        let mut tune = Reader(&tune);
        let (channels, frame_max) = (tune.u16().unwrap_or(0), tune.u32().unwrap_or(0));
        if frame_max != 0 {
            client.frame_max = client.frame_max.min(frame_max as usize);
        }
        let frame_max = u32::try_from(client.frame_max).unwrap_or(u32::MAX);
        client.out.frame(METHOD, 0, |out| {
            out.u32(id(10, 31)).u16(channels).u32(frame_max).u16(0);
        });
        client.out.frame(METHOD, 0, |out| {
            out.u32(id(10, 40)).short("/").u8(0).u8(0);
        });
        client.answer(id(10, 41), "connection.open-ok")?;
        client.call(id(20, 10), id(20, 11), "channel.open-ok", |out| {
            out.u8(0);
        })?;
        Ok(client)
    }

    /// Opens the channel again after the server closed it. What came on the old one and was not looked at is forgotten.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn reopen(&mut self) -> Result<(), Broken> {
        self.events.retain(|event| matches!(event, Event::Blocked(_)));
        self.partial = None;
        self.out.frame(METHOD, CHANNEL, |out| {
            out.u32(id(20, 41));
        });
        self.call(id(20, 10), id(20, 11), "channel.open-ok", |out| {
            out.u8(0);
        })?;
        Ok(())
    }

    /// Closes the connection and waits for the answer, so that everything sent before was read by the server.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn close(mut self) -> Result<(), Broken> {
        self.out.frame(METHOD, 0, |out| {
            out.u32(id(10, 50)).u16(200).short("").u32(0);
        });
        self.answer(id(10, 51), "connection.close-ok")?;
        Ok(())
    }

    /// Sends a method on the channel with the next flush.
    pub(crate) fn send(&mut self, method: u32, args: impl FnOnce(&mut Writer)) {
        self.out.frame(METHOD, CHANNEL, |out| {
            out.u32(method);
            args(out);
        });
    }

    /// Sends a method and waits for its answer; returns the answer's arguments.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn call(
        &mut self,
        method: u32,
        reply: u32,
        name: &'static str,
        args: impl FnOnce(&mut Writer),
    ) -> Result<Vec<u8>, Broken> {
        self.send(method, args);
        self.answer(reply, name)
    }

    /// Declares a durable queue; returns how many messages are ready in it.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn declare(
        &mut self,
        queue: &str,
        passive: bool,
        args: &[(&'static str, Value)],
    ) -> Result<u32, Broken> {
        let reply = self.call(id(50, 10), id(50, 11), "queue.declare-ok", |out| {
            out.u16(0).short(queue).u8(if passive { 1 } else { 2 }).table(args);
        })?;
        let mut reply = Reader(&reply);
        reply.short();
        reply.u32().ok_or_else(|| Broken::Nonsense("a short queue.declare-ok".to_owned()))
    }

    /// Declares a durable exchange.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn exchange(
        &mut self,
        name: &str,
        kind: &str,
        args: &[(&'static str, Value)],
    ) -> Result<(), Broken> {
        self.call(id(40, 10), id(40, 11), "exchange.declare-ok", |out| {
            out.u16(0).short(name).short(kind).u8(2).table(args);
        })?;
        Ok(())
    }

    /// Binds a queue.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Broken> {
        self.call(id(50, 20), id(50, 21), "queue.bind-ok", |out| {
            out.u16(0).short(queue).short(exchange).short(key).u8(0).table(&[]);
        })?;
        Ok(())
    }

    /// Deletes a queue.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn delete(&mut self, queue: &str) -> Result<(), Broken> {
        self.call(id(50, 40), id(50, 41), "queue.delete-ok", |out| {
            out.u16(0).short(queue).u8(0);
        })?;
        Ok(())
    }

    /// Begins to consume with manual acknowledgement.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn consume(&mut self, queue: &str, prefetch: u16) -> Result<(), Broken> {
        self.call(id(60, 10), id(60, 11), "basic.qos-ok", |out| {
            out.u32(0).u16(prefetch).u8(0);
        })?;
        self.call(id(60, 20), id(60, 21), "basic.consume-ok", |out| {
            out.u16(0).short(queue).short("").u8(0).table(&[]);
        })?;
        Ok(())
    }

    /// Switches publisher confirms on.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn select_confirms(&mut self) -> Result<(), Broken> {
        self.call(id(85, 10), id(85, 11), "confirm.select-ok", |out| {
            out.u8(0);
        })?;
        Ok(())
    }

    /// Sends a persistent message with the next flush.
    pub(crate) fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        message_id: &str,
        body: &[u8],
        options: Options,
    ) {
        self.send(id(60, 40), |out| {
            out.u16(0).short(exchange).short(key).u8(u8::from(options.mandatory));
        });
        self.out.frame(HEADER, CHANNEL, |out| {
            out.u16(60).u16(0).u64(body.len() as u64);
            let delay = u16::from(options.delay_ms.is_some());
            let priority = u16::from(options.priority.is_some());
            out.u16(delay << 13 | 1 << 12 | priority << 11 | 1 << 7);
            if let Some(delay) = options.delay_ms {
                out.table(&[("x-delay", Value::Int(delay))]);
            }
            out.u8(2);
            if let Some(priority) = options.priority {
                out.u8(priority);
            }
            out.short(message_id);
        });
        for part in body.chunks(self.frame_max - 8) {
            self.out.frame(BODY, CHANNEL, |out| out.0.extend(part));
        }
    }

    /// Acknowledges with the next flush.
    pub(crate) fn ack(&mut self, tag: u64, multiple: bool) {
        self.send(id(60, 80), |out| {
            out.u64(tag).u8(u8::from(multiple));
        });
    }

    /// Gives one message back with the next flush.
    pub(crate) fn requeue(&mut self, tag: u64) {
        self.send(id(60, 120), |out| {
            out.u64(tag).u8(2);
        });
    }

    /// Writes everything that was sent.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn flush(&mut self) -> Result<(), Broken> {
        let sent = self.stream.write_all(&self.out.0);
        self.out.0.clear();
        sent.map_err(gone)
    }

    /// The next event; `None` when none came in time. An event that has been read already comes at once.
    ///
    /// # Errors
    ///
    /// See [`Broken`].
    pub(crate) fn event(&mut self, within: Duration) -> Result<Option<Event>, Broken> {
        self.flush()?;
        let deadline = Instant::now() + within;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            while let Some(frame) = self.next_frame()? {
                if let Some((method, _)) = self.handle(&frame)? {
                    return Err(Broken::Nonsense(format!(
                        "method {method:#x}, which nobody asked for"
                    )));
                }
            }
            if self.events.is_empty() && !self.fill(deadline)? {
                return Ok(None);
            }
        }
    }

    fn answer(&mut self, wanted: u32, name: &'static str) -> Result<Vec<u8>, Broken> {
        self.flush()?;
        let asked = Instant::now();
        loop {
            while let Some(frame) = self.next_frame()? {
                match self.handle(&frame)? {
                    Some((method, args)) if method == wanted => return Ok(args),
                    Some((method, _)) => {
                        return Err(Broken::Nonsense(format!(
                            "method {method:#x} instead of {name}"
                        )));
                    }
                    None => {}
                }
            }
            let within = if self.is_blocked { BLOCKED_FOR_MAX } else { ANSWER_WITHIN };
            if !self.fill(asked + within)? {
                return Err(Broken::Silent(name));
            }
        }
    }

    /// Notes what came unasked; returns any other method and its arguments.
    fn handle(&mut self, frame: &Frame) -> Result<Option<(u32, Vec<u8>)>, Broken> {
        match frame.kind {
            METHOD => self.method(&frame.payload),
            HEADER | BODY if frame.channel == CHANNEL => {
                self.content(frame).ok_or_else(|| {
                    Broken::Nonsense(format!("content frame {} out of place", frame.kind))
                })?;
                Ok(None)
            }
            8 => Ok(None),
            other => Err(Broken::Nonsense(format!("a frame of kind {other}"))),
        }
    }

    fn method(&mut self, payload: &[u8]) -> Result<Option<(u32, Vec<u8>)>, Broken> {
        let mut args = Reader(payload);
        let short = || Broken::Nonsense("a method that is too short".to_owned());
        let method = args.u32().ok_or_else(short)?;
        if method == id(10, 50) || method == id(20, 40) {
            let code = args.u16().unwrap_or(0);
            return Err(Broken::Closed { code, text: args.short().unwrap_or_default() });
        }
        let mut read = || -> Option<bool> {
            let event = match method {
                _ if method == id(60, 60) || method == id(60, 71) => {
                    if method == id(60, 60) {
                        args.short()?;
                    }
                    let delivery = Some((args.u64()?, args.u8()? & 1 == 1));
                    self.partial =
                        Some(Partial { delivery, message_id: None, body: Vec::new(), left: None });
                    return Some(true);
                }
                _ if method == id(60, 50) => {
                    self.partial = Some(Partial {
                        delivery: None,
                        message_id: None,
                        body: Vec::new(),
                        left: None,
                    });
                    return Some(true);
                }
                _ if method == id(60, 80) || method == id(60, 120) => Event::Confirmed {
                    tag: args.u64()?,
                    multiple: args.u8()? & 1 == 1,
                    positive: method == id(60, 80),
                },
                _ if method == id(10, 60) || method == id(10, 61) => {
                    self.is_blocked = method == id(10, 60);
                    Event::Blocked(self.is_blocked)
                }
                _ if method == id(60, 30) => Event::Cancelled,
                _ => return Some(false),
            };
            self.events.push_back(event);
            Some(true)
        };
        let is_event = read().ok_or_else(short)?;
        Ok((!is_event).then(|| (method, args.0.to_vec())))
    }

    fn content(&mut self, frame: &Frame) -> Option<()> {
        let partial = self.partial.as_mut()?;
        if frame.kind == HEADER {
            let mut reader = Reader(&frame.payload);
            reader.u32()?;
            let len = usize::try_from(reader.u64()?).ok()?;
            partial.left = Some(len);
            partial.message_id = message_id(reader.0);
        } else {
            partial.left = Some(partial.left?.checked_sub(frame.payload.len())?);
            partial.body.extend(&frame.payload);
        }
        if partial.left == Some(0) {
            let Partial { delivery, message_id, body, .. } = self.partial.take()?;
            self.events.push_back(match delivery {
                Some((tag, redelivered)) => {
                    Event::Delivered(Delivered { tag, redelivered, message_id, body })
                }
                None => Event::Returned { message_id },
            });
        }
        Some(())
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        Frame::take(&self.input, &mut self.taken).map_err(Broken::Nonsense)
    }

    /// Reads from the socket; false when nothing came before the deadline.
    fn fill(&mut self, deadline: Instant) -> Result<bool, Broken> {
        self.input.drain(..self.taken);
        self.taken = 0;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        self.stream.set_read_timeout(Some(left)).map_err(gone)?;
        let mut chunk = [0; 65_536];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Broken::Gone("end of stream".to_owned())),
            Ok(len) => {
                self.input.extend(chunk.iter().take(len));
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(gone(error)),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
fn gone(error: std::io::Error) -> Broken {
    Broken::Gone(error.to_string())
}
