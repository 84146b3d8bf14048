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
    /// Since when the claim holds it by which it is seen.
    pub(crate) claimed: Option<Timestamp>,
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
    /// time that fits. One that a claim made live longer shows what the claim gave it, as in Zaqar, where it is seen by
    /// that claim; elsewhere its life so far is counted as well, in whole seconds.
    pub(crate) fn ttl(&self) -> u64 {
        let Some(expires) = self.seen.expires else { return u64::from(u32::MAX) };
        let since = |begin: Timestamp| expires.0.saturating_sub(begin.0);
        let own = since(self.seen.enqueued);
        // Both times to live are whole seconds, so that tells which of them it is.
        let given = self.claimed.map(since).filter(|given| own % 1000 != 0 && given % 1000 == 0);
        given.unwrap_or(own) / 1000
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
    fn a_message_that_a_claim_prolonged_shows_what_the_claim_gave_it() {
        let ttl = |enqueued, expires, claimed: Option<u64>| {
            let address = Arc::new(Address { exchange: "".into(), routing_key: "q".into() });
            let seen = Seen {
                sequence: model::Sequence(1),
                message: Message::new(address, &[0, 0], b"1", true, 0),
                enqueued: Timestamp(enqueued),
                expires: Some(Timestamp(expires)),
                not_before: None,
                claim: None,
                claim_count: 0,
            };
            let claimed = claimed.map(Timestamp);
            MessageView { seen: &seen, queue: 1, now: Timestamp(0), claimed }.ttl()
        };

        assert_eq!(ttl(1_234, 61_234, None), 60);
        assert_eq!(ttl(1_234, 3_601_234, Some(5_777)), 3600);
        assert_eq!(ttl(1_234, 365_777, Some(5_777)), 360);
        assert_eq!(ttl(1_234, 365_777, None), 364);
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
