//! Where among the due rows the next look begins.
//!
//! A look goes over so many due rows and not more, and most may be of no use to it: leased, or of keys that are being sent.
//! If it has not come to the end, the next one goes on from there, and after the end again from the beginning: a sweep. So
//! what a look costs does not depend on how many rows wait, and every row comes up in every sweep, also what was committed
//! late or given back. Whoever sends a key goes on with that key by itself (see `keys`).
//!
//! While what waits is of no use, rows that have just become due would be found only at the end of a sweep. Every other look
//! then begins with those.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::dialect::{Cut, Place};

/// How far back the looks at what has just become due begin, in microseconds: longer than most transactions are open.
const FRESH_US: i64 = 5_000_000;

/// What the lanes of a relay have gone over.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None` is the beginning.
    sweep: Option<Sweep>,
    /// `None` while sweeps find what they can take.
    fresh: Option<Place>,
    /// Whose turn it is.
    is_fresh_next: bool,
}

#[derive(Debug, Clone, Copy)]
struct Sweep {
    after: Place,
    /// What becomes due later than this is for the next sweep, or this one might never end.
    until_us: i64,
}

/// A look that is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) after: Option<Place>,
    is_fresh: bool,
}

impl Scan {
    /// Where to look now.
    pub(crate) fn next(&self) -> Look {
        let mut state = self.state();
        let is_fresh = state.is_fresh_next && state.fresh.is_some();
        state.is_fresh_next = !is_fresh;
        let after = if is_fresh { state.fresh } else { state.sweep.map(|sweep| sweep.after) };
        Look { after, is_fresh }
    }

    /// Something has just become due.
    pub(crate) fn prefer_fresh(&self) {
        self.state().is_fresh_next = true;
    }

    /// Notes where a look ended; says whether there is more to go over.
    pub(crate) fn done(&self, look: Look, cut: Option<Cut>) -> bool {
        let mut state = self.state();
        if look.is_fresh {
            if let Some(cut) = cut {
                state.fresh = state.fresh.map(|fresh| fresh.max(cut.place));
            }
            return state.sweep.is_some();
        }
        let Some(cut) = cut else {
            state.sweep = None;
            if look.after.is_none() {
                // All that is due was looked at together.
                state.fresh = None;
            }
            return false;
        };
        let until_us = state.sweep.map_or(cut.now_us, |sweep| sweep.until_us);
        if cut.place.due_us > until_us {
            state.sweep = None;
            return true;
        }
        // Lanes look at the same time; the one that is behind does not pull back.
        let after = state.sweep.map_or(cut.place, |sweep| sweep.after.max(cut.place));
        state.sweep = Some(Sweep { after, until_us });
        state.fresh = match (cut.is_clogged, state.fresh) {
            (true, None) => Some(fresh(cut)),
            (true, fresh) => fresh,
            (false, _) => None,
        };
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fresh(cut: Cut) -> Place {
    Place { due_us: cut.now_us.saturating_sub(FRESH_US), seq: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(due_us: i64, is_clogged: bool) -> Option<Cut> {
        Some(Cut { place: Place { due_us, seq: 7 }, now_us: 9_000_000, is_clogged })
    }

    fn begins(look: Look) -> Option<i64> {
        look.after.map(|place| place.due_us)
    }

    #[test]
    fn a_sweep_goes_on_where_a_look_ended_and_begins_again_after_the_end() {
        let scan = Scan::default();
        let first = scan.next();
        assert_eq!(begins(first), None);
        assert!(scan.done(first, cut(100, false)));
        let second = scan.next();
        assert_eq!(begins(second), Some(100));
        assert!(!scan.done(second, None));
        assert_eq!(begins(scan.next()), None);
    }

    #[test]
    fn a_sweep_ends_although_rows_become_due_all_the_time() {
        let scan = Scan::default();
        let first = scan.next();
        assert!(scan.done(first, cut(100, false)));
        let later = scan.next();
        assert!(scan.done(later, cut(9_000_001, false)), "what became due meanwhile");
        assert_eq!(begins(scan.next()), None);
    }

    #[test]
    fn lanes_that_look_at_the_same_time_do_not_pull_each_other_back() {
        let scan = Scan::default();
        let (one, other) = (scan.next(), scan.next());
        scan.done(one, cut(200, false));
        scan.done(other, cut(100, false));
        assert_eq!(begins(scan.next()), Some(200));
    }

    #[test]
    fn what_has_just_become_due_has_every_other_look_while_what_waits_is_of_no_use() {
        let scan = Scan::default();
        let first = scan.next();
        scan.done(first, cut(100, true));
        let fresh = scan.next();
        assert_eq!(begins(fresh), Some(4_000_000));
        assert!(scan.done(fresh, cut(8_000_000, true)), "the sweep has not ended");
        let sweep = scan.next();
        assert_eq!(begins(sweep), Some(100));
        scan.done(sweep, cut(200, true));
        assert_eq!(begins(scan.next()), Some(8_000_000));
        scan.prefer_fresh();
        assert_eq!(begins(scan.next()), Some(8_000_000));
        let sweep = scan.next();
        assert_eq!(begins(sweep), Some(200));
        scan.done(sweep, cut(300, false));
        assert_eq!((begins(scan.next()), begins(scan.next())), (Some(300), Some(300)));
    }
}
