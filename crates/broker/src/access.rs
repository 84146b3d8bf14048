//! A user inside a tenant: the only way to its exchanges and queues.
//!
//! [`Access::allow`] is the one function that decides what a user may do. Its answer for a name is remembered until
//! permissions change, and permissions are looked up anew when they did: a change holds from the next operation on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Timestamp;
use model::permission::{Permissions, Verb};
use store::{Commit, Receipt};

use crate::broker::Broker;
use crate::error::{BrokerError, Kind};
use crate::queue::{ConnectionId, Queue};
use crate::quotas::lower;
use crate::tenant::Tenant;
use crate::users::User;

/// Most answers remembered per connection.
const ANSWERS_MAX: usize = 4096;

/// The name that permissions know the default exchange by.
pub(crate) const DEFAULT_EXCHANGE: &str = "amq.default";

/// A user inside a tenant, for one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) broker: Arc<Broker>,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) user: Arc<str>,
    pub(crate) connection: ConnectionId,
    /// A door's own access: the door decides who may do what.
    pub(crate) service: bool,
    known: Mutex<Known>,
    /// Exclusive queues of the connection.
    exclusive: Mutex<Vec<Arc<Queue>>>,
}

#[derive(Debug)]
struct Known {
    revision: u64,
    user: Option<Arc<User>>,
    permissions: Option<Arc<Permissions>>,
    answers: HashMap<(Verb, Box<str>), bool>,
}

impl Access {
    pub(crate) fn enter(
        broker: Arc<Broker>,
        tenant: Arc<Tenant>,
        user: &Arc<User>,
        connection: ConnectionId,
    ) -> Result<Self, BrokerError> {
        tenant.open_connection(&broker, user, connection)?;
        let known = Known {
            revision: broker.users.revision(),
            permissions: user.permissions_in(&tenant.name),
            user: Some(Arc::clone(user)),
            answers: HashMap::new(),
        };
        let user = Arc::clone(&user.name);
        broker.counters.connections_opened.add(1);
        Ok(Self {
            inner: Arc::new(Inner {
                broker,
                tenant,
                user,
                connection,
                service: false,
                known: Mutex::new(known),
                exclusive: Mutex::default(),
            }),
        })
    }

    /// A door's own access, which may do everything in the tenant and counts as no connection.
    pub(crate) fn of_service(
        broker: Arc<Broker>,
        tenant: Arc<Tenant>,
        connection: ConnectionId,
    ) -> Self {
        let known = Known { revision: 0, permissions: None, user: None, answers: HashMap::new() };
        Self {
            inner: Arc::new(Inner {
                broker,
                tenant,
                user: "".into(),
                connection,
                service: true,
                known: Mutex::new(known),
                exclusive: Mutex::default(),
            }),
        }
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.inner.broker
    }

    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.inner.tenant
    }

    /// The tenant's name.
    #[must_use]
    pub fn tenant_name(&self) -> &str {
        &self.inner.tenant.name
    }

    /// The user's name.
    #[must_use]
    pub fn user_name(&self) -> &str {
        &self.inner.user
    }

    /// The connection that this access was entered for.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        self.inner.connection
    }

    /// Moves whenever a cached decision may have become wrong: topology, policies or permissions.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.inner.tenant.revision().wrapping_add(self.inner.broker.users.revision())
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.broker.now()
    }

    /// Whether the user still exists and may be in this tenant.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.inner.tenant.is_deleted()
            && (self.inner.service || self.known().permissions.is_some())
    }

    /// Decides whether the user may do `verb` to the exchange or queue `name`.
    ///
    /// # Errors
    ///
    /// [`BrokerError::AccessRefused`] if not.
    pub fn allow(&self, verb: Verb, kind: Kind, name: &str) -> Result<(), BrokerError> {
        if self.inner.service {
            return Ok(());
        }
        let resource =
            if name.is_empty() && kind == Kind::Exchange { DEFAULT_EXCHANGE } else { name };
        let mut known = self.known();
        let allowed = match known.answers.get(&(verb, resource.into())) {
            Some(allowed) => *allowed,
            None => {
                let allowed = known
                    .permissions
                    .as_ref()
                    .is_some_and(|permissions| permissions.allows(verb, resource));
                if known.answers.len() >= ANSWERS_MAX {
                    known.answers.clear();
                }
                known.answers.insert((verb, resource.into()), allowed);
                allowed
            }
        };
        drop(known);
        if allowed {
            return Ok(());
        }
        Err(BrokerError::AccessRefused {
            verb: verb.word(),
            kind,
            name: resource.into(),
            user: (*self.inner.user).into(),
        })
    }

    /// Decides whether the user may use a routing key with a topic exchange.
    ///
    /// # Errors
    ///
    /// [`BrokerError::TopicRefused`] if not.
    pub(crate) fn allow_topic(
        &self,
        verb: Verb,
        exchange: &str,
        routing_key: &str,
    ) -> Result<(), BrokerError> {
        let user = self.known().user.clone();
        let tenant = self.tenant_name();
        let refused = user.is_some_and(|user| {
            user.topic_permissions.iter().any(|(of, permission)| {
                &**of == tenant
                    && permission.covers(exchange)
                    && !permission.allows(verb, routing_key, &self.inner.user, tenant)
            })
        });
        if !refused {
            return Ok(());
        }
        Err(BrokerError::TopicRefused {
            verb: verb.word(),
            routing_key: routing_key.into(),
            exchange: exchange.into(),
            user: (*self.inner.user).into(),
        })
    }

    /// A message that names its user must name the one who publishes it.
    pub(crate) fn check_user_id(&self, user_id: Option<&str>) -> Result<(), BrokerError> {
        let Some(user_id) = user_id.filter(|user_id| *user_id != &*self.inner.user) else {
            return Ok(());
        };
        if self.known().user.as_ref().is_some_and(|user| user.has_tag("impersonator")) {
            return Ok(());
        }
        let own = &self.inner.user;
        Err(BrokerError::Invalid(format!(
            "user_id property set to '{user_id}' but authenticated user was '{own}'"
        )))
    }

    /// An exclusive queue of another connection is locked for this one.
    pub(crate) fn unlocked(&self, queue: &Queue) -> Result<(), BrokerError> {
        match queue.owner {
            Some(owner) if owner != self.inner.connection => {
                Err(BrokerError::Locked((*queue.name).into()))
            }
            _ => Ok(()),
        }
    }

    /// Counts one more channel of the user; false if it has as many as it may.
    #[must_use]
    pub fn open_channel(&self) -> bool {
        let broker = &self.inner.broker;
        let own = self.known().user.as_ref().and_then(|user| user.limits.max_channels);
        broker.channels.take(&self.inner.user, lower(broker.quotas.channels_per_user, own))
    }

    /// One channel less.
    pub fn close_channel(&self) {
        self.inner.broker.channels.give_back(&self.inner.user, 1);
    }

    pub(crate) fn commit(&self, commit: Commit) -> Result<Receipt, BrokerError> {
        Ok(self.inner.broker.pool.commit(commit).now()?)
    }

    pub(crate) fn wake_sweeper(&self, deadline: Timestamp) {
        self.inner.broker.sweeper.set(deadline);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = self.inner.broker.users.revision();
        if known.revision != revision {
            let user = self.inner.broker.users.get(&self.inner.user);
            known.permissions =
                user.as_ref().and_then(|user| user.permissions_in(&self.inner.tenant.name));
            known.user = user;
            known.revision = revision;
            known.answers.clear();
        }
        known
    }
}

impl Inner {
    pub(crate) fn exclusive(&self) -> MutexGuard<'_, Vec<Arc<Queue>>> {
        self.exclusive.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.service {
            return;
        }
        self.tenant.close_connection(&self.broker, &self.user, self.connection);
        self.broker.counters.connections_closed.add(1);
    }
}
