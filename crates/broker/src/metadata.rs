//! What a queue's users say about it: JSON text that the broker keeps with the queue and does not understand.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use model::permission::Verb;
use model::{Ticket, Timestamp};

use crate::access::Access;
use crate::broker::Broker;
use crate::definitions;
use crate::error::{BrokerError, Kind};
use crate::queue::Queue;
use crate::tenant::Tenant;

/// Longest metadata of a queue.
pub const METADATA_BYTES_MAX: usize = 64 * 1024;

/// The metadata of a queue, at one moment.
#[derive(Debug)]
pub struct Metadata {
    json: Box<[u8]>,
    parsed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl Metadata {
    fn new(json: Box<[u8]>) -> Self {
        Self { json, parsed: OnceLock::new() }
    }

    /// The text, as it was set.
    #[must_use]
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// What `parse` makes of the text, made once for as long as it does not change. All who ask must ask for the same
    /// type; whoever asks for another has it made anew.
    pub fn parsed<T: Any + Send + Sync>(&self, parse: impl FnOnce(&[u8]) -> T) -> Arc<T> {
        if let Some(parsed) = self.parsed.get() {
            if let Ok(parsed) = Arc::clone(parsed).downcast::<T>() {
                return parsed;
            }
            return Arc::new(parse(&self.json));
        }
        let parsed = Arc::new(parse(&self.json));
        // If somebody else was first, theirs stays.
        drop(self.parsed.set(Arc::clone(&parsed) as Arc<dyn Any + Send + Sync>));
        parsed
    }
}

impl Access {
    /// What is said about a queue; `None` if nothing.
    ///
    /// # Errors
    ///
    /// If the queue does not exist, or may not be read.
    pub fn metadata(&self, queue: &str) -> Result<Option<Arc<Metadata>>, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        Ok(self.existing_queue(queue)?.metadata())
    }

    /// Replaces what is said about a queue; empty text for nothing.
    ///
    /// # Errors
    ///
    /// If the queue does not exist or may not be configured, or the text is longer than [`METADATA_BYTES_MAX`].
    pub fn set_metadata(
        &self,
        queue: &str,
        json: &[u8],
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        let set = self.change_metadata(queue, |_| Ok::<_, BrokerError>(json.to_vec()), now)?;
        set.map(|(_, ticket)| ticket)
    }

    /// Changes what is said about a queue: `change` gets the text (empty for none) and returns the new one, and nobody
    /// else changes it in between. Its own error is handed back inside, with nothing changed.
    ///
    /// # Errors
    ///
    /// As [`Access::set_metadata`].
    pub fn change_metadata<E>(
        &self,
        queue: &str,
        change: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
        now: Timestamp,
    ) -> Result<Result<(Arc<Metadata>, Ticket), E>, BrokerError> {
        self.allow(Verb::Configure, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let mut slot = queue.metadata_slot();
        let json = match change(slot.as_ref().map(|it| it.json()).unwrap_or_default()) {
            Ok(json) => json,
            Err(error) => return Ok(Err(error)),
        };
        if json.len() > METADATA_BYTES_MAX {
            return Err(BrokerError::Invalid(format!(
                "metadata of a queue must be at most {METADATA_BYTES_MAX} bytes, not {}",
                json.len()
            )));
        }
        let mut changes = Vec::new();
        if queue.kind().durable && !queue.is_deleted() {
            let tenant = self.tenant_name();
            changes.push(if json.is_empty() {
                definitions::remove_metadata(tenant, &queue.name)
            } else {
                definitions::put_metadata(tenant, &queue.name, &json)
            });
        }
        let ticket = self.inner.broker.define(changes)?;
        let metadata = Arc::new(Metadata::new(json.into()));
        *slot = (!metadata.json.is_empty()).then(|| Arc::clone(&metadata));
        Ok(Ok((metadata, ticket)))
    }
}

impl Broker {
    /// What the catalog says; of a queue that is gone, nothing.
    pub(crate) fn load_metadata(&self, tenant: &Tenant, queue: &str, json: &[u8]) {
        if let Some(queue) = tenant.queue(queue) {
            Queue::metadata_slot(&queue).replace(Arc::new(Metadata::new(json.into())));
        }
    }
}
