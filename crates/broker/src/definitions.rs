//! How definitions are written into the catalog, and read from it at the start.
//!
//! Keys are `<kind>/<tenant>/<name>…` with `/` and `%` of names escaped. Values are JSON; argument tables are kept in
//! AMQP's encoding (base64), so that every type of value comes back as it was declared. Fields may be added, never
//! given another meaning.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use model::exchange::{ExchangeDefinition, ExchangeOptions};
use model::permission::{Permissions, TopicPermission};
use model::policy::Policy;
use model::routing::{BindError, Binding, BindingEnd, BindingRequest, Removed};
use model::{QueueDefinition, QueueId, QueueOptions, QueueType, Timestamp};
use posthouse_amqp::{RawTable, Table};
use serde::{Deserialize, Serialize};
use store::{Catalog, Change, Commit, Definition, DefinitionChange, Pool, Pools};

use crate::bind::apply_alternate;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::declare::Home;
use crate::error::{BrokerError, Kind};
use crate::pools::{OpenPool, Pooling};
use crate::queue::Queue;
use crate::quotas::Quotas;
use crate::tenant::{Tenant, TenantDescription};
use crate::users::User;

/// Queue identities are taken from the catalog in lots of this many.
const QUEUE_ID_LOT: u64 = 4096;

#[derive(Debug, Default, Serialize, Deserialize)]
struct TenantValue {
    #[serde(default)]
    description: Box<str>,
    #[serde(default)]
    default_queue_type: Option<Box<str>>,
    #[serde(default)]
    max_connections: Option<u64>,
    #[serde(default)]
    max_queues: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ExchangeValue {
    kind: Box<str>,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Box<str>,
    /// The queue in which its delayed messages wait.
    #[serde(default)]
    waiting: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct QueueValue {
    id: u64,
    queue_type: Box<str>,
    durable: bool,
    auto_delete: bool,
    arguments: Box<str>,
}

#[derive(Debug, Serialize, Deserialize)]
struct BindingValue {
    source: Box<str>,
    destination: Box<str>,
    to_queue: bool,
    routing_key: Box<str>,
    arguments: Box<str>,
}

type FourTexts = (Box<str>, Box<str>, Box<str>, Box<str>);

#[derive(Debug, Serialize, Deserialize)]
struct UserValue {
    password_hash: Option<Box<str>>,
    tags: Vec<Box<str>>,
    #[serde(default)]
    max_connections: Option<u64>,
    #[serde(default)]
    max_channels: Option<u64>,
    /// Tenant, configure, write, read.
    permissions: Vec<FourTexts>,
    /// Tenant, exchange, write, read.
    topic_permissions: Vec<FourTexts>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PolicyValue {
    pattern: Box<str>,
    priority: i64,
    apply_to: Box<str>,
    definition: Box<str>,
}

pub(crate) fn key(parts: &[&str]) -> Box<str> {
    let escaped: Vec<String> =
        parts.iter().map(|part| part.replace('%', "%25").replace('/', "%2F")).collect();
    escaped.join("/").into()
}

fn parts(key: &str) -> Vec<String> {
    key.split('/').map(|part| part.replace("%2F", "/").replace("%25", "%")).collect()
}

pub(crate) fn put(parts: &[&str], value: &impl Serialize) -> DefinitionChange {
    // Our own structs of strings and numbers always have a JSON form.
    let value = serde_json::to_vec(value).unwrap_or_default().into();
    DefinitionChange::Put(Definition { key: key(parts), value })
}

fn pack(table: &Table) -> Box<str> {
    STANDARD.encode(table.to_entries().unwrap_or_default()).into()
}

fn unpack(packed: &str) -> Result<Table, BrokerError> {
    let bytes = STANDARD.decode(packed).map_err(|error| BrokerError::Invalid(error.to_string()))?;
    RawTable::from_bytes(&bytes).decode().map_err(|error| BrokerError::Invalid(error.to_string()))
}

pub(crate) fn put_exchange(
    tenant: &str,
    exchange: &ExchangeDefinition,
    waiting: Option<QueueId>,
) -> DefinitionChange {
    let value = ExchangeValue {
        kind: exchange.exchange_type.to_string().into(),
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        arguments: pack(&exchange.arguments),
        waiting: waiting.map(|id| id.0),
    };
    put(&["exchange", tenant, &exchange.name], &value)
}

pub(crate) fn put_queue(tenant: &str, queue: &QueueDefinition, id: QueueId) -> DefinitionChange {
    let value = QueueValue {
        id: id.0,
        queue_type: queue.queue_type.word().into(),
        durable: queue.durable,
        auto_delete: queue.auto_delete,
        arguments: pack(queue.arguments_table()),
    };
    put(&["queue", tenant, &queue.name], &value)
}

pub(crate) fn remove_queue(tenant: &str, name: &str) -> DefinitionChange {
    DefinitionChange::Remove(key(&["queue", tenant, name]))
}

/// What a queue's users say about it, as JSON text.
pub(crate) fn put_metadata(tenant: &str, queue: &str, json: &[u8]) -> DefinitionChange {
    let key = key(&["metadata", tenant, queue]);
    DefinitionChange::Put(Definition { key, value: json.into() })
}

pub(crate) fn remove_metadata(tenant: &str, queue: &str) -> DefinitionChange {
    DefinitionChange::Remove(key(&["metadata", tenant, queue]))
}

fn binding_key(
    tenant: &str,
    source: &str,
    destination: &BindingEnd,
    routing_key: &str,
    arguments: &str,
) -> Box<str> {
    let (kind, destination) = match destination {
        BindingEnd::Queue(name) => ("q", name),
        BindingEnd::Exchange(name) => ("x", name),
    };
    key(&["binding", tenant, source, kind, destination, routing_key, arguments])
}

pub(crate) fn put_binding(tenant: &str, binding: &BindingRequest<'_>) -> DefinitionChange {
    let arguments = pack(binding.arguments);
    let key =
        binding_key(tenant, binding.source, binding.destination, binding.routing_key, &arguments);
    let (destination, to_queue) = match binding.destination {
        BindingEnd::Queue(name) => ((**name).into(), true),
        BindingEnd::Exchange(name) => ((**name).into(), false),
    };
    let value = BindingValue {
        source: binding.source.into(),
        destination,
        to_queue,
        routing_key: binding.routing_key.into(),
        arguments,
    };
    let value = serde_json::to_vec(&value).unwrap_or_default().into();
    DefinitionChange::Put(Definition { key, value })
}

/// Everything that went out of a topology goes out of the catalog; what was never in it does no harm.
pub(crate) fn forget(tenant: &str, removed: &Removed) -> Vec<DefinitionChange> {
    let exchanges = removed.exchanges.iter().filter(|exchange| exchange.durable);
    let exchanges = exchanges
        .map(|exchange| DefinitionChange::Remove(key(&["exchange", tenant, &exchange.name])));
    let bindings = removed.bindings.iter().map(|binding| {
        let arguments = pack(binding.arguments());
        let Binding { source, destination, routing_key, .. } = binding;
        DefinitionChange::Remove(binding_key(tenant, source, destination, routing_key, &arguments))
    });
    exchanges.chain(bindings).collect()
}

pub(crate) fn put_tenant(name: &str, tenant: &Tenant) -> DefinitionChange {
    let state = tenant.read();
    let value = TenantValue {
        description: state.description.text.clone(),
        default_queue_type: state.description.default_queue_type.map(|kind| kind.word().into()),
        max_connections: state.limits.max_connections,
        max_queues: state.limits.max_queues,
    };
    put(&["tenant", name], &value)
}

pub(crate) fn remove_tenant(name: &str) -> DefinitionChange {
    DefinitionChange::Remove(key(&["tenant", name]))
}

pub(crate) fn put_user(user: &User) -> DefinitionChange {
    let permissions = user.permissions.iter().map(|(tenant, allowed)| {
        (tenant.clone(), allowed.configure().into(), allowed.write().into(), allowed.read().into())
    });
    let topic_permissions = user.topic_permissions.iter().map(|(tenant, allowed)| {
        (tenant.clone(), allowed.exchange().into(), allowed.write().into(), allowed.read().into())
    });
    let value = UserValue {
        password_hash: user.password_hash.as_deref().map(Into::into),
        tags: user.tags.clone(),
        max_connections: user.limits.max_connections,
        max_channels: user.limits.max_channels,
        permissions: permissions.collect(),
        topic_permissions: topic_permissions.collect(),
    };
    put(&["user", &user.name], &value)
}

pub(crate) fn remove_user(name: &str) -> DefinitionChange {
    DefinitionChange::Remove(key(&["user", name]))
}

/// Whether a policy is an operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// Set by users; a client's argument beats it.
    Ordinary,
    /// Set by operators; the lowest value wins over everything.
    Operator,
}

impl PolicyKind {
    fn word(self) -> &'static str {
        match self {
            Self::Ordinary => "policy",
            Self::Operator => "operator-policy",
        }
    }
}

pub(crate) fn put_policy(tenant: &str, kind: PolicyKind, policy: &Policy) -> DefinitionChange {
    let value = PolicyValue {
        pattern: policy.pattern().into(),
        priority: policy.priority,
        apply_to: policy.apply_to.word().into(),
        definition: pack(&policy.definition.table),
    };
    put(&[kind.word(), tenant, policy.name()], &value)
}

pub(crate) fn remove_policy(tenant: &str, kind: PolicyKind, name: &str) -> DefinitionChange {
    DefinitionChange::Remove(key(&[kind.word(), tenant, name]))
}

/// A parameter: kept for whoever asks, as JSON text.
pub(crate) fn put_parameter(
    tenant: &str,
    component: &str,
    name: &str,
    value: &[u8],
) -> DefinitionChange {
    let key = key(&["parameter", tenant, component, name]);
    DefinitionChange::Put(Definition { key, value: value.into() })
}

impl Broker {
    /// A broker with everything that the catalog holds, over the messages that the pool holds.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or a definition is not understood: it then says which and why.
    pub fn open(
        pool: Arc<dyn Pool>,
        catalog: Arc<dyn Catalog>,
        clock: Arc<dyn Clock>,
        quotas: Quotas,
    ) -> Result<Arc<Self>, BrokerError> {
        Self::empty(pool, catalog, clock, quotas).loaded()
    }

    /// As [`Broker::open`], over several pools: those that the catalog names are opened with `open`.
    ///
    /// # Errors
    ///
    /// As [`Broker::open`], and if a pool cannot be opened.
    pub fn open_pooled(
        pools: &Arc<Pools>,
        open: OpenPool,
        clock: Arc<dyn Clock>,
        quotas: Quotas,
    ) -> Result<Arc<Self>, BrokerError> {
        let (pool, catalog) = (Arc::clone(pools) as _, Arc::clone(pools) as _);
        let pooling = Some(Pooling::new(Arc::clone(pools), open));
        Self { pooling, ..Self::empty(pool, catalog, clock, quotas) }.loaded()
    }

    fn loaded(self) -> Result<Arc<Self>, BrokerError> {
        let broker = self;
        let now = broker.now();
        let definitions = broker.catalog.load().now()?;
        // Pools first, then tenants, then what is in them; bindings last, because they name the rest.
        for pass in [
            "pool-numbers",
            "pool",
            "flavor",
            "queue-ids",
            "tenant",
            "user",
            "policy",
            "operator-policy",
            "exchange",
            "queue",
            "metadata",
            "subscription",
            "binding",
        ] {
            for definition in &definitions {
                let parts = parts(&definition.key);
                let names: Vec<&str> = parts.iter().map(String::as_str).collect();
                if names.first() == Some(&pass) {
                    broker.load(&names, &definition.value, now).map_err(|error| {
                        BrokerError::Invalid(format!("definition '{}': {error}", definition.key))
                    })?;
                }
            }
        }
        broker.drop_orphans(now)?;
        Ok(Arc::new(broker))
    }

    /// Queues in the pool that nothing is defined for: the server stopped between the two.
    fn drop_orphans(&self, now: Timestamp) -> Result<(), BrokerError> {
        let mut changes = Vec::new();
        for (id, _) in self.pool.queues().now()? {
            if self.queue(id).is_none() {
                tracing::info!(queue = id.0, "queue without a definition dropped");
                changes.push(Change::DeleteQueue { queue: id });
            }
        }
        if !changes.is_empty() {
            self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
        }
        Ok(())
    }

    fn load(&self, names: &[&str], value: &[u8], now: Timestamp) -> Result<(), BrokerError> {
        match names {
            ["queue-ids"] => {
                self.next_queue.store(read(value)?, Ordering::Release);
                self.queue_ids_end.store(read(value)?, Ordering::Release);
                Ok(())
            }
            ["pool-numbers"] | ["pool" | "flavor", _] => self.load_pools(names, value),
            ["tenant", name] => {
                self.load_tenant(name, &read(value)?);
                Ok(())
            }
            ["user", name] => self.load_user(name, read(value)?),
            [kind @ ("policy" | "operator-policy"), tenant, name] => {
                let kind =
                    if *kind == "policy" { PolicyKind::Ordinary } else { PolicyKind::Operator };
                self.load_policy(&*self.tenant_of(tenant)?, kind, name, &read(value)?)
            }
            ["exchange", tenant, name] => {
                self.load_exchange(&*self.tenant_of(tenant)?, name, &read(value)?, now)
            }
            ["queue", tenant, name] => {
                self.load_queue(&*self.tenant_of(tenant)?, name, &read(value)?, now)
            }
            ["metadata", tenant, name] => {
                self.load_metadata(&*self.tenant_of(tenant)?, name, value);
                Ok(())
            }
            ["subscription", tenant, queue, id] => {
                self.load_subscription(&*self.tenant_of(tenant)?, queue, id, &read(value)?, now)
            }
            ["binding", tenant, ..] => load_binding(&*self.tenant_of(tenant)?, &read(value)?),
            _ => {
                Err(BrokerError::Invalid("not understood: written by a newer version?".to_owned()))
            }
        }
    }

    fn tenant_of(&self, name: &str) -> Result<Arc<Tenant>, BrokerError> {
        self.tenant(name).ok_or_else(|| BrokerError::not_found(Kind::Tenant, name))
    }

    fn load_tenant(&self, name: &str, value: &TenantValue) {
        let description = TenantDescription {
            text: value.description.clone(),
            default_queue_type: value.default_queue_type.as_deref().and_then(QueueType::from_word),
        };
        let tenant = self.insert_tenant(name, description);
        let mut state = tenant.write();
        state.limits.max_connections = value.max_connections;
        state.limits.max_queues = value.max_queues;
    }

    fn load_user(&self, name: &str, value: UserValue) -> Result<(), BrokerError> {
        let mut user = User {
            name: name.into(),
            password_hash: value.password_hash.map(Into::into),
            tags: value.tags,
            ..User::default()
        };
        user.limits.max_connections = value.max_connections;
        user.limits.max_channels = value.max_channels;
        for (tenant, configure, write, read) in value.permissions {
            let allowed = Permissions::new(&configure, &write, &read)
                .map_err(|error| BrokerError::Invalid(error.to_string()))?;
            user.permissions.insert(tenant, Arc::new(allowed));
        }
        for (tenant, exchange, write, read) in value.topic_permissions {
            let allowed = TopicPermission::new(&exchange, &write, &read)
                .map_err(|error| BrokerError::Invalid(error.to_string()))?;
            user.topic_permissions.push((tenant, Arc::new(allowed)));
        }
        self.users.insert(user);
        Ok(())
    }

    fn load_policy(
        &self,
        tenant: &Tenant,
        kind: PolicyKind,
        name: &str,
        value: &PolicyValue,
    ) -> Result<(), BrokerError> {
        let definition = unpack(&value.definition)?;
        let (policy, _) =
            Policy::new(name, &value.pattern, value.priority, &value.apply_to, &definition)
                .map_err(|error| BrokerError::Invalid(error.to_string()))?;
        let mut state = tenant.write();
        match kind {
            PolicyKind::Ordinary => drop(state.policies.insert(policy)),
            PolicyKind::Operator => drop(state.policies.insert_operator(policy)),
        }
        Ok(())
    }

    fn load_exchange(
        &self,
        tenant: &Tenant,
        name: &str,
        value: &ExchangeValue,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let options = ExchangeOptions {
            durable: value.durable,
            auto_delete: value.auto_delete,
            internal: value.internal,
            arguments: unpack(&value.arguments)?,
        };
        let definition = ExchangeDefinition::new(&tenant.name, name.into(), &value.kind, options)
            .map_err(|error| BrokerError::Invalid(error.to_string()))?;
        let mut state = tenant.write();
        if let Some(id) = value.waiting.map(QueueId) {
            let room = self.waiting_room(tenant, &definition, id, now);
            self.ensure_in_pool(&room, now)?;
            state.waiting.insert(Arc::clone(&definition.name), room);
        }
        state.topology.add_exchange(Arc::new(definition));
        apply_alternate(&mut state, name);
        Ok(())
    }

    fn load_queue(
        &self,
        tenant: &Tenant,
        name: &str,
        value: &QueueValue,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let arguments = unpack(&value.arguments)?;
        let options = QueueOptions {
            durable: value.durable,
            exclusive: false,
            auto_delete: value.auto_delete,
            arguments,
        };
        let default = QueueType::from_word(&value.queue_type).unwrap_or_default();
        let definition = QueueDefinition::new(&tenant.name, name.into(), default, options)
            .map_err(|error| BrokerError::Invalid(error.to_string()))?;
        let mut state = tenant.write();
        let queue = self.take_up_queue(tenant, &state, definition, QueueId(value.id), now)?;
        state.topology.add_queue(Arc::clone(&queue.name), queue.id);
        state.queues.insert(queue);
        Ok(())
    }

    /// A queue whose definition is there; its messages are in the pool, unless the server stopped in between.
    fn take_up_queue(
        &self,
        tenant: &Tenant,
        state: &crate::tenant::State,
        definition: QueueDefinition,
        id: QueueId,
        now: Timestamp,
    ) -> Result<Arc<Queue>, BrokerError> {
        let queue = self.make_queue(tenant, state, definition, None, now, Home::At(id))?;
        self.ensure_in_pool(&queue, now)?;
        Ok(queue)
    }

    pub(crate) fn ensure_in_pool(&self, queue: &Queue, now: Timestamp) -> Result<(), BrokerError> {
        if self.pool.stats(queue.id).now().is_err() {
            let changes = vec![Change::CreateQueue { queue: queue.id, kind: queue.kind() }];
            self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
        }
        Ok(())
    }

    /// An identity that no queue ever had.
    pub(crate) fn allocate_queue_id(&self) -> Result<QueueId, BrokerError> {
        self.allocate_queue_count().map(QueueId)
    }

    /// A count that no queue ever had, in whatever pool.
    pub(crate) fn allocate_queue_count(&self) -> Result<u64, BrokerError> {
        let id = self.next_queue.fetch_add(1, Ordering::AcqRel);
        if id >= self.queue_ids_end.load(Ordering::Acquire) {
            let end = id + QUEUE_ID_LOT;
            self.queue_ids_end.store(end, Ordering::Release);
            self.define(vec![put(&["queue-ids"], &end)])?;
        }
        Ok(id)
    }

    /// Has every queue of a tenant look at its policies again.
    pub(crate) fn apply_policies(&self, tenant: &Tenant) {
        let mut state = tenant.write();
        for queue in state.queues.values() {
            queue.set_settings(Arc::new(self.settings_of(&state, &queue.definition)));
            self.note_expiring(queue);
        }
        let exchanges: Vec<Arc<str>> =
            state.topology.exchanges().map(|exchange| Arc::clone(&exchange.name)).collect();
        for exchange in exchanges {
            apply_alternate(&mut state, &exchange);
        }
    }
}

fn load_binding(tenant: &Tenant, value: &BindingValue) -> Result<(), BrokerError> {
    let arguments = unpack(&value.arguments)?;
    let mut state = tenant.write();
    let destination = if value.to_queue {
        BindingEnd::Queue((*value.destination).into())
    } else {
        BindingEnd::Exchange((*value.destination).into())
    };
    let binding = BindingRequest {
        source: &value.source,
        destination: &destination,
        routing_key: &value.routing_key,
        arguments: &arguments,
    };
    match state.topology.bind(&binding) {
        // An end that went without its binding: the server stopped between the two.
        Ok(_) | Err(BindError::NotFound(_)) => Ok(()),
        Err(error) => Err(BrokerError::Invalid(error.to_string())),
    }
}

fn read<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, BrokerError> {
    serde_json::from_slice(value).map_err(|error| BrokerError::Invalid(error.to_string()))
}
