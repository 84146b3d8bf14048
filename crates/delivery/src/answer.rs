//! What a subscriber answers to whoever asked: the body of its answer, on its way to the message's `reply-to`.
//!
//! It has the content type and encoding of the answer, the correlation id of the message (its message id, if it has none),
//! and its delivery mode: an answer is as durable as what it answers. It does not expire.

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use model::Message;
use posthouse_amqp::properties::Properties;

/// Type of an answer that does not say.
const BYTES_TYPE: &str = "application/octet-stream";

/// Longest text that a property can hold, in bytes.
const TEXT_BYTES_MAX: usize = 255;

/// What a subscriber answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its type.
    pub content_type: Box<str>,
    /// How it is encoded.
    pub content_encoding: Option<Box<str>>,
    /// Its body; not empty.
    pub body: Bytes,
}

impl Answer {
    /// An answer with these headers; `None` if its body is empty, which says nothing.
    pub fn new(headers: &HeaderMap, body: Bytes) -> Option<Self> {
        if body.is_empty() {
            return None;
        }
        let content_type = text_of(headers, &CONTENT_TYPE).unwrap_or_else(|| BYTES_TYPE.into());
        Some(Self { content_type, content_encoding: text_of(headers, &CONTENT_ENCODING), body })
    }

    /// Encoded properties of the message that carries it to whoever sent `asked`.
    pub(crate) fn properties(&self, asked: &Message) -> Vec<u8> {
        let asked = Properties::decode(asked.properties()).unwrap_or_default();
        let said = Properties {
            content_type: Some(&self.content_type),
            content_encoding: self.content_encoding.as_deref(),
            delivery_mode: asked.delivery_mode,
            correlation_id: asked.correlation_id.or(asked.message_id),
            ..Properties::default()
        };
        let mut encoded = Vec::with_capacity(96);
        if let Err(error) = said.encode(&mut encoded) {
            // All of it came out of properties, or was measured.
            tracing::error!(%error, "an answer goes without properties");
            encoded = vec![0, 0];
        }
        encoded
    }
}

/// A header as a property, if it can be one.
fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<Box<str>> {
    let text = headers.get(name)?.to_str().ok()?;
    (1..=TEXT_BYTES_MAX).contains(&text.len()).then(|| text.into())
}

/// Whether somebody waits for an answer to a message.
pub(crate) fn is_asked(message: &Message) -> bool {
    let properties = Properties::decode(message.properties());
    properties.is_ok_and(|it| it.reply_to.is_some_and(|reply_to| !reply_to.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::header::HeaderValue;
    use model::Address;

    use super::*;

    fn asked(properties: &Properties<'_>) -> Message {
        let mut encoded = Vec::new();
        properties.encode(&mut encoded).unwrap();
        let address = Address { exchange: "".into(), routing_key: "q".into() };
        Message::new(Arc::new(address), &encoded, b"question", true, 0)
    }

    fn headers(of: &[(HeaderName, &str)]) -> HeaderMap {
        of.iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn an_answer_carries_what_is_needed_to_read_and_to_recognise_it() {
        let headers = headers(&[(CONTENT_TYPE, "text/plain"), (CONTENT_ENCODING, "br")]);
        let answer = Answer::new(&headers, Bytes::from_static(b"yes")).unwrap();
        let question = Properties {
            correlation_id: Some("c-1"),
            message_id: Some("m-1"),
            delivery_mode: Some(2),
            expiration: Some("1000"),
            user_id: Some("ann"),
            reply_to: Some("back"),
            ..Properties::default()
        };

        let encoded = answer.properties(&asked(&question));

        let expected = Properties {
            content_type: Some("text/plain"),
            content_encoding: Some("br"),
            correlation_id: Some("c-1"),
            delivery_mode: Some(2),
            ..Properties::default()
        };
        assert_eq!(Properties::decode(&encoded).unwrap(), expected);
        let question = Properties { correlation_id: None, ..question };
        let encoded = answer.properties(&asked(&question));
        assert_eq!(Properties::decode(&encoded).unwrap().correlation_id, Some("m-1"));
    }

    #[test]
    fn what_is_no_property_is_left_out_and_nothing_is_no_answer() {
        let long = "x".repeat(256);
        let headers = headers(&[(CONTENT_TYPE, long.as_str()), (CONTENT_ENCODING, "")]);

        let answer = Answer::new(&headers, Bytes::from_static(b"x")).unwrap();

        assert_eq!((&*answer.content_type, answer.content_encoding), (BYTES_TYPE, None));
        assert_eq!(Answer::new(&headers, Bytes::new()), None);
    }

    #[test]
    fn whoever_gives_no_address_asks_for_nothing() {
        let to = |reply_to| is_asked(&asked(&Properties { reply_to, ..Properties::default() }));

        assert_eq!([None, Some(""), Some("back")].map(to), [false, false, true]);
    }
}
