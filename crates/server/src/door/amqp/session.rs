//! One connection: a single task that reads, has the broker work, and writes.
//!
//! A turn reads what the socket has, handles every complete frame in it, commits what was published and settled as one
//! batch each, takes what queues have sent to the outbox, and writes once. Nothing in a turn waits: replies that
//! promise durability are held in the output, see [`Output`]. The read buffer belongs to the thread and not to the
//! connection, so that an idle connection costs little.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use broker::{Access, Outbox, Outgoing, Publisher, Refused, SettleBatch};
use foldhash::fast::RandomState;
use model::{Ticket, Timestamp};
use posthouse_amqp::{Capabilities, Connection, Event, Failure, ReplyCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::door::amqp::channel::{Channel, Refusals};
use crate::door::amqp::consuming::{DeferredGet, Sent};
use crate::door::amqp::handshake::Opened;
use crate::door::amqp::listener::Shared;
use crate::door::amqp::output::{OUTPUT_BYTES_HIGH, Output};

/// Bytes read at once: some hundred messages, few enough that others wait less than a millisecond.
///
/// A quarter of what a consumer's connection is given to write: where publishers are faster, bodies wait until they have left
/// the processor's cache, and 1 KiB costs a third more on its way.
const READ_BYTES: usize = OUTPUT_BYTES_HIGH / 4;

/// Turns before the task lets others run.
const TURNS_MAX: usize = 4;

/// How often a connection that is not read from looks whether it may be again.
const RECHECK: Duration = Duration::from_millis(20);

/// Longest time that a publisher waits for consumers after one batch: with batches of a quarter of a megabyte this lets
/// through 128 MB/s even if they stay behind.
pub(crate) const CROWD_PATIENCE: Duration = Duration::from_millis(2);

thread_local! {
    /// Where this thread's connections read into: what was incomplete in the last turn, and what the socket has now.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides agreed, or the peer left.
    Closed,
    /// The socket failed.
    Io(io::Error),
    /// The peer or the broker broke the connection off.
    Failed(String),
}

/// A method that cannot be carried out yet, and holds up everything behind it.
#[derive(Debug)]
pub(crate) enum Deferred {
    /// A fetch from a queue whose next message is not durable.
    Get(DeferredGet),
    /// The commit of a channel's transaction, for which there is no space.
    Commit(u16),
}

/// A connection with an open tenant.
pub(crate) struct Session<S> {
    pub(crate) stream: S,
    pub(crate) connection: Connection,
    pub(crate) shared: Arc<Shared>,
    pub(crate) access: Access,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) publisher: Publisher,
    pub(crate) channels: HashMap<u16, Box<Channel>, RandomState>,
    pub(crate) output: Output,
    /// Settles of this turn, committed at its end.
    pub(crate) acks: SettleBatch,
    pub(crate) refusals: Refusals,
    /// Channels that published with confirms in this turn.
    pub(crate) confirming: Vec<u16>,
    /// What the client said it understands.
    pub(crate) understands: Capabilities,
    pub(crate) closing: bool,
    /// The protocol has nothing more to say or to wait for.
    closed: bool,
    /// Deliveries that met no consumer, to go back at the end of the turn.
    pub(crate) turned_away: Vec<Outgoing>,
    pub(crate) sent: Sent,
    /// Bytes of a frame that is not complete.
    partial: Vec<u8>,
    pub(crate) incoming: VecDeque<Outgoing>,
    taken: Vec<Outgoing>,
    /// Channels that are owed confirms.
    pub(crate) owed: Vec<u16>,
    /// How often the store had woken its waiters when this task registered as one.
    pub(crate) registered: Option<u64>,
    blocked: Option<&'static str>,
    told_blocked: bool,
    pub(crate) publishes: bool,
    /// The store has enough to write: nothing is read before this is durable.
    pub(crate) paused_until: Option<Ticket>,
    /// What waits for the store; no input is handled before it.
    pub(crate) deferred: Option<Deferred>,
    /// Consumers are behind: nothing is read before they have caught up, or this moment.
    pub(crate) crowd_until: Option<Instant>,
    /// How often deliveries are looked at that may stay unsettled for a time only.
    pub(crate) timeout_check: Option<Duration>,
    timer: Pin<Box<Sleep>>,
    timer_at: Option<Instant>,
    eof: bool,
    /// Whether everything was given back.
    released: bool,
    /// Whether the connection knows that nothing is read for now, and silence is no fault of the peer.
    reading_paused: bool,
    /// Input that came with the handshake.
    unread: bool,
    /// The shared news that this session has seen.
    news: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(crate) fn new(opened: Opened<S>, shared: Arc<Shared>) -> Self {
        Self {
            stream: opened.stream,
            connection: opened.connection,
            publisher: Publisher::new(opened.access.clone()),
            access: opened.access,
            outbox: Arc::new(Outbox::default()),
            channels: HashMap::default(),
            output: Output::starting_with(opened.output),
            acks: SettleBatch::default(),
            refusals: Refusals::default(),
            confirming: Vec::new(),
            understands: opened.capabilities,
            closing: false,
            closed: false,
            turned_away: Vec::new(),
            sent: Sent::default(),
            partial: opened.input,
            incoming: VecDeque::new(),
            taken: Vec::new(),
            owed: Vec::new(),
            registered: None,
            blocked: None,
            told_blocked: false,
            publishes: false,
            paused_until: None,
            deferred: None,
            crowd_until: None,
            timeout_check: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            timer_at: None,
            eof: false,
            released: false,
            reading_paused: false,
            unread: true,
            news: shared.news(),
            shared,
        }
    }

    /// Runs until the connection ends, then gives back everything it held.
    pub(crate) async fn run(mut self) -> End {
        let end = poll_fn(|context| self.poll(context)).await;
        self.release_everything();
        end
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURNS_MAX {
            match self.turn(context) {
                Ok(true) => self.shared.vigil.note(),
                Ok(false) => {
                    self.output.rest();
                    return Poll::Pending;
                }
                Err(end) => return Poll::Ready(end),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// One turn; whether anything moved.
    fn turn(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = self.poll_timer(context)?;
        self.look_at_news();
        // While the store is full both may wait from turn to turn.
        if self.publisher.pending() > 0 || !self.confirming.is_empty() {
            self.commit_turn(self.access.now())?;
        }
        let may_read = self.may_read();
        self.note_reading(may_read);
        if may_read && self.poll_crowd(context) {
            moved |= self.read(context)?;
        }
        moved |= self.poll_outbox(context)?;
        moved |= self.poll_confirms(context)?;
        moved |= self.write(context)?;
        if self.is_over() {
            return Err(End::Closed);
        }
        Ok(moved)
    }

    /// Whether nothing is left to say, to hear or to store. Of a peer that does not close its socket nothing more is
    /// awaited than what the protocol grants it; what a promise of the store holds back is still written, and what a full
    /// store did not take yet is still published.
    fn is_over(&self) -> bool {
        let is_heard = self.eof && self.output.has_left();
        let may_go = is_heard || (self.closed && self.output.held_by().is_none());
        self.closing && may_go && self.publisher.pending() == 0
    }

    /// A client that does not take its output is not read from, and neither is a publisher while memory or disk is low.
    fn may_read(&mut self) -> bool {
        if self.eof || self.paused_until.is_some() || self.output.len() > 4 * OUTPUT_BYTES_HIGH {
            return false;
        }
        self.look_at_alarms();
        self.blocked.is_none() || !self.publishes
    }

    /// Tells the connection whether silence is the peer's.
    fn note_reading(&mut self, may_read: bool) {
        if may_read == self.reading_paused {
            self.reading_paused = !may_read;
            if may_read {
                self.connection.resume_reading(Instant::now());
            } else {
                self.connection.pause_reading();
            }
        }
    }

    /// A publisher waits a little for consumers that are behind.
    fn poll_crowd(&mut self, context: &Context<'_>) -> bool {
        if self.crowd_until.is_none() || self.publisher.poll_relaxed(context) {
            self.crowd_until = None;
            return true;
        }
        false
    }

    pub(crate) fn look_at_alarms(&mut self) {
        let raised = self.shared.alarms.raised();
        let reason = match () {
            () if raised.any() => Some(raised.reason()),
            () if self.access.broker().watch().full() => Some("low on disk"),
            () => None,
        };
        if reason == self.blocked {
            return;
        }
        self.blocked = reason;
        if reason.is_none() && self.told_blocked {
            self.told_blocked = false;
            self.send_connection_unblocked();
        }
        if reason.is_some() && self.publishes {
            self.tell_blocked();
        }
    }

    pub(crate) fn tell_blocked(&mut self) {
        if let Some(reason) =
            self.blocked.filter(|_| self.understands.connection_blocked && !self.told_blocked)
        {
            self.told_blocked = true;
            self.send_connection_blocked(reason);
        }
    }

    /// Nothing more is handled before the store has space again.
    pub(crate) fn wait_for_space(&mut self, deferred: Deferred) {
        self.deferred = Some(deferred);
        self.publishes = true;
        self.look_at_alarms();
        self.tell_blocked();
    }

    /// Does what was deferred, then what was received behind it.
    fn resume(&mut self, deferred: Deferred) -> Result<bool, End> {
        let now = self.access.now();
        match deferred {
            Deferred::Get(get) => self.fetch(get, now)?,
            Deferred::Commit(number) => self.tx_commit(number, now)?,
        }
        self.handle_partial()
    }

    /// Handles what was received before.
    fn handle_partial(&mut self) -> Result<bool, End> {
        let received = std::mem::take(&mut self.partial);
        let mut input = received.as_slice();
        self.handle_input(&mut input)?;
        self.partial.extend_from_slice(input);
        Ok(true)
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        if std::mem::take(&mut self.unread) {
            return self.handle_partial();
        }
        if let Some(deferred) = self.deferred.take() {
            return self.resume(deferred);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let kept = self.partial.len();
            if scratch.len() < kept + READ_BYTES {
                scratch.resize(kept + READ_BYTES, 0);
            }
            let Some((front, back)) = scratch.split_at_mut_checked(kept) else { return Ok(false) };
            front.copy_from_slice(&self.partial);
            let mut space = ReadBuf::new(back);
            match Pin::new(&mut self.stream).poll_read(context, &mut space) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(error)) => return Err(End::Io(error)),
                Poll::Ready(Ok(())) => {}
            }
            let read = space.filled().len();
            if read == 0 {
                self.eof = true;
                // What was received before the end counts, and nobody waits for an answer.
                self.closing = true;
                return if self.is_over() { Err(End::Closed) } else { Ok(true) };
            }
            let mut input = scratch.get(..kept + read).unwrap_or_default();
            self.handle_input(&mut input)?;
            self.partial.clear();
            self.partial.extend_from_slice(input);
            Ok(true)
        })
    }

    fn handle_input(&mut self, input: &mut &[u8]) -> Result<(), End> {
        let now = Instant::now();
        let time = self.access.now();
        while self.deferred.is_none()
            && let Some(event) = self.connection.handle_bytes(now, input, &mut self.output.buffer)
        {
            self.handle(event, time)?;
        }
        self.commit_turn(time)
    }

    fn handle(&mut self, event: Event<'_>, now: Timestamp) -> Result<(), End> {
        match event {
            Event::Publish { channel, publish, content } => {
                self.publish(channel, &publish, &content, now)
            }
            Event::Method { channel, method } => self.method(channel, &method, now),
            Event::ChannelOpened(channel) => {
                if !self.access.open_channel() {
                    let text = "number of channels of the user has reached its limit";
                    self.channels.remove(&channel);
                    return self.refuse(channel, ReplyCode::NotAllowed, text, (20, 10), now);
                }
                self.access.broker().counters.channels_opened.add(1);
                let cap = self.shared.limits.unacked_per_channel;
                self.channels.insert(channel, Box::new(Channel::new(cap)));
                Ok(())
            }
            Event::ChannelClosed(channel) => {
                self.commit_turn(now)?;
                self.drop_channel(channel, now);
                Ok(())
            }
            Event::CloseRequested { .. } => {
                self.commit_turn(now)?;
                self.closing = true;
                self.release_everything();
                Ok(())
            }
            Event::Closed => {
                self.closing = true;
                self.closed = true;
                Ok(())
            }
            Event::Failed(failure) => self.failed(failure, now),
            _ => Ok(()),
        }
    }

    /// The peer broke the protocol: its queues get their messages back at once, it gets the close.
    fn failed(&mut self, failure: Failure, now: Timestamp) -> Result<(), End> {
        tracing::info!(text = %failure.text, "connection failed");
        self.commit_turn(now)?;
        self.release_everything();
        self.closing = true;
        if failure.close == posthouse_amqp::Close::SocketOnly {
            return Err(End::Failed(failure.text));
        }
        Ok(())
    }

    fn poll_outbox(&mut self, context: &Context<'_>) -> Result<bool, End> {
        if self.closing {
            return Ok(false);
        }
        self.outbox.poll_take(context, &mut self.taken);
        self.incoming.extend(self.taken.drain(..));
        if self.incoming.is_empty() {
            return Ok(false);
        }
        let now = self.access.now();
        let (mut bytes, mut moved) = (0, false);
        while self.output.len() < OUTPUT_BYTES_HIGH {
            let Some(outgoing) = self.incoming.pop_front() else { break };
            moved = true;
            bytes += self.tell(outgoing, now);
        }
        self.outbox.release(bytes);
        self.finish_deliveries(now);
        if self.incoming.is_empty() {
            self.incoming.shrink_to(64);
        }
        if self.outbox.take_congested() {
            self.ask_for_more(now);
        }
        Ok(moved)
    }

    /// Credit that consumers share has come back: it may be another queue's turn.
    pub(crate) fn share_credit(&mut self, now: Timestamp) {
        for channel in self.channels.values().filter(|channel| channel.credit.is_scarce()) {
            for consumer in channel.consumers.values() {
                self.access.dispatch(&consumer.queue, now);
            }
        }
    }

    /// Queues of this connection's consumers may have more than fitted.
    fn ask_for_more(&mut self, now: Timestamp) {
        for channel in self.channels.values() {
            for consumer in channel.consumers.values() {
                self.access.dispatch(&consumer.queue, now);
            }
        }
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        if self.output.has_left() {
            return Ok(false);
        }
        let moved = match self.output.poll_write(&mut self.stream, context) {
            Poll::Pending | Poll::Ready(Ok(0)) => false,
            Poll::Ready(Ok(_)) => {
                self.connection.sent(Instant::now());
                true
            }
            Poll::Ready(Err(error)) => return Err(End::Io(error)),
        };
        // What a TLS stream has taken leaves with a flush, and perhaps not with the first.
        match self.output.poll_flush(&mut self.stream, context) {
            Poll::Ready(Err(error)) => Err(End::Io(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(moved),
        }
    }

    fn poll_timer(&mut self, context: &mut Context<'_>) -> Result<bool, End> {
        let mut wanted = self.connection.poll_timeout();
        if self.blocked.is_some() && self.publishes {
            let recheck = Instant::now() + RECHECK;
            wanted = Some(wanted.map_or(recheck, |wanted| wanted.min(recheck)));
        }
        if let Some(until) = self.crowd_until {
            wanted = Some(wanted.map_or(until, |wanted| wanted.min(until)));
        }
        if let Some(check) = self.timeout_check {
            let check = Instant::now() + check;
            wanted = Some(wanted.map_or(check, |wanted| wanted.min(check)));
        }
        let Some(wanted) = wanted else { return Ok(false) };
        // A timer that fires early is asked again; one that would fire late is set anew.
        if self.timer_at.is_none_or(|at| at > wanted) {
            self.timer.as_mut().reset(wanted.into());
            self.timer_at = Some(wanted);
        }
        if self.timer.as_mut().poll(context).is_pending() {
            return Ok(false);
        }
        self.timer_at = None;
        if self.crowd_until.take_if(|until| *until <= Instant::now()).is_some() {
            self.publisher.give_up_waiting();
        }
        let now = self.access.now();
        if let Some(event) = self.connection.handle_timeout(Instant::now(), &mut self.output.buffer)
        {
            self.handle(event, now)?;
        }
        self.check_consumer_timeouts(now)?;
        Ok(true)
    }

    /// The server ends, or permissions changed.
    fn look_at_news(&mut self) {
        let news = self.shared.news();
        if self.news == news || self.closing {
            return;
        }
        self.news = news;
        let reason = match () {
            () if self.shared.is_stopping() => "the server is stopping",
            () if !self.access.is_valid() => "permissions were revoked",
            () => return,
        };
        let text = ReplyCode::ConnectionForced.text(reason);
        self.connection.close(ReplyCode::ConnectionForced, &text, (0, 0), &mut self.output.buffer);
        self.release_everything();
        self.closing = true;
    }
}

impl<S> Session<S> {
    /// Gives back everything that the connection held: deliveries, consumers, exclusive queues.
    pub(crate) fn release_everything(&mut self) {
        if std::mem::replace(&mut self.released, true) {
            return;
        }
        let now = self.access.now();
        let mut numbers: Vec<u16> = self.channels.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            self.drop_channel(number, now);
        }
        let rest: Vec<Outgoing> = self
            .incoming
            .drain(..)
            .chain(self.taken.drain(..))
            .chain(self.outbox.take_rest())
            .collect();
        self.turn_away(rest, now);
        self.access.leave(now);
    }

    /// Messages on their way to consumers that are gone return to their queues, uncounted.
    pub(crate) fn turn_away(&mut self, outgoing: Vec<Outgoing>, now: Timestamp) {
        let refused: Vec<Refused> =
            outgoing.into_iter().filter_map(Outgoing::into_refused).collect();
        if refused.is_empty() {
            return;
        }
        if let Err(error) = self.access.release(&refused, broker::Counted::No, now) {
            tracing::warn!(%error, "cannot give messages back");
        }
    }
}

/// Also when a fault of ours ends the task in the middle: what the connection held must not stay with it.
impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        self.release_everything();
    }
}
