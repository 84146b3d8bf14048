//! How long to wait before a message is tried again, and how often.

use std::time::Duration;

/// Longest schedule: each step is a queue of its own where waits are queues.
const STEPS_MAX: usize = 32;

/// A schedule of waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    steps: Vec<Duration>,
    attempts: u32,
}

impl Backoff {
    /// Twice as long each time, from `first` to `longest`, until the message has been tried 8 times.
    #[must_use]
    pub fn exponential(first: Duration, longest: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        let mut steps = vec![first.min(longest.max(first))];
        while let Some(last) = steps.last().copied()
            && last < longest
            && steps.len() < STEPS_MAX
        {
            steps.push((last * 2).min(longest));
        }
        Self { steps, attempts: 8 }.used()
    }

    /// Always the same.
    #[must_use]
    pub fn constant(wait: Duration) -> Self {
        Self { steps: vec![wait.max(Duration::from_millis(1))], attempts: 8 }
    }

    /// Not tried again.
    #[must_use]
    pub const fn never() -> Self {
        Self { steps: Vec::new(), attempts: 1 }
    }

    /// Given up after so many attempts, the first included; at least 1.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self.used()
    }

    /// Most attempts.
    #[must_use]
    pub const fn attempts_max(&self) -> u32 {
        self.attempts
    }

    /// Every wait that there is, growing.
    #[must_use]
    pub fn steps(&self) -> &[Duration] {
        &self.steps
    }

    /// How long to wait after an attempt, counted from 1; `None` if it was the last.
    ///
    /// `wish` is rounded up to a step; what is longer than the longest is shortened to it.
    #[must_use]
    pub fn wait(&self, attempt: u32, wish: Option<Duration>) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let longest = self.steps.last().copied()?;
        if let Some(wish) = wish {
            return Some(self.steps.iter().copied().find(|step| *step >= wish).unwrap_or(longest));
        }
        let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        Some(self.steps.get(index).copied().unwrap_or(longest))
    }

    /// Drops steps that no attempt reaches.
    fn used(mut self) -> Self {
        let waits = usize::try_from(self.attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        self.steps.truncate(waits);
        self
    }
}

/// From one second to ten minutes, 8 attempts.
impl Default for Backoff {
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1), Duration::from_mins(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_with_the_last_attempt() {
        let backoff = Backoff::exponential(secs(1), secs(5)).attempts(6);

        let waits: Vec<_> = (1..=6).map(|attempt| backoff.wait(attempt, None)).collect();

        let expected = [1, 2, 4, 5, 5].map(|wait| Some(secs(wait)));
        assert_eq!(waits, [expected.as_slice(), &[None]].concat());
        assert_eq!(backoff.steps(), [1, 2, 4, 5].map(secs));
    }

    #[test]
    fn a_wish_is_rounded_up_to_a_step() {
        let backoff = Backoff::exponential(secs(1), secs(8));

        assert_eq!(backoff.wait(1, Some(secs(3))), Some(secs(4)));
        assert_eq!(backoff.wait(1, Some(secs(60))), Some(secs(8)));
        assert_eq!(Backoff::never().wait(1, Some(secs(1))), None);
    }

    #[test]
    fn few_attempts_need_few_steps() {
        assert_eq!(Backoff::exponential(secs(1), secs(600)).attempts(3).steps().len(), 2);
        assert!(Backoff::default().steps().len() == 7);
    }
}
