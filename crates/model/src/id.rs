//! Identities: small numbers instead of names wherever a message moves.

/// Which queue, for as long as it exists; never used again for another queue of the same data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

/// A message's place in one queue: given on enqueue, growing, never changed by a requeue.
///
/// The order of sequences is the order of the queue, so a message that is given back returns to its old place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Sequence(pub u64);

/// A commit's place in the order of its pool; a commit is durable once the pool's watermark has reached its ticket.
///
/// [`Ticket::NONE`] stands for a commit that had nothing to make durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

impl Ticket {
    /// Before every commit: durable from the start.
    pub const NONE: Self = Self(0);
}

/// What makes two publishes the same one: a hash over tenant, exchange, producer and the publisher's own id.
///
/// 128 bits, so that a million ids in a window meet by chance once in 10²⁶ windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DedupId(pub u128);
