//! What an application sends: identity, address, order, time, headers and a payload.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use crate::error::Error;

/// Longest source, topic, key, dedupe id, cancel key and content type, in bytes: what AMQP's short strings hold.
pub const NAME_BYTES_MAX: usize = 255;

/// Largest payload, in bytes. Databases hold more; brokers and inboxes do not.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most headers of one message.
pub const HEADERS_MAX: usize = 128;

/// Longest delay and longest life: ten years, far beyond sense and far below what overflows a database's dates.
pub const DELAY_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// A message on its way into the outbox.
///
/// ```
/// use std::time::Duration;
/// use posthouse_outbox::Message;
///
/// let message = Message::json("orders.placed", &serde_json::json!({ "id": 7 }))
///     .unwrap()
///     .source("shop")
///     .key("customer-1") // in order with the others of this customer
///     .dedupe("order-7") // a repeated call adds no second message
///     .expires(Duration::from_secs(3600));
/// assert_eq!(message.topic, "orders.placed");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its name from end to end: inboxes recognise duplicates by it. A new one of version 7 if nobody says otherwise.
    pub id: Uuid,
    /// Who sends; empty if that does not matter.
    pub source: String,
    /// What happened, such as `orders.placed`. With the source it chooses the transport.
    pub topic: String,
    /// Messages of one key arrive in the order of their transactions.
    pub key: Option<String>,
    /// A second message of the same source, topic and dedupe id is not added while the first is kept.
    pub dedupe_id: Option<String>,
    /// A name to withdraw waiting messages by.
    pub cancel_key: Option<String>,
    /// MIME type of the payload.
    pub content_type: String,
    /// The application's own fields.
    pub headers: BTreeMap<String, String>,
    /// The payload, opaque.
    pub payload: Vec<u8>,
    /// Not sent earlier than this after the call.
    pub delay: Duration,
    /// Not sent later than this after the call.
    pub expires: Option<Duration>,
}

impl Message {
    /// A message of any content type.
    #[must_use]
    pub fn new(
        topic: impl Into<String>,
        content_type: impl Into<String>,
        payload: impl Into<Vec<u8>>,
    ) -> Self {
        Self {
            id: Uuid::now_v7(),
            source: String::new(),
            topic: topic.into(),
            key: None,
            dedupe_id: None,
            cancel_key: None,
            content_type: content_type.into(),
            headers: BTreeMap::new(),
            payload: payload.into(),
            delay: Duration::ZERO,
            expires: None,
        }
    }

    /// A message with a JSON payload.
    ///
    /// # Errors
    ///
    /// If the value cannot be written as JSON.
    pub fn json(
        topic: impl Into<String>,
        payload: &impl serde::Serialize,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self::new(topic, "application/json", serde_json::to_vec(payload)?))
    }

    /// Says who sends.
    #[must_use]
    pub fn source(self, source: impl Into<String>) -> Self {
        Self { source: source.into(), ..self }
    }

    /// Keeps it in order with the others of this key.
    #[must_use]
    pub fn key(self, key: impl fmt::Display) -> Self {
        Self { key: Some(key.to_string()), ..self }
    }

    /// Adds it only if no message of this source, topic and dedupe id is there, waiting or kept.
    #[must_use]
    pub fn dedupe(self, id: impl fmt::Display) -> Self {
        Self { dedupe_id: Some(id.to_string()), ..self }
    }

    /// Lets [`crate::Outbox::cancel`] withdraw it by this name.
    #[must_use]
    pub fn cancel_key(self, key: impl fmt::Display) -> Self {
        Self { cancel_key: Some(key.to_string()), ..self }
    }

    /// Sends it not earlier than this, counted from the call by the database's clock.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Does not send it later than this, counted from the call by the database's clock.
    #[must_use]
    pub fn expires(self, expires: Duration) -> Self {
        Self { expires: Some(expires), ..self }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Gives it an id of the caller's.
    #[must_use]
    pub fn id(self, id: Uuid) -> Self {
        Self { id, ..self }
    }

    /// Whether the limits are kept.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the name and the limit.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let names = [
            ("source", Some(&self.source)),
            ("topic", Some(&self.topic)),
            ("key", self.key.as_ref()),
            ("dedupe id", self.dedupe_id.as_ref()),
            ("cancel key", self.cancel_key.as_ref()),
            ("content type", Some(&self.content_type)),
        ];
        for (what, name) in names.into_iter().filter_map(|(what, name)| Some((what, name?))) {
            at_most(what, "bytes", name.len(), NAME_BYTES_MAX)?;
            // PostgreSQL stores no NUL in texts; the others should not know better.
            if name.contains('\0') {
                return Err(Error::Invalid(format!("{what} must have no NUL")));
            }
            // MySQL compares texts without the spaces at their ends.
            if name.ends_with(' ') {
                return Err(Error::Invalid(format!("{what} must not end with a space")));
            }
        }
        if self.topic.is_empty() {
            return Err(Error::Invalid("topic must not be empty".to_owned()));
        }
        at_most("payload", "bytes", self.payload.len(), PAYLOAD_BYTES_MAX)?;
        at_most("headers", "entries", self.headers.len(), HEADERS_MAX)?;
        for (name, value) in &self.headers {
            at_most("header name", "bytes", name.len(), NAME_BYTES_MAX)?;
            if name.contains('\0') || value.contains('\0') {
                return Err(Error::Invalid("headers must have no NUL".to_owned()));
            }
        }
        for (what, time) in [("delay", Some(self.delay)), ("expires", self.expires)] {
            if time.is_some_and(|time| time > DELAY_MAX) {
                return Err(Error::Invalid(format!("{what} must be at most {DELAY_MAX:?}")));
            }
        }
        Ok(())
    }
}

fn at_most(what: &str, unit: &str, value: usize, limit: usize) -> Result<(), Error> {
    match value <= limit {
        true => Ok(()),
        false => Err(Error::Invalid(format!("{what} must be at most {limit} {unit}, not {value}"))),
    }
}

/// Microseconds for a database; the limits of messages and settings keep them far from the end of the range.
pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_refused_with_its_limit() {
        let long = "x".repeat(256);
        let message = Message::new("t", "text/plain", "");

        for broken in [
            Message::new(&long, "text/plain", ""),
            Message::new("", "text/plain", ""),
            message.clone().source(&long),
            message.clone().key(&long),
            message.clone().dedupe(&long),
            message.clone().cancel_key(&long),
            message.clone().key("a\0b"),
            message.clone().dedupe("a "),
            message.clone().header(&long, ""),
            message.clone().delay(DELAY_MAX + Duration::from_secs(1)),
            Message::new("t", "text/plain", vec![0; PAYLOAD_BYTES_MAX + 1]),
        ] {
            assert!(matches!(broken.check(), Err(Error::Invalid(_))), "{:.80?}", broken.check());
        }
        assert!(message.check().is_ok());
    }
}
