//! What operators change: tenants, users, permissions, policies.

use std::sync::{Arc, PoisonError};

use model::exchange::ExchangeDefinition;
use model::permission::{Permissions, TopicPermission};
use model::policy::Policy;
use model::{QueueDefinition, QueueId, Ticket, Timestamp};

use crate::bind::{BindingRequest, DeclareExchange};
use crate::broker::Broker;
use crate::declare::DeclareQueue;
use crate::definitions::{self, PolicyKind};
use crate::error::{BrokerError, Kind};
use crate::queue::Queue;
use crate::tenant::{Tenant, TenantDescription};
use crate::users::User;

impl Broker {
    /// Makes a tenant, or changes what is said about it.
    ///
    /// # Errors
    ///
    /// If the name is empty or too long, or the store fails.
    pub fn put_tenant(
        &self,
        name: &str,
        description: TenantDescription,
    ) -> Result<Ticket, BrokerError> {
        if name.len() > 255 {
            return Err(BrokerError::Invalid(
                "a tenant's name must be at most 255 bytes".to_owned(),
            ));
        }
        let tenant = match self.tenant(name) {
            Some(tenant) => {
                tenant.write().description = description;
                tenant
            }
            None => self.insert_tenant(name, description),
        };
        self.define(vec![definitions::put_tenant(name, &tenant)])
    }

    pub(crate) fn insert_tenant(&self, name: &str, description: TenantDescription) -> Arc<Tenant> {
        let tenant = Arc::new(Tenant::new(name, description));
        self.tenants
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(Arc::clone(&tenant.name), Arc::clone(&tenant));
        tenant
    }

    /// Deletes a tenant with everything in it; its connections end.
    ///
    /// # Errors
    ///
    /// If there is none of that name, or the store fails.
    pub fn delete_tenant(&self, name: &str) -> Result<Ticket, BrokerError> {
        let tenant = self.tenant(name).ok_or_else(|| BrokerError::not_found(Kind::Tenant, name))?;
        let now = self.now();
        for queue in tenant.queues() {
            self.delete_queue(&tenant, &queue, now)?;
        }
        self.end_subscriptions_of(&tenant, now)?;
        let exchanges: Vec<Arc<str>> =
            tenant.read().topology.exchanges().map(|exchange| Arc::clone(&exchange.name)).collect();
        let mut changes = vec![definitions::remove_tenant(name)];
        for exchange in exchanges {
            let mut state = tenant.write();
            if let Some(removed) = state.topology.remove_exchange(&exchange) {
                self.close_waiting_rooms(&mut state, &removed, now)?;
                changes.extend(definitions::forget(name, &removed));
            }
        }
        tenant.mark_deleted();
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.define(changes)
    }

    /// Sets a tenant's limits; `None` for no limit.
    ///
    /// # Errors
    ///
    /// If there is no such tenant, or the store fails.
    pub fn set_tenant_limits(
        &self,
        name: &str,
        max_connections: Option<u64>,
        max_queues: Option<u64>,
    ) -> Result<Ticket, BrokerError> {
        let tenant = self.tenant(name).ok_or_else(|| BrokerError::not_found(Kind::Tenant, name))?;
        {
            let mut state = tenant.write();
            state.limits.max_connections = max_connections;
            state.limits.max_queues = max_queues;
        }
        self.define(vec![definitions::put_tenant(name, &tenant)])
    }

    /// Makes a user, or replaces it.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn put_user(&self, user: User) -> Result<Ticket, BrokerError> {
        let change = definitions::put_user(&user);
        self.users.insert(user);
        self.define(vec![change])
    }

    /// Deletes a user; its connections end.
    ///
    /// # Errors
    ///
    /// If there is none of that name, or the store fails.
    pub fn delete_user(&self, name: &str) -> Result<Ticket, BrokerError> {
        self.users.remove(name).ok_or_else(|| BrokerError::not_found(Kind::User, name))?;
        self.define(vec![definitions::remove_user(name)])
    }

    /// Sets what a user may do in a tenant; `None` to shut it out.
    ///
    /// # Errors
    ///
    /// If there is no such user, or the store fails.
    pub fn set_permissions(
        &self,
        user: &str,
        tenant: &str,
        permissions: Option<Permissions>,
    ) -> Result<Ticket, BrokerError> {
        let user = self.users.get(user).ok_or_else(|| BrokerError::not_found(Kind::User, user))?;
        let mut user = User::clone(&user);
        match permissions {
            Some(permissions) => user.permissions.insert(tenant.into(), Arc::new(permissions)),
            None => user.permissions.remove(tenant),
        };
        self.put_user(user)
    }

    /// Adds a topic permission of a user in a tenant.
    ///
    /// # Errors
    ///
    /// If there is no such user, or the store fails.
    pub fn add_topic_permission(
        &self,
        user: &str,
        tenant: &str,
        permission: TopicPermission,
    ) -> Result<Ticket, BrokerError> {
        let user = self.users.get(user).ok_or_else(|| BrokerError::not_found(Kind::User, user))?;
        let mut user = User::clone(&user);
        user.topic_permissions
            .retain(|(of, own)| &**of != tenant || own.exchange() != permission.exchange());
        user.topic_permissions.push((tenant.into(), Arc::new(permission)));
        self.put_user(user)
    }

    /// Sets a policy; it holds at once.
    ///
    /// # Errors
    ///
    /// If there is no such tenant, or the store fails.
    pub fn put_policy(
        &self,
        tenant: &str,
        kind: PolicyKind,
        policy: Policy,
    ) -> Result<Ticket, BrokerError> {
        let tenant =
            self.tenant(tenant).ok_or_else(|| BrokerError::not_found(Kind::Tenant, tenant))?;
        let change = definitions::put_policy(&tenant.name, kind, &policy);
        {
            let mut state = tenant.write();
            match kind {
                PolicyKind::Ordinary => drop(state.policies.insert(policy)),
                PolicyKind::Operator => drop(state.policies.insert_operator(policy)),
            }
        }
        self.apply_policies(&tenant);
        self.define(vec![change])
    }

    /// Removes a policy; fine if it is not there.
    ///
    /// # Errors
    ///
    /// If there is no such tenant, or the store fails.
    pub fn remove_policy(
        &self,
        tenant: &str,
        kind: PolicyKind,
        name: &str,
    ) -> Result<Ticket, BrokerError> {
        let tenant =
            self.tenant(tenant).ok_or_else(|| BrokerError::not_found(Kind::Tenant, tenant))?;
        {
            let mut state = tenant.write();
            match kind {
                PolicyKind::Ordinary => state.policies.remove(name),
                PolicyKind::Operator => state.policies.remove_operator(name),
            };
        }
        self.apply_policies(&tenant);
        self.define(vec![definitions::remove_policy(&tenant.name, kind, name)])
    }

    /// Keeps a parameter that this version makes no use of, so that an export has it again.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub fn put_parameter(
        &self,
        tenant: &str,
        component: &str,
        name: &str,
        json: &[u8],
    ) -> Result<Ticket, BrokerError> {
        self.define(vec![definitions::put_parameter(tenant, component, name, json)])
    }

    /// Makes an exchange of a definitions file; fine if it is there.
    ///
    /// # Errors
    ///
    /// If the tenant does not exist, the definition is not valid, or the store fails.
    pub fn import_exchange(
        &self,
        tenant: &str,
        declare: &DeclareExchange<'_>,
    ) -> Result<Ticket, BrokerError> {
        let tenant =
            self.tenant(tenant).ok_or_else(|| BrokerError::not_found(Kind::Tenant, tenant))?;
        let mut state = tenant.write();
        if state.topology.exchange(declare.name).is_some() {
            return Ok(Ticket::NONE);
        }
        let definition = ExchangeDefinition::new(
            &tenant.name,
            declare.name.into(),
            declare.kind,
            declare.options(),
        )
        .map_err(|error| BrokerError::Invalid(error.to_string()))?;
        self.add_exchange(&tenant, &mut state, definition, self.now())
    }

    /// Makes a queue of a definitions file; fine if it is there.
    ///
    /// # Errors
    ///
    /// If the tenant does not exist, the definition is not valid, or the store fails.
    pub fn import_queue(
        &self,
        tenant: &str,
        declare: &DeclareQueue<'_>,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        let tenant =
            self.tenant(tenant).ok_or_else(|| BrokerError::not_found(Kind::Tenant, tenant))?;
        let mut state = tenant.write();
        if state.queues.contains_key(declare.name) {
            return Ok(Ticket::NONE);
        }
        let default = state.description.default_queue_type.unwrap_or_default();
        let definition =
            QueueDefinition::new(&tenant.name, declare.name.into(), default, declare.options())
                .map_err(|error| BrokerError::Invalid(error.to_string()))?;
        Ok(self.add_queue(&tenant, &mut state, definition, None, now)?.1)
    }

    /// Makes a binding of a definitions file; fine if it is there.
    ///
    /// # Errors
    ///
    /// If the tenant or an end does not exist, or the store fails.
    pub fn import_binding(
        &self,
        tenant: &str,
        request: &BindingRequest<'_>,
    ) -> Result<Ticket, BrokerError> {
        let tenant =
            self.tenant(tenant).ok_or_else(|| BrokerError::not_found(Kind::Tenant, tenant))?;
        let mut state = tenant.write();
        self.add_binding(&tenant, &mut state, request)
    }

    pub(crate) fn remember_queue(&self, queue: &Arc<Queue>) {
        self.queues
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(queue.id, Arc::clone(queue));
        self.note_expiring(queue);
    }

    pub(crate) fn forget_queue(&self, queue: &Queue) {
        self.queues.write().unwrap_or_else(PoisonError::into_inner).remove(&queue.id);
        self.idle_queues.write().unwrap_or_else(PoisonError::into_inner).remove(&queue.id);
    }

    /// Has the sweeper look at a queue that expires, or at a stream that forgets.
    pub(crate) fn note_expiring(&self, queue: &Arc<Queue>) {
        let settings = queue.settings();
        let aging = settings.max_age.filter(|_| queue.is_stream());
        let Some(wait_ms) = settings.expires.or(aging) else { return };
        self.idle_queues
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(queue.id, Arc::clone(queue));
        self.sweeper.set(queue.last_used().after_ms(wait_ms));
    }

    pub(crate) fn expiring_queues(&self) -> Vec<Arc<Queue>> {
        self.idle_queues.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Used by those who keep queues by identity.
pub(crate) type ById<T> = std::collections::HashMap<QueueId, T, foldhash::fast::RandomState>;
