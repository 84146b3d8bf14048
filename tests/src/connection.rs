//! One connection: the handshake, and what arrives sorted by channel.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::frame::{self, Args, END, Frame, Reader};
use crate::{Channel, PATIENCE, Properties, Value};

/// How a connection introduces itself.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The user's password.
    pub password: String,
    /// The virtual host.
    pub tenant: String,
    /// Names of capabilities that this client says it has.
    pub capabilities: Vec<&'static str>,
    /// Answer to the tune; 0 takes the server's.
    pub frame_max: u32,
    /// Answer to the tune; 0 takes the server's.
    pub channel_max: u16,
    /// Answer to the tune, in seconds; 0 is none.
    pub heartbeat_secs: u16,
}

impl Default for Login {
    fn default() -> Self {
        Self {
            user: "guest".to_owned(),
            password: "guest".to_owned(),
            tenant: "/".to_owned(),
            capabilities: vec![
                "authentication_failure_close",
                "consumer_cancel_notify",
                "connection.blocked",
            ],
            frame_max: 0,
            channel_max: 0,
            heartbeat_secs: 0,
        }
    }
}

/// Why the broker closed a channel or a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The reply code; 0 if the socket was closed without a word.
    pub code: u16,
    /// The reply text.
    pub text: String,
    /// The class and the method it blames, 0 if none.
    pub blames: (u16, u16),
    /// Whether the whole connection went.
    pub of_connection: bool,
}

/// What the broker sent on one channel.
#[derive(Debug, Clone)]
pub struct Event {
    /// Class and method.
    pub id: (u16, u16),
    /// The arguments after them.
    pub args: Vec<u8>,
    /// Properties and body of a delivery, a return or a fetched message.
    pub content: Option<(Properties, Vec<u8>)>,
}

/// An open connection; clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    link: Rc<RefCell<Link>>,
    /// What the server said about itself.
    pub server: Rc<Value>,
    /// What was agreed, in bytes.
    pub frame_max: u32,
}

impl Connection {
    /// Connects, introduces itself and opens the virtual host.
    ///
    /// # Errors
    ///
    /// Why the broker refused; code 0 if it only closed the socket.
    ///
    /// # Panics
    ///
    /// If the broker does not follow the protocol.
    pub fn open(address: SocketAddr, login: &Login) -> Result<Self, Close> {
        Self::over(TcpStream::connect(address).expect("a listener"), login)
    }

    /// As [`Connection::open`], over a socket that was connected in another way.
    ///
    /// # Errors
    ///
    /// As [`Connection::open`].
    ///
    /// # Panics
    ///
    /// As [`Connection::open`].
    pub fn over(stream: TcpStream, login: &Login) -> Result<Self, Close> {
        let mut link = Link::new(stream);
        link.send(b"AMQP\0\0\x09\x01");
        let start = link.await_method(0, (10, 10))?;
        let server = Value::Table(Reader(&start.args[2..]).table());
        link.send(&frame::method(0, 10, 11, &start_ok(login)));
        let tune = link.await_method(0, (10, 30))?;
        let mut reader = Reader(&tune.args);
        let (channel_max, frame_max) = (reader.short(), reader.long());
        let channel_max = if login.channel_max == 0 { channel_max } else { login.channel_max };
        let frame_max = if login.frame_max == 0 { frame_max } else { login.frame_max };
        let tune_ok =
            Args::default().short(channel_max).long(frame_max).short(login.heartbeat_secs);
        link.send(&frame::method(0, 10, 31, &tune_ok));
        link.send(&frame::method(
            0,
            10,
            40,
            &Args::default().text(&login.tenant).text("").octet(0),
        ));
        link.await_method(0, (10, 41))?;
        Ok(Self { link: Rc::new(RefCell::new(link)), server: Rc::new(server), frame_max })
    }

    /// Opens the lowest channel that this client has not used yet.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    #[must_use]
    pub fn channel(&self) -> Channel {
        let number = {
            let mut link = self.link.borrow_mut();
            link.channels += 1;
            link.channels
        };
        let channel = Channel { connection: self.clone(), number };
        channel.call((20, 10), &Args::default().text(""), (20, 11)).expect("a channel");
        channel
    }

    /// The channel with a number, whether it is open or not.
    #[must_use]
    pub fn channel_unopened(&self, number: u16) -> Channel {
        Channel { connection: self.clone(), number }
    }

    /// Writes octets as they are.
    pub fn send(&self, bytes: &[u8]) {
        self.link.borrow_mut().send(bytes);
    }

    /// Waits for the broker to close the connection and says why.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[must_use]
    pub fn closed(&self) -> Close {
        let mut link = self.link.borrow_mut();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Err(close) = link.pump(deadline) {
                return close;
            }
            assert!(Instant::now() < deadline, "the broker did not close the connection");
        }
    }

    /// Says goodbye and waits for the answer.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn close(&self) {
        let goodbye = Args::default().short(200).text("bye").short(0).short(0);
        self.send(&frame::method(0, 10, 50, &goodbye));
        self.link.borrow_mut().await_method(0, (10, 51)).expect("close-ok");
    }

    /// The next method on channel 0, such as `connection.blocked`.
    #[must_use]
    pub fn next_event(&self, within: Duration) -> Option<Event> {
        self.event_on(0, within).ok().flatten()
    }

    /// How many heartbeats came so far.
    #[must_use]
    pub fn heartbeats(&self) -> u32 {
        self.link.borrow().heartbeats
    }

    /// Takes what arrives for this long; the end of the connection is an error.
    ///
    /// # Errors
    ///
    /// Why it ended.
    pub fn listen(&self, time: Duration) -> Result<(), Close> {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.link.borrow_mut().pump(deadline)?;
        }
        Ok(())
    }

    pub(crate) fn event_on(&self, channel: u16, within: Duration) -> Result<Option<Event>, Close> {
        self.link.borrow_mut().next(channel, Instant::now() + within, |_| true)
    }

    pub(crate) fn event_matching(
        &self,
        channel: u16,
        within: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Option<Event>, Close> {
        self.link.borrow_mut().next(channel, Instant::now() + within, wanted)
    }
}

/// The socket and what was read from it.
#[derive(Debug)]
struct Link {
    stream: TcpStream,
    unread: Vec<u8>,
    inbox: HashMap<u16, VecDeque<Event>>,
    partial: HashMap<u16, (Event, u64)>,
    heartbeats: u32,
    channels: u16,
    over: Option<Close>,
}

impl Link {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket option");
        Self {
            stream,
            unread: Vec::new(),
            inbox: HashMap::new(),
            partial: HashMap::new(),
            heartbeats: 0,
            channels: 0,
            over: None,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        // A broker that has closed the socket is found out when reading.
        drop(self.stream.write_all(bytes));
    }

    fn await_method(&mut self, channel: u16, id: (u16, u16)) -> Result<Event, Close> {
        let event = self.next(channel, Instant::now() + PATIENCE, |event| {
            event.id == id || event.id == (20, 40)
        })?;
        let event = event.unwrap_or_else(|| panic!("no method {id:?} on channel {channel}"));
        if event.id == (20, 40) {
            self.send(&frame::method(channel, 20, 41, &Args::default()));
            return Err(close_of(&event.args, false));
        }
        Ok(event)
    }

    fn next(
        &mut self,
        channel: u16,
        deadline: Instant,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Option<Event>, Close> {
        loop {
            if let Some(inbox) = self.inbox.get_mut(&channel)
                && let Some(place) = inbox.iter().position(&wanted)
            {
                return Ok(inbox.remove(place));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            self.pump(deadline)?;
        }
    }

    /// Reads once from the socket and sorts what is complete.
    fn pump(&mut self, deadline: Instant) -> Result<(), Close> {
        if let Some(close) = &self.over {
            return Err(close.clone());
        }
        let timeout =
            deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(timeout)).expect("a socket option");
        let mut chunk = [0; 65536];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err(self.end(0, "the socket was closed")),
            Ok(count) => self.unread.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(self.end(0, &error.to_string())),
        }
        let mut start = 0;
        while let Some((frame, size)) = split_frame(&self.unread[start..]) {
            start += size;
            self.take(&frame)?;
        }
        self.unread.drain(..start);
        Ok(())
    }

    fn take(&mut self, frame: &Frame) -> Result<(), Close> {
        match frame.kind {
            frame::METHOD => self.take_method(frame),
            frame::HEADER => {
                let mut reader = Reader(&frame.payload[4..]);
                let size = reader.longlong();
                let (event, missing) =
                    self.partial.get_mut(&frame.channel).expect("a method before its header");
                event.content = Some((Properties::read(&mut reader), Vec::new()));
                *missing = size;
                self.complete(frame.channel);
                Ok(())
            }
            frame::BODY => {
                let (event, missing) =
                    self.partial.get_mut(&frame.channel).expect("a header before its body");
                event.content.as_mut().unwrap().1.extend_from_slice(&frame.payload);
                *missing -= frame.payload.len() as u64;
                self.complete(frame.channel);
                Ok(())
            }
            frame::HEARTBEAT => {
                self.heartbeats += 1;
                Ok(())
            }
            other => panic!("frame type {other}"),
        }
    }

    fn take_method(&mut self, frame: &Frame) -> Result<(), Close> {
        let mut reader = Reader(&frame.payload);
        let event =
            Event { id: (reader.short(), reader.short()), args: reader.0.to_vec(), content: None };
        if event.id == (10, 50) {
            self.send(&frame::method(0, 10, 51, &Args::default()));
            let close = close_of(&event.args, true);
            self.over = Some(close.clone());
            return Err(close);
        }
        if matches!(event.id, (60, 50 | 60 | 71)) {
            self.partial.insert(frame.channel, (event, u64::MAX));
        } else {
            self.inbox.entry(frame.channel).or_default().push_back(event);
        }
        Ok(())
    }

    fn complete(&mut self, channel: u16) {
        if self.partial.get(&channel).is_some_and(|(_, missing)| *missing == 0) {
            let (event, _) = self.partial.remove(&channel).unwrap();
            self.inbox.entry(channel).or_default().push_back(event);
        }
    }

    fn end(&mut self, code: u16, text: &str) -> Close {
        let close = Close { code, text: text.to_owned(), blames: (0, 0), of_connection: true };
        self.over = Some(close.clone());
        close
    }
}

fn split_frame(unread: &[u8]) -> Option<(Frame, usize)> {
    let head = unread.get(..7)?;
    let mut reader = Reader(head);
    let (kind, channel) = (reader.octet(), reader.short());
    let size = 7 + usize::try_from(reader.long()).unwrap();
    let end = *unread.get(size)?;
    assert_eq!(end, END, "the broker sent a wrong end octet");
    Some((Frame { kind, channel, payload: unread[7..size].to_vec() }, size + 1))
}

pub(crate) fn close_of(args: &[u8], of_connection: bool) -> Close {
    let mut reader = Reader(args);
    Close {
        code: reader.short(),
        text: reader.text(),
        blames: (reader.short(), reader.short()),
        of_connection,
    }
}

fn start_ok(login: &Login) -> Args {
    let capabilities =
        login.capabilities.iter().map(|name| ((*name).to_owned(), Value::Bool(true))).collect();
    let properties = [
        ("product".to_owned(), Value::from("tests")),
        ("capabilities".to_owned(), Value::Table(capabilities)),
    ];
    let response = format!("\0{}\0{}", login.user, login.password);
    Args::default().table(&properties).text("PLAIN").long_text(response.as_bytes()).text("en_US")
}
