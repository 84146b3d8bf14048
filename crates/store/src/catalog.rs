//! The contract for definitions: tenants, exchanges, queues, bindings, users, permissions, policies: few and small.
//!
//! To a store a definition is a key and a value. What they mean is the broker's business. A whole catalog is loaded at
//! start and cached; changes are few. In the embedded driver definitions share the log with messages, so that nothing
//! is durable before what it depends on.

use std::fmt::Debug;

use model::Ticket;

use crate::pool::Pending;

/// One stored definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// What it is about, at most 2 KiB, such as `queue/<tenant>/<name>`.
    pub key: Box<str>,
    /// Its content, at most 1 MiB.
    pub value: Box<[u8]>,
}

/// A change of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefinitionChange {
    /// Sets the value of a key, new or not.
    Put(Definition),
    /// Forgets a key; fine if it is not there.
    Remove(Box<str>),
}

/// Where definitions are kept.
pub trait Catalog: Send + Sync + Debug {
    /// Every definition there is, in the order of keys.
    fn load(&self) -> Pending<Vec<Definition>>;

    /// Applies all changes or none; durable when the pool's watermark reaches the ticket.
    fn commit_definitions(&self, changes: Vec<DefinitionChange>) -> Pending<Ticket>;
}
