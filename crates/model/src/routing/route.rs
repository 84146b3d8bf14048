//! From an exchange and a routing key to queues.

use std::cell::LazyCell;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use posthouse_amqp::table::{Table, Value};
use smallvec::SmallVec;

use super::consistent_hash;
use super::destination::{Destination, ExchangeSlot};
use super::topology::{DEFAULT_EXCHANGE, ExchangeNode, RouteIndex, Topology};
use super::visited::Visited;
use super::{binding, headers};
use crate::exchange::ExchangeKind;
use crate::id::QueueId;
use crate::naming::Named;

/// Queues: one or two without an allocation.
pub type QueueIds = SmallVec<[QueueId; 2]>;

/// Where a message goes. Each queue is named once, in the order of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// Queues that are reached directly.
    pub queues: QueueIds,
    /// Queues that are reached through an `x-delayed-message` exchange only: there a message with header `x-delay` must
    /// not be delivered before its time.
    pub delayed: QueueIds,
    /// Whether it depends on exchange and keys only, so that it holds until [`Topology::revision`] moves.
    pub cacheable: bool,
}

impl Routed {
    /// Whether it goes nowhere.
    #[must_use]
    pub fn is_unroutable(&self) -> bool {
        self.queues.is_empty() && self.delayed.is_empty()
    }
}

/// Why a message cannot be routed at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// There is no such exchange. AMQP: 404.
    #[error("no {0}")]
    NoExchange(Named),
}

/// From here on headers are found by hash: 65,000 headers times thousands of bindings are too many comparisons.
const HEADERS_MANY: usize = 16;

/// The headers of a message, decoded when the first headers exchange asks.
enum HeaderIndex<'t> {
    Few(Option<&'t Table>),
    Many(HashMap<&'t str, &'t Value, RandomState>),
}

impl<'t> HeaderIndex<'t> {
    fn new(table: Option<&'t Table>) -> Self {
        match table {
            Some(table) if table.len() >= HEADERS_MANY => Self::Many(table.iter().collect()),
            _ => Self::Few(table),
        }
    }

    fn get(&self, name: &str) -> Option<&'t Value> {
        match self {
            Self::Few(table) => table.and_then(|table| table.get(name)),
            Self::Many(map) => map.get(name).copied(),
        }
    }
}

impl Topology {
    /// Where a message goes that is published to `exchange` with the first of `keys` as routing key; the others are the
    /// keys of its headers `CC` and `BCC`. `headers` decodes its headers, and is called only if an exchange on the way
    /// looks at them.
    ///
    /// Follows bindings to other exchanges and alternate exchanges, visiting each exchange once at most. An alternate
    /// exchange is asked if an exchange has no destination of its own for the message.
    ///
    /// Whether clients may publish to the exchange ([`internal`](crate::exchange::ExchangeDefinition::internal)) is the
    /// caller's business: dead letters may.
    ///
    /// # Errors
    ///
    /// [`RouteError`] if there is no such exchange.
    pub fn route(
        &self,
        exchange: &str,
        keys: &[&str],
        headers: impl FnOnce() -> Option<Table>,
    ) -> Result<Routed, RouteError> {
        let Some(first) = self.slot(exchange) else {
            return Err(RouteError::NoExchange(Named::exchange(exchange, self.tenant())));
        };
        let table = LazyCell::new(headers);
        let index = LazyCell::new(|| HeaderIndex::new(table.as_ref()));
        let header = |name: &str| index.get(name);
        let mut walk = Walk::new(self, keys);
        walk.arrive(Destination::Exchange(first));
        walk.go(&header);
        let queues = walk.take_queues();
        walk.go_delayed(&header);
        let mut delayed = walk.take_queues();
        delayed.retain(|queue| queues.binary_search(queue).is_err());
        Ok(Routed { queues, delayed, cacheable: walk.cacheable })
    }
}

/// One message on its way through the exchanges.
struct Walk<'t> {
    topology: &'t Topology,
    keys: &'t [&'t str],
    visited: Visited,
    ahead: SmallVec<[ExchangeSlot; 8]>,
    /// Exchanges that delay, kept until all that does not is done.
    delaying: SmallVec<[ExchangeSlot; 2]>,
    /// Whether all that follows is delayed anyway.
    delayed: bool,
    queues: QueueIds,
    cacheable: bool,
}

impl<'t> Walk<'t> {
    fn new(topology: &'t Topology, keys: &'t [&'t str]) -> Self {
        Self {
            topology,
            keys,
            visited: Visited::default(),
            ahead: SmallVec::new(),
            delaying: SmallVec::new(),
            delayed: false,
            queues: QueueIds::new(),
            cacheable: true,
        }
    }

    fn arrive(&mut self, destination: Destination) {
        match destination {
            Destination::Queue(queue) => self.queues.push(queue),
            Destination::Exchange(slot) => {
                let delays = self.topology.node(slot).is_some_and(ExchangeNode::delays);
                if delays && !self.delayed {
                    self.delaying.push(slot);
                } else if self.visited.first(slot) {
                    self.ahead.push(slot);
                }
            }
        }
    }

    fn go<'h>(&mut self, header: &impl Fn(&str) -> Option<&'h Value>) {
        while let Some(slot) = self.ahead.pop() {
            let Some(node) = self.topology.node(slot) else { continue };
            let mut found = false;
            self.choose(slot, node, header, &mut found);
            if found {
                continue;
            }
            let alternate = node.alternate.as_deref();
            if let Some(alternate) = alternate.and_then(|name| self.topology.slot(name)) {
                self.arrive(Destination::Exchange(alternate));
            }
        }
    }

    /// Goes on where delays begin.
    fn go_delayed<'h>(&mut self, header: &impl Fn(&str) -> Option<&'h Value>) {
        self.delayed = true;
        for slot in std::mem::take(&mut self.delaying) {
            self.arrive(Destination::Exchange(slot));
        }
        self.go(header);
    }

    /// The queues found so far, each once.
    fn take_queues(&mut self) -> QueueIds {
        let mut queues = std::mem::take(&mut self.queues);
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// Arrives at every destination that one exchange chooses.
    fn choose<'h>(
        &mut self,
        slot: ExchangeSlot,
        node: &'t ExchangeNode,
        header: &impl Fn(&str) -> Option<&'h Value>,
        found: &mut bool,
    ) {
        let (topology, keys) = (self.topology, self.keys);
        if node.definition.exchange_type.kind == ExchangeKind::Headers
            || node.definition.hash_header().is_some()
        {
            self.cacheable = false;
        }
        let mut arrive = |destination| {
            *found = true;
            self.arrive(destination);
        };
        match &node.index {
            RouteIndex::Direct(_) if slot == DEFAULT_EXCHANGE => {
                let queues = keys.iter().filter_map(|key| topology.queue(key));
                queues.for_each(|queue| arrive(Destination::Queue(queue)));
            }
            RouteIndex::Direct(index) => {
                keys.iter().for_each(|key| index.matches(key, &mut arrive));
            }
            RouteIndex::Topic(trie) => {
                for key in keys {
                    trie.matches(key, &mut arrive);
                }
            }
            RouteIndex::Fanout => {
                topology.bindings_of(slot).for_each(|binding| arrive(binding.destination));
            }
            RouteIndex::Headers => topology
                .bindings_of(slot)
                .filter(|binding| headers::fits(binding.arguments.as_deref(), header))
                .for_each(|binding| arrive(binding.destination)),
            RouteIndex::ConsistentHash => {
                if let Some(chosen) = choose_by_hash(topology, slot, node, keys, header) {
                    arrive(chosen);
                }
            }
        }
    }
}

fn choose_by_hash<'h>(
    topology: &Topology,
    slot: ExchangeSlot,
    node: &ExchangeNode,
    keys: &[&str],
    header: &impl Fn(&str) -> Option<&'h Value>,
) -> Option<Destination> {
    let key = match node.definition.hash_header() {
        Some(name) => header(name).map(crate::argument::shown).unwrap_or_default(),
        None => keys.first().copied().unwrap_or_default().to_owned(),
    };
    let key = consistent_hash::hash(key.as_bytes());
    let scored = topology.bindings_of(slot).map(|binding| {
        let destination = match binding.destination {
            Destination::Queue(queue) => queue.0,
            // Slots are not the same after a restart, names are.
            Destination::Exchange(slot) => topology
                .node(slot)
                .map_or(0, |node| consistent_hash::hash(node.definition.name.as_bytes())),
        };
        // Keys were checked when the binding was made.
        let weight = binding::weight(&binding.key).unwrap_or(1);
        (consistent_hash::score(key, destination, weight), binding.destination)
    });
    scored.max_by(|left, right| left.0.total_cmp(&right.0)).map(|(_, destination)| destination)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::exchange::{DELAYED, ExchangeDefinition, ExchangeOptions};
    use crate::routing::{BindingEnd, BindingRequest};

    /// Exchanges as `(name, type)`; bindings as `(source, end, key)`, ends beginning with `@` being exchanges. Queue
    /// `q7` has id 7.
    fn topology(exchanges: &[(&str, &str)], bindings: &[(&str, &str, &str)]) -> Topology {
        let mut topology = Topology::new("v");
        for (name, kind) in exchanges {
            let (kind, arguments) = match kind.strip_prefix("delayed ") {
                Some(kind) => (DELAYED, Table::from_iter([("x-delayed-type", kind)])),
                None => (*kind, Table::new()),
            };
            let options = ExchangeOptions { arguments, ..ExchangeOptions::default() };
            let definition = ExchangeDefinition::new("v", (*name).into(), kind, options);
            topology.add_exchange(Arc::new(definition.expect("valid")));
        }
        for id in 1..=9 {
            topology.add_queue(format!("q{id}").into(), QueueId(id));
        }
        for (source, end, key) in bindings {
            bind(&mut topology, source, end, key, &Table::new());
        }
        topology
    }

    fn bind(topology: &mut Topology, source: &str, end: &str, key: &str, arguments: &Table) {
        let destination = &match end.strip_prefix('@') {
            Some(exchange) => BindingEnd::Exchange(exchange.into()),
            None => BindingEnd::Queue(end.into()),
        };
        let request = BindingRequest { source, destination, routing_key: key, arguments };
        topology.bind(&request).expect("bound");
    }

    fn routed(topology: &Topology, exchange: &str, keys: &[&str]) -> Vec<u64> {
        let routed = topology.route(exchange, keys, || None).expect("there");
        assert!(routed.delayed.is_empty());
        routed.queues.iter().map(|queue| queue.0).collect()
    }

    #[test]
    fn the_default_exchange_knows_every_queue_by_name() {
        let mut topology = topology(&[], &[]);

        assert_eq!(routed(&topology, "", &["q3"]), [3]);
        assert_eq!(routed(&topology, "", &["q3", "q1", "q3", "nope"]), [1, 3]);
        topology.remove_queue("q3");
        assert_eq!(routed(&topology, "", &["q3"]), [0_u64; 0]);
    }

    #[test]
    fn a_missing_exchange_is_named() {
        let missing = topology(&[], &[]).route("nope", &["k"], || None).expect_err("missing");

        assert_eq!(missing.to_string(), "no exchange 'nope' in vhost 'v'");
    }

    #[test]
    fn every_kind_of_exchange_chooses_its_way() {
        let topology = topology(
            &[("d", "direct"), ("f", "fanout"), ("t", "topic")],
            &[
                ("d", "q1", "k"),
                ("d", "q2", "k"),
                ("d", "q3", "other"),
                ("f", "q1", ""),
                ("f", "q2", "ignored"),
                ("f", "q2", "too"),
                ("t", "q1", "a.*"),
                ("t", "q1", "a.#"),
                ("t", "q2", "#.b"),
                ("t", "q3", "c"),
            ],
        );

        assert_eq!(routed(&topology, "d", &["k"]), [1, 2]);
        assert_eq!(routed(&topology, "d", &["k", "other"]), [1, 2, 3]);
        assert_eq!(routed(&topology, "f", &["whatever"]), [1, 2]);
        assert_eq!(routed(&topology, "t", &["a.b"]), [1, 2]);
        assert_eq!(routed(&topology, "t", &["x", "c"]), [3]);
    }

    #[test]
    fn exchanges_that_lead_in_circles_deliver_one_copy() {
        let topology = topology(
            &[("a", "fanout"), ("b", "fanout"), ("c", "fanout")],
            &[
                ("a", "@b", ""),
                ("b", "@c", ""),
                ("c", "@a", ""),
                ("a", "@c", ""),
                ("a", "@a", ""),
                ("b", "q1", ""),
                ("c", "q1", ""),
                ("c", "q2", ""),
            ],
        );

        assert_eq!(routed(&topology, "a", &["k"]), [1, 2]);
        assert_eq!(routed(&topology, "c", &["k"]), [1, 2]);
    }

    #[test]
    fn an_alternate_exchange_is_asked_only_if_nothing_matches() {
        let mut topology = topology(
            &[("x", "direct"), ("y", "direct"), ("z", "fanout")],
            &[("x", "q1", "k"), ("y", "q2", "l"), ("z", "q3", "")],
        );
        topology.set_alternate("x", Some("y".into()));
        topology.set_alternate("y", Some("z".into()));
        topology.set_alternate("z", Some("gone".into()));

        assert_eq!(routed(&topology, "x", &["k"]), [1]);
        assert_eq!(routed(&topology, "x", &["l"]), [2]);
        assert_eq!(routed(&topology, "x", &["m"]), [3]);
    }

    #[test]
    fn alternate_exchanges_in_a_circle_end() {
        let mut topology = topology(&[("x", "direct"), ("y", "direct")], &[]);
        topology.set_alternate("x", Some("y".into()));
        topology.set_alternate("y", Some("x".into()));

        assert!(routed(&topology, "x", &["k"]).is_empty());
        topology.set_alternate("y", Some("".into()));
        assert_eq!(routed(&topology, "x", &["q4"]), [4]);
    }

    #[test]
    fn headers_are_decoded_once_and_only_if_they_matter() {
        let mut topology =
            topology(&[("h", "headers"), ("i", "headers"), ("f", "fanout")], &[("f", "q9", "")]);
        let wants = |value: i32| Table::from_iter([("n", Value::I32(value))]);
        bind(&mut topology, "h", "q1", "", &wants(1));
        bind(&mut topology, "h", "q2", "", &wants(2));
        bind(&mut topology, "h", "@i", "", &Table::new());
        bind(&mut topology, "i", "q3", "", &wants(1));
        let mut decoded = 0;
        let headers = || {
            decoded += 1;
            Some(Table::from_iter((0..40).map(|n| (n.to_string(), n)).chain([("n".into(), 1)])))
        };

        let routed = topology.route("h", &[""], headers).expect("there");
        let without = topology.route("f", &[""], || unreachable!("fanout")).expect("there");

        assert_eq!(routed.queues.as_slice(), [QueueId(1), QueueId(3)]);
        assert!(!routed.cacheable && without.cacheable);
        assert_eq!(decoded, 1);
    }

    #[test]
    fn what_is_behind_a_delayed_exchange_is_told_apart() {
        let topology = topology(
            &[("x", "fanout"), ("late", "delayed direct"), ("y", "fanout")],
            &[
                ("x", "@late", ""),
                ("x", "q1", ""),
                ("late", "q1", "k"),
                ("late", "q2", "k"),
                ("late", "@y", "k"),
                ("late", "q3", "l"),
                ("y", "q4", ""),
            ],
        );

        let through = topology.route("x", &["k"], || None).expect("there");
        let direct = topology.route("late", &["k"], || None).expect("there");

        assert_eq!(through.queues.as_slice(), [QueueId(1)]);
        assert_eq!(through.delayed.as_slice(), [QueueId(2), QueueId(4)]);
        assert_eq!(direct.delayed.as_slice(), [QueueId(1), QueueId(2), QueueId(4)]);
        assert!(through.cacheable);
    }

    #[test]
    fn a_hash_exchange_chooses_one_destination_and_stays_with_it() {
        let topology = topology(
            &[("h", "x-consistent-hash")],
            &[("h", "q1", "1"), ("h", "q2", "1"), ("h", "q3", "5")],
        );

        let mut chosen = [0; 10];
        for key in (0..700).map(|key: i32| key.to_string()) {
            let queues = routed(&topology, "h", &[&key]);
            assert_eq!(queues, routed(&topology, "h", &[&key]));
            assert_eq!(queues.len(), 1);
            chosen[usize::try_from(queues[0]).expect("small")] += 1;
        }

        assert!(chosen[3] > 400 && chosen[1] > 50 && chosen[2] > 50, "{chosen:?}");
    }
}
