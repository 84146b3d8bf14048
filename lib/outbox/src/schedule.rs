//! When a failed message is tried again: a pure function of how often it was tried.

use std::time::Duration;

/// Waits that grow by a factor up to a cap, with jitter, for a number of attempts.
///
/// The default is that of django-message-box: 11 attempts, 5ⁿ seconds after the nth failure, each wait between half of
/// that and all of it. Its waits have no cap and end at 113 days; here no wait is longer than a day, so a message is
/// given up after about four days.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// The first wait is `unit × factor`.
    pub unit: Duration,
    /// How much longer each wait is than the one before.
    pub factor: f64,
    /// No wait is longer.
    pub cap: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            attempts: 11,
            unit: Duration::from_secs(1),
            factor: 5.0,
            cap: Duration::from_secs(24 * 3600),
        }
    }
}

impl Schedule {
    /// How long to wait after failure number `failures` (1 is the first); `None` when it is to be given up.
    ///
    /// `luck` is between 0 and 1 and makes the wait between half of it and all of it, so that what failed together does
    /// not come back together.
    #[must_use]
    pub fn wait(&self, failures: u32, luck: f64) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let power = self.factor.powi(i32::try_from(failures).unwrap_or(i32::MAX));
        let longest = (self.unit.as_secs_f64() * power).min(self.cap.as_secs_f64());
        // A factor of nonsense (negative, not a number) must not panic in the conversion.
        let wait = longest * (0.5 + luck.clamp(0.0, 1.0) / 2.0);
        Some(Duration::try_from_secs_f64(wait).unwrap_or(self.cap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_that_of_django_message_box_with_a_cap() {
        let schedule = Schedule::default();
        let waits: Vec<u64> =
            (1..=10).map(|failures| schedule.wait(failures, 1.0).unwrap().as_secs()).collect();

        assert_eq!(waits, [5, 25, 125, 625, 3125, 15_625, 78_125, 86_400, 86_400, 86_400]);
        assert_eq!(schedule.wait(11, 1.0), None, "11 attempts in all");
        assert_eq!(schedule.wait(1, 0.0), Some(Duration::from_millis(2500)), "jitter: half of it");
    }

    #[test]
    fn nonsense_in_a_schedule_is_no_panic() {
        for factor in [f64::NAN, f64::INFINITY, -5.0] {
            let schedule = Schedule { factor, ..Schedule::default() };
            assert!(schedule.wait(3, f64::NAN).is_some());
        }
    }
}
