//! A door's own access: authorised by the door's policy and not as a user, in tenants that may come into being.

use std::sync::Arc;

use model::{QueueDefinition, Ticket, Timestamp};

use crate::access::Access;
use crate::broker::Broker;
use crate::declare::check_name;
use crate::error::{BrokerError, Kind};
use crate::queue::{ConnectionId, Queue};
use crate::quotas::lower;
use crate::tenant::TenantDescription;

/// Longest name of a tenant.
pub const TENANT_NAME_BYTES_MAX: usize = 255;

/// Queues looked at under one lock while a page is filled.
const LISTED_AT_ONCE: usize = 256;

impl Broker {
    /// Enters a tenant for a door that has decided itself that its client may. Counts as no connection.
    ///
    /// # Errors
    ///
    /// [`BrokerError::NotFound`] if there is no such tenant.
    pub fn enter_service(self: &Arc<Self>, tenant: &str) -> Result<Access, BrokerError> {
        let found =
            self.tenant(tenant).ok_or_else(|| BrokerError::not_found(Kind::Tenant, tenant))?;
        Ok(Access::of_service(Arc::clone(self), found, ConnectionId(self.unique())))
    }

    /// As [`Broker::enter_service`], making the tenant if there is none. What is made in it is durable with or after the
    /// tenant, so there is nothing to wait for here.
    ///
    /// # Errors
    ///
    /// [`BrokerError::LimitReached`] if there are `tenants_max` tenants already, [`BrokerError::Invalid`] if the name is
    /// empty or longer than [`TENANT_NAME_BYTES_MAX`].
    pub fn enter_service_or_create(
        self: &Arc<Self>,
        tenant: &str,
        tenants_max: usize,
    ) -> Result<Access, BrokerError> {
        if self.tenant(tenant).is_none() {
            if tenant.is_empty() {
                return Err(BrokerError::Invalid("a tenant's name must not be empty".to_owned()));
            }
            if self.tenant_names().len() >= tenants_max {
                return Err(BrokerError::LimitReached(format!(
                    "tenant '{tenant}' cannot be made: the limit of {tenants_max} tenants is reached"
                )));
            }
            self.put_tenant(tenant, TenantDescription::default())?;
        }
        self.enter_service(tenant)
    }
}

impl Access {
    /// Whether the tenant has a queue of this name.
    #[must_use]
    pub fn queue_exists(&self, name: &str) -> bool {
        self.inner.tenant.read().queues.contains_key(name)
    }

    /// A queue by name, made as a durable classic one if there is none; whether it was made now, and when that is durable.
    /// What it was declared as does not matter if it is there.
    ///
    /// # Errors
    ///
    /// If it belongs to a connection, its name is too long, or a limit is reached.
    pub fn ensure_queue(
        &self,
        name: &str,
        now: Timestamp,
    ) -> Result<(Arc<Queue>, bool, Ticket), BrokerError> {
        self.ensure_queue_of_flavor(name, None, now)
    }

    /// As [`Access::ensure_queue`]; if it is made now, in a pool of the flavor.
    ///
    /// # Errors
    ///
    /// As there, and [`BrokerError::NotFound`] if there is no such flavor.
    pub fn ensure_queue_of_flavor(
        &self,
        name: &str,
        flavor: Option<&str>,
        now: Timestamp,
    ) -> Result<(Arc<Queue>, bool, Ticket), BrokerError> {
        self.ensure_queue_at(name, |broker| broker.place(flavor), now)
    }

    /// As [`Access::ensure_queue`]; if it is made now, in this pool.
    ///
    /// # Errors
    ///
    /// As there, and [`BrokerError::NotFound`] if there is no such pool.
    pub fn ensure_queue_in_pool(
        &self,
        name: &str,
        pool: &str,
        now: Timestamp,
    ) -> Result<(Arc<Queue>, bool, Ticket), BrokerError> {
        self.ensure_queue_at(name, |broker| broker.pool_number(pool), now)
    }

    fn ensure_queue_at(
        &self,
        name: &str,
        place: impl FnOnce(&Broker) -> Result<u16, BrokerError>,
        now: Timestamp,
    ) -> Result<(Arc<Queue>, bool, Ticket), BrokerError> {
        if let Some(queue) = self.inner.tenant.queue(name) {
            self.unlocked(&queue)?;
            return Ok((queue, false, Ticket::NONE));
        }
        self.allow(model::permission::Verb::Configure, Kind::Queue, name)?;
        check_name(name, Kind::Queue)?;
        let (broker, tenant) = (&self.inner.broker, &self.inner.tenant);
        let mut state = tenant.write();
        if let Some(queue) = state.queues.get(name) {
            return Ok((Arc::clone(queue), false, Ticket::NONE));
        }
        let limit = lower(broker.quotas.queues_per_tenant, state.limits.max_queues);
        if state.queues.len() >= limit {
            return Err(BrokerError::LimitReached(format!(
                "cannot declare queue '{name}': queue limit in vhost '{}' ({limit}) is reached",
                tenant.name
            )));
        }
        let definition = QueueDefinition::plain(name);
        let pool = place(broker)?;
        let (queue, ticket) =
            broker.add_queue_to(pool, tenant, &mut state, definition, None, now)?;
        broker.counters.queues_declared.add(1);
        Ok((queue, true, ticket))
    }

    /// At most `count_max` queues with names after `after`, sorted by name, that pass `filter`. Queues of a connection,
    /// and those that the broker has for itself, are not shown. `filter` runs without a lock.
    pub fn queues_page(
        &self,
        after: &str,
        count_max: usize,
        mut filter: impl FnMut(&Queue) -> bool,
    ) -> Vec<Arc<Queue>> {
        let mut page = Vec::new();
        let mut after: Arc<str> = after.into();
        loop {
            let some: Vec<Arc<Queue>> = {
                let state = self.inner.tenant.read();
                state.queues.after(&after).take(LISTED_AT_ONCE).cloned().collect()
            };
            let Some(last) = some.last() else { return page };
            after = Arc::clone(&last.name);
            for queue in some {
                if queue.owner.is_none() && filter(&queue) {
                    page.push(queue);
                }
                if page.len() >= count_max {
                    return page;
                }
            }
        }
    }

    /// How many queues the tenant has.
    #[must_use]
    pub fn queue_count(&self) -> usize {
        self.inner.tenant.read().queues.len()
    }

    /// A queue whose messages can be taken, for this access.
    pub(crate) fn open_queue(&self, name: &str, now: Timestamp) -> Result<Arc<Queue>, BrokerError> {
        let queue = self.existing_queue(name)?;
        self.unlocked(&queue)?;
        queue.touch(now);
        Ok(queue)
    }
}
