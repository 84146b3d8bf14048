//! Delayed exchanges: messages wait in a queue of the exchange and are routed when their delay is over.
//!
//! As RabbitMQ's plug-in does it, the bindings of that moment count. Unlike there, the messages lie in the same log as
//! all others, any number of them, and leave their waiting room in the commit that puts them into their queues.

use std::sync::Arc;

use model::publish_rules::{self, Marked};
use model::{Message, Timestamp};
use smallvec::smallvec;
use store::{Change, Commit, Handout, Hold, LeaseRequest, Leased, Settlement};

use crate::broker::Broker;
use crate::dead_letter::enqueue;
use crate::error::BrokerError;
use crate::pools::once;
use crate::queue::Queue;
use crate::route_cache::RouteTarget;
use crate::tenant::Tenant;

/// Most messages routed in one commit.
const ROUTED_MAX: usize = 256;

/// Most body bytes read for one commit.
const ROUTED_BYTES_MAX: usize = 1024 * 1024;

impl Broker {
    /// Routes what has waited long enough.
    pub(crate) fn release_delayed(&self, waiting: &Arc<Queue>, now: Timestamp) {
        loop {
            let request = LeaseRequest {
                queue: waiting.id,
                messages_max: ROUTED_MAX,
                bytes_max: ROUTED_BYTES_MAX,
                hold: Hold::UntilSettled,
                now,
            };
            let Ok(lease) = self.pool.lease(request).now() else { return };
            // Nothing although there is more: it may be handed out when the store says so, see `Watch::hint_ready`.
            if lease.messages.is_empty() {
                return;
            }
            let sequences =
                lease.messages.iter().map(|leased| (leased.sequence, leased.sequence)).collect();
            if let Err(error) = self.route_delayed(waiting, lease.messages, now) {
                self.try_later(waiting, sequences, now);
                if self.stalls.delayed.failed(now) {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(exchange = %waiting.name, error, "delayed messages wait on");
                }
                return;
            }
            if self.stalls.delayed.went_on() {
                tracing::info!(exchange = %waiting.name, "delayed messages are routed again");
            }
            if !lease.more {
                return;
            }
        }
    }

    fn route_delayed(
        &self,
        waiting: &Queue,
        messages: Vec<Leased>,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let Some(tenant) = self.tenant(&waiting.tenant) else { return Ok(()) };
        let mut changes = Vec::with_capacity(messages.len() * 2);
        let mut reached = Vec::new();
        for leased in messages {
            changes.push(Change::Settle {
                queue: waiting.id,
                sequences: smallvec![(leased.sequence, leased.sequence)],
                settlement: Settlement::Ack,
            });
            let (message, to, expiration_ms) = self.way(&tenant, leased.message)?;
            if !to.is_empty() {
                let copy = enqueue(message, &to, expiration_ms, now, &self.sweeper);
                changes.push(once(waiting, leased.sequence, &to, copy));
                reached.extend(to);
            }
        }
        self.pool
            .commit(Commit { changes, now, handout: Handout::WhenDurable, ..Commit::default() })
            .now()?;
        self.follow_up(reached, now, 0);
        Ok(())
    }

    /// A message as it is routed now, where it goes, and how long it lives there. Its properties were checked when it
    /// was published.
    fn way(
        &self,
        tenant: &Tenant,
        message: Message,
    ) -> Result<(Message, Vec<RouteTarget>, Option<u64>), BrokerError> {
        let marked = Marked::of(message.properties()).unwrap_or_default();
        let headers =
            marked.headers.and_then(|raw| publish_rules::headers(raw).ok()).unwrap_or_default();
        let address = Arc::clone(&message.address);
        let extra = headers.extra_keys.iter().map(String::as_str);
        let keys: Vec<&str> = [&*address.routing_key].into_iter().chain(extra).collect();
        let expiration_ms = publish_rules::expiration(marked.expiration).unwrap_or_default();
        let to = match tenant.route(self, &address.exchange, &keys, marked.headers) {
            Ok(to) => to,
            // The exchange went while they waited.
            Err(BrokerError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let hidden = publish_rules::rewrite(message.properties(), &headers, None).ok().flatten();
        let message = match hidden {
            Some(properties) => {
                let (persistent, priority) = (message.persistent, message.priority);
                Message::new(address, &properties, message.body(), persistent, priority)
            }
            None => message,
        };
        Ok((message, to, expiration_ms))
    }
}
