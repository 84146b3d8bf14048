//! What becomes of messages that were refused, expired, pushed out or tried too often.
//!
//! The pure decision is `model::decision`. Here it is carried out: one commit takes the message out of its queue and
//! puts it where it goes, with its history in the headers.

use std::sync::Arc;

use model::death::{self, Buried, Death};
pub use model::decision::Reason;
use model::decision::{Fate, decide};
use model::publish_rules::Marked;
use model::{Address, Message, QueueId, Timestamp};
use store::{Change, Commit, Hold, LeaseRequest, Leased, Sequences, Settlement, Target, Targets};

use crate::access::Access;
use crate::broker::Broker;
use crate::error::BrokerError;
use crate::queue::Queue;
use crate::route_cache::{Overflow, RouteTarget};
use crate::sweeper::Alarm;

/// When a hop that found no space is tried again.
const RETRY_MS: u64 = 1000;

/// Most messages pushed out of a full queue per commit.
const PUSHED_OUT_MAX: usize = 256;

/// Most chapters of a chain: a full dead-letter queue pushes into the next, and so on.
const CHAIN_MAX: usize = 16;

/// The end of a dead message.
#[derive(Debug)]
pub(crate) struct Grave {
    /// It, with its history.
    pub(crate) message: Message,
    /// Its queues, at least one.
    pub(crate) to: Vec<RouteTarget>,
    /// Whether they are a parking queue, because nobody said where to put it.
    pub(crate) parked: bool,
}

impl Broker {
    /// Settles expired messages that the pool reported of a queue.
    pub(crate) fn expire(&self, id: QueueId, leased: Vec<Leased>, now: Timestamp) {
        if let Some(queue) = self.queue(id) {
            self.expire_in(&queue, leased, now);
        }
    }

    pub(crate) fn expire_in(&self, queue: &Arc<Queue>, leased: Vec<Leased>, now: Timestamp) {
        self.counters.expired.add(leased.len() as u64);
        let messages: Vec<_> =
            leased.into_iter().map(|leased| (leased.sequence, leased.message)).collect();
        if let Err(error) = self.move_dead(queue, &messages, Reason::Expired, now, 0) {
            tracing::warn!(queue = %queue.name, %error, "expired messages stay leased");
        }
    }

    /// Gives leased messages back until a little later, uncounted.
    pub(crate) fn try_later(&self, queue: &Queue, sequences: Sequences, now: Timestamp) {
        let later = self.a_little_later(now);
        let settlement = Settlement::Release { not_before: Some(later), counted: false };
        let changes = vec![Change::Settle { queue: queue.id, sequences, settlement }];
        if let Err(error) = self.pool.commit(Commit { changes, now, ..Commit::default() }).now() {
            tracing::warn!(queue = %queue.name, %error, "messages stay leased");
        }
    }

    /// When a hop that found no space is tried again.
    pub(crate) fn a_little_later(&self, now: Timestamp) -> Timestamp {
        let later = now.after_ms(RETRY_MS);
        self.sweeper.set(later);
        later
    }

    /// Where a dead message goes; `None` if it is simply gone.
    pub(crate) fn bury(
        &self,
        queue: &Arc<Queue>,
        message: &Message,
        reason: Reason,
        now: Timestamp,
    ) -> Result<Option<Grave>, BrokerError> {
        let settings = queue.settings();
        let fate = decide(
            reason,
            settings.dead_letter_exchange.as_deref(),
            settings.dead_letter_routing_key.as_deref(),
        );
        let (exchange, routing_key) = match fate {
            Fate::Discard => return Ok(None),
            Fate::Park => {
                let parking = self.parking_queue(&queue.tenant, now)?;
                let (message, _) =
                    with_history(queue, message, reason, ("", Some(&parking.name)), now);
                let to = RouteTarget::with_followers(parking, false).collect();
                return Ok(Some(Grave { message, to, parked: true }));
            }
            Fate::DeadLetter { exchange, routing_key } => (exchange, routing_key),
        };
        let (buried, history) =
            with_history(queue, message, reason, (&exchange, routing_key.as_deref()), now);
        let Some(tenant) = self.tenant(&queue.tenant) else { return Ok(None) };
        let headers = Marked::of(buried.properties()).ok().and_then(|marked| marked.headers);
        let extra_keys =
            history.as_ref().map(|history| history.extra_keys.as_slice()).unwrap_or_default();
        let keys: Vec<&str> = [&*buried.address.routing_key]
            .into_iter()
            .chain(extra_keys.iter().map(String::as_str))
            .collect();
        let mut to = match tenant.route(self, &exchange, &keys, headers) {
            Ok(to) => to,
            // A dead-letter exchange that does not exist: as in RabbitMQ, the message is gone.
            Err(BrokerError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        if let Some(history) = &history {
            // A queue that does not get it has nothing to be followed in.
            let mut closed = false;
            to.retain(|target| {
                closed = (closed && target.follows) || history.closes_cycle(&target.queue.name);
                !closed
            });
        }
        if to.is_empty() {
            tracing::debug!(queue = %queue.name, reason = reason.word(), "dead letter reaches no queue, dropped");
            return Ok(None);
        }
        Ok(Some(Grave { message: buried, to, parked: false }))
    }

    pub(crate) fn count_dead(&self, reason: Reason) {
        let counter = match reason {
            Reason::Rejected => &self.counters.dead_lettered_rejected,
            Reason::Expired => &self.counters.dead_lettered_expired,
            Reason::MaxLength => &self.counters.dead_lettered_maxlen,
            Reason::DeliveryLimit => &self.counters.dead_lettered_delivery_limit,
        };
        counter.add(1);
    }

    /// After messages were put into queues: they deliver, and what they have too much is pushed out.
    pub(crate) fn follow_up(&self, reached: Vec<RouteTarget>, now: Timestamp, depth: usize) {
        let mut done: Vec<Arc<Queue>> = Vec::new();
        for target in reached {
            if done.iter().any(|queue| Arc::ptr_eq(queue, &target.queue)) {
                continue;
            }
            self.dispatch(&target.queue, now);
            if let Some(overflow) = &target.overflow {
                self.push_out(&target.queue, overflow, now, depth);
            }
            done.push(target.queue);
        }
    }

    /// Pushes the oldest messages out of a queue that has more than it may.
    pub(crate) fn push_out(
        &self,
        queue: &Arc<Queue>,
        overflow: &Overflow,
        now: Timestamp,
        depth: usize,
    ) {
        // A queue that refuses instead keeps what it has, also when a hop or a requeue brings it over its limit.
        if overflow.mode != model::Overflow::DropHead {
            return;
        }
        while let Ok(stats) = self.pool.stats(queue.id).now() {
            let over = stats.ready.saturating_sub(overflow.length_max);
            if (over == 0 && stats.ready_bytes <= overflow.bytes_max) || depth > CHAIN_MAX {
                return;
            }
            let messages_max =
                usize::try_from(over).unwrap_or(PUSHED_OUT_MAX).clamp(1, PUSHED_OUT_MAX);
            let request = LeaseRequest {
                queue: queue.id,
                messages_max,
                bytes_max: usize::MAX,
                hold: Hold::UntilSettled,
                now,
            };
            let Ok(lease) = self.pool.lease(request).now() else { return };
            if lease.messages.is_empty() && lease.expired.is_empty() {
                return;
            }
            if !lease.expired.is_empty() {
                self.expire_in(queue, lease.expired, now);
            }
            let messages: Vec<_> = lease
                .messages
                .into_iter()
                .map(|leased| (leased.sequence, leased.message))
                .collect();
            if let Err(error) = self.move_dead(queue, &messages, Reason::MaxLength, now, depth + 1)
            {
                tracing::warn!(queue = %queue.name, %error, "cannot push messages out of a full queue");
                return;
            }
            queue.note_pushed_out(messages.len());
        }
    }
}

impl Access {
    /// After a publish: the queue delivers, and pushes out what it has too much.
    pub(crate) fn enqueued(&self, queue: &Arc<Queue>, overflow: Option<&Overflow>, now: Timestamp) {
        let broker = &self.inner.broker;
        // A message whose time to live is zero has expired by now, but not for who is waiting for it.
        broker.dispatch(queue, Timestamp(now.0.saturating_sub(1)));
        if queue.is_stream() {
            broker.trim_stream(queue, now);
        }
        if let Some(overflow) = overflow {
            broker.push_out(queue, overflow, now, 0);
        }
    }

    /// What a queue with limits holds now.
    pub(crate) fn fill_of(&self, target: &RouteTarget) -> (u64, u64) {
        if target.overflow.is_none() {
            return (0, 0);
        }
        let stats = self.inner.broker.pool.stats(target.queue.id).now().unwrap_or_default();
        (stats.ready, stats.ready_bytes)
    }

    /// A full queue refused a message that its policy sends to the dead-letter exchange.
    pub(crate) fn dead_letter_refused(
        &self,
        queue: &Arc<Queue>,
        message: &Message,
        reason: Reason,
        now: Timestamp,
    ) {
        let broker = &self.inner.broker;
        let result = broker.bury(queue, message, reason, now).and_then(|buried| {
            let Some(Grave { message, to, .. }) = buried else { return Ok(()) };
            let changes = vec![enqueue(message, &to, None, now, &broker.sweeper)];
            broker.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
            broker.count_dead(reason);
            broker.follow_up(to, now, 0);
            Ok(())
        });
        let stall = &broker.stalls.refused;
        match result {
            Ok(()) if stall.went_on() => {
                tracing::info!(queue = %queue.name, "refused messages are dead-lettered again");
            }
            Ok(()) => {}
            Err(error) if stall.failed(now) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(queue = %queue.name, error, "cannot dead-letter refused messages");
            }
            Err(_) => {}
        }
    }
}

/// The message with its death written into the headers. Headers that cannot be taken apart stay as they are: a message
/// that nobody can read must not keep others from being buried.
pub(crate) fn with_history(
    queue: &Queue,
    message: &Message,
    reason: Reason,
    (exchange, routing_key): (&str, Option<&str>),
    now: Timestamp,
) -> (Message, Option<Buried>) {
    let entry = Death {
        queue: &queue.name,
        reason,
        exchange: &message.address.exchange,
        routing_key: &message.address.routing_key,
        new_routing_key: routing_key,
        time: now,
    };
    let history = death::record(message.properties(), &entry);
    let key = routing_key.unwrap_or(&message.address.routing_key);
    let address = Arc::new(Address { exchange: exchange.into(), routing_key: key.into() });
    let new = |properties: &[u8]| {
        Message::new(address, properties, message.body(), message.persistent, message.priority)
    };
    match history {
        Ok(history) => (new(&history.properties), Some(history)),
        Err(error) => {
            tracing::debug!(queue = %queue.name, %error, "dead letter without a history");
            (new(message.properties()), None)
        }
    }
}

/// Puts one message into queues, each with its own time to live.
pub(crate) fn enqueue(
    message: Message,
    to: &[RouteTarget],
    expiration_ms: Option<u64>,
    now: Timestamp,
    sweeper: &Alarm,
) -> Change {
    let targets: Targets = to
        .iter()
        .map(|target| {
            let ttl_ms = [target.ttl_ms, expiration_ms].into_iter().flatten().min();
            let stays = target.queue.is_stream() || target.follows;
            let expires = ttl_ms.filter(|_| !stays).map(|ttl_ms| now.after_ms(ttl_ms));
            if let Some(expires) = expires {
                sweeper.set(expires);
            }
            let priority = message.priority.min(target.priority_max);
            Target { queue: target.queue.id, priority, expires, not_before: None }
        })
        .collect();
    Change::Enqueue { message, targets, dedup: None }
}
