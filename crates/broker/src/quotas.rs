//! What every tenant and user may have at most, by the server's configuration; their own limits may be lower.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use model::QueueSettings;

use crate::error::BrokerError;

/// Bounds for all; [`usize::MAX`] is none.
#[derive(Debug, Clone, Copy)]
pub struct Quotas {
    /// Queues in a tenant.
    pub queues_per_tenant: usize,
    /// Exchanges in a tenant.
    pub exchanges_per_tenant: usize,
    /// Bindings in a tenant.
    pub bindings_per_tenant: usize,
    /// Connections to a tenant.
    pub connections_per_tenant: usize,
    /// Connections of a user.
    pub connections_per_user: usize,
    /// Channels of a user over all connections.
    pub channels_per_user: usize,
    /// What a tenant's parking queue keeps.
    pub parking: Parking,
}

/// What a parking queue keeps; `None` is no bound. The oldest go first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parking {
    /// Messages.
    pub messages: Option<u64>,
    /// Bytes of their bodies.
    pub bytes: Option<u64>,
    /// Milliseconds.
    pub ttl_ms: Option<u64>,
}

impl Parking {
    /// Lowers the settings of a parking queue, whoever made them, to what it may keep.
    pub(crate) fn limit(&self, settings: &mut QueueSettings) {
        let lower = |own: &mut Option<u64>, bound: Option<u64>| {
            *own = [*own, bound].into_iter().flatten().min();
        };
        lower(&mut settings.max_length, self.messages);
        lower(&mut settings.max_length_bytes, self.bytes);
        lower(&mut settings.message_ttl, self.ttl_ms);
    }
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            queues_per_tenant: usize::MAX,
            exchanges_per_tenant: usize::MAX,
            bindings_per_tenant: usize::MAX,
            connections_per_tenant: usize::MAX,
            connections_per_user: usize::MAX,
            channels_per_user: usize::MAX,
            parking: Parking::default(),
        }
    }
}

/// How much of something each user has now.
#[derive(Debug, Default)]
pub(crate) struct Held {
    by_user: Mutex<HashMap<Arc<str>, usize>>,
}

impl Held {
    /// Takes one more, if that does not exceed `max`.
    pub(crate) fn take(&self, user: &Arc<str>, max: usize) -> bool {
        let mut held = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.entry(Arc::clone(user)).or_default();
        if *own >= max {
            return false;
        }
        *own += 1;
        true
    }

    /// Gives `count` back.
    pub(crate) fn give_back(&self, user: &str, count: usize) {
        let mut held = self.by_user.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = held.get_mut(user) {
            *own = own.saturating_sub(count);
            if *own == 0 {
                held.remove(user);
            }
        }
    }
}

/// Refuses what would be more than `max` of something in a tenant.
pub(crate) fn check(what: &str, tenant: &str, has: usize, max: usize) -> Result<(), BrokerError> {
    if has < max {
        return Ok(());
    }
    Err(BrokerError::LimitReached(format!("{what} limit in vhost '{tenant}' ({max}) is reached")))
}

/// The lower of a configured bound and a limit of one's own.
pub(crate) fn lower(configured: usize, own: Option<u64>) -> usize {
    own.and_then(|own| usize::try_from(own).ok()).map_or(configured, |own| own.min(configured))
}
