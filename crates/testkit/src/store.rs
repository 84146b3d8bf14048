//! Short words for talking to a store in tests. They panic where the store refuses.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use model::{Address, ClaimId, DedupId, Message, QueueId, Sequence, Timestamp};
use store::{
    Catalog, Change, Claim, Commit, Condition, Hold, Lease, LeaseRequest, Pool, QueueKind,
    QueueStats, ReadRequest, Receipt, Removal, Sequences, Settlement, StoreError, Stored, Target,
    Targets, Which,
};

/// Both contracts in one driver.
pub trait Store: Pool + Catalog {}

impl<T: Pool + Catalog> Store for T {}

/// A plain durable queue.
pub const DURABLE: QueueKind = QueueKind { durable: true, priority_max: 0, stream: false };

/// A queue that is gone after a restart.
pub const TRANSIENT: QueueKind = QueueKind { durable: false, priority_max: 0, stream: false };

/// A durable stream.
pub const STREAM: QueueKind = QueueKind { durable: true, priority_max: 0, stream: true };

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A message with this body.
#[must_use]
pub fn message(body: impl AsRef<[u8]>, persistent: bool) -> Message {
    let address = Arc::new(Address { exchange: "exchange".into(), routing_key: "key".into() });
    Message::new(address, b"properties", body.as_ref(), persistent, 0)
}

/// A queue that a message goes to at once and for ever.
#[must_use]
pub fn to(queue: u64) -> Target {
    Target { queue: QueueId(queue), priority: 0, expires: None, not_before: None }
}

/// An enqueue of a persistent message into one queue.
#[must_use]
pub fn enqueue(queue: u64, body: impl AsRef<[u8]>) -> Change {
    enqueue_to(body, [to(queue)])
}

/// An enqueue of a persistent message.
#[must_use]
pub fn enqueue_to<const N: usize>(body: impl AsRef<[u8]>, targets: [Target; N]) -> Change {
    let targets = targets.into_iter().collect::<Targets>();
    Change::Enqueue { message: message(body, true), targets, dedup: None }
}

/// An enqueue that must happen once.
#[must_use]
pub fn enqueue_once(queue: u64, body: impl AsRef<[u8]>, id: u128) -> Change {
    let targets = Targets::from_iter([to(queue)]);
    Change::Enqueue { message: message(body, true), targets, dedup: Some(DedupId(id)) }
}

/// The settlement of single sequences.
#[must_use]
pub fn settle(queue: u64, sequences: &[u64], settlement: Settlement) -> Change {
    let sequences = sequences.iter().map(|it| (Sequence(*it), Sequence(*it))).collect();
    Change::Settle { queue: QueueId(queue), sequences, settlement }
}

/// An acknowledgement of single sequences.
#[must_use]
pub fn ack(queue: u64, sequences: &[u64]) -> Change {
    settle(queue, sequences, Settlement::Ack)
}

/// A release that is not counted.
#[must_use]
pub fn release(queue: u64, sequences: &[u64]) -> Change {
    settle(queue, sequences, Settlement::Release { not_before: None, counted: false })
}

/// A claim that keeps messages 500 ms longer than it lasts.
#[must_use]
pub fn claim(id: u64, until: u64) -> Claim {
    let id = ClaimId::from_bits(u128::from(id));
    Claim { id, until: Timestamp(until), keep_until: Timestamp(until + 500) }
}

/// Single sequences as runs.
#[must_use]
pub fn runs(sequences: &[u64]) -> Sequences {
    sequences.iter().map(|it| (Sequence(*it), Sequence(*it))).collect()
}

/// A store with a clock, for tests.
#[derive(Debug)]
pub struct Talk<'a> {
    /// The store.
    pub store: &'a dyn Store,
    /// The time of every call.
    pub now: Timestamp,
}

impl<'a> Talk<'a> {
    /// A talk that begins at a second after the beginning of time.
    pub fn new(store: &'a dyn Store) -> Self {
        Self { store, now: Timestamp(1000) }
    }

    /// Commits and waits until it is durable.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub fn commit(&self, changes: impl IntoIterator<Item = Change>) -> Receipt {
        let receipt = self.try_commit(changes).expect("the commit is accepted");
        wait(self.store.watch().until_durable(receipt.ticket)).expect("the store lives");
        receipt
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub fn try_commit(
        &self,
        changes: impl IntoIterator<Item = Change>,
    ) -> Result<Receipt, StoreError> {
        let changes = changes.into_iter().collect();
        wait(self.store.commit(Commit { changes, now: self.now, ..Commit::default() }))
    }

    /// Makes a queue.
    pub fn create(&self, queue: u64, kind: QueueKind) {
        self.commit([Change::CreateQueue { queue: QueueId(queue), kind }]);
    }

    /// Leases at most `count` messages, waiting for reservations as an engine does.
    pub fn lease(&self, queue: u64, count: usize) -> Lease {
        self.lease_held(queue, count, Hold::UntilSettled)
    }

    /// Leases at most `count` messages in any way.
    ///
    /// # Panics
    ///
    /// If it is refused.
    pub fn lease_held(&self, queue: u64, count: usize, hold: Hold) -> Lease {
        let mut whole = Lease::default();
        loop {
            let request = LeaseRequest {
                queue: QueueId(queue),
                messages_max: count - whole.messages.len(),
                bytes_max: usize::MAX,
                hold,
                now: self.now,
            };
            let lease = wait(self.store.lease(request)).expect("the lease is accepted");
            let blocked = lease.more && lease.messages.is_empty() && lease.expired.is_empty();
            whole.messages.extend(lease.messages);
            whole.expired.extend(lease.expired);
            whole.more = lease.more;
            whole.ticket = whole.ticket.max(lease.ticket);
            if whole.messages.len() >= count || !lease.more {
                return whole;
            }
            if blocked {
                wait(std::future::poll_fn(|context| self.store.watch().poll_ready(context)));
            }
        }
    }

    /// Leases at most `count` messages; their sequences.
    pub fn lease_sequences(&self, queue: u64, count: usize) -> Vec<u64> {
        self.lease(queue, count).messages.iter().map(|leased| leased.sequence.0).collect()
    }

    /// Leases at most `count` messages; their bodies as text.
    pub fn lease_bodies(&self, queue: u64, count: usize) -> Vec<String> {
        let lease = self.lease(queue, count);
        lease.messages.iter().map(|leased| text(&leased.message)).collect()
    }

    /// Counters of a queue.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    pub fn stats(&self, queue: u64) -> QueueStats {
        wait(self.store.stats(QueueId(queue))).expect("the queue is there")
    }

    /// Messages from a sequence on.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    pub fn read(&self, queue: u64, from: u64, count: usize) -> Vec<Stored> {
        let (queue, from) = (QueueId(queue), Sequence(from));
        self.read_of(queue.0, Which::ALL, from.0, count)
    }

    /// Some messages from a sequence on.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    pub fn read_of(&self, queue: u64, which: Which, from: u64, count: usize) -> Vec<Stored> {
        let (queue, from) = (QueueId(queue), Sequence(from));
        let (messages_max, bytes_max) = (count, usize::MAX);
        let request = ReadRequest { queue, which, from, messages_max, bytes_max };
        wait(self.store.read(request)).expect("the queue is there")
    }

    /// Removes messages by sequence.
    pub fn remove(&self, queue: u64, sequences: &[u64], condition: Condition) -> Vec<Removal> {
        let sequences = sequences.iter().map(|it| Sequence(*it)).collect();
        let change = Change::Remove { queue: QueueId(queue), sequences, condition };
        self.commit([change]).removals
    }
}

/// The body of a message as text.
#[must_use]
pub fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.body()).into_owned()
}
