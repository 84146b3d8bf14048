//! The exchanges, queues and bindings of one tenant.

mod removal;

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::binding::{
    self, BindError, Binding, BindingArguments, BindingEnd, BindingId, BindingRequest,
};
use super::destination::{Destination, ExchangeSlot};
use super::direct::DirectIndex;
use super::topic::TopicTrie;
use crate::exchange::{ExchangeDefinition, ExchangeKind};
use crate::id::QueueId;
use crate::naming::Named;
use crate::slots::Slots;

/// The default exchange is the first one made, and never removed.
pub(super) const DEFAULT_EXCHANGE: ExchangeSlot = 0;

/// What a kind of exchange needs besides the sorted bindings to choose quickly.
#[derive(Debug)]
pub(super) enum RouteIndex {
    Direct(DirectIndex),
    Topic(Box<TopicTrie>),
    Fanout,
    Headers,
    ConsistentHash,
}

impl RouteIndex {
    fn new(kind: ExchangeKind) -> Self {
        match kind {
            ExchangeKind::Direct => Self::Direct(DirectIndex::default()),
            ExchangeKind::Topic => Self::Topic(Box::default()),
            ExchangeKind::Fanout => Self::Fanout,
            ExchangeKind::Headers => Self::Headers,
            ExchangeKind::ConsistentHash => Self::ConsistentHash,
        }
    }
}

/// One exchange.
#[derive(Debug)]
pub(super) struct ExchangeNode {
    pub(super) definition: Arc<ExchangeDefinition>,
    /// The alternate exchange in force.
    pub(super) alternate: Option<Arc<str>>,
    pub(super) index: RouteIndex,
}

impl ExchangeNode {
    pub(super) fn delays(&self) -> bool {
        self.definition.exchange_type.delayed
    }
}

/// What else went when something was removed.
#[derive(Debug, Default)]
pub struct Removed {
    /// Exchanges: the one that was asked for, then those that deleted themselves with their last binding.
    pub exchanges: Vec<Arc<ExchangeDefinition>>,
    /// Bindings from and to everything that went.
    pub bindings: Vec<Binding>,
}

/// The exchanges, queues and bindings of one tenant. Every queue is bound to the default exchange by its name, which
/// costs and lists nothing.
#[derive(Debug)]
pub struct Topology {
    tenant: Arc<str>,
    exchanges: Slots<ExchangeNode>,
    exchange_slots: HashMap<Arc<str>, ExchangeSlot, RandomState>,
    queues: HashMap<Arc<str>, QueueId, RandomState>,
    /// Names of queues that are bound to more than the default exchange.
    bound_queues: HashMap<QueueId, Arc<str>, RandomState>,
    bindings: BTreeSet<BindingId>,
    /// From destinations to sources, to find what has to go with a destination.
    sources: BTreeSet<(Destination, ExchangeSlot)>,
    revision: u64,
    no_key: Arc<str>,
}

impl Topology {
    /// A tenant's topology with the predeclared exchanges.
    #[must_use]
    pub fn new(tenant: impl Into<Arc<str>>) -> Self {
        let mut topology = Self {
            tenant: tenant.into(),
            exchanges: Slots::default(),
            exchange_slots: HashMap::default(),
            queues: HashMap::default(),
            bound_queues: HashMap::default(),
            bindings: BTreeSet::new(),
            sources: BTreeSet::new(),
            revision: 0,
            no_key: Arc::from(""),
        };
        for definition in ExchangeDefinition::predeclared() {
            topology.add_exchange(Arc::new(definition));
        }
        topology
    }

    /// Adds an exchange; `false` if there is one of that name already.
    pub fn add_exchange(&mut self, definition: Arc<ExchangeDefinition>) -> bool {
        if self.exchange_slots.contains_key(&definition.name) {
            return false;
        }
        let name = Arc::clone(&definition.name);
        let alternate = definition.alternate.clone();
        let index = RouteIndex::new(definition.exchange_type.kind);
        let slot = self.exchanges.insert(ExchangeNode { definition, alternate, index });
        self.exchange_slots.insert(name, slot);
        self.revision += 1;
        true
    }

    /// Sets the alternate exchange that is in force for an exchange, by its own argument or a policy.
    pub fn set_alternate(&mut self, exchange: &str, alternate: Option<Arc<str>>) {
        let Some(slot) = self.slot(exchange) else { return };
        let Some(node) = self.exchanges.get_mut(slot) else { return };
        if node.alternate != alternate {
            node.alternate = alternate;
            self.revision += 1;
        }
    }

    /// Removes an exchange, its bindings, and the exchanges that delete themselves thereby. `None` if there is none of
    /// that name. Whether clients may is the caller's business; the default exchange stays in any case.
    pub fn remove_exchange(&mut self, name: &str) -> Option<Removed> {
        let slot = self.slot(name).filter(|slot| *slot != DEFAULT_EXCHANGE)?;
        let mut removed = Removed::default();
        self.remove_exchanges(vec![slot], &mut removed);
        self.revision += 1;
        Some(removed)
    }

    /// Adds a queue, or gives a name to another queue. Under the default exchange it can be reached at once.
    pub fn add_queue(&mut self, name: Arc<str>, queue: QueueId) {
        self.queues.insert(name, queue);
        self.revision += 1;
    }

    /// Removes a queue, its bindings, and the exchanges that delete themselves thereby. `None` if there is none of that
    /// name.
    pub fn remove_queue(&mut self, name: &str) -> Option<(QueueId, Removed)> {
        let queue = self.queues.remove(name)?;
        let mut removed = Removed::default();
        let emptied = self.remove_bindings_to(Destination::Queue(queue), &mut removed);
        self.remove_exchanges(emptied, &mut removed);
        self.revision += 1;
        Some((queue, removed))
    }

    /// Makes a binding; `Ok(false)` if there is the same one already.
    ///
    /// # Errors
    ///
    /// [`BindError`] if an end does not exist or is the default exchange, or the source cannot make sense of it.
    pub fn bind(&mut self, request: &BindingRequest<'_>) -> Result<bool, BindError> {
        let (source, destination) = self.ends(request)?;
        let Some(node) = self.exchanges.get(source) else { return Ok(false) };
        let kind = node.definition.exchange_type.kind;
        binding::check(kind, request.routing_key, request.arguments)?;
        let arguments = BindingArguments::new(request.arguments)?;
        let key = self.shared_key(request);
        let id = BindingId { source, destination, key, arguments };
        if !self.bindings.insert(id.clone()) {
            return Ok(false);
        }
        self.sources.insert((destination, source));
        if let (Destination::Queue(queue), BindingEnd::Queue(name)) =
            (destination, request.destination)
        {
            let name = self.queues.get_key_value(name).map_or(name, |(name, _)| name);
            self.bound_queues.insert(queue, Arc::clone(name));
        }
        match self.exchanges.get_mut(source).map(|node| &mut node.index) {
            Some(RouteIndex::Direct(index)) => index.insert(&id.key, destination),
            Some(RouteIndex::Topic(trie)) => trie.insert(&id.key, destination),
            Some(RouteIndex::Fanout | RouteIndex::Headers | RouteIndex::ConsistentHash) | None => {}
        }
        self.revision += 1;
        Ok(true)
    }

    /// Removes a binding, and the exchange that deletes itself thereby with what follows from that. Nothing happens if
    /// there is no such binding or an end does not exist.
    ///
    /// # Errors
    ///
    /// [`BindError::DefaultExchange`] if an end is the default exchange.
    pub fn unbind(&mut self, request: &BindingRequest<'_>) -> Result<Removed, BindError> {
        let mut removed = Removed::default();
        let (source, destination) = match self.ends(request) {
            Ok(ends) => ends,
            Err(BindError::NotFound(_)) => return Ok(removed),
            Err(error) => return Err(error),
        };
        let arguments = BindingArguments::new(request.arguments)?;
        let id = BindingId { source, destination, key: request.routing_key.into(), arguments };
        if self.remove_binding(&id, &mut removed) {
            let emptied = self.deletes_itself(source).then_some(source);
            self.remove_exchanges(emptied.into_iter().collect(), &mut removed);
            self.revision += 1;
        }
        Ok(removed)
    }

    /// Whose topology it is.
    #[must_use]
    pub fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// Moves with every change that may change a route.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The definition of an exchange.
    #[must_use]
    pub fn exchange(&self, name: &str) -> Option<&Arc<ExchangeDefinition>> {
        Some(&self.node(self.slot(name)?)?.definition)
    }

    /// All exchanges.
    pub fn exchanges(&self) -> impl Iterator<Item = &Arc<ExchangeDefinition>> {
        self.exchanges.iter().map(|node| &node.definition)
    }

    /// The alternate exchange in force for an exchange.
    #[must_use]
    pub fn alternate(&self, exchange: &str) -> Option<&Arc<str>> {
        self.node(self.slot(exchange)?)?.alternate.as_ref()
    }

    /// Whether an exchange is the source of a binding, what `if-unused` asks.
    #[must_use]
    pub fn is_in_use(&self, exchange: &str) -> bool {
        self.slot(exchange).is_some_and(|slot| self.bindings_of(slot).next().is_some())
    }

    /// The queue of a name.
    #[must_use]
    pub fn queue(&self, name: &str) -> Option<QueueId> {
        self.queues.get(name).copied()
    }

    /// All queues.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, QueueId)> {
        self.queues.iter().map(|(name, queue)| (name, *queue))
    }

    /// How many bindings there are.
    #[must_use]
    pub fn bindings_len(&self) -> usize {
        self.bindings.len()
    }

    /// All bindings but those of the default exchange.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> {
        self.bindings.iter().filter_map(|id| self.binding(id))
    }

    /// The bindings of which an exchange is the source; none for the default exchange.
    pub fn bindings_from(&self, exchange: &str) -> impl Iterator<Item = Binding> {
        let slot = self.slot(exchange);
        slot.into_iter().flat_map(|slot| self.bindings_of(slot)).filter_map(|id| self.binding(id))
    }

    /// The bindings that lead to a queue or exchange, without the one that every queue has to the default exchange.
    pub fn bindings_to(&self, end: &BindingEnd) -> impl Iterator<Item = Binding> {
        let destination = self.destination(end);
        destination
            .into_iter()
            .flat_map(|destination| self.bindings_to_destination(destination))
            .filter_map(|id| self.binding(id))
    }

    pub(super) fn slot(&self, exchange: &str) -> Option<ExchangeSlot> {
        self.exchange_slots.get(exchange).copied()
    }

    pub(super) fn node(&self, slot: ExchangeSlot) -> Option<&ExchangeNode> {
        self.exchanges.get(slot)
    }

    /// The bindings of which the exchange is the source, by destination.
    pub(super) fn bindings_of(&self, source: ExchangeSlot) -> impl Iterator<Item = &BindingId> {
        self.bindings_from_first(source, Destination::FIRST, &self.no_key)
            .take_while(move |id| id.source == source)
    }

    fn bindings_between(
        &self,
        source: ExchangeSlot,
        destination: Destination,
    ) -> impl Iterator<Item = &BindingId> {
        self.bindings_from_first(source, destination, &self.no_key)
            .take_while(move |id| id.source == source && id.destination == destination)
    }

    fn bindings_from_first(
        &self,
        source: ExchangeSlot,
        destination: Destination,
        key: &Arc<str>,
    ) -> impl Iterator<Item = &BindingId> + use<'_> {
        let first = BindingId { source, destination, key: Arc::clone(key), arguments: None };
        self.bindings.range((Bound::Included(first), Bound::Unbounded))
    }

    fn sources_of(&self, destination: Destination) -> impl Iterator<Item = ExchangeSlot> {
        self.sources
            .range((destination, 0)..=(destination, ExchangeSlot::MAX))
            .map(|(_, source)| *source)
    }

    fn bindings_to_destination(
        &self,
        destination: Destination,
    ) -> impl Iterator<Item = &BindingId> {
        self.sources_of(destination)
            .flat_map(move |source| self.bindings_between(source, destination))
    }

    fn binding(&self, id: &BindingId) -> Option<Binding> {
        let destination = match id.destination {
            Destination::Queue(queue) => BindingEnd::Queue(self.bound_queues.get(&queue)?.clone()),
            Destination::Exchange(slot) => {
                BindingEnd::Exchange(Arc::clone(&self.node(slot)?.definition.name))
            }
        };
        Some(Binding {
            source: Arc::clone(&self.node(id.source)?.definition.name),
            destination,
            routing_key: Arc::clone(&id.key),
            arguments: id.arguments.clone(),
        })
    }

    fn destination(&self, end: &BindingEnd) -> Option<Destination> {
        match end {
            BindingEnd::Queue(name) => self.queue(name).map(Destination::Queue),
            BindingEnd::Exchange(name) => self.slot(name).map(Destination::Exchange),
        }
    }

    fn ends(&self, request: &BindingRequest<'_>) -> Result<(ExchangeSlot, Destination), BindError> {
        let to_default =
            matches!(request.destination, BindingEnd::Exchange(name) if name.is_empty());
        if request.source.is_empty() || to_default {
            return Err(BindError::DefaultExchange);
        }
        let source = self
            .slot(request.source)
            .ok_or_else(|| BindError::NotFound(Named::exchange(request.source, &self.tenant)))?;
        let destination = self.destination(request.destination).ok_or_else(|| {
            BindError::NotFound(match request.destination {
                BindingEnd::Queue(name) => Named::queue(name, &self.tenant),
                BindingEnd::Exchange(name) => Named::exchange(name, &self.tenant),
            })
        })?;
        Ok((source, destination))
    }

    /// The routing key, sharing the name of the queue if it is the same text, as it is often.
    fn shared_key(&self, request: &BindingRequest<'_>) -> Arc<str> {
        match self.queues.get_key_value(request.routing_key) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(request.routing_key),
        }
    }
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::table::{Table, Value};

    use super::*;
    use crate::exchange::ExchangeOptions;

    pub(super) fn topology(exchanges: &[(&str, &str)], queues: &[&str]) -> Topology {
        let mut topology = Topology::new("v");
        for (name, kind) in exchanges {
            add(&mut topology, name, kind, false);
        }
        for (id, name) in (1..).zip(queues) {
            topology.add_queue((*name).into(), QueueId(id));
        }
        topology
    }

    pub(super) fn add(topology: &mut Topology, name: &str, kind: &str, auto_delete: bool) {
        let options = ExchangeOptions { auto_delete, ..ExchangeOptions::default() };
        let definition = ExchangeDefinition::new("v", name.into(), kind, options);
        topology.add_exchange(Arc::new(definition.expect("valid")));
    }

    pub(super) fn queue(name: &str) -> BindingEnd {
        BindingEnd::Queue(name.into())
    }

    pub(super) fn exchange(name: &str) -> BindingEnd {
        BindingEnd::Exchange(name.into())
    }

    pub(super) fn bind(topology: &mut Topology, source: &str, end: &BindingEnd, key: &str) -> bool {
        let arguments = &Table::new();
        let request = BindingRequest { source, destination: end, routing_key: key, arguments };
        topology.bind(&request).expect("bound")
    }

    pub(super) fn unbind(
        topology: &mut Topology,
        source: &str,
        end: &BindingEnd,
        key: &str,
    ) -> Removed {
        let arguments = &Table::new();
        let request = BindingRequest { source, destination: end, routing_key: key, arguments };
        topology.unbind(&request).expect("unbound")
    }

    pub(super) fn names(removed: &Removed) -> Vec<&str> {
        removed.exchanges.iter().map(|exchange| &*exchange.name).collect()
    }

    #[test]
    fn the_same_binding_is_made_once() {
        let mut topology = topology(&[("x", "direct")], &["q"]);

        assert!(bind(&mut topology, "x", &queue("q"), "k"));
        assert!(!bind(&mut topology, "x", &queue("q"), "k"));
        assert!(bind(&mut topology, "x", &queue("q"), "other"));

        let bindings: Vec<_> = topology.bindings_to(&queue("q")).collect();
        assert_eq!(bindings.len(), 2);
        assert_eq!((&*bindings[0].source, &*bindings[0].routing_key), ("x", "k"));
        assert!(topology.bindings_from("x").eq(bindings));
    }

    #[test]
    fn bindings_that_differ_in_arguments_are_two_but_deliver_until_both_are_gone() {
        let mut topology = topology(&[("x", "topic")], &["q"]);
        let with = Table::from_iter([("a", Value::I32(1))]);
        let same = Table::from_iter([("a", Value::I64(1))]);
        let q = queue("q");
        let request = |arguments| BindingRequest {
            source: "x",
            destination: &q,
            routing_key: "k",
            arguments,
        };

        assert_eq!(topology.bind(&request(&with)), Ok(true));
        assert_eq!(topology.bind(&request(&same)), Ok(false));
        let none = Table::new();
        assert_eq!(topology.bind(&request(&none)), Ok(true));
        topology.unbind(&request(&none)).expect("unbound");
        assert!(!topology.route("x", &["k"], || None).expect("routed").is_unroutable());
        topology.unbind(&request(&same)).expect("unbound");
        assert!(topology.route("x", &["k"], || None).expect("routed").is_unroutable());
    }

    #[test]
    fn the_default_exchange_cannot_be_bound() {
        let mut topology = topology(&[("x", "fanout")], &["q"]);
        let request = |source, destination| BindingRequest {
            source,
            destination,
            routing_key: "",
            arguments: const { &Table::new() },
        };

        let end = queue("q");
        assert_eq!(topology.bind(&request("", &end)), Err(BindError::DefaultExchange));
        assert_eq!(
            topology.unbind(&request("x", &exchange(""))).map(drop),
            Err(BindError::DefaultExchange)
        );
        assert!(topology.remove_exchange("").is_none());
    }

    #[test]
    fn what_is_missing_is_named_when_binding_and_does_not_matter_when_unbinding() {
        let mut topology = topology(&[("x", "fanout")], &[]);
        let q = queue("q");
        let request = BindingRequest {
            source: "x",
            destination: &q,
            routing_key: "",
            arguments: &Table::new(),
        };

        let refused = topology.bind(&request).expect_err("refused");

        assert_eq!(refused.to_string(), "no queue 'q' in vhost 'v'");
        assert!(topology.unbind(&request).is_ok());
    }

    #[test]
    fn the_revision_moves_with_what_changes_a_route_and_only_then() {
        let mut topology = topology(&[("x", "direct")], &["q"]);
        let mut last = topology.revision();
        let mut moved = |topology: &Topology| {
            let moved = topology.revision() != last;
            last = topology.revision();
            moved
        };

        bind(&mut topology, "x", &queue("q"), "k");
        assert!(moved(&topology));
        bind(&mut topology, "x", &queue("q"), "k");
        assert!(!moved(&topology));
        unbind(&mut topology, "x", &queue("q"), "other");
        assert!(!moved(&topology));
        topology.set_alternate("x", Some("y".into()));
        assert!(moved(&topology));
        topology.set_alternate("x", Some("y".into()));
        assert!(!moved(&topology));
        topology.remove_queue("q");
        assert!(moved(&topology));
    }

    #[test]
    fn a_queue_of_a_hundred_thousand_keys_goes_quickly_and_leaves_nothing() {
        let mut topology = topology(&[("x", "topic"), ("y", "direct")], &["q"]);
        for key in (0..100_000).map(|key| key.to_string()) {
            bind(&mut topology, "x", &queue("q"), &key);
            bind(&mut topology, "y", &queue("q"), &key);
        }

        let (_, removed) = topology.remove_queue("q").expect("there");

        assert_eq!(removed.bindings.len(), 200_000);
        assert!(topology.sources.is_empty() && topology.bound_queues.is_empty());
        assert!(topology.route("x", &["7"], || None).expect("routed").is_unroutable());
        assert!(topology.route("y", &["7"], || None).expect("routed").is_unroutable());
    }
}
