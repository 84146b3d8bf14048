//! The envelope that travels through Posthouse.
//!
//! Properties stay in the encoded form of an AMQP content header (flag words and property list, without class, weight
//! and size): it is compact, every property and header of every door fits into it, and the hottest path, AMQP to AMQP,
//! hands it through untouched. Only what routing or policy needs is decoded, by `posthouse_amqp::properties`.
//!
//! Cost: one allocation for properties and body together, shared by every queue and consumer; a clone is two reference
//! counts.

use std::sync::Arc;

/// Where a message was published to.
///
/// Shared by all messages of one route, so that names are not copied per message.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// Name of the exchange, empty for the default exchange; at most 255 bytes.
    pub exchange: Box<str>,
    /// Routing key; at most 255 bytes.
    pub routing_key: Box<str>,
}

/// An immutable message. Per-queue facts (sequence, expiry, deliveries) are not here but with the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    payload: Arc<[u8]>,
    properties_len: u32,
    /// Whether it must survive a restart if its queue does (AMQP: delivery-mode 2).
    pub persistent: bool,
    /// The publisher's priority as sent, 0 if none. Queues cap it at their own maximum.
    pub priority: u8,
    /// Where it was published to.
    pub address: Arc<Address>,
}

impl Message {
    /// Largest encoded properties: what one content header frame of the largest allowed frame can carry.
    pub const PROPERTIES_BYTES_MAX: usize = 1024 * 1024;

    /// A message of already encoded properties and a body; copies both once into one allocation.
    ///
    /// # Panics
    ///
    /// If `properties` is longer than [`Message::PROPERTIES_BYTES_MAX`], which doors must have refused.
    #[must_use]
    pub fn new(
        address: Arc<Address>,
        properties: &[u8],
        body: &[u8],
        persistent: bool,
        priority: u8,
    ) -> Self {
        assert!(properties.len() <= Self::PROPERTIES_BYTES_MAX, "doors bound the properties");
        let mut payload = Vec::with_capacity(properties.len() + body.len());
        payload.extend_from_slice(properties);
        payload.extend_from_slice(body);
        Self::from_payload(address, Arc::from(payload), properties.len(), persistent, priority)
    }

    /// A message whose payload (properties, then body) already is one shared allocation.
    ///
    /// # Panics
    ///
    /// If `properties_len` is beyond the payload.
    #[must_use]
    pub fn from_payload(
        address: Arc<Address>,
        payload: Arc<[u8]>,
        properties_len: usize,
        persistent: bool,
        priority: u8,
    ) -> Self {
        assert!(properties_len <= payload.len(), "the properties are the front of the payload");
        let properties_len = u32::try_from(properties_len).unwrap_or(u32::MAX);
        Self { payload, properties_len, persistent, priority, address }
    }

    /// Encoded properties, then the body: what a store writes.
    #[must_use]
    pub fn payload(&self) -> &Arc<[u8]> {
        &self.payload
    }

    /// How many bytes at the front of [`Message::payload`] are the properties.
    #[must_use]
    pub fn properties_len(&self) -> usize {
        self.properties_len as usize
    }

    /// The properties in the encoded form of an AMQP content header.
    #[must_use]
    pub fn properties(&self) -> &[u8] {
        self.payload.get(..self.properties_len()).unwrap_or_default()
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.payload.get(self.properties_len()..).unwrap_or_default()
    }

    /// Bytes of the body.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.payload.len() - self.properties_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_and_body_are_the_two_parts_of_one_payload() {
        let address = Arc::new(Address { exchange: "".into(), routing_key: "q".into() });

        let message = Message::new(address, b"props", b"body", true, 3);

        assert_eq!((message.properties(), message.body()), (&b"props"[..], &b"body"[..]));
    }
}
