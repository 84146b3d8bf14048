//! The server's clock: the one place that reads the time of day for the broker.
//!
//! Wall time at the start, moved on by the monotonic clock: deadlines keep their meaning over a restart, and nothing
//! expires at once because somebody set the machine's clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use broker::Clock;
use model::Timestamp;

/// The machine's time of day, jumps included: for what others made and dated by their clocks, such as tokens.
#[must_use]
pub fn time_of_day() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(0))
}

/// Wall time that never jumps.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    started_at: Timestamp,
}

impl SystemClock {
    /// A clock that starts at the machine's time of day.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now(), started_at: time_of_day() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.started_at.after(self.started.elapsed())
    }
}
