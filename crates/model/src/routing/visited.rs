//! What a walk has been to, so that no walk is longer than its map.

use std::collections::HashSet;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

/// Up to here looking through all is quicker than hashing, and needs no allocation.
const FEW: usize = 16;

/// A set of small numbers, growing only.
#[derive(Debug, Default)]
pub(crate) struct Visited {
    few: SmallVec<[u32; FEW]>,
    many: HashSet<u32, RandomState>,
}

impl Visited {
    /// Whether it is the first visit.
    pub(crate) fn first(&mut self, number: u32) -> bool {
        if !self.many.is_empty() {
            return self.many.insert(number);
        }
        if self.few.contains(&number) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(number);
        } else {
            self.many.extend(self.few.iter().copied());
            self.many.insert(number);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_first_once() {
        let mut visited = Visited::default();

        assert!((0..100).all(|number| visited.first(number)));
        assert!((0..100).all(|number| !visited.first(number)));
    }
}
