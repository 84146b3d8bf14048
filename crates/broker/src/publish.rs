//! Publishing: a batch of messages, each routed, all of them one commit.
//!
//! A connection holds one [`Publisher`]. It routes from its cache, gathers changes, and commits them in one go, so that
//! the pool and every queue are touched once per batch and not once per message.

use std::sync::Arc;
use std::task::Context;

use model::exchange::ExchangeKind;
use model::permission::Verb;
use model::publish_rules::{self, Marked};
use model::{Address, DedupId, Message, Timestamp};
use posthouse_amqp::RawTable;
use posthouse_amqp::properties::{Peek, Property};
use smallvec::SmallVec;
use store::{Change, Commit, Handout, Receipt, Target, Targets};

use crate::access::Access;
use crate::dead_letter::Reason;
use crate::error::{BrokerError, Kind};
use crate::queue::Queue;
use crate::reply::is_reply_token;
use crate::route_cache::{Route, RouteCache, RouteKind, RouteTarget};

/// Properties that ask the broker for something. A message without them takes the short way.
const MARKS: [Property; 4] =
    [Property::Headers, Property::Expiration, Property::UserId, Property::ReplyTo];

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
    crowd: Option<(Arc<Queue>, u64)>,
    /// Messages since they were counted last, whatever became of them.
    received: u64,
}

/// A queue that the batch reaches.
#[derive(Debug)]
struct Touched {
    target: RouteTarget,
    messages: u64,
    bytes: u64,
    /// By this batch.
    added: u64,
    added_bytes: u64,
}

/// So many messages or bytes in one batch are a flood, which can wait for consumers. A publisher that waits for each confirm
/// is slow enough by itself.
const FLOOD: (u64, u64) = (32, 64 * 1024);

impl Touched {
    fn is_flood(&self) -> bool {
        self.added >= FLOOD.0 || self.added_bytes >= FLOOD.1
    }
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
            crowd: None,
            received: 0,
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
    pub fn publish(
        &mut self,
        publish: Publish<'_>,
        now: Timestamp,
    ) -> Result<Published, BrokerError> {
        let peek = Peek::decode(publish.properties).map_err(malformed)?;
        self.received += 1;
        self.routes.validate(self.access.revision());
        let route = match self.routes.find(publish.exchange, publish.routing_key) {
            Some(route) => route,
            None => self.resolve(publish.exchange, publish.routing_key)?,
        };
        let plain = !MARKS.iter().any(|property| peek.has(*property));
        match &route.kind {
            RouteKind::Queues(targets) if plain => {
                let message = self.message(&route.address, publish.properties, publish.body, &peek);
                Ok(self.enqueue(message, targets, &Extras::default(), now))
            }
            RouteKind::Queues(_) | RouteKind::PerMessage | RouteKind::Delayed(_) => {
                self.publish_with_care(publish, &route, &peek, now)
            }
            RouteKind::Reply => {
                let message = self.message(&route.address, publish.properties, publish.body, &peek);
                Ok(self.access.reply(message))
            }
        }
    }

    /// The way of messages with properties that matter, and of exchanges that look at each message.
    fn publish_with_care(
        &mut self,
        publish: Publish<'_>,
        route: &Arc<Route>,
        peek: &Peek,
        now: Timestamp,
    ) -> Result<Published, BrokerError> {
        let marked = Marked::of(publish.properties).map_err(invalid)?;
        self.access.check_user_id(marked.user_id)?;
        if let Some(headers) = &marked.headers {
            headers.check().map_err(malformed)?;
        }
        let headers = marked
            .headers
            .map(publish_rules::headers)
            .transpose()
            .map_err(invalid)?
            .unwrap_or_default();
        let extras = Extras {
            expiration_ms: publish_rules::expiration(marked.expiration).map_err(invalid)?,
            not_before: headers
                .delay_ms
                .filter(|delay_ms| *delay_ms > 0)
                // The clock counts whole milliseconds: one more, so that it is never early.
                .map(|delay_ms| now.after_ms(delay_ms.saturating_add(1))),
            dedup: headers.dedup_id.as_deref().map(|id| self.dedup_id(&publish, id)),
        };
        // Hidden keys are hidden when the message is routed, which for a delayed one is later.
        let waits = matches!(route.kind, RouteKind::Delayed(_)) && extras.not_before.is_some();
        let hiding =
            publish_rules::Headers { has_bcc: headers.has_bcc && !waits, ..headers.clone() };
        let rewritten = publish_rules::rewrite(publish.properties, &hiding, publish.reply_token)
            .map_err(invalid)?;
        let encoded = rewritten.as_deref().unwrap_or(publish.properties);
        let message = self.message(&route.address, encoded, publish.body, peek);
        if let (RouteKind::Delayed(waiting), Some(_)) = (&route.kind, extras.not_before) {
            // Routed when its delay is over, by the bindings of then; its time to live begins then, too.
            let target = RouteTarget::new(Arc::clone(waiting), true);
            return Ok(self.enqueue(
                message,
                &[target],
                &Extras { expiration_ms: None, ..extras },
                now,
            ));
        }
        if let (RouteKind::Queues(targets), true) = (&route.kind, headers.extra_keys.is_empty()) {
            return Ok(self.enqueue(message, targets, &extras, now));
        }
        let keys: SmallVec<[&str; 4]> = [publish.routing_key]
            .into_iter()
            .chain(headers.extra_keys.iter().map(String::as_str))
            .collect();
        let targets = self.access.route(publish.exchange, &keys, marked.headers)?;
        Ok(self.enqueue(message, &targets, &extras, now))
    }

    /// The routing key takes part: on the default exchange it is what tells queues apart.
    fn dedup_id(&self, publish: &Publish<'_>, id: &str) -> DedupId {
        let address = format!("{}\0{}", publish.exchange, publish.routing_key);
        publish_rules::dedup_id(self.access.tenant_name(), &address, id)
    }

    fn message(
        &self,
        address: &Arc<Address>,
        properties: &[u8],
        body: &[u8],
        peek: &Peek,
    ) -> Message {
        Message::new(
            Arc::clone(address),
            properties,
            body,
            peek.is_persistent(),
            peek.priority().unwrap_or(0),
        )
    }

    fn resolve(&mut self, exchange: &str, routing_key: &str) -> Result<Arc<Route>, BrokerError> {
        let kind = self.access.resolve(exchange, routing_key)?;
        let address =
            Arc::new(Address { exchange: exchange.into(), routing_key: routing_key.into() });
        let route = Arc::new(Route { address, kind });
        self.routes.insert(&route);
        Ok(route)
    }

    fn enqueue(
        &mut self,
        mut message: Message,
        to: &[RouteTarget],
        extras: &Extras,
        now: Timestamp,
    ) -> Published {
        let mut targets = Targets::new();
        let (mut refused, mut skipping) = (false, false);
        let body_bytes = message.body_len() as u64;
        for (place, target) in to.iter().enumerate() {
            // Where the queue refused there is nothing to follow.
            skipping &= target.follows;
            if skipping {
                continue;
            }
            let not_before = extras.not_before.filter(|_| target.delayed);
            if !self.touch(target, place, body_bytes, not_before.is_some()) {
                (refused, skipping) = (true, true);
                self.refuse(target, &message, now);
                continue;
            }
            // What a replicated queue or a stream takes, it keeps, whatever the publisher said.
            message.persistent |= target.keeps_all;
            let ttl_ms = match (target.ttl_ms, extras.expiration_ms) {
                (Some(queue), Some(message)) => Some(queue.min(message)),
                (queue, message) => queue.or(message),
            };
            // A delayed message begins to live when its delay is over.
            let born = not_before.unwrap_or(now);
            let stays = target.follows || target.queue.is_stream();
            let expires = ttl_ms.filter(|_| !stays).map(|ttl| born.after_ms(ttl));
            self.earliest = self.earliest.min(not_before.or(expires).unwrap_or(Timestamp::MAX));
            targets.push(Target {
                queue: target.queue.id,
                priority: message.priority.min(target.priority_max),
                expires,
                not_before,
            });
        }
        if refused && extras.dedup.is_some() {
            // Kept for one queue, its id would make a duplicate of the attempt that reaches the other.
            self.take_back(&targets, body_bytes);
            return Published::Refused;
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

    /// Counts a message for a queue; false if the queue is full and refuses. `place` is where the target stands in its
    /// route, and so, as most batches go one way, where it was touched before.
    fn touch(
        &mut self,
        target: &RouteTarget,
        place: usize,
        body_bytes: u64,
        delayed: bool,
    ) -> bool {
        let is_it = |touched: &Touched| Arc::ptr_eq(&touched.target.queue, &target.queue);
        let here = self.touched.get(place).is_some_and(is_it).then_some(place);
        let index = match here.or_else(|| self.touched.iter().position(is_it)) {
            Some(index) => index,
            None => {
                let (messages, bytes) = self.access.fill_of(target);
                self.touched.push(Touched {
                    target: target.clone(),
                    messages,
                    bytes,
                    added: 0,
                    added_bytes: 0,
                });
                self.touched.len() - 1
            }
        };
        let Some(touched) = self.touched.get_mut(index) else { return true };
        if let Some(overflow) = &target.overflow
            && overflow.mode != model::Overflow::DropHead
            && !delayed
            && (touched.messages >= overflow.length_max
                || touched.bytes + body_bytes > overflow.bytes_max)
        {
            return false;
        }
        touched.messages += 1;
        touched.added += 1;
        touched.added_bytes += body_bytes;
        touched.bytes += body_bytes;
        true
    }

    /// Counts a message for these queues no more.
    fn take_back(&mut self, targets: &[Target], body_bytes: u64) {
        for touched in &mut self.touched {
            if targets.iter().any(|target| target.queue == touched.target.queue.id) {
                touched.messages -= 1;
                touched.added -= 1;
                touched.added_bytes -= body_bytes;
                touched.bytes -= body_bytes;
            }
        }
    }

    fn refuse(&mut self, target: &RouteTarget, message: &Message, now: Timestamp) {
        if target
            .overflow
            .as_ref()
            .is_some_and(|overflow| overflow.mode == model::Overflow::RejectPublishDlx)
        {
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
            self.count_received();
            self.touched.clear();
            return Ok(Receipt::default());
        }
        self.flush_with(Vec::new(), Handout::AtOnce, now)
    }

    /// Commits the batch together with `first`, all or none: a transaction. Nobody sees its messages before it is
    /// durable.
    ///
    /// # Errors
    ///
    /// As [`Publisher::flush`].
    pub fn commit_transaction(
        &mut self,
        first: Vec<Change>,
        now: Timestamp,
    ) -> Result<Receipt, BrokerError> {
        self.flush_with(first, Handout::WhenDurable, now)
    }

    fn flush_with(
        &mut self,
        first: Vec<Change>,
        handout: Handout,
        now: Timestamp,
    ) -> Result<Receipt, BrokerError> {
        let capacity = self.changes.len();
        let gathered = std::mem::replace(&mut self.changes, Vec::with_capacity(capacity.min(1024)));
        let changes =
            if first.is_empty() { gathered } else { first.into_iter().chain(gathered).collect() };
        let touched = std::mem::take(&mut self.touched);
        self.count_received();
        let counters = &self.access.broker().counters;
        counters.routed.add(touched.iter().map(|touched| touched.added).sum());
        let receipt = self.access.commit(Commit { changes, now, handout, ..Commit::default() })?;
        counters.duplicates.add(receipt.duplicates.len() as u64);
        for touched in &touched {
            self.access.enqueued(&touched.target.queue, touched.target.overflow.as_ref(), now);
        }
        let pool = &*self.access.broker().pool;
        let mut floods = touched.iter().filter(|touched| touched.is_flood());
        self.crowd = floods.find_map(|touched| {
            let queue = &touched.target.queue;
            Some((Arc::clone(queue), queue.crowd(pool)?))
        });
        if self.earliest != Timestamp::MAX {
            self.access.wake_sweeper(self.earliest);
            self.earliest = Timestamp::MAX;
        }
        Ok(receipt)
    }

    /// Adds to the figures what came since the last time; [`Publisher::flush`] does it, too.
    pub fn count_received(&mut self) {
        if self.received > 0 {
            self.access.broker().counters.published.add(std::mem::take(&mut self.received));
        }
    }

    /// Whether the last batch reached a queue whose consumers are behind: then it is good to publish nothing for a
    /// moment, so that the backlog stays in the network and not here.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.crowd.is_some()
    }

    /// Whether consumers have caught up; otherwise the context's task is woken when they have.
    pub fn poll_relaxed(&mut self, context: &Context<'_>) -> bool {
        let pool = &*self.access.broker().pool;
        let relaxed =
            self.crowd.as_ref().is_none_or(|(queue, _)| queue.poll_relaxed(context, pool));
        if relaxed {
            self.crowd = None;
        }
        relaxed
    }

    /// The publisher has waited long enough.
    pub fn give_up_waiting(&mut self) {
        if let Some((queue, given)) = self.crowd.take() {
            queue.give_up_waiting(given);
        }
    }

    /// Forgets the batch: a transaction rolled back.
    pub fn discard(&mut self) {
        self.count_received();
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

fn malformed(error: impl std::fmt::Display) -> BrokerError {
    BrokerError::Malformed(error.to_string())
}

fn invalid(error: impl std::fmt::Display) -> BrokerError {
    BrokerError::Invalid(error.to_string())
}

impl Access {
    /// What an address leads to for this user.
    fn resolve(&self, exchange: &str, routing_key: &str) -> Result<RouteKind, BrokerError> {
        self.allow(Verb::Write, Kind::Exchange, exchange)?;
        if exchange.is_empty() && is_reply_token(routing_key) {
            return Ok(RouteKind::Reply);
        }
        let tenant = &self.inner.tenant;
        let (internal, topic) = match tenant.read().topology.exchange(exchange) {
            Some(found) => (found.internal, found.exchange_type.kind == ExchangeKind::Topic),
            None => return Err(BrokerError::not_found(Kind::Exchange, exchange)),
        };
        if internal {
            return Err(BrokerError::InternalExchange(exchange.into()));
        }
        if topic {
            self.allow_topic(Verb::Write, exchange, routing_key)?;
        }
        tenant.resolve(&self.inner.broker, exchange, routing_key)
    }

    fn route(
        &self,
        exchange: &str,
        keys: &[&str],
        headers: Option<RawTable<'_>>,
    ) -> Result<Vec<RouteTarget>, BrokerError> {
        self.inner.tenant.route(&self.inner.broker, exchange, keys, headers)
    }

    /// Hands a reply to the connection that waits for it.
    fn reply(&self, message: Message) -> Published {
        match self.inner.broker.reply(&self.inner.tenant.name, message, self.now()) {
            true => Published::Queued,
            false => Published::Unroutable,
        }
    }
}
