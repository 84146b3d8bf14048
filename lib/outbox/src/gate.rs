//! A transport whose far end is away rests, longer each time, so that an outage costs nobody their attempts.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The first rest.
const REST_MIN: Duration = Duration::from_millis(100);

/// The longest rest: what a far end that is back waits for at most.
const REST_MAX: Duration = Duration::from_secs(5);

/// How long after a rest nobody need have found out more: longer than it takes to find that nobody is there.
const DOUBT_MAX: Duration = Duration::from_secs(60);

/// Whether a transport rests.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    until: Option<Instant>,
    /// The rest after this one.
    next: Duration,
}

impl Gate {
    /// How long it still rests; `None` if it does not.
    pub(crate) fn rest(&self) -> Option<Duration> {
        let until = self.state().until?;
        let rest = until.saturating_duration_since(Instant::now());
        (!rest.is_zero()).then_some(rest)
    }

    /// Whether the last thing that is known of the far end is that it was away. Not for ever: if all that was for it is
    /// withdrawn or too late, nobody finds out whether it is back.
    pub(crate) fn is_doubtful(&self, now: Instant) -> bool {
        self.state().until.is_some_and(|until| now < until + DOUBT_MAX)
    }

    /// The far end is away. Returns how long to rest; true the first time.
    pub(crate) fn close(&self) -> (Duration, bool) {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(rest) = state.until.and_then(|until| until.checked_duration_since(now))
            && !rest.is_zero()
        {
            // Many messages find out at the same time: that is one outage.
            return (rest, false);
        }
        let is_new = state.until.is_none();
        let rest = state.next.clamp(REST_MIN, REST_MAX);
        state.next = rest.saturating_mul(2);
        state.until = Some(now + rest);
        (rest, is_new)
    }

    /// The far end answers. True if it was away.
    pub(crate) fn open(&self) -> bool {
        let mut state = self.state();
        let was_away = state.until.is_some();
        *state = State::default();
        was_away
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_that_many_messages_find_is_one_rest() {
        let gate = Gate::default();
        assert!(gate.rest().is_none());

        let (first, is_new) = gate.close();
        let (second, again) = gate.close();

        assert!(is_new && !again);
        assert!(second <= first && first == REST_MIN);
        assert!(gate.rest().is_some() && gate.is_doubtful(Instant::now()));
        assert!(gate.open() && !gate.open());
        assert!(gate.rest().is_none());
    }

    #[test]
    fn a_far_end_that_nobody_asks_any_more_is_not_doubted_for_ever() {
        let gate = Gate::default();
        let (rest, _) = gate.close();
        let over = Instant::now() + rest;

        assert!(gate.is_doubtful(over), "the first ones find out");
        assert!(!gate.is_doubtful(over + DOUBT_MAX));
        assert!(gate.open(), "it is still said when it is back");
    }
}
