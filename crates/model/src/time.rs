//! Points in time, as whole milliseconds since 1970-01-01 UTC.
//!
//! Milliseconds because every wire we speak counts in them. Deadlines are stored as wall time, so that they survive a
//! restart; the clock that produces `now` is the server's and never goes backwards.

use std::time::Duration;

/// Milliseconds since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Later than everything: the deadline of what has none.
    pub const MAX: Self = Self(u64::MAX);

    /// This point moved later; stays at [`Timestamp::MAX`] instead of overflowing.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(wait_ms))
    }

    /// This point moved later by `wait_ms` milliseconds; stays at [`Timestamp::MAX`] instead of overflowing.
    #[must_use]
    pub fn after_ms(self, wait_ms: u64) -> Self {
        Self(self.0.saturating_add(wait_ms))
    }

    /// How long from `earlier` until this point; zero if it lies before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
