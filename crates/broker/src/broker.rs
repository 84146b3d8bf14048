//! The handle that every door holds.
//!
//! A door authenticates, then [`Broker::enter`]s a tenant as a user. What that returns, an [`Access`], is the only way
//! to queues and exchanges: every verb of it asks for permission itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use model::{QueueId, Timestamp};
use store::{Catalog, Pool, QueueStats, Watch};

use crate::access::Access;
use crate::administer::ById;
use crate::clock::Clock;
use crate::counters::Counters;
use crate::error::{BrokerError, Kind};
use crate::follow::Feed;
use crate::pools::Pooling;
use crate::queue::{ConnectionId, Queue};
use crate::quotas::{Held, Quotas};
use crate::reply::ReplyConsumers;
use crate::route_cache::RouteTarget;
use crate::stall::Stalls;
use crate::subscriptions::Register;
use crate::sweeper::Alarm;
use crate::tenant::Tenant;
use crate::users::Users;

/// The engine: tenants with their exchanges and queues, over one pool and one catalog.
#[derive(Debug)]
pub struct Broker {
    pub(crate) pool: Arc<dyn Pool>,
    pub(crate) catalog: Arc<dyn Catalog>,
    /// Where queues may live, if there is a choice.
    pub(crate) pooling: Option<Pooling>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tenants: RwLock<HashMap<Arc<str>, Arc<Tenant>>>,
    pub(crate) queues: RwLock<ById<Arc<Queue>>>,
    /// Queues with `x-expires`, which the sweeper looks at.
    pub(crate) idle_queues: RwLock<ById<Arc<Queue>>>,
    pub(crate) quotas: Quotas,
    pub(crate) connections: Held,
    pub(crate) channels: Held,
    pub(crate) replies: ReplyConsumers,
    /// Every live subscription.
    pub(crate) subscriptions: Register,
    /// Those that have news for whoever delivers.
    pub(crate) feed: Feed,
    pub(crate) sweeper: Alarm,
    pub(crate) stalls: Stalls,
    pub(crate) next_id: AtomicU64,
    /// Keyed by the operating system, so that its output cannot be foreseen.
    pub(crate) secret: std::hash::RandomState,
    pub(crate) next_queue: AtomicU64,
    /// Queue identities below this are noted as used in the catalog.
    pub(crate) queue_ids_end: AtomicU64,
    /// Who may do what.
    pub users: Users,
    /// What happened since the start, for the metrics.
    pub counters: Counters,
}

impl Broker {
    /// A broker without tenants; [`Broker::open`](crate::definitions) loads what a catalog holds.
    pub(crate) fn empty(
        pool: Arc<dyn Pool>,
        catalog: Arc<dyn Catalog>,
        clock: Arc<dyn Clock>,
        quotas: Quotas,
    ) -> Self {
        Self {
            pool,
            catalog,
            pooling: None,
            clock,
            tenants: RwLock::default(),
            queues: RwLock::default(),
            idle_queues: RwLock::default(),
            quotas,
            connections: Held::default(),
            channels: Held::default(),
            replies: ReplyConsumers::default(),
            subscriptions: Register::default(),
            feed: Feed::default(),
            sweeper: Alarm::default(),
            stalls: Stalls::default(),
            next_id: AtomicU64::new(1),
            secret: std::hash::RandomState::new(),
            next_queue: AtomicU64::new(1),
            queue_ids_end: AtomicU64::new(0),
            users: Users::default(),
            counters: Counters::default(),
        }
    }

    /// The time now, by the broker's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The durable watermark of the pool.
    pub fn watch(&self) -> &Watch {
        self.pool.watch()
    }

    /// A number that no other connection or consumer of this process has.
    pub fn unique(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A number that nobody outside can foresee.
    pub(crate) fn unforeseeable(&self) -> u64 {
        std::hash::BuildHasher::hash_one(&self.secret, self.unique())
    }

    /// The tenants' names, sorted.
    pub fn tenant_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> =
            self.tenants.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        names.sort();
        names
    }

    /// A tenant by name.
    pub fn tenant(&self, name: &str) -> Option<Arc<Tenant>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// How full a queue is.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Store`] if the pool does not know it.
    pub fn stats(&self, queue: &Queue) -> Result<QueueStats, BrokerError> {
        Ok(self.pool.stats(queue.id).now()?)
    }

    pub(crate) fn queue(&self, id: QueueId) -> Option<Arc<Queue>> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Every queue of every tenant.
    pub fn all_queues(&self) -> Vec<Arc<Queue>> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.values().filter(|queue| queue.is_visible()).cloned().collect()
    }

    /// Enters a tenant as an authenticated user.
    ///
    /// # Errors
    ///
    /// [`BrokerError::NotFound`] if there is no such tenant or user, [`BrokerError::AccessRefused`] if the user has no
    /// permission in it, [`BrokerError::LimitReached`] if the tenant or user has too many connections.
    pub fn enter(self: &Arc<Self>, user: &str, tenant: &str) -> Result<Access, BrokerError> {
        let found =
            self.tenant(tenant).ok_or_else(|| BrokerError::not_found(Kind::Tenant, tenant))?;
        let user = self.users.get(user).ok_or_else(|| BrokerError::not_found(Kind::User, user))?;
        if user.permissions_in(tenant).is_none() {
            return Err(BrokerError::AccessRefused {
                verb: "",
                kind: Kind::Tenant,
                name: tenant.into(),
                user: (*user.name).into(),
            });
        }
        Access::enter(Arc::clone(self), found, &user, ConnectionId(self.unique()))
    }

    /// Has a queue deliver because something in it became ready.
    pub(crate) fn dispatch(&self, queue: &Arc<Queue>, now: Timestamp) {
        if let Some(subscription) = queue.feeds() {
            self.feed.note(subscription);
            return;
        }
        let expired = queue.dispatch(&*self.pool, now);
        if !expired.is_empty() {
            self.expire_in(queue, expired, now);
        }
    }

    /// The pool says that something in `queue` became ready.
    pub(crate) fn became_ready(&self, id: QueueId, now: Timestamp) {
        let Some(queue) = self.queue(id) else { return };
        if queue.is_waiting_room() {
            self.release_delayed(&queue, now);
            return;
        }
        self.follow_up(vec![RouteTarget::new(queue, false)], now, 0);
    }
}
