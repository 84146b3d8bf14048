//! A tenant: its exchanges, bindings and queues, the policies over them, and its limits.
//!
//! The topology is read under a shared lock by whoever routes and written by who declares. Its revision is an atomic of
//! its own, so that a publisher sees without a lock that what it remembers still holds.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use model::policy::Policies;
use model::quota::TenantLimits;
use model::routing::{Routed, Topology};
use posthouse_amqp::RawTable;

use crate::broker::Broker;
use crate::error::{BrokerError, Kind};
use crate::queue::{ConnectionId, Queue};
use crate::queues::Queues;
use crate::quotas::lower;
use crate::route_cache::{RouteKind, RouteTarget};
use crate::subscriptions::Subscriptions;
use crate::users::User;

/// A tenant.
#[derive(Debug)]
pub struct Tenant {
    /// Its name; at most 255 bytes.
    pub name: Arc<str>,
    pub(crate) state: RwLock<State>,
    revision: AtomicU64,
    deleted: AtomicBool,
    connections: Mutex<HashSet<ConnectionId>>,
}

/// What is declared in a tenant.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) topology: Topology,
    pub(crate) queues: Queues,
    /// Where the messages of delayed exchanges wait, by exchange.
    pub(crate) waiting: HashMap<Arc<str>, Arc<Queue>>,
    /// By queue, also of queues that are gone or not there yet.
    pub(crate) subscriptions: HashMap<Arc<str>, Subscriptions>,
    pub(crate) policies: Policies,
    pub(crate) limits: TenantLimits,
    pub(crate) description: TenantDescription,
}

/// What is said about a tenant.
#[derive(Debug, Clone, Default)]
pub struct TenantDescription {
    /// For people.
    pub text: Box<str>,
    /// Queue type of queues declared without one; `None` for classic.
    pub default_queue_type: Option<model::QueueType>,
}

impl Tenant {
    pub(crate) fn new(name: &str, description: TenantDescription) -> Self {
        Self {
            name: name.into(),
            state: RwLock::new(State {
                topology: Topology::new(name),
                queues: Queues::default(),
                waiting: HashMap::new(),
                subscriptions: HashMap::new(),
                policies: Policies::default(),
                limits: TenantLimits::default(),
                description,
            }),
            revision: AtomicU64::new(1),
            deleted: AtomicBool::new(false),
            connections: Mutex::default(),
        }
    }

    /// Moves whenever something that routing depends on changes.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Whether it was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.revision.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state for a change; the revision moves when the change is over.
    pub(crate) fn write(&self) -> Change<'_> {
        Change {
            state: self.state.write().unwrap_or_else(PoisonError::into_inner),
            revision: &self.revision,
        }
    }

    /// A queue by name.
    pub fn queue(&self, name: &str) -> Option<Arc<Queue>> {
        self.read().queues.get(name).cloned()
    }

    /// How many exchanges and bindings it has.
    pub fn topology_size(&self) -> (usize, usize) {
        let state = self.read();
        (state.topology.exchanges().count(), state.topology.bindings().count())
    }

    /// All its queues.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        self.read().queues.values().cloned().collect()
    }

    /// The queues that a message goes to; `keys` are its routing key and those of its CC and BCC headers.
    pub(crate) fn route(
        &self,
        broker: &Broker,
        exchange: &str,
        keys: &[&str],
        headers: Option<RawTable<'_>>,
    ) -> Result<Vec<RouteTarget>, BrokerError> {
        let routed = self.routed(exchange, keys, headers)?;
        Ok(targets(broker, &routed))
    }

    /// What an address leads to, as far as it can be known without a message.
    pub(crate) fn resolve(
        &self,
        broker: &Broker,
        exchange: &str,
        routing_key: &str,
    ) -> Result<RouteKind, BrokerError> {
        if let Some(waiting) = self.read().waiting.get(exchange) {
            return Ok(RouteKind::Delayed(Arc::clone(waiting)));
        }
        let routed = self.routed(exchange, &[routing_key], None)?;
        if !routed.cacheable {
            return Ok(RouteKind::PerMessage);
        }
        Ok(RouteKind::Queues(targets(broker, &routed).into()))
    }

    fn routed(
        &self,
        exchange: &str,
        keys: &[&str],
        headers: Option<RawTable<'_>>,
    ) -> Result<Routed, BrokerError> {
        // Headers that cannot be read match nothing; who must refuse them has done so before.
        let headers = || headers.and_then(|raw| raw.decode().ok());
        let state = self.read();
        state
            .topology
            .route(exchange, keys, headers)
            .map_err(|_| BrokerError::not_found(Kind::Exchange, exchange))
    }

    pub(crate) fn open_connection(
        &self,
        broker: &Broker,
        user: &User,
        connection: ConnectionId,
    ) -> Result<(), BrokerError> {
        let limit = lower(broker.quotas.connections_per_tenant, self.read().limits.max_connections);
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.len() >= limit {
            return Err(BrokerError::LimitReached(format!(
                "access to vhost '{}' refused: connection limit ({limit}) is reached",
                self.name
            )));
        }
        let limit = lower(broker.quotas.connections_per_user, user.limits.max_connections);
        if !broker.connections.take(&user.name, limit) {
            return Err(BrokerError::LimitReached(format!(
                "connection refused for user '{}': user connection limit ({limit}) is reached",
                user.name
            )));
        }
        connections.insert(connection);
        Ok(())
    }

    pub(crate) fn close_connection(&self, broker: &Broker, user: &str, connection: ConnectionId) {
        if self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&connection) {
            broker.connections.give_back(user, 1);
        }
    }

    /// Connections open now.
    pub fn connection_count(&self) -> usize {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn targets(broker: &Broker, routed: &Routed) -> Vec<RouteTarget> {
    let at_once = routed.queues.iter().map(|id| (*id, false));
    let delayed = routed.delayed.iter().map(|id| (*id, true));
    at_once
        .chain(delayed)
        .filter_map(|(id, delayed)| Some(RouteTarget::with_followers(broker.queue(id)?, delayed)))
        .flatten()
        .collect()
}

/// A change of a tenant under way.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    state: RwLockWriteGuard<'a, State>,
    revision: &'a AtomicU64,
}

impl std::ops::Deref for Change<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Change<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        // Before the lock is given back, so that nobody routes by the new state and remembers it for the old revision.
        self.revision.fetch_add(1, Ordering::AcqRel);
    }
}
