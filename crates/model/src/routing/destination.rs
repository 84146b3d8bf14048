//! Where a binding leads, and sets of it.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use crate::id::QueueId;

/// Which exchange of one topology, for as long as it exists.
pub(crate) type ExchangeSlot = u32;

/// The end of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Destination {
    Queue(QueueId),
    Exchange(ExchangeSlot),
}

impl Destination {
    /// Before every other.
    pub(crate) const FIRST: Self = Self::Queue(QueueId(0));
}

/// Up to here a sorted row is smaller and quicker than a tree.
const FEW: usize = 32;

/// A sorted set of destinations: one needs no allocation, a hundred thousand are still added and removed quickly.
#[derive(Debug)]
pub(crate) enum DestinationSet {
    Few(SmallVec<[Destination; 1]>),
    Many(BTreeSet<Destination>),
}

impl Default for DestinationSet {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl DestinationSet {
    /// Adds a destination, unless it is there already.
    pub(crate) fn insert(&mut self, destination: Destination) {
        match self {
            Self::Few(few) => {
                let Err(place) = few.binary_search(&destination) else { return };
                if few.len() < FEW {
                    few.insert(place, destination);
                } else {
                    let mut many: BTreeSet<_> = few.iter().copied().collect();
                    many.insert(destination);
                    *self = Self::Many(many);
                }
            }
            Self::Many(many) => {
                many.insert(destination);
            }
        }
    }

    pub(crate) fn remove(&mut self, destination: Destination) {
        match self {
            Self::Few(few) => {
                if let Ok(place) = few.binary_search(&destination) {
                    few.remove(place);
                }
            }
            Self::Many(many) => {
                many.remove(&destination);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    /// Calls `visit` with each destination, in order.
    pub(crate) fn for_each(&self, visit: impl FnMut(Destination)) {
        match self {
            Self::Few(few) => few.iter().copied().for_each(visit),
            Self::Many(many) => many.iter().copied().for_each(visit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_each_destination_once_and_in_order_however_many_there_are() {
        let mut set = DestinationSet::default();
        for id in (0..100).rev().chain(0..100) {
            set.insert(Destination::Queue(QueueId(id)));
        }
        set.remove(Destination::Queue(QueueId(50)));

        let mut found = Vec::new();
        set.for_each(|destination| found.push(destination));

        let expected = (0..100).filter(|id| *id != 50).map(|id| Destination::Queue(QueueId(id)));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_set_is_empty_after_the_last_destination_left() {
        let mut set = DestinationSet::default();
        set.insert(Destination::Exchange(7));

        set.remove(Destination::Exchange(7));

        assert!(set.is_empty());
    }
}
