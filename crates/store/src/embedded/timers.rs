//! What time will bring: delayed messages, leases with a deadline, and expiring heads, in one ordered index.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{QueueId, Timestamp};

/// Why a queue is to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// A delayed message becomes ready.
    Delayed,
    /// A claim ends.
    Claim,
    /// The head of a lane expires. Kept until it fires, also if the head goes earlier: one look too many.
    Head,
}

/// One appointment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timer {
    pub(crate) at: u64,
    pub(crate) queue: QueueId,
    pub(crate) reason: Reason,
    /// The number of the claim, for claims; 0 for heads.
    pub(crate) sequence: u64,
}

/// All appointments of the pool.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    set: Mutex<BTreeSet<Timer>>,
}

impl Timers {
    fn set(&self) -> MutexGuard<'_, BTreeSet<Timer>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if nothing else is due earlier.
    pub(crate) fn insert(&self, timer: Timer) -> bool {
        let mut set = self.set();
        set.insert(timer);
        set.first() == Some(&timer)
    }

    pub(crate) fn remove(&self, timer: &Timer) {
        self.set().remove(timer);
    }

    /// Takes at most `count` that are due.
    pub(crate) fn take_due(&self, now: Timestamp, count: usize) -> Vec<Timer> {
        let mut set = self.set();
        let mut due = Vec::new();
        while due.len() < count
            && let Some(first) = set.first()
            && first.at <= now.0
        {
            due.extend(set.pop_first());
        }
        due
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.set().first().map(|timer| Timestamp(timer.at))
    }
}
