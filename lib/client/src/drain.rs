//! How long an end may take: most of the time is for the work, the last of it for goodbyes.

use std::time::Duration;

use tokio::time::Instant;

/// Longest time that is kept for goodbyes: brokers answer them in moments.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// As good as for ever, where a time has no end that the clock knows.
const FAR: Duration = Duration::from_hours(24 * 365);

/// When the parts of a graceful end are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drain {
    /// Handlers and confirms are waited for until then.
    pub(crate) work: Instant,
    /// What was decided is written, and connections are closed, until then.
    pub(crate) end: Instant,
}

impl Drain {
    /// All of it within this time; a tenth, at most a second, is kept for goodbyes.
    pub(crate) fn within(now: Instant, timeout: Duration) -> Self {
        let goodbye = (timeout / 10).min(GOODBYE_MAX);
        let work = now.checked_add(timeout.saturating_sub(goodbye)).unwrap_or(now + FAR);
        Self { work, end: work + goodbye }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_the_time_is_kept_for_goodbyes() {
        let now = Instant::now();
        for (timeout_ms, work_ms) in [(0, 0), (100, 90), (10_000, 9_000), (30_000, 29_000)] {
            let drain = Drain::within(now, Duration::from_millis(timeout_ms));

            assert_eq!(drain.work, now + Duration::from_millis(work_ms));
            assert_eq!(drain.end, now + Duration::from_millis(timeout_ms));
        }
    }

    #[test]
    fn a_time_without_an_end_is_a_long_one() {
        let now = Instant::now();

        assert!(Drain::within(now, Duration::MAX).work >= now + FAR);
    }
}
