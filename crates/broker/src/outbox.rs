//! What the broker hands to one connection: deliveries, and the news that a consumer is gone.
//!
//! A queue's dispatcher pushes, the connection's own task takes everything at once. Bounded by bytes: a consumer whose
//! connection does not keep up has no room, and its messages stay in their queue for others.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};

use model::Setback;
use store::Leased;

use crate::consumer::Consumer;
use crate::settle::{Holder, Refused};

/// Most bytes waiting for one connection: enough to keep a fast reader busy through one turn of the loop, small enough
/// that thousands of slow readers do not fill the memory.
pub const OUTBOX_BYTES_MAX: usize = 1024 * 1024;

/// What a delivery counts beside its body, so that empty messages are bounded too.
const DELIVERY_OVERHEAD_BYTES: usize = 128;

/// One thing for the connection to tell its client.
#[derive(Debug)]
pub enum Outgoing {
    /// A message for a consumer.
    Deliver {
        /// Whose.
        consumer: Arc<Consumer>,
        /// The message and its lease.
        leased: Leased,
    },
    /// The consumer is gone because its queue is (AMQP: consumer cancel notification).
    Cancelled {
        /// Which.
        consumer: Arc<Consumer>,
    },
}

impl Outgoing {
    /// The lease that ends if this never reaches the client; `None` if it has none.
    #[must_use]
    pub fn into_refused(self) -> Option<Refused> {
        match self {
            Self::Deliver { consumer, leased } if !consumer.options.no_ack => Some(Refused {
                setback: Setback::Returned,
                sequence: leased.sequence,
                delivery_count: leased.delivery_count,
                holder: Holder::Consumer(consumer),
            }),
            // Taken at once: as good as sent, which is what its consumer asked for.
            Self::Deliver { .. } | Self::Cancelled { .. } => None,
        }
    }
}

/// The bytes that a delivery occupies in an outbox.
#[must_use]
pub fn delivery_bytes(leased: &Leased) -> usize {
    leased.message.payload().len() + DELIVERY_OVERHEAD_BYTES
}

/// The mailbox of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    bytes: AtomicUsize,
    congested: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    items: Vec<Outgoing>,
    waker: Option<Waker>,
}

impl Outbox {
    /// Adds all of `items` (leaving it empty, its memory kept) and wakes the connection.
    pub fn push(&self, items: &mut Vec<Outgoing>) {
        let bytes: usize = items
            .iter()
            .map(|item| match item {
                Outgoing::Deliver { leased, .. } => delivery_bytes(leased),
                Outgoing::Cancelled { .. } => 0,
            })
            .sum();
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let waker = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.items.append(items);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves what waits into `into`; if nothing does, the context's task is woken at the next push.
    pub fn poll_take(&self, context: &Context<'_>, into: &mut Vec<Outgoing>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.items.is_empty() {
            match &mut inner.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            return;
        }
        into.append(&mut inner.items);
        // A burst must not leave its memory with a connection that is idle from now on.
        if inner.items.capacity() > 64 && into.len() < 16 {
            inner.items = Vec::new();
        }
    }

    /// Wakes the connection without telling it anything.
    pub fn wake(&self) {
        let waker = self.inner.lock().unwrap_or_else(PoisonError::into_inner).waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes what is left without waiting: for a connection that ends.
    pub fn take_rest(&self) -> Vec<Outgoing> {
        std::mem::take(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).items)
    }

    /// The connection has encoded this many bytes of deliveries.
    pub fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// How many more bytes fit; notes the refusal if none do, see [`Outbox::take_congested`].
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        let used = self.bytes.load(Ordering::Acquire);
        if used < OUTBOX_BYTES_MAX {
            return OUTBOX_BYTES_MAX - used;
        }
        self.congested.store(true, Ordering::Release);
        // The connection may have released in between and not have seen the note.
        OUTBOX_BYTES_MAX.saturating_sub(self.bytes.load(Ordering::Acquire))
    }

    /// Whether a dispatcher found no room since the last call and there is some again: the connection then asks the
    /// queues of its consumers to dispatch.
    #[must_use]
    pub fn take_congested(&self) -> bool {
        self.bytes.load(Ordering::Acquire) <= OUTBOX_BYTES_MAX / 2
            && self.congested.swap(false, Ordering::AcqRel)
    }
}
