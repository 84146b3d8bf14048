//! Publishing: a batch of messages, each routed, all of them one commit.
//!
//! A connection holds one [`Publisher`]. It routes from its cache, gathers changes, and commits them in one go, so that
//! the pool and every queue are touched once per batch and not once per message.

use std::sync::Arc;

use model::publish_rules::{self, Headers};
use model::{Address, DedupId, Message, Timestamp};
use posthouse_amqp::properties::{Peek, Properties};
use store::{Change, Commit, Receipt, Target, Targets};

use crate::access::Access;
use crate::dead_letter::Reason;
use crate::error::BrokerError;
use crate::queue::Queue;
use crate::route_cache::{Route, RouteCache, RouteKind, RouteTarget};

/// What a client publishes.
#[derive(Debug, Clone, Copy)]
pub struct Publish<'a> {
    /// Name of the exchange, empty for the default one.
    pub exchange: &'a str,
    /// Routing key.
    pub routing_key: &'a str,
    /// Encoded properties, see [`Message::properties`].
    pub properties: &'a [u8],
    /// Body.
    pub body: &'a [u8],
    /// The token that stands for the publisher's own reply consumer, if it has one.
    pub reply_token: Option<&'a str>,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It goes to at least one queue with the next [`Publisher::flush`].
    Queued,
    /// No queue wants it.
    Unroutable,
    /// A full queue refused it (overflow mode `reject-publish`).
    Refused,
}

/// The publishing side of one connection or transaction.
#[derive(Debug)]
pub struct Publisher {
    access: Access,
    routes: RouteCache,
    changes: Vec<Change>,
    touched: Vec<Touched>,
    earliest: Timestamp,
}

/// A queue that the batch reaches.
#[derive(Debug)]
struct Touched {
    target: RouteTarget,
    messages: u64,
    bytes: u64,
}

impl Publisher {
    /// For the user and tenant of `access`.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self {
            access,
            routes: RouteCache::default(),
            changes: Vec::new(),
            touched: Vec::new(),
            earliest: Timestamp::MAX,
        }
    }

    /// Messages gathered since the last flush.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.changes.len()
    }

    /// Adds a message to the batch.
    ///
    /// # Errors
    ///
    /// If the exchange does not exist, the user may not write to it, or a property is not valid. The batch is as before.
    pub fn publish(&mut self, publish: Publish<'_>, now: Timestamp) -> Result<Published, BrokerError> {
        let peek = Peek::of(publish.properties).map_err(|error| BrokerError::Invalid(error.to_string()))?;
        self.routes.validate(self.access.revision());
        let route = match self.routes.find(publish.exchange, publish.routing_key) {
            Some(route) => route,
            None => self.resolve(publish.exchange, publish.routing_key)?,
        };
        if !(peek.has_expiration || peek.has_headers || peek.has_user_id || peek.has_reply_to)
            && let RouteKind::Queues(targets) = &route.kind
        {
            let message = self.message(&route.address, publish.properties, publish.body, &peek);
            return Ok(self.enqueue(message, targets, &Extras::default(), now));
        }
        self.publish_with_care(publish, &route, &peek, now)
    }

    /// The way of messages with properties that matter, and of exchanges that look at each message.
    fn publish_with_care(
        &mut self,
        publish: Publish<'_>,
        route: &Arc<Route>,
        peek: &Peek,
        now: Timestamp,
    ) -> Result<Published, BrokerError> {
        let properties =
            Properties::decode(publish.properties).map_err(|error| BrokerError::Invalid(error.to_string()))?;
        self.access.check_user_id(properties.user_id)?;
        let headers = match properties.headers {
            Some(raw) => publish_rules::headers(raw).map_err(|error| BrokerError::Invalid(error.to_string()))?,
            None => Headers::default(),
        };
        let mut extras = Extras {
            expiration_ms: publish_rules::expiration(properties.expiration)
                .map_err(|error| BrokerError::Invalid(error.to_string()))?,
            not_before: None,
            dedup: headers.dedup_id.as_deref().map(|id| {
                publish_rules::dedup_id(self.access.tenant_name(), publish.exchange, id)
            }),
        };
        let rewritten = publish_rules::rewrite(&properties, &headers, publish.reply_token)
            .map_err(|error| BrokerError::Invalid(error.to_string()))?;
        let encoded = rewritten.as_deref().unwrap_or(publish.properties);
        let message = self.message(&route.address, encoded, publish.body, peek);
        if let (RouteKind::Delayed(waiting), Some(delay_ms)) = (&route.kind, headers.delay_ms) {
            extras.not_before = Some(now.after_ms(delay_ms));
            // Its time to live begins when it is routed.
            extras.expiration_ms = None;
            let target = RouteTarget::new(Arc::clone(waiting));
            return Ok(self.enqueue(message, &[target], &extras, now));
        }
        if let (RouteKind::Queues(targets), true) = (&route.kind, headers.extra_keys.is_empty()) {
            return Ok(self.enqueue(message, targets, &extras, now));
        }
        let targets = self.access.route(publish.exchange, publish.routing_key, &properties, &headers.extra_keys)?;
        Ok(self.enqueue(message, &targets, &extras, now))
    }

    fn message(&self, address: &Arc<Address>, properties: &[u8], body: &[u8], peek: &Peek) -> Message {
        Message::new(Arc::clone(address), properties, body, peek.persistent(), peek.priority.unwrap_or(0))
    }

    fn resolve(&mut self, exchange: &str, routing_key: &str) -> Result<Arc<Route>, BrokerError> {
        let kind = self.access.resolve(exchange, routing_key)?;
        let address = Arc::new(Address { exchange: exchange.into(), routing_key: routing_key.into() });
        let route = Arc::new(Route { address, kind });
        self.routes.insert(&route);
        Ok(route)
    }

    fn enqueue(&mut self, message: Message, to: &[RouteTarget], extras: &Extras, now: Timestamp) -> Published {
        let mut targets = Targets::new();
        let mut refused = false;
        let body_bytes = message.body_len() as u64;
        for target in to {
            if !self.touch(target, body_bytes, extras.not_before.is_some()) {
                refused = true;
                self.refuse(target, &message, now);
                continue;
            }
            let ttl_ms = match (target.ttl_ms, extras.expiration_ms) {
                (Some(queue), Some(message)) => Some(queue.min(message)),
                (queue, message) => queue.or(message),
            };
            // A time to live of zero means: now or never. The dispatch that follows the commit still is now.
            let expires = ttl_ms.filter(|_| !target.queue.is_stream()).map(|ttl| now.after_ms(ttl.max(1)));
            self.earliest = self.earliest.min(expires.unwrap_or(Timestamp::MAX));
            self.earliest = self.earliest.min(extras.not_before.unwrap_or(Timestamp::MAX));
            targets.push(Target {
                queue: target.queue.id,
                priority: message.priority.min(target.priority_max),
                expires,
                not_before: extras.not_before,
            });
        }
        let nowhere = targets.is_empty();
        if !nowhere {
            self.changes.push(Change::Enqueue { message, targets, dedup: extras.dedup });
        }
        match (refused, nowhere) {
            (true, _) => Published::Refused,
            (false, true) => Published::Unroutable,
            (false, false) => Published::Queued,
        }
    }

    /// Counts a message for a queue; false if the queue is full and refuses.
    fn touch(&mut self, target: &RouteTarget, body_bytes: u64, delayed: bool) -> bool {
        let index = match self.touched.iter().position(|touched| Arc::ptr_eq(&touched.target.queue, &target.queue)) {
            Some(index) => index,
            None => {
                let (messages, bytes) = self.access.fill_of(target);
                self.touched.push(Touched { target: target.clone(), messages, bytes });
                self.touched.len() - 1
            }
        };
        let Some(touched) = self.touched.get_mut(index) else { return true };
        if let Some(overflow) = &target.overflow
            && overflow.mode != model::Overflow::DropHead
            && !delayed
            && (touched.messages >= overflow.length_max || touched.bytes + body_bytes > overflow.bytes_max)
        {
            return false;
        }
        touched.messages += 1;
        touched.bytes += body_bytes;
        true
    }

    fn refuse(&mut self, target: &RouteTarget, message: &Message, now: Timestamp) {
        if target.overflow.as_ref().is_some_and(|overflow| overflow.mode == model::Overflow::RejectPublishDlx) {
            self.access.dead_letter_refused(&target.queue, message, Reason::MaxLength, now);
        }
    }

    /// Commits the batch and has the queues that it reaches deliver.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Store`] if the pool is out of space or has failed; then nothing of the batch is stored.
    pub fn flush(&mut self, now: Timestamp) -> Result<Receipt, BrokerError> {
        if self.changes.is_empty() {
            self.touched.clear();
            return Ok(Receipt::default());
        }
        self.flush_with(Vec::new(), now)
    }

    /// Commits the batch together with `first`, all or none: a transaction.
    ///
    /// # Errors
    ///
    /// As [`Publisher::flush`].
    pub fn flush_with(&mut self, first: Vec<Change>, now: Timestamp) -> Result<Receipt, BrokerError> {
        let capacity = self.changes.len();
        let gathered = std::mem::replace(&mut self.changes, Vec::with_capacity(capacity.min(1024)));
        let changes = if first.is_empty() { gathered } else { first.into_iter().chain(gathered).collect() };
        let touched = std::mem::take(&mut self.touched);
        let receipt = self.access.commit(Commit { changes, now })?;
        for touched in &touched {
            self.access.enqueued(&touched.target.queue, touched.target.overflow.as_ref(), now);
        }
        if self.earliest != Timestamp::MAX {
            self.access.wake_sweeper(self.earliest);
            self.earliest = Timestamp::MAX;
        }
        Ok(receipt)
    }

    /// Forgets the batch: a transaction rolled back.
    pub fn discard(&mut self) {
        self.changes.clear();
        self.touched.clear();
        self.earliest = Timestamp::MAX;
    }

    /// The queues that the batch reaches so far.
    pub fn reached(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.touched.iter().map(|touched| &touched.target.queue)
    }
}

/// What a message's own properties add to each of its targets.
#[derive(Debug, Default)]
struct Extras {
    expiration_ms: Option<u64>,
    not_before: Option<Timestamp>,
    dedup: Option<DedupId>,
}
