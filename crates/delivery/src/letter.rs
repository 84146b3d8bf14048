//! A message on its way out: what is sent of it, what a filter sees, and what is written on it when it is given up.

use std::fmt;

use broker::Subscription;
use broker::follow::TOLD_EXCHANGE;
use bytes::Bytes;
use model::{Message, publish_rules};
use posthouse_amqp::properties::Properties;
use posthouse_amqp::rewrite::Rewrite;
use posthouse_amqp::{Table, Value};
use serde_json::Value as Json;
use store::Leased;

use crate::filter::{Filter, Subject, Unanswered};
use crate::notification::{fill, json_of, notification};
use crate::request::{About, Address, OwnRequest, PathTemplate, Terms, headers_of};

/// Seconds to live of a message that does not say: Zaqar's default.
const TTL_S: u64 = 3600;

/// Largest body that a filter looks into, in bytes.
const FILTERED_BYTES_MAX: usize = 1024 * 1024;

/// Deepest nesting of headers that a filter sees.
const HEADERS_DEPTH_MAX: u32 = 8;

/// How often a message may be passed on from queue to exchange to queue before that is a circle.
const HOPS_MAX: i64 = 16;

/// Header that counts how often a message was passed on.
const HOPS: &str = "x-posthouse-hops";

/// Opens messages that are kept encrypted.
pub trait Opener: Send + Sync + fmt::Debug {
    /// The body in the clear, or `None` if it is not encrypted.
    ///
    /// # Errors
    ///
    /// A text for the log if it cannot be opened.
    fn open(&self, tenant: &str, queue: &str, message: &Message)
    -> Result<Option<Vec<u8>>, String>;
}

/// Why nothing can be sent of a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LetterError {
    #[error("the message cannot be opened: {0}")]
    Sealed(String),
    #[error(transparent)]
    TooLong(#[from] crate::notification::TooLong),
    #[error("a part of the message that is `.` or `..` cannot be in a path")]
    Path,
    #[error("the message has passed from exchange to exchange {HOPS_MAX} times")]
    Circle,
}

/// A leased message, read as far as it is needed.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    message: Message,
    queue: Box<str>,
    /// In the clear, if it is kept otherwise.
    opened: Option<Vec<u8>>,
}

impl Letter {
    /// Opens a message.
    pub(crate) fn open(
        leased: &Leased,
        subscription: &Subscription,
        opener: Option<&dyn Opener>,
        shown_name: fn(&str) -> &str,
    ) -> Result<Self, LetterError> {
        let message = leased.message.clone();
        let (tenant, queue) = (&subscription.tenant, &subscription.queue);
        let opened = match opener.filter(|_| !is_told(&message)) {
            Some(opener) => opener.open(tenant, queue, &message).map_err(LetterError::Sealed)?,
            None => None,
        };
        Ok(Self { message, queue: shown_name(queue).into(), opened })
    }

    fn body(&self) -> &[u8] {
        self.opened.as_deref().unwrap_or_else(|| self.message.body())
    }

    fn content_type(&self) -> Option<&str> {
        if self.opened.is_some() {
            // Whoever seals a message seals JSON; the type that is stored says that it is sealed.
            return Some("application/json");
        }
        Properties::decode(self.message.properties()).ok()?.content_type
    }

    /// Whether the server itself tells the subscriber something.
    pub(crate) fn is_told(&self) -> bool {
        is_told(&self.message)
    }

    /// What is sent.
    pub(crate) fn payload(&self, post_data: Option<&str>) -> Result<Bytes, LetterError> {
        if self.is_told() {
            return Ok(self.body().to_vec().into());
        }
        let json = json_of(self.content_type(), self.body());
        let json = notification(&self.queue, ttl_s(&self.message), &json);
        Ok(match post_data {
            Some(text) => fill(text, &json)?.into(),
            None => json.into(),
        })
    }

    /// Whether somebody waits for an answer to it.
    pub(crate) fn is_asked(&self) -> bool {
        crate::answer::is_asked(&self.message)
    }

    /// The message as a request of its own, and its body as it is; at this attempt, with so many milliseconds left.
    pub(crate) fn request(
        &self,
        path: Option<&PathTemplate>,
        attempt: u32,
        time_left: Option<u64>,
    ) -> Result<(Bytes, OwnRequest), LetterError> {
        let address = Address {
            queue: &self.queue,
            exchange: &self.message.address.exchange,
            routing_key: &self.message.address.routing_key,
        };
        let path = path.map(|path| path.fill(&address).ok_or(LetterError::Path)).transpose()?;
        let about =
            About { queue: &self.queue, attempt, time_left, content_type: self.content_type() };
        let properties = Properties::decode(self.message.properties()).unwrap_or_default();
        let headers = headers_of(&about, &properties, &headers(&self.message));
        let request = OwnRequest { path, headers, terms: Terms::default() };
        Ok((self.body().to_vec().into(), request))
    }

    /// Whether a filter lets it pass.
    pub(crate) fn matches(&self, filter: &Filter) -> Result<bool, Unanswered> {
        if self.is_told() {
            return Ok(true);
        }
        filter.matches_content(&self.message, (self.content_type(), self.body()), &self.queue)
    }

    /// Properties of the message as it is passed on to an exchange, and its body in the clear if it is kept otherwise: who
    /// consumes behind the exchange has no keys.
    pub(crate) fn passed_on(&self) -> Result<(Vec<u8>, Option<&[u8]>), LetterError> {
        let mut headers = headers(&self.message);
        let hops = headers.get(HOPS).and_then(Value::as_i64).unwrap_or(0);
        if hops >= HOPS_MAX {
            return Err(LetterError::Circle);
        }
        headers.insert(HOPS, Value::I64(hops + 1));
        let properties = with_headers(&self.message, &headers);
        match &self.opened {
            None => Ok((properties, None)),
            Some(opened) => Ok((self.unsealed(&properties)?, Some(opened))),
        }
    }

    /// The same properties with the type of what was sealed.
    fn unsealed(&self, properties: &[u8]) -> Result<Vec<u8>, LetterError> {
        let unreadable = || LetterError::Sealed("its properties are unreadable".to_owned());
        let known = Properties::decode(properties).map_err(|_| unreadable())?;
        let mut encoded = Vec::with_capacity(properties.len());
        let known = Properties { content_type: self.content_type(), ..known };
        known.encode(&mut encoded).map_err(|_| unreadable())?;
        Ok(encoded)
    }
}

impl Filter {
    /// Whether the filter is true for a message, whose body is in the clear, of a queue of this name.
    ///
    /// # Errors
    ///
    /// [`Unanswered`]; the message is not for the subscriber then.
    pub fn matches_message(&self, message: &Message, queue: &str) -> Result<bool, Unanswered> {
        let properties = Properties::decode(message.properties()).ok();
        let content_type = properties.and_then(|properties| properties.content_type);
        self.matches_content(message, (content_type, message.body()), queue)
    }

    fn matches_content(
        &self,
        message: &Message,
        (content_type, body): (Option<&str>, &[u8]),
        queue: &str,
    ) -> Result<bool, Unanswered> {
        if body.len() > FILTERED_BYTES_MAX {
            return Err(Unanswered::TooExpensive);
        }
        let json = json_of(content_type, body);
        let body =
            serde_json::from_slice(&json).map_err(|error| Unanswered::Failed(error.to_string()))?;
        let headers = headers(message);
        let headers: Vec<(String, Json)> =
            headers.iter().map(|(name, value)| (name.to_owned(), json_value(value, 0))).collect();
        let (ttl, body_bytes) = (ttl_s(message), json.len());
        self.matches(&Subject { body: &body, headers: &headers, queue, ttl, body_bytes })
    }
}

/// Whether the server itself tells the subscriber something by this message.
pub(crate) fn is_told(message: &Message) -> bool {
    &*message.address.exchange == TOLD_EXCHANGE
}

/// Milliseconds to live that a message was posted with.
pub(crate) fn ttl_ms(message: &Message) -> Option<u64> {
    let properties = Properties::decode(message.properties()).ok()?;
    publish_rules::expiration(properties.expiration).ok().flatten()
}

fn ttl_s(message: &Message) -> u64 {
    ttl_ms(message).map_or(TTL_S, |ttl_ms| ttl_ms / 1000)
}

/// What stands on a message that was given up.
#[derive(Debug)]
pub(crate) struct Obituary<'a> {
    pub(crate) subscription: &'a Subscription,
    pub(crate) reason: &'a str,
    pub(crate) attempts: u32,
}

impl Obituary<'_> {
    /// Properties of the message with the reasons in its headers.
    pub(crate) fn write(&self, message: &Message) -> Vec<u8> {
        let mut headers = headers(message);
        let text = |text: &str| Value::LongString(text.as_bytes().into());
        headers.insert("x-posthouse-queue", text(&self.subscription.queue));
        headers.insert("x-posthouse-subscription", text(&self.subscription.id.to_string()));
        headers.insert("x-posthouse-subscriber", text(&self.subscription.subscriber));
        headers.insert("x-posthouse-reason", text(self.reason));
        headers.insert("x-posthouse-attempts", Value::I64(self.attempts.into()));
        with_headers(message, &headers)
    }
}

fn headers(message: &Message) -> Table {
    let rewrite = Rewrite::of(message.properties()).ok();
    let headers = rewrite.and_then(|rewrite| rewrite.headers()?.decode().ok());
    headers.unwrap_or_default()
}

/// The message's properties with other headers, or as they are if that cannot be.
fn with_headers(message: &Message, headers: &Table) -> Vec<u8> {
    let rewritten = || {
        let mut rewrite = Rewrite::of(message.properties()).ok()?;
        rewrite.set_headers(headers).ok()?;
        let mut encoded = Vec::new();
        rewrite.encode(&mut encoded);
        (encoded.len() <= Message::PROPERTIES_BYTES_MAX).then_some(encoded)
    };
    rewritten().unwrap_or_else(|| message.properties().to_vec())
}

/// A header as JSON, as far as a filter can do something with it.
fn json_value(value: &Value, depth: u32) -> Json {
    if depth > HEADERS_DEPTH_MAX {
        return Json::Null;
    }
    if let Some(number) = value.as_i64() {
        return number.into();
    }
    if let Some(truth) = value.as_bool() {
        return truth.into();
    }
    if let Some(text) = value.as_str() {
        return text.into();
    }
    if let Some(list) = value.as_array() {
        return list.iter().map(|one| json_value(one, depth + 1)).collect();
    }
    match value {
        Value::F32(number) => f64::from(*number).into(),
        Value::F64(number) => (*number).into(),
        Value::Timestamp(seconds) => (*seconds).into(),
        Value::Table(table) => table
            .iter()
            .map(|(name, value)| (name.to_owned(), json_value(value, depth + 1)))
            .collect(),
        _ => Json::Null,
    }
}
