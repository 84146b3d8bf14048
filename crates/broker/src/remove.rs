//! Removing messages by their places, and popping those at the head.

use model::permission::Verb;
use model::{Sequence, Ticket, Timestamp};
use store::{Change, Commit, Condition, Hold, LeaseRequest, Removal};

use crate::access::Access;
use crate::browse::{PAGE_BYTES_MAX, Seen};
use crate::error::{BrokerError, Kind};

/// Most rounds of one pop: each may meet nothing but expired messages.
const ROUNDS_MAX: usize = 64;

/// What became of messages that were to be removed.
#[derive(Debug)]
pub struct Removals {
    /// For each sequence that was named.
    pub outcomes: Vec<Removal>,
    /// Durable when the watermark reaches it.
    pub ticket: Ticket,
}

/// Messages that were taken from the head.
#[derive(Debug)]
pub struct Popped {
    /// Highest priority first, then oldest first.
    pub messages: Vec<Seen>,
    /// They may be shown when the watermark reaches it.
    pub ticket: Ticket,
}

impl Access {
    /// Removes messages by their sequences, each if it is held as `condition` says. All are looked at and removed in one
    /// commit.
    ///
    /// # Errors
    ///
    /// If the queue does not exist, belongs to a connection, or may not be read.
    pub fn remove(
        &self,
        queue: &str,
        sequences: &[Sequence],
        condition: Condition,
        now: Timestamp,
    ) -> Result<Removals, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let change = Change::Remove { queue: queue.id, sequences: sequences.into(), condition };
        let changes = vec![change];
        let receipt = self.commit(Commit { changes, now, ..Commit::default() })?;
        let gone = receipt.removals.iter().filter(|it| **it == Removal::Removed).count();
        self.inner.broker.counters.acknowledged.add(gone as u64);
        Ok(Removals { outcomes: receipt.removals, ticket: receipt.ticket })
    }

    /// Takes and removes at most `count_max` messages from the head. The cost does not depend on how many there are.
    ///
    /// # Errors
    ///
    /// If the queue does not exist, belongs to a connection, is a stream, or may not be read.
    pub fn pop(
        &self,
        queue: &str,
        count_max: usize,
        now: Timestamp,
    ) -> Result<Popped, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let broker = &self.inner.broker;
        let mut popped = Popped { messages: Vec::new(), ticket: Ticket::NONE };
        let mut bytes = 0;
        for _ in 0..ROUNDS_MAX {
            let room = count_max - popped.messages.len();
            if room == 0 || bytes >= PAGE_BYTES_MAX {
                break;
            }
            let request = LeaseRequest {
                queue: queue.id,
                messages_max: room,
                bytes_max: PAGE_BYTES_MAX - bytes,
                hold: Hold::TakeDurably,
                now,
            };
            let lease = broker.pool.lease(request).now()?;
            popped.ticket = popped.ticket.max(lease.ticket);
            bytes += lease.messages.iter().map(|one| one.message.body_len()).sum::<usize>();
            let nothing = lease.messages.is_empty() && lease.expired.is_empty();
            popped.messages.extend(lease.messages.into_iter().map(|it| Seen::of_leased(it, None)));
            if !lease.expired.is_empty() {
                broker.expire_in(&queue, lease.expired, now);
            }
            if nothing || !lease.more {
                break;
            }
        }
        broker.counters.fetched_no_ack.add(popped.messages.len() as u64);
        Ok(popped)
    }
}
