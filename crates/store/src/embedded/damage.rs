//! What was found damaged: told to the operator, counted, never delivered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Damages kept with their places; more are only counted.
const KEPT_MAX: usize = 1024;

/// A place in the log whose bytes are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Number of the segment file.
    pub segment: u32,
    /// Where in it.
    pub offset: u32,
    /// How many bytes were skipped, if that is known.
    pub bytes: u32,
    /// What was lost, as far as that can be told.
    pub what: String,
}

/// All damages since start.
#[derive(Debug, Default)]
pub(crate) struct Damages {
    count: AtomicU64,
    kept: Mutex<Vec<Damage>>,
}

impl Damages {
    pub(crate) fn report(&self, damage: Damage) {
        let Damage { segment, offset, bytes, ref what } = damage;
        tracing::error!(segment, offset, bytes, what, "damage in the log is quarantined");
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(damage);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn kept(&self) -> Vec<Damage> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
