//! Which messages of a queue are leased: a window over the sequences, because leases come and go in their order.
//!
//! New leases are appended, settled ones leave a gap that closes when it reaches the front; what is leased again after a
//! release, out of order, goes to a map beside. So the usual lookup, also of a range, is one subtraction.

use std::collections::{BTreeMap, VecDeque};

use super::entry::Entry;

#[derive(Debug)]
struct Slot {
    sequence: u64,
    entry: Option<Entry>,
}

/// Leased messages by sequence.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    window: VecDeque<Slot>,
    held: usize,
    beside: BTreeMap<u64, Entry>,
}

impl Leases {
    pub(crate) fn len(&self) -> usize {
        self.held + self.beside.len()
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        let sequence = entry.sequence;
        if self.window.back().is_none_or(|slot| slot.sequence < sequence) {
            self.window.push_back(Slot { sequence, entry: Some(entry) });
            self.held += 1;
        } else {
            self.beside.insert(sequence, entry);
        }
    }

    /// Index of the first slot at or after `sequence`.
    fn index_of(&self, sequence: u64) -> usize {
        let Some(front) = self.window.front() else { return 0 };
        let guess = usize::try_from(sequence.saturating_sub(front.sequence)).unwrap_or(usize::MAX);
        if self.window.get(guess).is_some_and(|slot| slot.sequence == sequence) {
            return guess;
        }
        self.window.partition_point(|slot| slot.sequence < sequence)
    }

    /// Removes all leases within the inclusive range.
    pub(crate) fn take(&mut self, first: u64, last: u64, mut taken: impl FnMut(Entry)) {
        if first > last {
            return;
        }
        let start = self.index_of(first);
        for slot in self.window.range_mut(start..) {
            if slot.sequence > last {
                break;
            }
            if let Some(entry) = slot.entry.take() {
                self.held -= 1;
                taken(entry);
            }
        }
        while self.window.front().is_some_and(|slot| slot.entry.is_none()) {
            self.window.pop_front();
        }
        // What is left at the back is the newest lease.
        while self.window.back().is_some_and(|slot| slot.entry.is_none()) {
            self.window.pop_back();
        }
        if self.window.len() > 64 && self.held < self.window.len() / 2 {
            self.window.retain(|slot| slot.entry.is_some());
        }
        while let Some((sequence, _)) = self.beside.range(first..=last).next() {
            let sequence = *sequence;
            if let Some(entry) = self.beside.remove(&sequence) {
                taken(entry);
            }
        }
    }

    pub(crate) fn get_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        let index = self.index_of(sequence);
        if self.beside.contains_key(&sequence) {
            return self.beside.get_mut(&sequence);
        }
        let slot = self.window.get_mut(index).filter(|slot| slot.sequence == sequence)?;
        slot.entry.as_mut()
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<&Entry> {
        let slot = self.window.get(self.index_of(sequence));
        let inside = slot.filter(|slot| slot.sequence == sequence);
        inside.and_then(|slot| slot.entry.as_ref()).or_else(|| self.beside.get(&sequence))
    }

    /// The lowest leases at or after `sequence`, at least `count` of them if there are so many, not in order.
    pub(crate) fn iter_from(&self, sequence: u64, count: usize) -> impl Iterator<Item = &Entry> {
        let window = self.window.range(self.index_of(sequence)..);
        window
            .filter_map(|slot| slot.entry.as_ref())
            .take(count)
            .chain(self.beside.range(sequence..).take(count).map(|it| it.1))
    }

    pub(crate) fn last(&self) -> Option<u64> {
        let window = self.window.back().map(|slot| slot.sequence);
        let beside = self.beside.keys().next_back().copied();
        window.max(beside)
    }

    pub(crate) fn first(&self) -> Option<u64> {
        let window = self.window.front().map(|slot| slot.sequence);
        let beside = self.beside.keys().next().copied();
        [window, beside].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_in_and_out_of_order_are_found_and_taken_by_range() {
        let mut leases = Leases::default();
        for sequence in [1, 2, 3, 10, 11, 5, 4] {
            leases.insert(Entry::example(sequence));
        }

        let mut taken = Vec::new();
        leases.take(2, 10, |entry| taken.push(entry.sequence));
        taken.sort_unstable();

        assert_eq!(taken, [2, 3, 4, 5, 10]);
        assert_eq!((leases.len(), leases.first()), (2, Some(1)));
        assert!(leases.get_mut(11).is_some() && leases.get_mut(2).is_none());
    }
}
