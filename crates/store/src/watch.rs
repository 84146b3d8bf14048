//! The durable watermark of a pool, and who waits for it.
//!
//! One number tells which commits are durable. Waiters register a [`Waker`] once and are all woken when it moves, so a
//! connection confirms thousands of publishes after one wake-up.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use model::{QueueId, Ticket};

use crate::error::{ErrorKind, StoreError};

/// What a pool tells without being asked. A hint only: polling must suffice.
#[derive(Debug, Default)]
pub struct Watch {
    durable: AtomicU64,
    failed: AtomicBool,
    full: AtomicBool,
    /// How often the waiters were woken.
    wakes: AtomicU64,
    waiters: Mutex<Vec<Waker>>,
    ready: Mutex<ReadyHints>,
    due: Mutex<DueHint>,
}

#[derive(Debug, Default)]
struct ReadyHints {
    queues: HashSet<QueueId>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct DueHint {
    is_given: bool,
    /// Stays: whoever waits is always the same.
    waker: Option<Waker>,
}

impl Watch {
    /// Every commit up to and including this ticket is durable.
    pub fn durable(&self) -> Ticket {
        Ticket(self.durable.load(Ordering::Acquire))
    }

    /// Whether the pool stopped after a failure that it must not survive; no ticket becomes durable any more.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether the pool is out of space: enqueues are refused as [`ErrorKind::Unavailable`], settles go on.
    pub fn full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Moves whenever waiters are woken: whoever registered before must register again.
    ///
    /// The watermark itself does not tell that: it may stay where it is while waiters are woken.
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Acquire)
    }

    /// Ready when `ticket` is durable; otherwise the context's waker is woken at the next move of the watermark.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Poisoned`] if the pool failed before `ticket` became durable.
    pub fn poll_durable(
        &self,
        context: &Context<'_>,
        ticket: Ticket,
    ) -> Poll<Result<(), StoreError>> {
        if self.durable() >= ticket {
            return Poll::Ready(Ok(()));
        }
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if self.durable() >= ticket {
            return Poll::Ready(Ok(()));
        }
        if self.failed() {
            return Poll::Ready(Err(StoreError::new(
                ErrorKind::Poisoned,
                "the store has failed and must be restarted",
            )));
        }
        waiters.push(context.waker().clone());
        Poll::Pending
    }

    /// Waits until `ticket` is durable. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Poisoned`] if the pool failed before.
    pub async fn until_durable(&self, ticket: Ticket) -> Result<(), StoreError> {
        poll_fn(|context| self.poll_durable(context, ticket)).await
    }

    /// The queues in which something became ready since the last call without a commit of the caller's.
    pub fn poll_ready(&self, context: &Context<'_>) -> Poll<Vec<QueueId>> {
        let mut hints = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if hints.queues.is_empty() {
            hints.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(hints.queues.drain().collect())
    }

    /// Ready if something became due earlier than [`Pool::due`](crate::Pool::due) said last, so that it is to be asked
    /// again. The context's waker is woken whenever that happens, also if it does not come back here; there is one such
    /// waker.
    pub fn poll_due(&self, context: &Context<'_>) -> Poll<()> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if due.waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            due.waker = Some(context.waker().clone());
        }
        if std::mem::take(&mut due.is_given) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// For drivers: something became due earlier than was said. May be called with locks held.
    pub fn hint_due(&self) {
        let waker = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            due.is_given = true;
            due.waker.clone()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// For drivers: moves the watermark and wakes all who wait.
    pub fn advance(&self, durable: Ticket) {
        self.durable.fetch_max(durable.0, Ordering::AcqRel);
        self.wake_waiters();
    }

    /// For drivers: the pool has failed for good.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.wake_waiters();
    }

    /// For drivers: the pool ran out of space, or has some again. Returns what was so before.
    pub fn set_full(&self, full: bool) -> bool {
        self.full.swap(full, Ordering::AcqRel)
    }

    /// For drivers: something in `queue` became ready (a reservation became durable, another node enqueued).
    pub fn hint_ready(&self, queue: QueueId) {
        let waker = {
            let mut hints = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            hints.queues.insert(queue);
            hints.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wake_waiters(&self) {
        let woken = {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock: whoever reads the new number registers behind those who are woken now.
            self.wakes.fetch_add(1, Ordering::AcqRel);
            std::mem::take(&mut *waiters)
        };
        for waker in woken {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_woken_although_the_watermark_stayed_can_tell() {
        let watch = Watch::default();
        watch.advance(Ticket(1));
        let registered_at = watch.wakes();

        watch.advance(Ticket(1));

        assert_eq!(watch.durable(), Ticket(1));
        assert_ne!(watch.wakes(), registered_at);
    }
}
