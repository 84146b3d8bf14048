//! Bodies of queues with `_enable_encrypt_messages`: sealed before they are stored, opened before anybody sees them.

use std::sync::Arc;

use broker::Seen;
use model::Message;
use posthouse_amqp::properties::Properties;

use super::Operations;
use super::place::Place;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request::NewMessage;
use crate::door::zaqar::sealing::{CONTENT_TYPE, SealError};

impl Operations {
    /// The sealed bodies of messages for an encrypted queue; none for another.
    pub(super) fn seal(
        &self,
        place: &Place,
        messages: &[NewMessage<'_>],
    ) -> Result<Vec<Vec<u8>>, Problem> {
        if !place.rules.encrypted {
            return Ok(Vec::new());
        }
        let keys = self.gate.key_ring().ok_or_else(no_keys)?;
        let tenant = place.access.tenant_name();
        let seal = |message: &NewMessage<'_>| {
            keys.seal(tenant, place.name(), message.body.text().as_bytes())
        };
        messages.iter().map(seal).collect::<Result<_, _>>().map_err(|error| {
            tracing::error!(%error, queue = place.name(), "messages could not be encrypted");
            Problem::unavailable("Messages could not be encrypted.")
        })
    }

    /// The same messages with their sealed bodies opened.
    ///
    /// One that cannot be opened stays as it is, and is shown as base64 of its cipher text: a message that was taken off its
    /// queue must not be lost because a key is missing for a while, and one that somebody forged must not hide the others.
    pub(super) fn opened(&self, place: &Place, mut seen: Vec<Seen>) -> Vec<Seen> {
        for seen in &mut seen {
            let tenant = place.access.tenant_name();
            if let Some(message) = self.opened_message(tenant, place.name(), &seen.message) {
                seen.message = message;
            }
        }
        seen
    }

    /// A message of `queue` in the clear; `None` if it is not sealed or cannot be opened.
    pub(crate) fn opened_message(
        &self,
        tenant: &str,
        queue: &str,
        message: &Message,
    ) -> Option<Message> {
        if !is_sealed(message) {
            return None;
        }
        let keys = self.gate.key_ring().ok_or(SealError::NoKey);
        match keys.and_then(|keys| keys.open(tenant, message.body())) {
            Ok(body) => in_the_clear(message, &body),
            Err(error) => {
                tracing::error!(tenant, queue, %error, "a message could not be decrypted");
                None
            }
        }
    }

    /// Whether bodies can be encrypted.
    pub(super) fn has_keys(&self) -> bool {
        self.gate.key_ring().is_some()
    }
}

fn in_the_clear(sealed: &Message, body: &[u8]) -> Option<Message> {
    let mut properties = Vec::with_capacity(sealed.properties_len());
    let known = Properties::decode(sealed.properties()).ok()?;
    let known = Properties { content_type: Some("application/json"), ..known };
    known.encode(&mut properties).ok()?;
    let address = Arc::clone(&sealed.address);
    Some(Message::new(address, &properties, body, sealed.persistent, sealed.priority))
}

/// The kind of body is told by its content type; most bodies are not long enough to ask.
fn is_sealed(message: &Message) -> bool {
    message.body().starts_with(b"PS")
        && Properties::decode(message.properties())
            .is_ok_and(|properties| properties.content_type == Some(CONTENT_TYPE))
}

/// The queue wants encryption and the operator has given no keys.
pub(super) fn no_keys() -> Problem {
    Problem::invalid(
        "Messages cannot be encrypted: the service has no keys (queues.encryption.keys).",
    )
}
