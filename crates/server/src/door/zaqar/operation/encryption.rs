//! Bodies of queues with `_enable_encrypt_messages`: sealed before they are stored, opened before anybody sees them.

use broker::Seen;
use model::Message;
use posthouse_amqp::properties::Properties;

use super::Operations;
use super::place::Place;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request::NewMessage;
use crate::door::zaqar::sealing::CONTENT_TYPE;

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

    /// The same messages with their sealed bodies opened. Cipher text is never shown in place of a body.
    pub(super) fn opened(&self, place: &Place, seen: Vec<Seen>) -> Result<Vec<Seen>, Problem> {
        if !seen.iter().any(|seen| is_sealed(&seen.message)) {
            return Ok(seen);
        }
        seen.into_iter()
            .map(|mut seen| {
                if is_sealed(&seen.message) {
                    seen.message = self.open(place, &seen.message)?;
                }
                Ok(seen)
            })
            .collect()
    }

    fn open(&self, place: &Place, message: &Message) -> Result<Message, Problem> {
        let keys = self.gate.key_ring().ok_or_else(no_keys)?;
        let body = keys.open(place.access.tenant_name(), message.body()).map_err(|error| {
            tracing::error!(%error, queue = place.name(), "a message could not be decrypted");
            Problem::unavailable("A message could not be decrypted.")
        })?;
        let mut properties = Vec::with_capacity(message.properties_len());
        Properties::decode(message.properties())
            .ok()
            .and_then(|known| {
                let known = Properties { content_type: Some("application/json"), ..known };
                known.encode(&mut properties).ok()
            })
            .ok_or_else(|| Problem::unavailable("A message could not be read."))?;
        let address = message.address.clone();
        Ok(Message::new(address, &properties, &body, message.persistent, message.priority))
    }

    /// Whether bodies can be encrypted.
    pub(super) fn has_keys(&self) -> bool {
        self.gate.key_ring().is_some()
    }
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
