//! What the log did since the start, counted for metrics.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Upper bounds of the classes that syncs are counted in, in seconds; everything longer is in one more.
pub const SYNC_BOUNDS_SECS: [f64; 12] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0];

/// How many classes there are.
const CLASSES: usize = SYNC_BOUNDS_SECS.len() + 1;

/// How long syncs took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncTimes {
    /// How many were within each bound of [`SYNC_BOUNDS_SECS`] and not within the one before; the last are longer.
    pub counts: [u64; CLASSES],
    /// All together.
    pub total: Duration,
}

impl SyncTimes {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The counters. Their writer is one thread, but for commits.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    commits: AtomicU64,
    bytes_written: AtomicU64,
    syncs: [AtomicU64; CLASSES],
    sync_nanos: AtomicU64,
}

impl Numbers {
    pub(crate) fn committed(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Runs a sync and counts how long it took.
    pub(crate) fn time(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let start = Instant::now();
        let outcome = sync();
        self.synced(start.elapsed());
        outcome
    }

    fn synced(&self, time: Duration) {
        let secs = time.as_secs_f64();
        let class = SYNC_BOUNDS_SECS.partition_point(|bound| *bound < secs);
        if let Some(count) = self.syncs.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    pub(crate) fn syncs(&self) -> SyncTimes {
        let mut counts = [0; CLASSES];
        for (count, counted) in counts.iter_mut().zip(&self.syncs) {
            *count = counted.load(Ordering::Relaxed);
        }
        SyncTimes { counts, total: Duration::from_nanos(self.sync_nanos.load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_is_counted_in_the_first_class_that_holds_it() {
        let numbers = Numbers::default();

        for ms in [0, 1, 2, 5000] {
            numbers.synced(Duration::from_millis(ms));
        }

        let syncs = numbers.syncs();
        assert_eq!(syncs.counts, [1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(syncs.total, Duration::from_millis(5003));
    }
}
