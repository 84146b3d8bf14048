//! A message as it arrives.

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use posthouse_amqp::properties::Properties;
use posthouse_amqp::raw_table::RawTable;
use posthouse_amqp::table::{Table, Value};

use crate::handler::Hooks;
use crate::worker::{EXCHANGE_HEADER, ROUTING_KEY_HEADER};

/// Header that counts the attempts at a message; absent on the first.
pub const ATTEMPT_HEADER: &str = "posthouse-attempt";

/// Which delivery on which channel; settling another one is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// Of the channel: a new one after each loss.
    pub(crate) epoch: u64,
    pub(crate) tag: u64,
}

/// A message for a consumer. Clones are cheap and share its bytes.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Properties, then the body.
    content: Bytes,
    properties_bytes: usize,
    queue: Arc<str>,
    exchange: Arc<str>,
    routing_key: Arc<str>,
    redelivered: bool,
    pub(crate) receipt: Receipt,
    pub(crate) hooks: Option<Hooks>,
    extensions: Extensions,
}

/// Where a delivery comes from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) queue: Arc<str>,
    pub(crate) exchange: Arc<str>,
    pub(crate) routing_key: Arc<str>,
    pub(crate) redelivered: bool,
    pub(crate) receipt: Receipt,
}

impl Delivery {
    pub(crate) fn new(origin: Origin, properties: &[u8], body: &[u8]) -> Self {
        let mut content = Vec::with_capacity(properties.len() + body.len());
        content.extend_from_slice(properties);
        content.extend_from_slice(body);
        Self {
            content: content.into(),
            properties_bytes: properties.len(),
            queue: origin.queue,
            exchange: origin.exchange,
            routing_key: origin.routing_key,
            redelivered: origin.redelivered,
            receipt: origin.receipt,
            hooks: None,
            extensions: Extensions::new(),
        }
    }

    /// The body, without a copy.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.content.slice(self.properties_bytes..)
    }

    /// The body's bytes.
    #[must_use]
    pub fn body_bytes(&self) -> &[u8] {
        self.content.get(self.properties_bytes..).unwrap_or_default()
    }

    /// The properties; empty ones if they cannot be read.
    #[must_use]
    pub fn properties(&self) -> Properties<'_> {
        Properties::decode(self.raw_properties()).unwrap_or_default()
    }

    /// The headers, undecoded.
    #[must_use]
    pub fn headers(&self) -> RawTable<'_> {
        self.properties().headers.unwrap_or(RawTable::EMPTY)
    }

    /// A header's text, if it is one.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name).ok().flatten()?.as_str()
    }

    /// The queue it was taken from.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The exchange it was published to, empty for the default one. Of a message that is tried again: the first time.
    #[must_use]
    pub fn exchange(&self) -> &str {
        self.first(EXCHANGE_HEADER).unwrap_or(&self.exchange)
    }

    /// The routing key it was published with. Of a message that is tried again: the first time.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        self.first(ROUTING_KEY_HEADER).unwrap_or(&self.routing_key)
    }

    /// What a copy says of its original. Only a message straight to its queue can be a copy.
    fn first(&self, header: &str) -> Option<&str> {
        let straight = self.exchange.is_empty() && self.routing_key == self.queue;
        straight.then(|| self.header(header)).flatten()
    }

    /// Whether somebody may have seen it before.
    #[must_use]
    pub const fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// Its identity, if the publisher gave it one.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.properties().message_id
    }

    /// Which attempt this is, from 1: what the consumer counts when it tries again, and what the broker counts
    /// (`x-delivery-count`, on queues with a delivery limit) when deliveries are lost.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        let count = |name| {
            let value = self.headers().get(name).ok().flatten().and_then(|value| value.as_i64());
            u32::try_from(value.unwrap_or(0).max(0)).unwrap_or(u32::MAX)
        };
        count(ATTEMPT_HEADER).max(1).saturating_add(count("x-delivery-count"))
    }

    /// What layers have noted for handlers.
    #[must_use]
    pub const fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// As [`Delivery::extensions`], to add to.
    pub const fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    pub(crate) fn raw_properties(&self) -> &[u8] {
        self.content.get(..self.properties_bytes).unwrap_or_default()
    }

    /// The headers as values, to be changed and published again; none if they cannot be read.
    pub(crate) fn header_table(&self) -> Table {
        self.headers().decode().unwrap_or_default()
    }
}

/// What is known of a message beside its body, as an extractor.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// Its identity, if the publisher gave it one.
    pub id: Option<String>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Whether somebody may have seen it before.
    pub redelivered: bool,
    /// The queue it was taken from.
    pub queue: String,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// The user that the broker has vouched for.
    pub user_id: Option<String>,
    /// The headers.
    pub headers: Table,
}

impl Meta {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.headers.get(name)
    }
}

impl From<&Delivery> for Meta {
    fn from(delivery: &Delivery) -> Self {
        let properties = delivery.properties();
        let own = |text: Option<&str>| text.map(str::to_owned);
        Self {
            id: own(properties.message_id),
            attempt: delivery.attempt(),
            redelivered: delivery.is_redelivered(),
            queue: delivery.queue().to_owned(),
            exchange: delivery.exchange().to_owned(),
            routing_key: delivery.routing_key().to_owned(),
            content_type: own(properties.content_type),
            user_id: own(properties.user_id),
            headers: delivery.header_table(),
        }
    }
}
