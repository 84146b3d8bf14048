//! Messages as clients of this door see them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker::Seen;
use model::{ClaimId, Message, Timestamp};
use posthouse_amqp::properties::Properties;

use crate::door::zaqar::identity::MessageId;
use crate::door::zaqar::json::{check_value, write};

/// A message of a queue, at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageView<'a> {
    pub(crate) seen: &'a Seen,
    /// The lowest 32 bits of its queue's identity.
    pub(crate) queue: u32,
    pub(crate) now: Timestamp,
}

impl MessageView<'_> {
    pub(crate) fn id(&self) -> MessageId {
        MessageId { queue: self.queue, sequence: self.seen.sequence }
    }

    /// Whole seconds since it was posted.
    pub(crate) fn age(&self) -> u64 {
        self.now.since(self.seen.enqueued).as_secs()
    }

    /// Seconds that it lives in all. A message that lives for ever, which only other doors can make, shows the longest
    /// time that fits. One that a claim made live longer began some milliseconds before that claim; they do not count.
    pub(crate) fn ttl(&self) -> u64 {
        match self.seen.expires {
            Some(expires) => expires.0.saturating_sub(self.seen.enqueued.0) / 1000,
            None => u64::from(u32::MAX),
        }
    }

    /// The claim that holds it.
    pub(crate) fn claim(&self) -> Option<ClaimId> {
        self.seen.claim
    }

    /// Its body as JSON.
    pub(crate) fn write_body(&self, out: &mut Vec<u8>) {
        write_body(out, &self.seen.message);
    }
}

/// Writes a message's body as a JSON value: as it is if it says that it is JSON, and is; otherwise as a string, of its
/// text if it is UTF-8, of base64 if not.
pub(crate) fn write_body(out: &mut Vec<u8>, message: &Message) {
    let body = message.body();
    let says_json = Properties::decode(message.properties())
        .is_ok_and(|properties| properties.content_type.is_some_and(is_json));
    if says_json && let Ok(value) = check_value(body) {
        out.extend_from_slice(value.text().as_bytes());
        return;
    }
    match std::str::from_utf8(body) {
        Ok(text) => write::string(out, text),
        Err(_) => write::string(out, &STANDARD.encode(body)),
    }
}

/// `application/json` and its kin (`…+json`), whatever parameters follow.
fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json")
        || media.rsplit_once('+').is_some_and(|(_, kind)| kind.eq_ignore_ascii_case("json"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::Address;

    use super::*;

    fn shown(content_type: Option<&str>, body: &[u8]) -> String {
        let mut properties = Vec::new();
        Properties { content_type, ..Properties::default() }.encode(&mut properties).unwrap();
        let address = Arc::new(Address { exchange: "".into(), routing_key: "q".into() });
        let message = Message::new(address, &properties, body, true, 0);
        let mut out = Vec::new();
        write_body(&mut out, &message);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_body_is_shown_as_json_as_text_or_as_base64() {
        assert_eq!(shown(Some("application/json"), b"{\"a\": 1}"), "{\"a\": 1}");
        assert_eq!(shown(Some("application/cloudevents+json; charset=utf-8"), b"[1]"), "[1]");
        assert_eq!(shown(Some("application/json"), b"{\"a\": "), "\"{\\\"a\\\": \"");
        assert_eq!(shown(None, b"{}"), "\"{}\"");
        assert_eq!(shown(Some("text/plain"), "é\n".as_bytes()), "\"é\\n\"");
        assert_eq!(shown(None, b"\xff\xfe"), "\"//4=\"");
    }
}
