//! One WebSocket connection: a task that reads requests, has them done, and answers in their order.
//!
//! A turn takes what has come, up to a bound, and writes once. An answer that promises durability waits in a list for its
//! ticket while further requests are read, so that many posts of one connection share a sync. A peer that does not read
//! its answers is not read from either.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use model::Ticket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::Shared;
use super::action::{Action, Form};
use super::envelope::{Answer, Codec, Echo, Request};
use super::frames::{FAREWELL, Frames, Lost, Received};
use super::login::{Login, NotAdmitted};
use super::perform::Asked;
use super::push::Push;
use crate::door::zaqar::gate::SessionEnd;

/// Requests handled before others get their turn and what was answered is written.
const TURN_REQUESTS_MAX: usize = 64;

/// Bytes of answers that wait for the disk; beyond them nothing is read.
const OWED_BYTES_MAX: usize = 1024 * 1024;

/// Silent intervals after which a peer is taken for gone.
const SILENCES_MAX: u32 = 2;

/// Code of the end when a token is good no longer, as in Zaqar.
const EXPIRED: u16 = 4003;

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The peer said goodbye or has gone.
    Left,
    /// There is nobody to tell.
    Lost(Lost),
    /// To be told with this code and reason.
    Close(u16, String),
    /// The peer broke a rule, so that nothing more can be read: code and reason.
    Fault(u16, String),
}

impl From<Lost> for End {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

/// What woke a session.
enum Woken {
    Received(Received),
    /// Who is on the connection may be there no longer.
    LoggedOut(SessionEnd),
    /// Something else of ours is ready: answers that became durable, notifications.
    Ready,
}

/// An answer that waits until what it says is durable.
struct Owed {
    ticket: Ticket,
    codec: Codec,
    json: Vec<u8>,
}

/// An answer and when it may leave.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) ticket: Ticket,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, ticket: Ticket::NONE }
    }
}

/// One connection.
pub(super) struct Session<S> {
    frames: Frames<S>,
    shared: Arc<Shared>,
    login: Login,
    push: Push,
    owed: VecDeque<Owed>,
    owed_bytes: usize,
    /// Requests that came, and answers that left.
    asked: u64,
    answered: u64,
    /// Notifications wait for this answer: a client that posts where it has subscribed expects its answer first.
    behind: Option<u64>,
    /// How often the store had woken its waiters when this task registered as one.
    registered: Option<u64>,
    /// Whether the peer sent anything since the last ping.
    heard: bool,
    silences: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    pub(super) async fn new(stream: S, shared: Arc<Shared>, peer: IpAddr) -> Self {
        let frames = Frames::new(stream, shared.message_bytes_max, shared.write_timeout).await;
        Self {
            frames,
            login: Login::new(peer),
            push: Push::default(),
            owed: VecDeque::new(),
            owed_bytes: 0,
            asked: 0,
            answered: 0,
            behind: None,
            registered: None,
            heard: true,
            silences: 0,
            shared,
        }
    }

    /// Runs until the connection ends.
    pub(super) async fn run(mut self, stopping: watch::Receiver<bool>) {
        let end = self.serve(stopping).await;
        if matches!(end, End::Close(..)) {
            // What was done is still answered, if it is durable soon.
            drop(timeout(FAREWELL, self.pay_rest()).await);
        }
        drop(std::mem::take(&mut self.push));
        match end {
            End::Left => self.frames.answer_close().await,
            End::Lost(lost) => tracing::debug!(%lost, "WebSocket connection ended"),
            End::Close(code, reason) => self.frames.close(code, &reason).await,
            End::Fault(code, reason) => {
                tracing::debug!(code, reason, "WebSocket connection ended");
                self.frames.close_unread(code, &reason).await;
            }
        }
    }

    async fn serve(&mut self, mut stopping: watch::Receiver<bool>) -> End {
        let interval = self.shared.ping_interval;
        let mut clock = pin!(sleep_until(Instant::now() + interval));
        loop {
            let woken = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => {
                    return End::Close(1001, "the server is stopping".to_owned());
                }
                woken = poll_fn(|context| self.poll_woken(context)) => Some(woken),
                () = &mut clock => None,
            };
            let turned = match woken {
                Some(woken) => Box::pin(self.turn(woken)).await,
                None => Box::pin(self.tick()).await,
            };
            if let Err(end) = turned {
                return end;
            }
            if clock.is_elapsed() {
                clock.as_mut().reset(Instant::now() + interval);
            }
        }
    }

    fn poll_woken(&mut self, context: &mut Context<'_>) -> Poll<Woken> {
        if let Poll::Ready(end) = self.login.poll_end(context) {
            return Poll::Ready(Woken::LoggedOut(end));
        }
        if self.owed_bytes < OWED_BYTES_MAX
            && let Poll::Ready(received) = self.frames.poll_next(context)
        {
            return Poll::Ready(Woken::Received(received));
        }
        // Where notifications wait for an answer, that answer waits for the store.
        if self.poll_durable(context).is_ready()
            || (!self.holds_back() && self.push.poll_ready(context).is_ready())
        {
            return Poll::Ready(Woken::Ready);
        }
        Poll::Pending
    }

    fn holds_back(&self) -> bool {
        self.behind.is_some_and(|answer| self.answered < answer)
    }

    /// Ready when the first answer that waits may leave, or never will.
    fn poll_durable(&mut self, context: &Context<'_>) -> Poll<()> {
        let Some(front) = self.owed.front() else { return Poll::Pending };
        let watch = self.shared.watch();
        let wakes = watch.wakes();
        if front.ticket <= watch.durable() || watch.failed() {
            return Poll::Ready(());
        }
        if self.registered == Some(wakes) {
            return Poll::Pending;
        }
        let polled = watch.poll_durable(context, front.ticket).map(drop);
        // Ready between the two looks, nothing was registered.
        if polled.is_pending() {
            self.registered = Some(wakes);
        }
        polled
    }

    /// Handles what has come, then writes once.
    async fn turn(&mut self, woken: Woken) -> Result<(), End> {
        let mut next = match woken {
            Woken::Received(received) => Some(received),
            Woken::LoggedOut(end) => return Err(logged_out(end)),
            Woken::Ready => None,
        };
        for _ in 0..TURN_REQUESTS_MAX {
            let Some(received) = next else { break };
            self.handle(received).await?;
            next = match self.owed_bytes < OWED_BYTES_MAX {
                true => poll_fn(|context| Poll::Ready(self.frames.poll_next(context)))
                    .await
                    .into_option(),
                false => None,
            };
        }
        if let Some(received) = next {
            // Taken already, and of no turn: the last one of this.
            self.handle(received).await?;
        }
        self.pay().await?;
        self.push.answered(self.answered);
        if self.push.is_waiting() {
            // Behind what was asked by now, and not behind what is asked later: nobody can keep them waiting.
            self.behind.get_or_insert(self.asked);
        }
        if !self.holds_back() {
            self.behind = None;
            self.push.send(&mut self.frames).await?;
        }
        self.frames.flush().await?;
        Ok(())
    }

    async fn handle(&mut self, received: Received) -> Result<(), End> {
        self.heard = true;
        match received {
            Received::Nothing => Ok(()),
            Received::Pong(bytes) => {
                self.push.pong(&bytes);
                Ok(())
            }
            Received::End => Err(End::Left),
            Received::Fault(code, reason) => Err(End::Fault(code, reason)),
            Received::Request(codec, payload) => self.request(codec, payload).await,
        }
    }

    async fn request(&mut self, codec: Codec, payload: Bytes) -> Result<(), End> {
        self.asked += 1;
        let (json, ticket) = match codec.text(&payload) {
            Ok(text) => match Request::read(&text) {
                Ok(request) => self.answer(codec, &request).await?,
                Err(error) => {
                    (Answer::error(400, &error.to_string()).to_json(Echo::Nothing), Ticket::NONE)
                }
            },
            Err(error) => {
                (Answer::error(400, &error.to_string()).to_json(Echo::Nothing), Ticket::NONE)
            }
        };
        if self.owed.is_empty() && ticket <= self.shared.watch().durable() {
            self.answered += 1;
            self.frames.feed(codec, json).await?;
            return Ok(());
        }
        self.owed_bytes += json.len();
        self.owed.push_back(Owed { ticket, codec, json });
        Ok(())
    }

    /// The answer to a request as JSON, and when it may leave.
    async fn answer(
        &mut self,
        codec: Codec,
        request: &Request<'_>,
    ) -> Result<(Vec<u8>, Ticket), End> {
        let form = match Form::of(request) {
            Ok(form) => form,
            Err(misfit) => {
                let answer = Answer::error(400, &misfit.to_string());
                return Ok((answer.to_json(Echo::All(request)), Ticket::NONE));
            }
        };
        if form.action == Action::Authenticate {
            let answer = self.login.authenticate(&self.shared.gate, request).await;
            return Ok((answer.to_json(Echo::Action(request)), Ticket::NONE));
        }
        let caller = match self.login.who().admit(&self.shared, form, request).await {
            Ok(caller) => caller,
            Err(NotAdmitted::Expired(end)) => return Err(logged_out(end)),
            Err(NotAdmitted::Refused(answer)) => {
                return Ok((answer.to_json(Echo::All(request)), Ticket::NONE));
            }
        };
        let asked =
            Asked { shared: &self.shared, caller: &caller, action: form.action, request, codec };
        let reply = super::perform::perform(&asked, &mut self.push, self.asked).await;
        let reply = reply.unwrap_or_else(|problem| Answer::problem(&problem).into());
        Ok((reply.answer.to_json(Echo::All(request)), reply.ticket))
    }

    /// Gathers the answers that are durable now.
    async fn pay(&mut self) -> Result<(), End> {
        let durable = self.shared.watch().durable();
        while let Some(owed) = self.owed.pop_front_if(|owed| owed.ticket <= durable) {
            self.owed_bytes -= owed.json.len();
            self.answered += 1;
            self.frames.feed(owed.codec, owed.json).await?;
        }
        if !self.owed.is_empty() && self.shared.watch().failed() {
            return Err(End::Close(1011, "the store has failed".to_owned()));
        }
        Ok(())
    }

    /// Waits until all that was done is durable, and answers it.
    async fn pay_rest(&mut self) -> Result<(), End> {
        if let Some(last) = self.owed.back()
            && self.shared.watch().until_durable(last.ticket).await.is_ok()
        {
            self.pay().await?;
        }
        Ok(self.frames.flush().await?)
    }

    /// Looks whether the peer is still there.
    async fn tick(&mut self) -> Result<(), End> {
        self.silences = if std::mem::take(&mut self.heard) { 0 } else { self.silences + 1 };
        if self.silences >= SILENCES_MAX {
            let silence = self.shared.ping_interval * SILENCES_MAX;
            return Err(End::Lost(Lost::Slow(silence)));
        }
        self.push.renew();
        self.frames.ping(Bytes::new()).await?;
        self.frames.flush().await?;
        Ok(())
    }
}

fn logged_out(end: SessionEnd) -> End {
    End::Close(EXPIRED, end.to_string())
}

/// `Poll` of something that was looked at once.
trait IntoOption<T> {
    fn into_option(self) -> Option<T>;
}

impl<T> IntoOption<T> for Poll<T> {
    fn into_option(self) -> Option<T> {
        match self {
            Self::Ready(value) => Some(value),
            Self::Pending => None,
        }
    }
}
