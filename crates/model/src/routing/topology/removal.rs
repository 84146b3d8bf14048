//! What goes when an exchange, a queue or a binding goes.

use std::sync::Arc;

use super::{Removed, RouteIndex, Topology};
use crate::routing::binding::BindingId;
use crate::routing::destination::{Destination, ExchangeSlot};

impl Topology {
    pub(super) fn deletes_itself(&self, slot: ExchangeSlot) -> bool {
        self.node(slot).is_some_and(|node| node.definition.auto_delete)
            && self.bindings_of(slot).next().is_none()
    }

    /// Removes exchanges with their bindings, and whatever deletes itself thereby.
    pub(super) fn remove_exchanges(&mut self, mut going: Vec<ExchangeSlot>, removed: &mut Removed) {
        while let Some(slot) = going.pop() {
            let Some(node) = self.node(slot) else { continue };
            let definition = Arc::clone(&node.definition);
            let from: Vec<_> = self.bindings_of(slot).cloned().collect();
            for id in &from {
                self.remove_binding(id, removed);
            }
            going.extend(self.remove_bindings_to(Destination::Exchange(slot), removed));
            self.exchange_slots.remove(&definition.name);
            self.exchanges.remove(slot);
            removed.exchanges.push(definition);
        }
    }

    /// Removes all bindings to a destination, and tells which sources have to go now.
    pub(super) fn remove_bindings_to(
        &mut self,
        destination: Destination,
        removed: &mut Removed,
    ) -> Vec<ExchangeSlot> {
        let to: Vec<_> = self.bindings_to_destination(destination).cloned().collect();
        for id in &to {
            self.remove_binding(id, removed);
        }
        let mut sources: Vec<_> = to.iter().map(|id| id.source).collect();
        sources.dedup();
        sources.retain(|source| self.deletes_itself(*source));
        sources
    }

    pub(super) fn remove_binding(&mut self, id: &BindingId, removed: &mut Removed) -> bool {
        let binding = self.binding(id);
        let Some(id) = self.bindings.take(id) else { return false };
        removed.bindings.extend(binding);
        let BindingId { source, destination, key, .. } = id;
        let last_between = self.bindings_between(source, destination).next().is_none();
        let last_of_key =
            self.bindings_from_first(source, destination, &key).next().is_none_or(|next| {
                (next.source, next.destination) != (source, destination) || next.key != key
            });
        if last_between {
            self.sources.remove(&(destination, source));
            self.forget_name(destination);
        }
        if last_of_key {
            match self.exchanges.get_mut(source).map(|node| &mut node.index) {
                Some(RouteIndex::Direct(index)) => index.remove(&key, destination),
                Some(RouteIndex::Topic(trie)) => trie.remove(&key, destination),
                Some(RouteIndex::Fanout | RouteIndex::Headers | RouteIndex::ConsistentHash)
                | None => {}
            }
        }
        true
    }

    /// A queue that nothing is bound to any more needs no name.
    pub(super) fn forget_name(&mut self, destination: Destination) {
        if let Destination::Queue(queue) = destination
            && self.sources_of(destination).next().is_none()
        {
            self.bound_queues.remove(&queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{add, bind, exchange, names, queue, topology, unbind};

    #[test]
    fn an_auto_delete_exchange_goes_with_its_last_binding_and_not_before_its_first() {
        let mut topology = topology(&[], &["q", "r"]);
        add(&mut topology, "x", "direct", true);

        assert!(names(&unbind(&mut topology, "x", &queue("q"), "k")).is_empty());
        bind(&mut topology, "x", &queue("q"), "k");
        bind(&mut topology, "x", &queue("r"), "k");
        assert!(names(&unbind(&mut topology, "x", &queue("q"), "k")).is_empty());
        let (_, removed) = topology.remove_queue("r").expect("there");

        assert_eq!(names(&removed), ["x"]);
        assert_eq!(removed.bindings.len(), 1);
        assert!(topology.exchange("x").is_none());
    }

    #[test]
    fn auto_delete_exchanges_pull_those_that_lead_to_them_along() {
        let mut topology = topology(&[("keep", "fanout")], &["q"]);
        for name in ["a", "b", "c"] {
            add(&mut topology, name, "fanout", true);
        }
        bind(&mut topology, "a", &exchange("b"), "");
        bind(&mut topology, "b", &exchange("c"), "");
        bind(&mut topology, "keep", &exchange("c"), "");
        bind(&mut topology, "c", &queue("q"), "");

        let (_, removed) = topology.remove_queue("q").expect("there");

        assert_eq!(names(&removed), ["c", "b", "a"]);
        assert_eq!(removed.bindings.len(), 4);
        assert_eq!(topology.bindings().count(), 0);
        assert!(!topology.is_in_use("keep"));
    }

    #[test]
    fn exchanges_that_lead_to_each_other_can_be_removed() {
        let mut topology = topology(&[], &[]);
        add(&mut topology, "a", "fanout", true);
        add(&mut topology, "b", "fanout", true);
        bind(&mut topology, "a", &exchange("b"), "");
        bind(&mut topology, "b", &exchange("a"), "");
        bind(&mut topology, "a", &exchange("a"), "");

        let removed = topology.remove_exchange("a").expect("there");

        assert_eq!(names(&removed), ["a", "b"]);
        assert_eq!(removed.bindings.len(), 3);
    }
}
