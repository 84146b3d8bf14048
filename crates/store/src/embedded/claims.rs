//! Who holds messages of one queue by name, until when.
//!
//! Each claim has a number within its queue, which its entries carry in [`Entry::until`](super::entry::Entry) while they
//! are leased: so a lease that is no claim costs nothing here, and the way from a message to its claim is one look-up.

use std::collections::BTreeMap;

use model::{QueueId, Timestamp};

use super::timers::{Reason, Timer};

/// One claim.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) id: u128,
    /// When it was made, or extended last.
    pub(crate) since: u64,
    pub(crate) until: u64,
    /// Ascending.
    pub(crate) sequences: Vec<u64>,
}

/// The claims of one queue.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    last: u64,
    by_id: BTreeMap<u128, u64>,
    held: BTreeMap<u64, Held>,
}

impl Claims {
    /// The number of a claim, which is made if there is none of this id.
    pub(crate) fn open(&mut self, id: u128, since: u64, until: u64) -> u64 {
        if let Some(number) = self.by_id.get(&id) {
            return *number;
        }
        // 0 stands for no claim.
        self.last += 1;
        self.by_id.insert(id, self.last);
        self.held.insert(self.last, Held { id, since, until, sequences: Vec::new() });
        self.last
    }

    /// Gives a message to a claim.
    pub(crate) fn add(&mut self, number: u64, sequence: u64) {
        let Some(held) = self.held.get_mut(&number) else { return };
        if let Err(at) = held.sequences.binary_search(&sequence) {
            held.sequences.insert(at, sequence);
        }
    }

    /// Takes a message from a claim. Returns when the claim ends, if it held nothing else and is gone.
    pub(crate) fn forget(&mut self, number: u64, sequence: u64) -> Option<u64> {
        let held = self.held.get_mut(&number)?;
        if let Ok(at) = held.sequences.binary_search(&sequence) {
            held.sequences.remove(at);
        }
        if held.sequences.is_empty() { self.take(number).map(|held| held.until) } else { None }
    }

    /// Takes a whole claim out.
    pub(crate) fn take(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        self.by_id.remove(&held.id);
        Some(held)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Held> {
        self.held.get(&number)
    }

    /// Moves the end of a claim; returns where it was.
    pub(crate) fn move_end(&mut self, number: u64, since: u64, until: u64) -> Option<u64> {
        let held = self.held.get_mut(&number)?;
        held.since = since;
        Some(std::mem::replace(&mut held.until, until))
    }

    pub(crate) fn number_of(&self, id: u128) -> Option<u64> {
        self.by_id.get(&id).copied()
    }

    /// All claims with their numbers.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, &Held)> {
        self.held.iter().map(|(number, held)| (*number, held))
    }
}

/// The appointment at which a claim ends.
pub(crate) fn claim_timer(queue: QueueId, number: u64, until: u64) -> Timer {
    Timer { at: until, queue, reason: Reason::Claim, sequence: number }
}

/// The time up to which a claim keeps a message that expires at `expires`.
pub(crate) fn kept(expires: u64, until: u64, keep_until: u64) -> u64 {
    if expires < until { keep_until } else { expires }
}

/// A time as the log has it; 0 would be none.
pub(crate) fn end_of(until: Timestamp) -> u64 {
    until.0.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_goes_with_its_last_message() {
        let mut claims = Claims::default();
        let number = claims.open(7, 1, 10);
        claims.add(number, 5);
        claims.add(number, 3);

        assert_eq!(claims.number_of(7), Some(number));
        assert_eq!(claims.get(number).map(|held| &held.sequences[..]), Some(&[3, 5][..]));
        assert_eq!(claims.forget(number, 5), None);
        assert_eq!(claims.forget(number, 3), Some(10));
        assert_eq!(claims.number_of(7), None);
        assert_ne!(claims.open(7, 1, 10), number);
    }
}
