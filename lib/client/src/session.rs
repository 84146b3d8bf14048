//! One connection, from the socket to its end: reads, tells everybody what happened, writes what they want.
//!
//! A turn handles everything that was read, then writes everything that has gathered, so that what costs a system call or
//! a wake-up costs it once per turn.

mod asking;
mod consumers;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthouse_amqp::error::ReplyCode;
use posthouse_amqp::method::{BasicConsume, ConfirmSelect, Method};
use posthouse_amqp::options::ClientOptions;
use posthouse_amqp::sasl::Credentials;
use posthouse_amqp::table::{Table, Value};
use posthouse_amqp::{Capabilities, Connection, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::broker::Broker;
use crate::calls::REPLY_QUEUE;
use crate::delivery::{Delivery, Origin, Receipt};
use crate::error::{AskError, ConnectError};
use crate::intake::Flow;
use crate::link::{Command, Lasting, Status};
use crate::transport::{self, Stream, TransportError};
pub(crate) use asking::questions_of;
use asking::{Asker, Asking};

/// The channel that publishes, and hears replies to calls.
const PUBLISHING: u16 = 1;

/// Bytes read at once, and how much the input grows when a frame is larger.
const READ_BYTES: usize = 256 * 1024;

/// Bytes gathered for one write; what is more waits for the next turn.
const WRITE_BYTES: usize = 512 * 1024;

/// How long a consumer waits that the broker has refused, before it asks again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// As the application wanted.
    Closed,
    /// Before it was open.
    NotOpened(ConnectError),
    /// After it was open.
    Lost(ConnectError),
}

/// What a channel is for.
#[derive(Debug)]
enum Role {
    Publishing,
    /// Index of a flow.
    Consuming(usize),
    Asking(Asking),
    /// Closed by us; the number is free when the broker answers.
    Closing,
}

struct Session<'l> {
    lasting: &'l mut Lasting,
    connection: Connection,
    out: Vec<u8>,
    written: usize,
    /// The TLS library may hold bytes that were written.
    unflushed: bool,
    roles: BTreeMap<u16, Role>,
    /// The connection is open.
    opened: bool,
    /// The publishing channel is in confirm mode.
    confirming: bool,
    /// The topology is declared again.
    restored: bool,
    /// Whether replies are consumed already.
    listening: bool,
    /// When consumers that were refused ask again.
    restart_at: Option<Instant>,
    end: Option<End>,
}

/// Connects and serves until the end of the connection.
pub(crate) async fn run(lasting: &mut Lasting) -> End {
    let limit = lasting.address.connection_timeout;
    let stream = match tokio::time::timeout(limit, transport::connect(&lasting.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return End::NotOpened(error.into()),
        Err(_) => return End::NotOpened(ConnectError::Timeout(limit)),
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut out = Vec::with_capacity(64 * 1024);
    let connection = Connection::client(client_options(lasting), Instant::now(), &mut out);
    let mut session = Session {
        lasting,
        connection,
        out,
        written: 0,
        unflushed: false,
        roles: BTreeMap::new(),
        opened: false,
        confirming: false,
        restored: false,
        listening: false,
        restart_at: None,
        end: None,
    };
    let end = session.serve(&mut reader, &mut writer).await;
    // The answer to the broker's close, if there is one; whether it arrives changes nothing here.
    let rest = session.out.get(session.written..).unwrap_or_default();
    drop(tokio::time::timeout(Duration::from_secs(1), writer.write_all(rest)).await);
    session.fail_questions();
    end
}

/// However it ended: a close that takes too long and a client that is dropped end it in the middle.
impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.lasting.status.send_replace(Status::Away);
        self.lasting.outgoing.set_blocked(None);
        if self.opened {
            self.lasting.metrics.connected.dec();
        }
    }
}

impl Session<'_> {
    async fn serve(
        &mut self,
        reader: &mut ReadHalf<Box<dyn Stream>>,
        writer: &mut WriteHalf<Box<dyn Stream>>,
    ) -> End {
        let work = Arc::clone(&self.lasting.work);
        let mut input: Vec<u8> = Vec::new();
        let clock = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(clock);
        loop {
            self.gather();
            if let Some(end) = self.end.take() {
                return end;
            }
            let closing = self.lasting.closing;
            tokio::select! {
                read = read_some(reader, &mut input) => {
                    if let Err(error) = read {
                        return self.broken(error);
                    }
                    self.take(&mut input);
                }
                written = write_some(writer, self.out.get(self.written..).unwrap_or_default()),
                    if self.written < self.out.len() || self.unflushed =>
                {
                    match written {
                        Ok(count) => self.wrote(count),
                        Err(error) => return self.last_words(reader, &mut input, error).await,
                    }
                }
                () = work.notified() => {}
                command = self.lasting.commands.recv(), if !closing => self.handle(command),
                () = &mut clock => {
                    self.tick();
                    clock.as_mut().reset(self.next_tick().into());
                }
            }
        }
    }

    /// Puts together what is to be written.
    fn gather(&mut self) {
        if self.out.len() >= WRITE_BYTES {
            return;
        }
        for flow in &mut self.lasting.flows {
            flow.settle(&mut self.out);
        }
        if self.confirming && self.restored {
            let frame_max = self.connection.frame_max();
            self.lasting.outgoing.fill(PUBLISHING, &mut self.out, frame_max, WRITE_BYTES);
        }
    }

    fn wrote(&mut self, count: usize) {
        self.unflushed = count > 0 && self.lasting.address.tls;
        self.written += count;
        if self.written >= self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        self.connection.sent(Instant::now());
    }

    /// Handles every whole frame of the input.
    fn take(&mut self, input: &mut Vec<u8>) {
        let now = Instant::now();
        let mut rest = input.as_slice();
        while let Some(event) = self.connection.handle_bytes(now, &mut rest, &mut self.out) {
            self.happened(event);
        }
        let left = rest.len();
        let taken = input.len() - left;
        input.drain(..taken);
        for flow in &mut self.lasting.flows {
            flow.hand_over();
        }
    }

    fn happened(&mut self, event: Event<'_>) {
        match event {
            Event::Deliver { channel, delivery, content } => {
                if let Some(Role::Consuming(index)) = self.roles.get(&channel) {
                    if let Some(flow) = self.lasting.flows.get_mut(*index) {
                        flow.deliver(&delivery, &content.properties, &content.body);
                    }
                } else if channel == PUBLISHING {
                    let origin = Origin {
                        queue: REPLY_QUEUE.into(),
                        exchange: delivery.exchange.as_ref().into(),
                        routing_key: delivery.routing_key.as_ref().into(),
                        redelivered: delivery.redelivered,
                        receipt: Receipt { epoch: 0, tag: delivery.delivery_tag },
                    };
                    let reply = Delivery::new(origin, &content.properties, &content.body);
                    self.lasting.calls.answer(reply);
                }
            }
            Event::Return { returned, content, .. } => {
                self.lasting.outgoing.give_back(&returned, &content.properties);
            }
            Event::Method { channel, method } => self.method(channel, method),
            Event::Started { server_properties } => {
                self.lasting.broker.send_replace(Broker::of(server_properties));
            }
            Event::Opened => self.open(),
            Event::ChannelOpened(channel) => self.channel_opened(channel),
            Event::ChannelClosed(channel) => {
                self.roles.remove(&channel);
            }
            Event::ChannelCloseRequested { channel, code, text, .. } => {
                self.channel_refused(channel, code, text);
            }
            Event::ChannelFailed { channel, failure } => {
                self.channel_refused(channel, failure.code.number(), &failure.text);
            }
            Event::CloseRequested { code, text, class_method } => {
                self.blame(class_method, code, text);
                self.ends(ConnectError::Refused { code, text: text.to_owned() });
            }
            Event::Failed(failure) => {
                let (code, text) = (failure.code.number(), failure.text);
                self.ends(ConnectError::Refused { code, text });
            }
            Event::Closed => self.end = Some(End::Closed),
            // An answer to a challenge that PLAIN and EXTERNAL never get.
            Event::Challenge(_) => self.connection.respond(&[], &mut self.out),
            _ => {}
        }
    }

    fn method(&mut self, channel: u16, method: Method<'_>) {
        match method {
            Method::BasicAck(ack) => {
                self.lasting.outgoing.settle(ack.delivery_tag, ack.multiple, Ok(()));
            }
            Method::BasicNack(nack) => {
                self.lasting.outgoing.settle(nack.delivery_tag, nack.multiple, Err(()));
            }
            Method::ConfirmSelectOk(_) => {
                self.confirming = true;
                self.begin_publishing();
            }
            Method::BasicConsumeOk(_) => self.consuming(channel),
            Method::BasicCancelOk(_) => self.cancelled(channel),
            Method::BasicCancel(cancel) => self.cancelled_by_broker(channel, cancel),
            Method::ConnectionBlocked(blocked) => {
                tracing::warn!(reason = blocked.reason, "the broker takes no messages for now");
                self.lasting.outgoing.set_blocked(Some(blocked.reason));
            }
            Method::ConnectionUnblocked(_) => self.lasting.outgoing.set_blocked(None),
            other => self.answered(channel, &other),
        }
    }

    /// The connection is open: the publishing channel first, then what was declared on the last one.
    fn open(&mut self) {
        self.opened = true;
        self.lasting.metrics.connections.inc();
        self.lasting.metrics.connected.inc();
        self.open_channel(PUBLISHING, Role::Publishing);
        let topology = &self.lasting.topology;
        if topology.is_empty() {
            self.restore_done();
            return;
        }
        let questions = questions_of(topology);
        self.ask(questions, Asker::Restore);
    }

    fn restore_done(&mut self) {
        self.restored = true;
        self.begin_publishing();
        self.start_consumers();
    }

    fn begin_publishing(&mut self) {
        if !(self.confirming && self.restored) {
            return;
        }
        self.lasting.outgoing.resend(self.lasting.calls.unanswered());
        self.lasting.outgoing.begin();
        self.lasting.status.send_replace(Status::Up);
        if let Some(opened) = self.lasting.opened.take() {
            drop(opened.send(Ok(())));
        }
    }

    fn open_channel(&mut self, channel: u16, role: Role) {
        match self.connection.open_channel(channel, &mut self.out) {
            Ok(()) => drop(self.roles.insert(channel, role)),
            Err(error) => {
                tracing::error!(%error, channel, "a channel cannot be opened");
                self.refuse_role(role, 504, &error.to_string());
            }
        }
    }

    /// A number that no channel has.
    fn free_channel(&self) -> u16 {
        let taken = |channel: &u16| self.roles.contains_key(channel);
        (PUBLISHING + 1..u16::MAX).find(|channel| !taken(channel)).unwrap_or(u16::MAX)
    }

    fn channel_opened(&mut self, channel: u16) {
        match self.roles.get_mut(&channel) {
            Some(Role::Publishing) => {
                // RabbitMQ wants the consumer of replies before the first call.
                if self.lasting.listens {
                    self.listen();
                }
                self.send(channel, ConfirmSelect { no_wait: false });
            }
            Some(Role::Consuming(index)) => {
                let index = *index;
                let Some(flow) = self.lasting.flows.get(index) else { return };
                if !flow.consume(&mut self.out) {
                    tracing::error!(queue = %flow.intake.queue, "its name or arguments are too long");
                }
            }
            Some(Role::Asking(_)) => self.ask_next(channel),
            Some(Role::Closing) | None => {}
        }
    }

    fn listen(&mut self) {
        self.listening = true;
        let tag = "replies";
        let consume = BasicConsume {
            queue: REPLY_QUEUE,
            consumer_tag: tag,
            no_ack: true,
            no_wait: true,
            ..BasicConsume::default()
        };
        self.send(PUBLISHING, consume);
    }

    fn send<'m>(&mut self, channel: u16, method: impl Into<Method<'m>>) {
        let method = method.into();
        if let Err(error) = method.encode(channel, &mut self.out) {
            tracing::error!(%error, method = method.name(), "a method cannot be encoded");
        }
    }

    /// The broker closed a channel, in its words.
    fn channel_refused(&mut self, channel: u16, code: u16, text: &str) {
        if let Some(role) = self.roles.remove(&channel) {
            self.refuse_role(role, code, text);
        }
    }

    fn refuse_role(&mut self, role: Role, code: u16, text: &str) {
        match role {
            Role::Publishing => {
                self.lasting.outgoing.accuse(code, text);
                (self.confirming, self.listening) = (false, false);
                self.open_channel(PUBLISHING, Role::Publishing);
            }
            Role::Consuming(index) => {
                if let Some(flow) = self.lasting.flows.get_mut(index) {
                    tracing::error!(queue = %flow.intake.queue, code, text, "the broker closed the consumer's channel");
                    flow.intake.answered.notify_one();
                    flow.lost();
                }
                self.restore_later();
            }
            Role::Asking(mut asking) => {
                let question =
                    asking.questions.front().map(ToString::to_string).unwrap_or_default();
                let refused = AskError::Refused { question, code, text: text.to_owned() };
                self.finish(asking.asker.take(), Err(refused));
            }
            Role::Closing => {}
        }
    }

    fn handle(&mut self, command: Option<Command>) {
        match command {
            None | Some(Command::Close) => {
                self.lasting.closing = true;
                self.gather();
                self.connection.close(ReplyCode::Success, "bye", (0, 0), &mut self.out);
                if self.connection.is_finished() {
                    self.end = Some(End::Closed);
                }
            }
            Some(Command::Ask(questions, answer)) if self.opened => {
                self.ask(questions, Asker::Application(answer));
            }
            Some(Command::Ask(_, answer)) => drop(answer.send(Err(AskError::Lost))),
            Some(Command::Consume(intake)) => {
                self.lasting.flows.push(Flow::new(intake));
                if self.restored {
                    self.start_consumers();
                }
            }
            Some(Command::Cancel(intake)) => self.cancel(&intake),
            Some(Command::Remember(topology)) => self.lasting.remember(topology),
            Some(Command::Listen(heard)) => {
                self.lasting.listens = true;
                if self.confirming && !self.listening {
                    self.listen();
                }
                // Whatever is published from now on is written behind it.
                heard.send(()).ok();
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if let Some(event) = self.connection.handle_timeout(now, &mut self.out) {
            self.happened(event);
        }
        self.rest_consumers();
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            let questions = questions_of(&self.lasting.topology);
            if questions.is_empty() {
                self.start_consumers();
            } else {
                self.ask(questions, Asker::Restore);
            }
        }
    }

    /// When to look at the clock next: a look too early costs nothing, so it need not move with every frame.
    fn next_tick(&self) -> Instant {
        let idle = Instant::now() + RESTART_PAUSE;
        let times = [self.connection.poll_timeout(), self.restart_at].into_iter().flatten();
        // A deadline that becomes known later is a handshake's or a close's, which have seconds.
        times.min().map_or(idle, |at| at.min(idle).max(Instant::now() + Duration::from_millis(10)))
    }

    fn ends(&mut self, error: ConnectError) {
        let end = if self.opened { End::Lost(error) } else { End::NotOpened(error) };
        self.end = Some(if self.lasting.closing { End::Closed } else { end });
    }

    fn broken(&mut self, error: io::Error) -> End {
        let error = match error.kind() {
            io::ErrorKind::UnexpectedEof => ConnectError::Silent,
            _ if transport::blames_our_certificate(&error) => {
                let place = self.lasting.address.place();
                TransportError::Certificate { place, source: error }.into()
            }
            _ => ConnectError::Lost(error),
        };
        self.ends(error);
        self.end.take().unwrap_or(End::Closed)
    }

    /// After a write has failed: the broker, or the TLS below it, may have said why before it closed.
    async fn last_words(
        &mut self,
        reader: &mut ReadHalf<Box<dyn Stream>>,
        input: &mut Vec<u8>,
        error: io::Error,
    ) -> End {
        let listen = async {
            while self.end.is_none() {
                match read_some(reader, input).await {
                    Ok(_) => self.take(input),
                    Err(unread) => return Some(unread).filter(transport::blames_our_certificate),
                }
            }
            None
        };
        let alert = tokio::time::timeout(Duration::from_secs(1), listen).await.ok().flatten();
        self.end.take().unwrap_or_else(|| self.broken(alert.unwrap_or(error)))
    }
}

/// Reads what there is. The end of the stream is an error: a broker says goodbye before it closes. Cancel-safe.
async fn read_some(
    reader: &mut ReadHalf<Box<dyn Stream>>,
    input: &mut Vec<u8>,
) -> io::Result<usize> {
    input.reserve(READ_BYTES);
    match reader.read_buf(input).await {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        other => other,
    }
}

/// Writes some of the bytes; without any, has the TLS library send what it holds. Cancel-safe: what it returns was
/// written, what is dropped before that was not.
async fn write_some(writer: &mut WriteHalf<Box<dyn Stream>>, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    writer.write(bytes).await
}

fn client_options(lasting: &Lasting) -> ClientOptions {
    let address = &lasting.address;
    let credentials = Credentials { login: &address.user, password: address.password.as_bytes() };
    let mut properties = Table::from_iter([("capabilities", Capabilities::CLIENT.to_table())]);
    for (name, value) in [
        ("product", "posthouse-client"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("platform", "Rust"),
        ("connection_name", &lasting.options.name),
    ] {
        properties.insert(name, Value::LongString(value.as_bytes().to_vec()));
    }
    let (mechanism, response) = match address.external {
        true => ("EXTERNAL", Vec::new()),
        false => ("PLAIN", credentials.to_plain()),
    };
    ClientOptions {
        mechanism: mechanism.to_owned(),
        response,
        virtual_host: address.virtual_host.clone(),
        properties,
        heartbeat_secs: address.heartbeat_secs,
        handshake_deadline: address.connection_timeout,
        ..ClientOptions::default()
    }
}
