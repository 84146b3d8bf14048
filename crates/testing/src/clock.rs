//! A clock that goes on by itself and jumps when it is told to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker::Clock;
use model::Timestamp;
use server::clock::SystemClock;

/// The machine's time and what the test has added. It never goes back, and outlives crashes.
#[derive(Debug)]
pub(crate) struct TestClock {
    machine: SystemClock,
    added_ms: AtomicU64,
}

impl TestClock {
    pub(crate) fn start() -> Self {
        Self { machine: SystemClock::start(), added_ms: AtomicU64::new(0) }
    }

    /// Jumps to a time; stays where it is if that is past.
    pub(crate) fn jump_to(&self, time: Timestamp) {
        let missing = time.since(self.now());
        let missing_ms = u64::try_from(missing.as_millis()).unwrap_or(u64::MAX);
        self.added_ms.fetch_add(missing_ms, Ordering::AcqRel);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let added = Duration::from_millis(self.added_ms.load(Ordering::Acquire));
        self.machine.now().after(added)
    }
}
