//! Declaring and deleting queues.
//!
//! A change is checked and applied under the tenant's lock, and its definition committed before the lock is given
//! back, so that the order of the log is the order in which things happened.

use std::sync::Arc;

use model::permission::Verb;
use model::policy::PolicyTarget;
use model::{QueueDefinition, QueueId, QueueOptions, QueueSettings, QueueType, Ticket, Timestamp};
use posthouse_amqp::Table;
use store::pools::queue_in;
use store::{Change, Commit, DefinitionChange, QueueKind};

use crate::access::Access;
use crate::broker::Broker;
use crate::definitions;
use crate::error::{BrokerError, Kind};
use crate::outbox::Outgoing;
use crate::queue::{ConnectionId, Queue};
use crate::quotas::lower;
use crate::tenant::{State, Tenant};

/// Names that begin like this are the broker's.
pub(crate) const RESERVED_PREFIX: &str = "amq.";

/// Longest name of an exchange or queue.
const NAME_BYTES_MAX: usize = 255;

/// Where messages go that nobody said anything about: tried too often, and no dead-letter exchange.
pub const PARKING_QUEUE: &str = "amq.posthouse.parking";

/// What a client declares as a queue.
#[derive(Debug)]
pub struct DeclareQueue<'a> {
    /// Name, 1 to 255 bytes.
    pub name: &'a str,
    /// The door made the name up: the reserved prefix is allowed.
    pub generated: bool,
    /// Survives a restart.
    pub durable: bool,
    /// Belongs to the connection.
    pub exclusive: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// Further arguments.
    pub arguments: Table,
}

/// A queue as a client finds it.
#[derive(Debug)]
pub struct Declared {
    /// The queue.
    pub queue: Arc<Queue>,
    /// Messages ready.
    pub ready: u64,
    /// Consumers.
    pub consumers: usize,
    /// When its definition is durable.
    pub ticket: Ticket,
}

impl DeclareQueue<'_> {
    pub(crate) fn options(&self) -> QueueOptions {
        QueueOptions {
            durable: self.durable,
            exclusive: self.exclusive,
            auto_delete: self.auto_delete,
            arguments: self.arguments.clone(),
        }
    }
}

impl Access {
    /// A queue as it is, without declaring it.
    ///
    /// # Errors
    ///
    /// If it does not exist or belongs to another connection.
    pub fn check_queue(&self, name: &str, now: Timestamp) -> Result<Declared, BrokerError> {
        let queue = self.existing_queue(name)?;
        self.unlocked(&queue)?;
        queue.touch(now);
        self.found(queue, Ticket::NONE)
    }

    /// Declares a queue; fine if it is there with the same properties.
    ///
    /// # Errors
    ///
    /// If the name is reserved, an argument not valid, it exists with other properties or belongs to another
    /// connection, or a limit is reached.
    pub fn declare_queue(
        &self,
        declare: &DeclareQueue<'_>,
        now: Timestamp,
    ) -> Result<Declared, BrokerError> {
        let tenant = &self.inner.tenant;
        check_name(declare.name, Kind::Queue)?;
        self.inner.broker.counters.queues_declared.add(1);
        self.allow(Verb::Configure, Kind::Queue, declare.name)?;
        let mut state = tenant.write();
        if let Some(existing) = state.queues.get(declare.name).cloned() {
            drop(state);
            return self.redeclare(existing, declare, now);
        }
        let default = state.description.default_queue_type.unwrap_or_default();
        let definition =
            QueueDefinition::new(&tenant.name, declare.name.into(), default, declare.options())
                .map_err(|error| BrokerError::Invalid(error.to_string()))?;
        if declare.name.starts_with(RESERVED_PREFIX) && !declare.generated {
            return Err(BrokerError::ReservedName { kind: Kind::Queue, name: declare.name.into() });
        }
        if let Some(exchange) =
            definition.arguments.as_ref().and_then(|own| own.dead_letter_exchange.as_deref())
        {
            self.allow(Verb::Read, Kind::Queue, declare.name)?;
            self.allow(Verb::Write, Kind::Exchange, exchange)?;
        }
        let limit = lower(self.inner.broker.quotas.queues_per_tenant, state.limits.max_queues);
        if state.queues.len() >= limit {
            return Err(BrokerError::LimitReached(format!(
                "cannot declare queue '{}': queue limit in vhost '{}' ({limit}) is reached",
                declare.name, tenant.name
            )));
        }
        let owner = declare.exclusive.then_some(self.inner.connection);
        let (queue, ticket) =
            self.inner.broker.add_queue(tenant, &mut state, definition, owner, now)?;
        drop(state);
        if owner.is_some() {
            self.inner.exclusive().push(Arc::clone(&queue));
        }
        Ok(Declared { queue, ready: 0, consumers: 0, ticket })
    }

    fn redeclare(
        &self,
        existing: Arc<Queue>,
        declare: &DeclareQueue<'_>,
        now: Timestamp,
    ) -> Result<Declared, BrokerError> {
        self.unlocked(&existing)?;
        if existing.definition.exclusive != declare.exclusive {
            return Err(BrokerError::Locked((*existing.name).into()));
        }
        existing
            .definition
            .check_equivalent(self.tenant_name(), &declare.options())
            .map_err(|error| BrokerError::Inequivalent(error.to_string()))?;
        existing.touch(now);
        self.found(existing, Ticket::NONE)
    }

    fn found(&self, queue: Arc<Queue>, ticket: Ticket) -> Result<Declared, BrokerError> {
        let stats = self.inner.broker.pool.stats(queue.id).now()?;
        let ready = if queue.is_stream() {
            stats.next.0.saturating_sub(stats.first.0)
        } else {
            stats.ready
        };
        Ok(Declared { ready, consumers: queue.consumer_count(), queue, ticket })
    }

    /// Deletes a queue; the messages that were ready in it. Fine if it is not there.
    ///
    /// # Errors
    ///
    /// If it belongs to another connection, may not be configured, or is used or filled and only to be deleted if not.
    pub fn delete_queue(
        &self,
        name: &str,
        if_unused: bool,
        if_empty: bool,
        now: Timestamp,
    ) -> Result<(u64, Ticket), BrokerError> {
        self.allow(Verb::Configure, Kind::Queue, name)?;
        let Ok(queue) = self.existing_queue(name) else { return Ok((0, Ticket::NONE)) };
        self.unlocked(&queue)?;
        if if_unused && queue.consumer_count() > 0 {
            return Err(BrokerError::InUse { kind: Kind::Queue, name: name.into() });
        }
        if if_empty && self.inner.broker.pool.stats(queue.id).now()?.ready > 0 {
            return Err(BrokerError::NotEmpty(name.into()));
        }
        if queue.owner.is_some() {
            self.inner.exclusive().retain(|own| !Arc::ptr_eq(own, &queue));
        }
        self.inner.broker.delete_queue(&self.inner.tenant, &queue, now)
    }

    /// Drops the ready messages of a queue; how many.
    ///
    /// # Errors
    ///
    /// If it does not exist, belongs to another connection or may not be read.
    pub fn purge_queue(&self, name: &str, now: Timestamp) -> Result<(u64, Ticket), BrokerError> {
        self.allow(Verb::Read, Kind::Queue, name)?;
        let queue = self.existing_queue(name)?;
        self.unlocked(&queue)?;
        if queue.is_stream() {
            return Err(BrokerError::Unsupported(format!(
                "queue.purge is not supported by stream '{name}'"
            )));
        }
        let receipt = self.commit(Commit {
            changes: vec![Change::Purge { queue: queue.id }],
            now,
            ..Commit::default()
        })?;
        Ok((receipt.removed, receipt.ticket))
    }
}

impl Broker {
    /// Commits definitions; nothing to do is durable already.
    pub(crate) fn define(&self, changes: Vec<DefinitionChange>) -> Result<Ticket, BrokerError> {
        if changes.is_empty() {
            return Ok(Ticket::NONE);
        }
        Ok(self.catalog.commit_definitions(changes).now()?)
    }

    pub(crate) fn add_queue(
        &self,
        tenant: &Tenant,
        state: &mut State,
        definition: QueueDefinition,
        owner: Option<ConnectionId>,
        now: Timestamp,
    ) -> Result<(Arc<Queue>, Ticket), BrokerError> {
        // A queue of a connection has nothing to outlast, and so no reason to be elsewhere.
        let pool = if owner.is_some() { 0 } else { self.place(None)? };
        self.add_queue_to(pool, tenant, state, definition, owner, now)
    }

    /// As [`Broker::add_queue`], in a pool that was chosen.
    pub(crate) fn add_queue_to(
        &self,
        pool: u16,
        tenant: &Tenant,
        state: &mut State,
        definition: QueueDefinition,
        owner: Option<ConnectionId>,
        now: Timestamp,
    ) -> Result<(Arc<Queue>, Ticket), BrokerError> {
        let queue = self.make_queue(tenant, state, definition, owner, now, Home::In(pool))?;
        state.topology.add_queue(Arc::clone(&queue.name), queue.id);
        state.queues.insert(Arc::clone(&queue));
        // Subscriptions wait for a queue of their name.
        state.attach_followers(&queue.name);
        self.counters.queues_created.add(1);
        let durable = queue.kind().durable;
        let change =
            durable.then(|| definitions::put_queue(&tenant.name, &queue.definition, queue.id));
        let ticket = self.define(change.into_iter().collect())?;
        Ok((queue, ticket))
    }

    /// Makes a queue, or takes up one that recovery found.
    pub(crate) fn make_queue(
        &self,
        tenant: &Tenant,
        state: &State,
        definition: QueueDefinition,
        owner: Option<ConnectionId>,
        now: Timestamp,
        home: Home,
    ) -> Result<Arc<Queue>, BrokerError> {
        let settings = self.settings_of(state, &definition);
        let (fresh, id) = match home {
            Home::At(id) => (false, id),
            Home::In(pool) => (true, queue_in(pool, self.allocate_queue_count()?)),
        };
        let name = Arc::clone(&tenant.name);
        let queue = Arc::new(Queue::new(id, name, definition, owner, Arc::new(settings), now));
        if fresh {
            let changes = vec![Change::CreateQueue { queue: id, kind: queue.kind() }];
            self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
        }
        self.remember_queue(&queue);
        Ok(queue)
    }

    /// Deletes a queue with its messages, and tells its consumers.
    pub(crate) fn delete_queue(
        &self,
        tenant: &Tenant,
        queue: &Arc<Queue>,
        now: Timestamp,
    ) -> Result<(u64, Ticket), BrokerError> {
        let mut state = tenant.write();
        let Some(consumers) = queue.delete() else { return Ok((0, Ticket::NONE)) };
        state.queues.remove(&queue.name);
        let mut changes = Vec::new();
        if let Some((_, removed)) = state.topology.remove_queue(&queue.name)
            && (queue.kind().durable || !removed.exchanges.is_empty())
        {
            self.close_waiting_rooms(&mut state, &removed, now)?;
            changes = definitions::forget(&tenant.name, &removed);
        }
        if queue.kind().durable {
            changes.push(definitions::remove_queue(&tenant.name, &queue.name));
            if queue.metadata().is_some() {
                changes.push(definitions::remove_metadata(&tenant.name, &queue.name));
            }
        }
        self.forget_queue(queue);
        let count = self.pool.stats(queue.id).now().map_or(0, |stats| stats.ready);
        self.counters.queues_deleted.add(1);
        let gone = Commit {
            changes: vec![Change::DeleteQueue { queue: queue.id }],
            now,
            ..Commit::default()
        };
        let receipt = self.pool.commit(gone).now()?;
        let ticket = self.define(changes)?.max(receipt.ticket);
        drop(state);
        for consumer in consumers {
            let outbox = Arc::clone(&consumer.outbox);
            consumer.cancel();
            outbox.push(&mut vec![Outgoing::Cancelled { consumer }]);
        }
        Ok((count, ticket))
    }

    /// As [`Broker::delete_queue`], for whoever cannot be told of a failure.
    pub(crate) fn delete_queue_now(&self, tenant: &Tenant, queue: &Arc<Queue>, now: Timestamp) {
        if let Err(error) = self.delete_queue(tenant, queue, now) {
            tracing::warn!(queue = %queue.name, %error, "cannot delete queue");
        }
    }

    /// The parking queue of a tenant, made when it is needed first.
    pub(crate) fn parking_queue(
        &self,
        tenant: &str,
        now: Timestamp,
    ) -> Result<Arc<Queue>, BrokerError> {
        let tenant =
            self.tenant(tenant).ok_or_else(|| BrokerError::not_found(Kind::Tenant, tenant))?;
        let mut state = tenant.write();
        if let Some(queue) = state.queues.get(PARKING_QUEUE) {
            return Ok(Arc::clone(queue));
        }
        let definition = QueueDefinition::plain(PARKING_QUEUE);
        Ok(self.add_queue(&tenant, &mut state, definition, None, now)?.0)
    }

    /// What holds for a queue; parking queues have bounds of the server's.
    pub(crate) fn settings_of(&self, state: &State, definition: &QueueDefinition) -> QueueSettings {
        let mut settings = effective_settings(state, definition);
        if *definition.name == *PARKING_QUEUE {
            self.quotas.parking.limit(&mut settings);
        }
        settings
    }

    /// Deletes queues that nobody used for as long as their `x-expires` says; when the next one is due.
    pub(crate) fn expire_idle_queues(&self, now: Timestamp) -> Option<Timestamp> {
        let mut next = None;
        for queue in self.expiring_queues() {
            let Some(expires_ms) = queue.settings().expires else { continue };
            if queue.consumer_count() > 0 {
                queue.touch(now);
            }
            let due = queue.last_used().after_ms(expires_ms);
            if due > now {
                next = Some(next.map_or(due, |next: Timestamp| next.min(due)));
                continue;
            }
            if let Some(tenant) = self.tenant(&queue.tenant) {
                tracing::debug!(queue = %queue.name, "queue expired");
                self.delete_queue_now(&tenant, &queue, now);
            }
        }
        next
    }
}

/// Where a queue lives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Home {
    /// It is made in this pool.
    In(u16),
    /// It is there.
    At(QueueId),
}

/// What holds for a queue: its arguments, and the policies of its tenant that match.
fn effective_settings(state: &State, definition: &QueueDefinition) -> QueueSettings {
    let target = match definition.queue_type {
        QueueType::Classic => PolicyTarget::ClassicQueue,
        QueueType::Quorum => PolicyTarget::QuorumQueue,
        QueueType::Stream => PolicyTarget::Stream,
    };
    let (policy, operator) = state.policies.effective(&definition.name, target);
    QueueSettings::resolve(
        definition,
        policy.map(|p| &p.definition),
        operator.map(|p| &p.definition),
    )
}

pub(crate) fn check_name(name: &str, kind: Kind) -> Result<(), BrokerError> {
    if name.len() > NAME_BYTES_MAX {
        let len = name.len();
        return Err(BrokerError::Invalid(format!(
            "{} name must be at most {NAME_BYTES_MAX} bytes, not {len}",
            kind.word()
        )));
    }
    Ok(())
}

impl Queue {
    /// How the pool keeps it.
    #[must_use]
    pub fn kind(&self) -> QueueKind {
        QueueKind {
            durable: self.definition.durable && self.owner.is_none(),
            priority_max: self.settings().priority_max,
            stream: self.is_stream(),
        }
    }
}
