//! What the runner did since the start, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }
}

/// What happened to messages of subscriptions.
#[derive(Debug, Default)]
pub struct Counters {
    /// Attempts that ended.
    pub attempts: Figure,
    /// Messages delivered.
    pub delivered: Figure,
    /// Attempts that failed and are repeated.
    pub failed: Figure,
    /// Messages given up.
    pub given_up: Figure,
    /// Messages that a filter did not match.
    pub filtered: Figure,
    /// Messages for which a filter had no answer.
    pub unanswered: Figure,
    /// Answers that went to whoever asked.
    pub answers: Figure,
    /// Answers that had nowhere to go.
    pub answers_nowhere: Figure,
    /// Messages settled by name.
    pub settled_later: Figure,
    /// Messages that wait to be settled by name.
    pub unsettled: Figure,
    /// Attempts that run now.
    pub running: Figure,
    /// Subscriptions that wait for a place.
    pub waiting: Figure,
    /// Subscriptions whose endpoint is left alone now.
    pub resting: Figure,
}
