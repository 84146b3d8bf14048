//! Users: who they are, and what they may do in which tenant.
//!
//! Immutable snapshots: a change replaces the user and moves the revision, which every [`Access`](crate::Access) sees
//! at its next operation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use model::permission::{Permissions, TopicPermission};
use model::quota::UserLimits;

/// One user.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// Name; at most 255 bytes.
    pub name: Arc<str>,
    /// Hash of the password in the form that `server::auth` writes; `None` for who logs in without one (TLS).
    pub password_hash: Option<Arc<str>>,
    /// `administrator`, `monitoring`, `policymaker`, `management`, `impersonator`, or anything else.
    pub tags: Vec<Box<str>>,
    /// What it may do, by tenant. No entry: not even enter it.
    pub permissions: HashMap<Box<str>, Arc<Permissions>>,
    /// Further limits on routing keys, by tenant and exchange.
    pub topic_permissions: Vec<(Box<str>, Arc<TopicPermission>)>,
    /// Most connections and channels.
    pub limits: UserLimits,
}

impl User {
    /// What it may do in a tenant; `None` if it may not enter.
    #[must_use]
    pub fn permissions_in(&self, tenant: &str) -> Option<Arc<Permissions>> {
        self.permissions.get(tenant).cloned()
    }

    /// Whether it carries a tag.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| &**own == tag)
    }
}

/// All users of a broker.
#[derive(Debug, Default)]
pub struct Users {
    by_name: RwLock<HashMap<Arc<str>, Arc<User>>>,
    revision: AtomicU64,
}

impl Users {
    /// A user by name.
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All users.
    pub fn all(&self) -> Vec<Arc<User>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Moves with each change.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn insert(&self, user: User) {
        self.by_name
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(Arc::clone(&user.name), Arc::new(user));
        self.revision.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn remove(&self, name: &str) -> Option<Arc<User>> {
        let removed = self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.revision.fetch_add(1, Ordering::AcqRel);
        removed
    }
}
