//! Calls: a request, and the reply that comes straight back (RabbitMQ: direct reply-to).

use std::borrow::Cow;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::backoff::Backoff;
use crate::calls::REPLY_QUEUE;
use crate::client::{Client, draft};
use crate::codec::{CodecError, Format};
use crate::consumer::{Consumer, DeadLetters, consume};
use crate::delivery::Delivery;
use crate::error::PublishError;
use crate::handler::Handler;
use crate::link::{Command, Link};
use crate::message::Request;
use crate::outcome::{Answer, IntoOutcome, Outcome};
use crate::outgoing::Confirm;
use crate::publish::Draft;
use crate::topology::text;

/// The property `type` of a reply that is an error.
const ERROR_KIND: &str = "posthouse.error";

/// How long a call waits unless it says otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A consumer that answers calls. Failures are answered, too, and never tried again: the caller decides that.
pub fn rpc<H, T, S>(handler: H) -> Consumer<S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    let mut consumer = consume(handler).retry(Backoff::never());
    consumer.policy.dead = Some(DeadLetters::Answer);
    consumer
}

/// What the other side says instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RpcError {
    /// What a program can compare, such as `not-found`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl RpcError {
    /// Any error.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not-found", message)
    }

    pub(crate) fn answer(&self) -> Answer {
        // Two strings always have a form in JSON.
        let body = Format::Json.encode(self).unwrap_or_default();
        let mut answer = Answer::new(body, Format::Json.content_type());
        answer.kind = Some(ERROR_KIND.to_owned());
        answer
    }
}

impl IntoOutcome for RpcError {
    fn into_outcome(self) -> Outcome {
        Outcome::Reply(self.answer())
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The request was not accepted: nobody serves it, if that is [`PublishError::Unroutable`].
    #[error("the request was not accepted")]
    Publish(#[source] PublishError),
    /// No answer in time. The request has expired with it, unless somebody is working on it.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The other side answered with an error.
    #[error("the other side refused: {0}")]
    Remote(RpcError),
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Codec(#[source] CodecError),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl Client {
    /// Calls whoever serves requests of this type. `await` it for the answer.
    ///
    /// The connection may be lost meanwhile: the request is then sent again on the next one, so it may be served twice.
    pub fn call<R: Request>(&self, request: &R) -> Call<R::Reply> {
        Call::new(Arc::clone(&self.link), draft(request))
    }

    /// Calls with any bytes and takes any bytes for an answer.
    pub fn call_to(
        &self,
        exchange: impl Into<Cow<'static, str>>,
        routing_key: impl Into<Cow<'static, str>>,
        body: impl Into<Bytes>,
    ) -> Call<Delivery> {
        let draft = Draft {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            body: body.into(),
            mandatory: true,
            ..Draft::default()
        };
        Call::new(Arc::clone(&self.link), Ok(draft))
    }
}

/// What an answer becomes.
pub trait FromReply: Sized {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if it is not what is expected.
    fn from_reply(reply: Delivery) -> Result<Self, CodecError>;
}

/// As it came.
impl FromReply for Delivery {
    fn from_reply(reply: Delivery) -> Result<Self, CodecError> {
        Ok(reply)
    }
}

/// Decoded by its content type: JSON, MessagePack or CBOR.
impl<T: DeserializeOwned> FromReply for T {
    fn from_reply(reply: Delivery) -> Result<Self, CodecError> {
        Format::of(reply.properties().content_type)?.decode(reply.body_bytes())
    }
}

/// A call that is about to be made.
#[must_use = "nobody is called before it is awaited"]
pub struct Call<T> {
    link: Arc<Link>,
    draft: Result<Draft, PublishError>,
    timeout: Duration,
    reply: PhantomData<fn() -> T>,
}

impl<T> std::fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl<T> Call<T> {
    fn new(link: Arc<Link>, draft: Result<Draft, PublishError>) -> Self {
        Self { link, draft, timeout: CALL_TIMEOUT, reply: PhantomData }
    }

    /// Waits so long; the request expires then, too, so that nobody works for a caller who is gone. Default: 30 s.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks somebody else: whoever serves this queue.
    pub fn to(self, queue: impl Into<Cow<'static, str>>) -> Self {
        self.via("", queue)
    }

    /// Asks by way of an exchange and a routing key.
    pub fn via(
        self,
        exchange: impl Into<Cow<'static, str>>,
        routing_key: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.with(|draft| {
            draft.exchange = exchange.into();
            draft.routing_key = routing_key.into();
        })
    }

    /// With a header that is text.
    pub fn text_header(self, name: &str, value: &str) -> Self {
        self.with(|draft| drop(draft.headers.insert(name, text(value))))
    }

    /// MIME type of the body.
    pub fn content_type(self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.with(|draft| draft.content_type = Some(content_type.into()))
    }

    fn with(mut self, change: impl FnOnce(&mut Draft)) -> Self {
        if let Ok(draft) = &mut self.draft {
            change(draft);
        }
        self
    }

    /// Takes the answers of everybody who serves the request: publish it to an exchange that reaches them all.
    pub const fn gather_for(mut self, wait: Duration) -> Gather<T> {
        self.timeout = wait;
        Gather { call: self }
    }

    async fn begin(self) -> Result<(Waiting, Confirm), CallError> {
        let mut draft = self.draft.map_err(CallError::Publish)?;
        let (link, within) = (self.link, self.timeout);
        let (heard, hears) = oneshot::channel();
        link.send(Command::Listen(heard)).await.map_err(|_| CallError::Closed)?;
        hears.await.map_err(|_| CallError::Closed)?;
        let id = link.next_id();
        draft.correlation_id = Some(id.clone());
        draft.reply_to = Some(REPLY_QUEUE.to_owned());
        draft.expires = Some(within);
        draft.persistent = false;
        draft.traced();
        let packet = draft.packet(|| id.clone()).map_err(CallError::Publish)?;
        let replies = link.calls.expect(&id, packet.clone());
        let waiting = Waiting { link, id, replies };
        let confirm = waiting.link.outgoing.put(packet).await.map_err(CallError::Publish)?;
        Ok((waiting, confirm))
    }

    async fn first(self) -> Result<Delivery, CallError> {
        let within = self.timeout;
        let answered = async {
            let (mut waiting, mut confirm) = self.begin().await?;
            tokio::select! {
                // An answer that is there counts, whatever the confirm says.
                biased;
                reply = waiting.replies.recv() => return reply.ok_or(CallError::Closed),
                confirmed = &mut confirm => confirmed.map_err(CallError::Publish)?,
            }
            waiting.replies.recv().await.ok_or(CallError::Closed)
        };
        timeout(within, answered).await.unwrap_or(Err(CallError::Timeout(within)))
    }
}

/// A call that waits; the answer is not waited for any more when this is dropped.
#[derive(Debug)]
struct Waiting {
    link: Arc<Link>,
    id: String,
    replies: mpsc::Receiver<Delivery>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.link.calls.forget(&self.id);
    }
}

impl<T: FromReply + Send + 'static> IntoFuture for Call<T> {
    type Output = Result<T, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { read(self.first().await?) })
    }
}

/// An answer, or the error that the other side answered with.
fn read<T: FromReply>(reply: Delivery) -> Result<T, CallError> {
    if reply.properties().kind == Some(ERROR_KIND) {
        let error = Format::Json.decode(reply.body_bytes()).map_err(CallError::Codec)?;
        return Err(CallError::Remote(error));
    }
    T::from_reply(reply).map_err(CallError::Codec)
}

/// A call to many that is about to be made; `await` it, then read the answers.
#[derive(Debug)]
#[must_use = "nobody is called before it is awaited"]
pub struct Gather<T> {
    call: Call<T>,
}

impl<T: FromReply + Send + 'static> IntoFuture for Gather<T> {
    type Output = Result<Replies<T>, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let within = self.call.timeout;
            let until = Instant::now() + within;
            // A full buffer, or a connection that does nothing, is no reason to wait for longer.
            let begun = timeout_at(until, self.call.begin()).await;
            let (waiting, confirm) = begun.unwrap_or(Err(CallError::Timeout(within)))?;
            confirm.until(until, within).await.map_err(CallError::Publish)?;
            Ok(Replies { waiting, until, reply: PhantomData })
        })
    }
}

/// The answers of many, as they come, until the time is over.
#[derive(Debug)]
pub struct Replies<T> {
    waiting: Waiting,
    until: Instant,
    reply: PhantomData<fn() -> T>,
}

impl<T: FromReply> Replies<T> {
    /// The next answer; `None` when the time is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        let reply = timeout_at(self.until, self.waiting.replies.recv()).await.ok().flatten()?;
        Some(read(reply))
    }
}
