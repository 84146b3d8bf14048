//! Subscribing to a queue: definitions of who follows it, and of for how long.
//!
//! A subscription has a hidden queue of its own, its *follower*. Whatever enters the queue that it follows, by any door,
//! from a dead letter or when a delay is over, enters the follower in the same commit; the body is stored once. What is in
//! the follower is delivered by a consumer (a socket) or by whoever listens to [`follow`](crate::follow) (webhooks, mail).
//! Copies do not expire: whoever delivers them decides when it gives up.
//!
//! Subscriptions belong to the name of their queue: they stay when it is deleted, and follow the next of that name.

use std::sync::Arc;

use model::permission::Verb;
use model::{QueueDefinition, QueueId, QueueSettings, SubscriptionId, Ticket, Timestamp};
use store::{Change, Commit};

use crate::access::Access;
use crate::broker::Broker;
use crate::consumer::{ConsumeOptions, Consumer, Credit};
use crate::error::{BrokerError, Kind};
use crate::outbox::{Outbox, Outgoing};
use crate::pools::beside;
use crate::queue::{Queue, Role};
use crate::subscriptions::{
    SUBSCRIPTIONS_PER_QUEUE_MAX, Subscription, SubscriptionValue, put_subscription,
    remove_subscription,
};
use crate::tenant::{State, Tenant};

/// Longest URI of a subscriber.
const SUBSCRIBER_BYTES_MAX: usize = 4096;

/// Longest options.
const OPTIONS_BYTES_MAX: usize = 64 * 1024;

/// How the messages of a subscription leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// By whoever listens to [`follow`](crate::follow). Durable.
    Delivery,
    /// By a consumer, through restarts and while there is none.
    DurableConsumer,
    /// By a consumer; a restart ends it. No more waits for it than its backlog: then the oldest is dropped.
    Consumer(Backlog),
}

/// How much may wait for a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Most messages.
    pub messages_max: u64,
    /// Most bytes of their bodies.
    pub bytes_max: u64,
}

/// What somebody subscribes.
#[derive(Debug, Clone, Copy)]
pub struct Subscribe<'a> {
    /// Who is told, as a URI of at most 4 KiB; unique for a queue.
    pub subscriber: &'a str,
    /// JSON text of at most 64 KiB that the broker does not understand.
    pub options: &'a [u8],
    /// How long it lasts.
    pub ttl_ms: u64,
    /// Whether the subscriber has agreed, and whether messages are kept for it already.
    pub confirmation: Confirmation,
    /// How its messages leave.
    pub output: Output,
}

/// Whether a subscriber has agreed, and what that means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// It has.
    Confirmed,
    /// It has not, but gets messages nevertheless.
    NotNeeded,
    /// It has not, and gets nothing before.
    Awaited,
}

impl Confirmation {
    fn collects(self) -> bool {
        self != Self::Awaited
    }
}

/// What came of a wish to subscribe.
#[derive(Debug, Clone)]
pub enum Subscribed {
    /// A new one, durable with the ticket.
    New(Arc<Subscription>, Ticket),
    /// There is one of this subscriber, which stays as it is.
    Exists(Arc<Subscription>),
}

/// What changes in a subscription; `None` for what stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct SubscriptionChange<'a> {
    /// Who is told.
    pub subscriber: Option<&'a str>,
    /// How long it lasts from now on.
    pub ttl_ms: Option<u64>,
    /// JSON text.
    pub options: Option<&'a [u8]>,
}

/// What came of a change.
#[derive(Debug, Clone)]
pub enum Updated {
    /// As it is now, durable with the ticket.
    Updated(Arc<Subscription>, Ticket),
    /// There is no such subscription.
    Missing,
    /// Another subscription of the queue has that subscriber.
    Taken,
}

impl Access {
    /// Has a subscriber follow a queue.
    ///
    /// # Errors
    ///
    /// If the queue does not exist or may not be read, the subscriber or the options are too long, or the queue has
    /// [`SUBSCRIPTIONS_PER_QUEUE_MAX`].
    pub fn subscribe(
        &self,
        queue: &str,
        subscribe: &Subscribe<'_>,
        now: Timestamp,
    ) -> Result<Subscribed, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        check(Some(subscribe.subscriber), Some(subscribe.options))?;
        let (broker, tenant) = (&self.inner.broker, &self.inner.tenant);
        self.end_those_over(&queue.name, now)?;
        let mut state = tenant.write();
        let of_queue = state.subscriptions.get(&*queue.name);
        if let Some(found) = of_queue.and_then(|it| it.of_subscriber(subscribe.subscriber)) {
            return Ok(Subscribed::Exists(Arc::clone(found)));
        }
        if of_queue.is_some_and(|it| it.len() >= SUBSCRIPTIONS_PER_QUEUE_MAX) {
            return Err(BrokerError::LimitReached(format!(
                "queue '{}' has {SUBSCRIPTIONS_PER_QUEUE_MAX} subscriptions, which is the limit",
                queue.name
            )));
        }
        let seconds = u32::try_from((now.0 / 1000) & u64::from(u32::MAX)).unwrap_or(0);
        let id = SubscriptionId::new(seconds, broker.unforeseeable());
        let follower = broker.make_follower(tenant, &queue, id, subscribe.output, now)?;
        let subscription = Arc::new(Subscription {
            id,
            tenant: Arc::clone(&tenant.name),
            queue: Arc::clone(&queue.name),
            subscriber: subscribe.subscriber.into(),
            options: subscribe.options.into(),
            ttl_ms: subscribe.ttl_ms,
            created: now,
            updated: now,
            confirmed: subscribe.confirmation == Confirmation::Confirmed,
            collects: subscribe.confirmation.collects(),
            follower,
        });
        let ticket = broker.put_subscription(&mut state, &subscription)?;
        Ok(Subscribed::New(subscription, ticket))
    }

    /// A subscription of a queue, which need not exist.
    ///
    /// # Errors
    ///
    /// If the queue may not be read.
    pub fn subscription(
        &self,
        queue: &str,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Option<Arc<Subscription>>, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let state = self.inner.tenant.read();
        let found = state.subscriptions.get(queue).and_then(|it| it.get(id)).cloned();
        Ok(found.filter(|it| it.expires() > now))
    }

    /// At most `count_max` subscriptions of a queue behind `after`, by identity.
    ///
    /// # Errors
    ///
    /// If the queue may not be read.
    pub fn subscriptions_page(
        &self,
        queue: &str,
        after: Option<SubscriptionId>,
        count_max: usize,
        now: Timestamp,
    ) -> Result<Vec<Arc<Subscription>>, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let state = self.inner.tenant.read();
        let of_queue = state.subscriptions.get(queue).into_iter();
        let alive = of_queue.flat_map(|it| it.after(after)).filter(|it| it.expires() > now);
        Ok(alive.take(count_max).cloned().collect())
    }

    /// Changes a subscription.
    ///
    /// # Errors
    ///
    /// If the queue may not be read, or what is new is too long.
    pub fn update_subscription(
        &self,
        queue: &str,
        id: SubscriptionId,
        change: &SubscriptionChange<'_>,
        now: Timestamp,
    ) -> Result<Updated, BrokerError> {
        check(change.subscriber, change.options)?;
        let taken = |state: &State| {
            let of_queue = state.subscriptions.get(queue);
            let other = change.subscriber.and_then(|new| of_queue?.of_subscriber(new));
            other.is_some_and(|other| other.id != id)
        };
        self.alter(queue, id, now, |state, subscription| {
            if taken(state) {
                return false;
            }
            if let Some(subscriber) = change.subscriber {
                subscription.subscriber = subscriber.into();
            }
            if let Some(options) = change.options {
                subscription.options = options.into();
            }
            if let Some(ttl_ms) = change.ttl_ms {
                (subscription.ttl_ms, subscription.updated) = (ttl_ms, now);
            }
            true
        })
    }

    /// Notes whether a subscriber has agreed; `None` if there is no such subscription.
    ///
    /// # Errors
    ///
    /// If the queue may not be read.
    pub fn confirm_subscription(
        &self,
        queue: &str,
        id: SubscriptionId,
        confirmation: Confirmation,
        now: Timestamp,
    ) -> Result<Option<(Arc<Subscription>, Ticket)>, BrokerError> {
        let confirmed = self.alter(queue, id, now, |_, subscription| {
            subscription.confirmed = confirmation == Confirmation::Confirmed;
            subscription.collects = confirmation.collects();
            true
        })?;
        Ok(match confirmed {
            Updated::Updated(subscription, ticket) => Some((subscription, ticket)),
            Updated::Missing | Updated::Taken => None,
        })
    }

    /// Ends a subscription, with what was not delivered to it. Fine if there is none.
    ///
    /// # Errors
    ///
    /// If the queue may not be read.
    pub fn unsubscribe(
        &self,
        queue: &str,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        self.inner.broker.end_subscription(&self.inner.tenant, queue, id, now)
    }

    /// Starts a consumer of what a subscription collects; settled as any other.
    ///
    /// # Errors
    ///
    /// If the subscription is of another tenant, is gone, is not for consumers, or in exclusive use.
    pub fn consume_subscription(
        &self,
        subscription: &Subscription,
        options: ConsumeOptions,
        outbox: &Arc<Outbox>,
        channel_credit: Arc<Credit>,
        now: Timestamp,
    ) -> Result<Arc<Consumer>, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, &subscription.queue)?;
        let follower = Arc::clone(&subscription.follower);
        if *subscription.tenant != *self.inner.tenant.name || follower.feeds().is_some() {
            return Err(BrokerError::not_found(Kind::Queue, &follower.name));
        }
        self.start_consumer(&follower, options, outbox, channel_credit, now)
    }

    /// Replaces a subscription by what `change` makes of it, unless that finds its subscriber taken.
    fn alter(
        &self,
        queue: &str,
        id: SubscriptionId,
        now: Timestamp,
        change: impl FnOnce(&State, &mut Subscription) -> bool,
    ) -> Result<Updated, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let mut state = self.inner.tenant.write();
        let found = state.subscriptions.get(queue).and_then(|it| it.get(id)).cloned();
        let Some(found) = found.filter(|it| it.expires() > now) else {
            return Ok(Updated::Missing);
        };
        let mut changed = Subscription::clone(&found);
        if !change(&state, &mut changed) {
            return Ok(Updated::Taken);
        }
        let changed = Arc::new(changed);
        let ticket = self.inner.broker.put_subscription(&mut state, &changed)?;
        Ok(Updated::Updated(changed, ticket))
    }

    /// A subscriber may come again as soon as its time is over, also if the sweeper is late.
    fn end_those_over(&self, queue: &str, now: Timestamp) -> Result<(), BrokerError> {
        let over: Vec<SubscriptionId> = {
            let state = self.inner.tenant.read();
            let all = state.subscriptions.get(queue).into_iter().flat_map(|it| it.all());
            all.filter(|it| it.expires() <= now).map(|it| it.id).collect()
        };
        for id in over {
            self.inner.broker.end_subscription(&self.inner.tenant, queue, id, now)?;
        }
        Ok(())
    }
}

fn check(subscriber: Option<&str>, options: Option<&[u8]>) -> Result<(), BrokerError> {
    let too_long = |what: &str, max: usize, len: usize| {
        BrokerError::Invalid(format!("{what} must be at most {max} bytes, not {len}"))
    };
    if let Some(long) = subscriber.map(str::len).filter(|len| *len > SUBSCRIBER_BYTES_MAX) {
        return Err(too_long("a subscriber", SUBSCRIBER_BYTES_MAX, long));
    }
    if let Some(long) = options.map(<[u8]>::len).filter(|len| *len > OPTIONS_BYTES_MAX) {
        return Err(too_long("options of a subscription", OPTIONS_BYTES_MAX, long));
    }
    Ok(())
}

fn follower_of(
    tenant: &Tenant,
    (queue, subscription): (&str, SubscriptionId),
    output: Output,
    id: QueueId,
    now: Timestamp,
) -> Arc<Queue> {
    let (role, backlog) = match output {
        Output::Delivery => (Role::Fed(subscription), None),
        Output::DurableConsumer => (Role::Follower, None),
        Output::Consumer(backlog) => (Role::Follower, Some(backlog)),
    };
    let name = format!("{queue}/{subscription}");
    let definition =
        QueueDefinition { durable: backlog.is_none(), ..QueueDefinition::plain(&name) };
    let mut settings = QueueSettings::default();
    settings.max_length = backlog.map(|backlog| backlog.messages_max);
    settings.max_length_bytes = backlog.map(|backlog| backlog.bytes_max);
    Arc::new(Queue::follower(id, Arc::clone(&tenant.name), definition, (role, settings), now))
}

impl Broker {
    fn make_follower(
        &self,
        tenant: &Tenant,
        queue: &Queue,
        subscription: SubscriptionId,
        output: Output,
        now: Timestamp,
    ) -> Result<Arc<Queue>, BrokerError> {
        let id = beside(queue.id, self.allocate_queue_count()?);
        let follower = follower_of(tenant, (&queue.name, subscription), output, id, now);
        let changes = vec![Change::CreateQueue { queue: follower.id, kind: follower.kind() }];
        self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
        self.remember_queue(&follower);
        Ok(follower)
    }

    /// Has a subscription stand as it is, in its tenant, in the catalog, and for whoever delivers.
    fn put_subscription(
        &self,
        state: &mut State,
        subscription: &Arc<Subscription>,
    ) -> Result<Ticket, BrokerError> {
        let change = subscription.is_durable().then(|| put_subscription(subscription));
        let ticket = self.define(change.into_iter().collect())?;
        state.put_subscription(Arc::clone(subscription));
        self.subscriptions.insert(Arc::clone(subscription));
        self.sweeper.set(subscription.expires());
        if subscription.follower.feeds().is_some() {
            self.feed.note(subscription.id);
        }
        Ok(ticket)
    }

    pub(crate) fn load_subscription(
        &self,
        tenant: &Tenant,
        queue: &str,
        id: &str,
        value: &SubscriptionValue,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let id: SubscriptionId =
            id.parse().map_err(|error| BrokerError::Invalid(format!("'{id}': {error}")))?;
        let output = if value.fed { Output::Delivery } else { Output::DurableConsumer };
        let follower = follower_of(tenant, (queue, id), output, QueueId(value.follower), now);
        self.ensure_in_pool(&follower, now)?;
        self.remember_queue(&follower);
        let subscription = Arc::new(Subscription {
            id,
            tenant: Arc::clone(&tenant.name),
            queue: queue.into(),
            subscriber: value.subscriber.clone(),
            options: value.options.as_bytes().into(),
            ttl_ms: value.ttl_ms,
            created: Timestamp(value.created),
            updated: Timestamp(value.updated),
            confirmed: value.confirmed,
            collects: value.collects,
            follower,
        });
        tenant.write().put_subscription(Arc::clone(&subscription));
        self.subscriptions.insert(subscription);
        if value.fed {
            self.feed.note(id);
        }
        Ok(())
    }

    fn end_subscription(
        &self,
        tenant: &Tenant,
        queue: &str,
        id: SubscriptionId,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        let mut state = tenant.write();
        let Some(subscription) = state.remove_subscription(queue, id) else {
            return Ok(Ticket::NONE);
        };
        self.subscriptions.remove(id);
        let follower = &subscription.follower;
        let consumers = follower.delete().unwrap_or_default();
        self.forget_queue(follower);
        // The definition first: a queue without one is dropped at the start, the other way round it would come back.
        let change = subscription.is_durable().then(|| remove_subscription(&subscription));
        let ticket = self.define(change.into_iter().collect())?;
        let changes = vec![Change::DeleteQueue { queue: follower.id }];
        let receipt = self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
        drop(state);
        if follower.feeds().is_some() {
            self.feed.note(id);
        }
        for consumer in consumers {
            let outbox = Arc::clone(&consumer.outbox);
            consumer.cancel();
            outbox.push(&mut vec![Outgoing::Cancelled { consumer }]);
        }
        Ok(ticket.max(receipt.ticket))
    }

    /// Ends subscriptions whose time is over; when the next one's is.
    pub(crate) fn end_subscriptions(&self, now: Timestamp) -> Option<Timestamp> {
        loop {
            let subscription = match self.subscriptions.next_end(now) {
                Ok(subscription) => subscription,
                Err(next) => return next,
            };
            let tenant = self.tenant(&subscription.tenant);
            let ended = tenant.map(|tenant| {
                self.end_subscription(&tenant, &subscription.queue, subscription.id, now)
            });
            if let Some(Err(error)) = ended {
                tracing::warn!(queue = %subscription.queue, %error, "a subscription ends later");
            }
            // Whatever happened: it is not looked at again.
            self.subscriptions.remove(subscription.id);
        }
    }

    /// Ends all subscriptions of a tenant that goes.
    pub(crate) fn end_subscriptions_of(
        &self,
        tenant: &Tenant,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let all: Vec<Arc<Subscription>> = {
            let state = tenant.read();
            state.subscriptions.values().flat_map(|it| it.all()).cloned().collect()
        };
        for subscription in all {
            self.end_subscription(tenant, &subscription.queue, subscription.id, now)?;
        }
        Ok(())
    }
}
