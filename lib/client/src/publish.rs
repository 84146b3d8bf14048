//! Publishing one message: what it is, and what becomes of it.

use std::borrow::Cow;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use posthouse_amqp::properties::Properties;
use posthouse_amqp::raw_table::RawTable;
use posthouse_amqp::table::{Table, Value};

use crate::broker::Feature;
use crate::error::PublishError;
use crate::link::Link;
use crate::outgoing::{Confirm, Packet};
use crate::topology::text;
use crate::trace::TraceContext;

/// A message before it is on its way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft {
    pub(crate) exchange: Cow<'static, str>,
    pub(crate) routing_key: Cow<'static, str>,
    pub(crate) mandatory: bool,
    pub(crate) persistent: bool,
    pub(crate) body: Bytes,
    pub(crate) content_type: Option<Cow<'static, str>>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) headers: Table,
    pub(crate) priority: Option<u8>,
    pub(crate) correlation_id: Option<String>,
    pub(crate) reply_to: Option<String>,
    pub(crate) expires: Option<Duration>,
    pub(crate) message_id: Option<String>,
    pub(crate) timestamp: Option<u64>,
    pub(crate) kind: Option<Cow<'static, str>>,
    pub(crate) app_id: Option<String>,
}

impl Draft {
    /// Its form on the wire. `id` makes an identity where there is none.
    pub(crate) fn packet(self, id: impl FnOnce() -> String) -> Result<Packet, PublishError> {
        let unencodable = |text: String| PublishError::Encode(text.into());
        let message_id = self.message_id.unwrap_or_else(id);
        let headers = match self.headers.is_empty() {
            true => Vec::new(),
            false => self.headers.to_entries().map_err(|error| unencodable(error.to_string()))?,
        };
        let expiration = self.expires.map(|expires| expires.as_millis().to_string());
        let properties = Properties {
            content_type: self.content_type.as_deref(),
            content_encoding: self.content_encoding.as_deref(),
            headers: (!headers.is_empty()).then(|| RawTable::from_bytes(&headers)),
            delivery_mode: Some(if self.persistent { 2 } else { 1 }),
            priority: self.priority,
            correlation_id: self.correlation_id.as_deref(),
            reply_to: self.reply_to.as_deref(),
            expiration: expiration.as_deref(),
            message_id: Some(&message_id),
            timestamp: self.timestamp,
            kind: self.kind.as_deref(),
            app_id: self.app_id.as_deref(),
            ..Properties::default()
        };
        let mut encoded = Vec::with_capacity(128 + headers.len());
        properties.encode(&mut encoded).map_err(|error| unencodable(error.to_string()))?;
        Ok(Packet {
            exchange: self.exchange,
            routing_key: self.routing_key,
            mandatory: self.mandatory,
            properties: encoded.into(),
            body: self.body,
        })
    }

    /// The trace that the running handler belongs to, unless the draft says another.
    pub(crate) fn traced(&mut self) {
        if self.headers.get("traceparent").is_some() {
            return;
        }
        let Some(context) = TraceContext::current() else { return };
        self.headers.insert("traceparent", text(&context.to_string()));
        if let Some(state) = &context.state {
            self.headers.insert("tracestate", text(state));
        }
    }
}

/// The broker has the message for good: on the disk, if it is persistent and its queue durable.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The message's identity.
    pub message_id: String,
}

/// A message that is about to be published; `await` it to have it confirmed.
///
/// It is persistent and mandatory unless said otherwise: what no queue takes is an error, not a loss. While the broker is
/// away it waits in a bounded buffer; see [`crate::Options`].
#[derive(Debug)]
#[must_use = "nothing is published before it is awaited"]
pub struct Publish {
    link: Arc<Link>,
    draft: Result<Draft, PublishError>,
    timeout: Duration,
}

impl Publish {
    pub(crate) fn new(link: Arc<Link>, draft: Result<Draft, PublishError>) -> Self {
        let timeout = link.options.confirm_timeout;
        Self { link, draft, timeout }
    }

    fn with(mut self, change: impl FnOnce(&mut Draft)) -> Self {
        if let Ok(draft) = &mut self.draft {
            change(draft);
        }
        self
    }

    /// To another exchange.
    pub fn exchange(self, name: impl Into<Cow<'static, str>>) -> Self {
        self.with(|draft| draft.exchange = name.into())
    }

    /// With another routing key.
    pub fn routing_key(self, key: impl Into<Cow<'static, str>>) -> Self {
        self.with(|draft| draft.routing_key = key.into())
    }

    /// With a header.
    pub fn header(self, name: &str, value: impl Into<Value>) -> Self {
        self.with(|draft| drop(draft.headers.insert(name, value)))
    }

    /// With a header that is text.
    pub fn text_header(self, name: &str, value: &str) -> Self {
        self.header(name, text(value))
    }

    /// With an identity of the application's: what consumers recognise duplicates by. Default: one that is unique.
    pub fn message_id(self, id: impl Into<String>) -> Self {
        self.with(|draft| draft.message_id = Some(id.into()))
    }

    /// The broker drops further messages with this id for a while (10 minutes by default). Needs Posthouse: to RabbitMQ,
    /// which would ignore it, nothing is sent ([`PublishError::Unsupported`]).
    pub fn dedupe(mut self, id: &str) -> Self {
        if let Err(unsupported) = self.link.must_have(Feature::Dedupe) {
            self.draft = Err(unsupported.into());
        }
        self.text_header("x-dedup-id", id)
    }

    /// Not delivered any more after so long, in whole milliseconds.
    pub fn expires(self, after: Duration) -> Self {
        self.with(|draft| draft.expires = Some(after))
    }

    /// Routed after so long. The exchange must be one that delays: [`crate::Exchange::delayed`].
    pub fn delay(self, delay: Duration) -> Self {
        self.header("x-delay", crate::topology::millis(delay))
    }

    /// Before others, in a queue that has priorities.
    pub fn priority(self, priority: u8) -> Self {
        self.with(|draft| draft.priority = Some(priority))
    }

    /// Which message this one belongs to.
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.with(|draft| draft.correlation_id = Some(id.into()))
    }

    /// The queue that answers go to.
    pub fn reply_to(self, queue: impl Into<String>) -> Self {
        self.with(|draft| draft.reply_to = Some(queue.into()))
    }

    /// MIME type of the body.
    pub fn content_type(self, content_type: impl Into<Cow<'static, str>>) -> Self {
        self.with(|draft| draft.content_type = Some(content_type.into()))
    }

    /// The property `type`.
    pub fn kind(self, kind: impl Into<Cow<'static, str>>) -> Self {
        self.with(|draft| draft.kind = Some(kind.into()))
    }

    /// When it was made, in seconds since 1970.
    pub fn timestamp(self, secs: u64) -> Self {
        self.with(|draft| draft.timestamp = Some(secs))
    }

    /// Which program sends it.
    pub fn app_id(self, name: impl Into<String>) -> Self {
        self.with(|draft| draft.app_id = Some(name.into()))
    }

    /// It need not survive a restart of the broker.
    pub fn transient(self) -> Self {
        self.with(|draft| draft.persistent = false)
    }

    /// It is fine if no queue takes it.
    pub fn optional(self) -> Self {
        self.with(|draft| draft.mandatory = false)
    }

    /// Waits so long for the confirm, instead of what the options say.
    pub const fn confirm(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Puts it on its way without waiting for the confirm, which is what is returned. Many messages are so under way at
    /// once, as many as the options allow.
    ///
    /// # Errors
    ///
    /// [`PublishError::BufferFull`], [`PublishError::Closed`], [`PublishError::Encode`].
    pub async fn send(self) -> Result<Confirm, PublishError> {
        let mut draft = self.draft?;
        draft.traced();
        let packet = draft.packet(|| self.link.next_id())?;
        self.link.outgoing.put(packet).await
    }

    async fn publish(self) -> Result<Published, PublishError> {
        let mut draft = self.draft?;
        draft.traced();
        let message_id = draft.message_id.clone().unwrap_or_else(|| self.link.next_id());
        draft.message_id = Some(message_id.clone());
        let packet = draft.packet(String::new)?;
        let within = self.timeout;
        let outgoing = &self.link.outgoing;
        let put = tokio::time::timeout(within, outgoing.put(packet)).await;
        // Not taken in time, it is nowhere.
        let confirm = put.unwrap_or_else(|_| Err(outgoing.late(within, false)))?;
        confirm.within(within).await?;
        Ok(Published { message_id })
    }
}

impl IntoFuture for Publish {
    type Output = Result<Published, PublishError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.publish())
    }
}
