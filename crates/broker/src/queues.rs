//! The queues of a tenant by name: found by hash, listed in order.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::queue::Queue;

/// Queues by name.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    by_name: HashMap<Arc<str>, Arc<Queue>>,
    sorted: BTreeSet<Arc<str>>,
}

impl Queues {
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Queue>> {
        self.by_name.get(name)
    }

    pub(crate) fn contains_key(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(crate) fn insert(&mut self, queue: Arc<Queue>) {
        self.sorted.insert(Arc::clone(&queue.name));
        self.by_name.insert(Arc::clone(&queue.name), queue);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.sorted.remove(name);
        self.by_name.remove(name);
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// In no order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.by_name.values()
    }

    /// Those whose names come after `name`, sorted by name; all for an empty one.
    pub(crate) fn after(&self, name: &str) -> impl Iterator<Item = &Arc<Queue>> {
        let after = self.sorted.range::<str, _>((Bound::Excluded(name), Bound::Unbounded));
        after.filter_map(|name| self.by_name.get(name))
    }
}
