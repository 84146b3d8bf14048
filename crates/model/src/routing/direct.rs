//! The index of a direct exchange: a map of routing keys.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::destination::{Destination, DestinationSet};

/// Which destinations wait for which key.
#[derive(Debug, Default)]
pub(crate) struct DirectIndex {
    keys: HashMap<Arc<str>, DestinationSet, RandomState>,
}

impl DirectIndex {
    pub(crate) fn insert(&mut self, key: &Arc<str>, destination: Destination) {
        self.keys.entry(Arc::clone(key)).or_default().insert(destination);
    }

    pub(crate) fn remove(&mut self, key: &str, destination: Destination) {
        let Some(destinations) = self.keys.get_mut(key) else { return };
        destinations.remove(destination);
        if destinations.is_empty() {
            self.keys.remove(key);
        }
    }

    /// Calls `visit` with each destination bound with exactly this key.
    pub(crate) fn matches(&self, key: &str, visit: impl FnMut(Destination)) {
        if let Some(destinations) = self.keys.get(key) {
            destinations.for_each(visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::QueueId;

    #[test]
    fn a_key_matches_only_itself() {
        let (one, two) = (Destination::Queue(QueueId(1)), Destination::Queue(QueueId(2)));
        let mut index = DirectIndex::default();
        index.insert(&"a".into(), one);
        index.insert(&"a.b".into(), two);
        index.insert(&"b".into(), two);
        index.remove("b", two);

        let mut found = Vec::new();
        for key in ["a", "b", "", "A"] {
            index.matches(key, |destination| found.push((key, destination)));
        }

        assert_eq!(found, [("a", one)]);
    }
}
