//! Exchanges and bindings: declaring, binding, deleting.
//!
//! As in [`declare`](crate::declare), a change and its definition are one step under the tenant's lock.

use std::sync::Arc;

use model::exchange::{ExchangeDefinition, ExchangeKind, ExchangeOptions, is_type};
use model::permission::Verb;
use model::policy::PolicyTarget;
use model::routing::{BindError, BindingEnd, Removed};
use model::{QueueId, Ticket, Timestamp};
use posthouse_amqp::Table;
use store::{Change, Commit};

use crate::access::Access;
use crate::broker::Broker;
use crate::declare::{RESERVED_PREFIX, check_name};
use crate::definitions;
use crate::error::{BrokerError, Kind};
use crate::queue::Queue;
use crate::quotas;
use crate::tenant::{State, Tenant};
/// What a client declares as an exchange.
#[derive(Debug)]
pub struct DeclareExchange<'a> {
    /// Name, 1 to 255 bytes.
    pub name: &'a str,
    /// Type by its name on the wire.
    pub kind: &'a str,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with its last binding.
    pub auto_delete: bool,
    /// Not for publishing by clients.
    pub internal: bool,
    /// Further arguments.
    pub arguments: Table,
}

/// A binding as a client names it.
#[derive(Debug)]
pub struct BindingRequest<'a> {
    /// The exchange that messages come from.
    pub source: &'a str,
    /// The queue or exchange that they go to.
    pub destination: &'a str,
    /// Whether that is a queue.
    pub to_queue: bool,
    /// Routing key or pattern.
    pub routing_key: &'a str,
    /// What a headers exchange compares.
    pub arguments: Table,
}

impl DeclareExchange<'_> {
    pub(crate) fn options(&self) -> ExchangeOptions {
        ExchangeOptions {
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments.clone(),
        }
    }
}

impl BindingRequest<'_> {
    fn end(&self) -> BindingEnd {
        if self.to_queue {
            BindingEnd::Queue(self.destination.into())
        } else {
            BindingEnd::Exchange(self.destination.into())
        }
    }

    fn to<'b>(&'b self, destination: &'b BindingEnd) -> model::routing::BindingRequest<'b> {
        model::routing::BindingRequest {
            source: self.source,
            destination,
            routing_key: self.routing_key,
            arguments: &self.arguments,
        }
    }
}

impl Access {
    /// Whether an exchange exists.
    ///
    /// # Errors
    ///
    /// [`BrokerError::NotFound`] if not; [`BrokerError::DefaultExchange`] for the one without a name.
    pub fn check_exchange(&self, name: &str) -> Result<(), BrokerError> {
        if name.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        let found = self.inner.tenant.read().topology.exchange(name).is_some();
        if found { Ok(()) } else { Err(BrokerError::not_found(Kind::Exchange, name)) }
    }

    /// Declares an exchange; fine if it is there with the same properties.
    ///
    /// # Errors
    ///
    /// If the name is reserved, the type or an argument not valid, or it exists with other properties.
    pub fn declare_exchange(
        &self,
        declare: &DeclareExchange<'_>,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        if declare.name.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        check_name(declare.name, Kind::Exchange)?;
        self.allow(Verb::Configure, Kind::Exchange, declare.name)?;
        if !is_type(declare.kind) {
            return Err(BrokerError::UnknownExchangeType(declare.kind.into()));
        }
        let options = declare.options();
        let mut state = self.inner.tenant.write();
        if let Some(existing) = state.topology.exchange(declare.name) {
            existing
                .check_equivalent(self.tenant_name(), declare.kind, &options)
                .map_err(|error| BrokerError::Inequivalent(error.to_string()))?;
            return Ok(Ticket::NONE);
        }
        if declare.name.starts_with(RESERVED_PREFIX) {
            return Err(BrokerError::ReservedName {
                kind: Kind::Exchange,
                name: declare.name.into(),
            });
        }
        let definition =
            ExchangeDefinition::new(self.tenant_name(), declare.name.into(), declare.kind, options)
                .map_err(|error| BrokerError::Invalid(error.to_string()))?;
        if let Some(alternate) = &definition.alternate {
            self.allow(Verb::Read, Kind::Exchange, declare.name)?;
            self.allow(Verb::Write, Kind::Exchange, alternate)?;
        }
        self.inner.broker.add_exchange(&self.inner.tenant, &mut state, definition, now)
    }

    /// Deletes an exchange and its bindings; fine if it is not there.
    ///
    /// # Errors
    ///
    /// If it is a system exchange, may not be configured, or is used and only to be deleted if not.
    pub fn delete_exchange(
        &self,
        name: &str,
        if_unused: bool,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        if name.is_empty() {
            return Err(BrokerError::DefaultExchange);
        }
        self.allow(Verb::Configure, Kind::Exchange, name)?;
        if name.starts_with(RESERVED_PREFIX) {
            return Err(BrokerError::SystemExchange(name.into()));
        }
        let mut state = self.inner.tenant.write();
        if state.topology.exchange(name).is_none() {
            return Ok(Ticket::NONE);
        }
        if if_unused && state.topology.is_in_use(name) {
            return Err(BrokerError::InUse { kind: Kind::Exchange, name: name.into() });
        }
        let removed = state.topology.remove_exchange(name).unwrap_or_default();
        self.inner.broker.close_waiting_rooms(&mut state, &removed, now)?;
        self.inner.broker.define(definitions::forget(&self.inner.tenant.name, &removed))
    }

    /// Binds a queue or exchange to an exchange.
    ///
    /// # Errors
    ///
    /// If either does not exist, or the user may not write to the destination or read from the source.
    pub fn bind(&self, request: &BindingRequest<'_>) -> Result<Ticket, BrokerError> {
        self.may_bind(request)?;
        let tenant = &self.inner.tenant;
        let mut state = tenant.write();
        if let Some(queue) = state.queues.get(request.destination).filter(|_| request.to_queue) {
            self.unlocked(queue)?;
        }
        self.inner.broker.add_binding(tenant, &mut state, request)
    }

    /// Removes a binding; fine if it is not there.
    ///
    /// # Errors
    ///
    /// If the user may not write to the destination or read from the source.
    pub fn unbind(
        &self,
        request: &BindingRequest<'_>,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        self.may_bind(request)?;
        let tenant = &self.inner.tenant;
        let mut state = tenant.write();
        if let Some(queue) = state.queues.get(request.destination).filter(|_| request.to_queue) {
            self.unlocked(queue)?;
        }
        let destination = request.end();
        let binding = request.to(&destination);
        let removed = state.topology.unbind(&binding).map_err(bind_error)?;
        self.inner.broker.close_waiting_rooms(&mut state, &removed, now)?;
        self.inner.broker.define(definitions::forget(&tenant.name, &removed))
    }

    fn may_bind(&self, request: &BindingRequest<'_>) -> Result<(), BrokerError> {
        if request.source.is_empty() || (!request.to_queue && request.destination.is_empty()) {
            return Err(BrokerError::DefaultExchange);
        }
        let kind = if request.to_queue { Kind::Queue } else { Kind::Exchange };
        self.allow(Verb::Write, kind, request.destination)?;
        self.allow(Verb::Read, Kind::Exchange, request.source)?;
        let topic = self
            .inner
            .tenant
            .read()
            .topology
            .exchange(request.source)
            .is_some_and(|exchange| exchange.exchange_type.kind == ExchangeKind::Topic);
        if topic {
            self.allow_topic(Verb::Read, request.source, request.routing_key)?;
        }
        Ok(())
    }
}

impl Broker {
    pub(crate) fn add_binding(
        &self,
        tenant: &Tenant,
        state: &mut State,
        request: &BindingRequest<'_>,
    ) -> Result<Ticket, BrokerError> {
        let (has, max) = (state.topology.bindings_len(), self.quotas.bindings_per_tenant);
        quotas::check("binding", &tenant.name, has, max)?;
        let destination = request.end();
        let binding = request.to(&destination);
        let new = state.topology.bind(&binding).map_err(bind_error)?;
        if new && is_durable(state, request) {
            return self.define(vec![definitions::put_binding(&tenant.name, &binding)]);
        }
        Ok(Ticket::NONE)
    }

    pub(crate) fn add_exchange(
        &self,
        tenant: &Tenant,
        state: &mut State,
        definition: ExchangeDefinition,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        let (has, max) = (state.topology.exchanges().count(), self.quotas.exchanges_per_tenant);
        quotas::check("exchange", &tenant.name, has, max)?;
        let name = Arc::clone(&definition.name);
        let mut waiting = None;
        if definition.exchange_type.delayed {
            let id = self.allocate_queue_id()?;
            let room = self.waiting_room(tenant, &definition, id, now);
            let changes = vec![Change::CreateQueue { queue: id, kind: room.kind() }];
            self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
            state.waiting.insert(Arc::clone(&name), room);
            waiting = Some(id);
        }
        let change = definition
            .durable
            .then(|| definitions::put_exchange(&tenant.name, &definition, waiting));
        state.topology.add_exchange(Arc::new(definition));
        apply_alternate(state, &name);
        self.define(change.into_iter().collect())
    }

    /// The queue in which the messages of a delayed exchange wait.
    pub(crate) fn waiting_room(
        &self,
        tenant: &Tenant,
        exchange: &ExchangeDefinition,
        id: QueueId,
        now: Timestamp,
    ) -> Arc<Queue> {
        let tenant = Arc::clone(&tenant.name);
        let room = Arc::new(Queue::waiting_room(id, tenant, &exchange.name, exchange.durable, now));
        self.remember_queue(&room);
        room
    }

    /// Delayed messages go with their exchange.
    pub(crate) fn close_waiting_rooms(
        &self,
        state: &mut State,
        removed: &Removed,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        for exchange in &removed.exchanges {
            if let Some(room) = state.waiting.remove(&exchange.name) {
                self.forget_queue(&room);
                let changes = vec![Change::DeleteQueue { queue: room.id }];
                self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
            }
        }
        Ok(())
    }
}

/// Gives an exchange the alternate that its argument or its policy names.
pub(crate) fn apply_alternate(state: &mut State, name: &str) {
    let Some(own) = state.topology.exchange(name).map(|exchange| exchange.alternate.clone()) else {
        return;
    };
    let policy = state.policies.effective(name, PolicyTarget::Exchange).0;
    let of_policy =
        || policy.and_then(|policy| policy.definition.alternate_exchange.as_deref().map(Arc::from));
    let alternate = own.or_else(of_policy);
    state.topology.set_alternate(name, alternate);
}

fn bind_error(error: BindError) -> BrokerError {
    match error {
        BindError::NotFound(named) => {
            let kind = match named.kind {
                model::naming::Kind::Queue => Kind::Queue,
                model::naming::Kind::Exchange => Kind::Exchange,
            };
            BrokerError::NotFound { kind, name: named.name }
        }
        BindError::DefaultExchange => BrokerError::DefaultExchange,
        error => BrokerError::Invalid(error.to_string()),
    }
}

/// A binding survives a restart if both of its ends do.
fn is_durable(state: &State, request: &BindingRequest<'_>) -> bool {
    let source = state.topology.exchange(request.source).is_some_and(|exchange| exchange.durable);
    let destination = if request.to_queue {
        state.queues.get(request.destination).is_some_and(|queue| queue.kind().durable)
    } else {
        state.topology.exchange(request.destination).is_some_and(|exchange| exchange.durable)
    };
    source && destination
}
