//! One message as a queue keeps it in memory.

use model::{Message, Sequence, Timestamp};

use super::cold::Cold;
use super::event::Placed;
use super::segment::Position;
use crate::pool::{Leased, Stored};

/// Memory that a resident message costs beside its payload.
const RESIDENT_OVERHEAD_BYTES: usize = 128;

/// Memory that keeping a message resident costs.
pub(crate) fn resident_cost(message: &Message) -> usize {
    message.payload().len() + RESIDENT_OVERHEAD_BYTES
}

/// One message in one queue.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    pub(crate) enqueued: u64,
    /// `u64::MAX` for never.
    pub(crate) expires: u64,
    /// Delayed: ready at; leased: the number of the claim that holds it, 0 for none.
    pub(crate) until: u64,
    /// Where its record lies, if it has one.
    pub(crate) position: Position,
    /// `None` if it must be read from `position`.
    pub(crate) message: Option<Message>,
    pub(crate) body_len: u32,
    pub(crate) delivery_count: u32,
    pub(crate) priority: u8,
    /// Survives a restart, so what becomes of it must be logged.
    pub(crate) durable: bool,
    pub(crate) redelivered: bool,
}

impl Entry {
    pub(crate) fn of_cold(cold: &Cold, priority: u8) -> Self {
        Self {
            sequence: cold.sequence,
            enqueued: 0,
            expires: cold.expires,
            until: 0,
            position: cold.position,
            message: None,
            body_len: cold.body_len,
            delivery_count: 0,
            priority,
            durable: cold.durable,
            redelivered: false,
        }
    }

    pub(crate) fn of_placed(placed: &Placed, position: Position, body_len: u32) -> Self {
        Self {
            sequence: placed.sequence,
            enqueued: 0,
            expires: placed.expires,
            until: placed.not_before,
            position,
            message: None,
            body_len,
            delivery_count: placed.delivery_count,
            priority: placed.priority,
            durable: placed.durable,
            redelivered: placed.delivery_count > 0,
        }
    }

    pub(crate) fn cold(&self) -> Cold {
        Cold {
            sequence: self.sequence,
            position: self.position,
            body_len: self.body_len,
            expires: self.expires,
            durable: self.durable,
        }
    }

    pub(crate) fn resident_cost(&self) -> usize {
        self.message.as_ref().map_or(0, resident_cost)
    }

    pub(crate) fn expires(&self) -> Option<Timestamp> {
        (self.expires != u64::MAX).then_some(Timestamp(self.expires))
    }

    pub(crate) fn leased(&self, message: Message) -> Leased {
        Leased {
            sequence: Sequence(self.sequence),
            message,
            delivery_count: self.delivery_count,
            redelivered: self.redelivered,
            expires: self.expires(),
            enqueued: Timestamp(self.enqueued),
        }
    }

    pub(crate) fn stored(&self, message: Message, not_before: u64, leased: bool) -> Stored {
        Stored {
            sequence: Sequence(self.sequence),
            message,
            enqueued: Timestamp(self.enqueued),
            expires: self.expires(),
            not_before: (not_before != 0).then_some(Timestamp(not_before)),
            delivery_count: self.delivery_count,
            leased,
            claim: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn example(sequence: u64) -> Self {
        let position = Position { segment: 1, offset: 8 };
        let cold = Cold { sequence, position, body_len: 0, expires: u64::MAX, durable: false };
        Self::of_cold(&cold, 0)
    }
}
