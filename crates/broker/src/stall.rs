//! Something that cannot go on for now says so when it begins and when it ends, not at every try.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::Timestamp;

/// What stalls again sooner than this after it was said is not said again: two causes that take turns would fill the log.
const SILENT_FOR: Duration = Duration::from_secs(30);

/// What of a broker may stall, mostly for lack of space.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    /// Messages on their way to a dead-letter or parking queue; they wait where they are.
    pub(crate) dead_letters: Stall,
    /// Copies for a dead-letter exchange of what a full queue refused; they are lost.
    pub(crate) refused: Stall,
    /// Messages whose delay is over; they wait in their exchange.
    pub(crate) delayed: Stall,
    /// Deliveries that were given up; they are repeated meanwhile.
    pub(crate) given_up: Stall,
}

/// Whether it was said that something cannot go on.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_announced: bool,
    said: Option<Timestamp>,
}

impl Stall {
    /// A try failed. True if that is to be said.
    pub(crate) fn failed(&self, now: Timestamp) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = state.said.is_some_and(|said| now.since(said) < SILENT_FOR);
        if state.is_announced || quiet {
            return false;
        }
        *state = State { is_announced: true, said: Some(now) };
        true
    }

    /// A try succeeded. True if it was said before that they do not.
    pub(crate) fn went_on(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.is_announced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_begin_and_the_end_are_said_once() {
        let stall = Stall::default();

        assert!(!stall.went_on(), "nothing stalled so far");
        assert_eq!([1, 1000, 60_000].map(|at| stall.failed(Timestamp(at))), [true, false, false]);
        assert_eq!([stall.went_on(), stall.went_on()], [true, false]);
    }

    #[test]
    fn who_fails_and_succeeds_in_turns_says_so_every_half_minute() {
        let stall = Stall::default();

        let said: Vec<u64> = (0..120)
            .filter(|second| {
                let failed = stall.failed(Timestamp(second * 1000));
                assert_eq!(stall.went_on(), failed);
                failed
            })
            .collect();

        assert_eq!(said, [0, 30, 60, 90]);
    }
}
