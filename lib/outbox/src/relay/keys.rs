//! Keys that are passed over for the moment: they are being sent here, or something is before them. And keys that go on:
//! what was leased of them is sent, and more stands behind it.
//!
//! Hints only, so that a look does not find the same rows again and again, and need not come across a row of a key to go on
//! with it. What may be sent is decided by the database.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most keys that are passed over; more are looked at in vain.
const KEYS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// How long they are passed over; `None` is until they are let go.
    keys: Mutex<HashMap<String, Option<Instant>>>,
    /// The first is the one that waits longest.
    ready: Mutex<VecDeque<String>>,
}

impl Keys {
    /// Passes a key over until it is let go.
    pub(crate) fn hold(&self, key: &str) {
        let mut keys = self.keys();
        if keys.len() < KEYS_MAX {
            keys.insert(key.to_owned(), None);
        }
    }

    /// Passes a key over for a time, if it is not held.
    pub(crate) fn rest(&self, key: String, time: Duration) {
        let mut keys = self.keys();
        if keys.len() < KEYS_MAX {
            keys.entry(key).or_insert_with(|| Some(Instant::now() + time));
        }
    }

    /// Looks at a key again.
    pub(crate) fn let_go(&self, key: &str) {
        self.keys().remove(key);
    }

    /// Has the next look go on with a key. If there are too many, one look more or less comes across it.
    pub(crate) fn go_on(&self, key: String) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.len() < KEYS_MAX {
            ready.push_back(key);
        }
    }

    /// Keys to go on with, at most so many; whoever has them looks at them.
    pub(crate) fn ready(&self, most: usize) -> Vec<String> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let count = most.min(ready.len());
        ready.drain(..count).collect()
    }

    /// Takes back keys that were given out and not looked at; they are the next again.
    pub(crate) fn go_back(&self, keys: Vec<String>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys.into_iter().rev() {
            ready.push_front(key);
        }
    }

    /// All that are passed over now.
    pub(crate) fn busy(&self) -> Vec<String> {
        let now = Instant::now();
        let mut keys = self.keys();
        keys.retain(|_, until| until.is_none_or(|until| until > now));
        keys.keys().cloned().collect()
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Option<Instant>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_passed_over_until_its_time_or_until_it_is_let_go() {
        let keys = Keys::default();
        keys.hold("a");
        keys.rest("b".to_owned(), Duration::ZERO);
        keys.rest("c".to_owned(), Duration::from_secs(60));

        let mut busy = keys.busy();
        busy.sort();
        assert_eq!(busy, ["a", "c"]);
        keys.let_go("a");
        assert_eq!(keys.busy(), ["c"]);
    }

    #[test]
    fn keys_go_on_in_the_order_in_which_they_became_ready() {
        let keys = Keys::default();
        for key in ["a", "b", "c"] {
            keys.go_on(key.to_owned());
        }

        assert_eq!(keys.ready(2), ["a", "b"]);
        assert_eq!(keys.ready(2), ["c"]);
        assert!(keys.ready(2).is_empty());
    }

    #[test]
    fn keys_that_were_not_looked_at_are_the_next_again() {
        let keys = Keys::default();
        for key in ["a", "b", "c"] {
            keys.go_on(key.to_owned());
        }

        let given = keys.ready(2);
        keys.go_back(given);

        assert_eq!(keys.ready(3), ["a", "b", "c"]);
    }
}
