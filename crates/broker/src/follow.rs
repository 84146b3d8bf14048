//! Delivering what subscriptions collect: for whoever calls subscribers outside (webhooks, mail, exchanges).
//!
//! One task asks [`Broker::subscription_news`] and gets the identities of subscriptions that it should look at: they have
//! something to deliver, they were changed, or they are gone. At the start these are all of [`Output::Delivery`], so
//! there is no list to be asked for first (there is one: [`Broker::live_subscriptions`]). News of one subscription that
//! nobody has taken yet come once.
//!
//! For each: [`Broker::live_subscription`] says how it stands (`None`: it is gone, and so are its messages). If it may be
//! delivered to, [`Broker::lease_followed`] hands out messages, oldest first, each to nobody else until it is settled. When
//! less comes than was asked for, news will come with the next. [`Broker::settle_followed`] ends leases, in one commit:
//! delivered, to be tried again at a time, or given up and moved into a queue. A restart, or the end of the process in
//! the middle of an attempt, ends leases too: the message is handed out again, as `redelivered`, and none is lost.
//!
//! How often an attempt failed is in `delivery_count`, and survives restarts. What time to live a message was posted with is
//! in its `expiration` property as far as its door put it there; copies themselves do not expire.
//!
//! [`Output::Delivery`]: crate::Output::Delivery

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use model::publish_rules::Marked;
use model::{Address, Message, QueueDefinition, Sequence, SubscriptionId, Ticket, Timestamp};
use smallvec::smallvec;
use store::{
    Change, Commit, Condition, Handout, Hold, LeaseRequest, Leased, QueueStats, ReadRequest,
    Settlement, Which,
};

use crate::broker::Broker;
use crate::dead_letter::{Reason, enqueue, with_history};
use crate::declare::PARKING_QUEUE;
use crate::error::{BrokerError, Kind};
use crate::pools::once;
use crate::queue::Queue;
use crate::route_cache::RouteTarget;
use crate::subscriptions::Subscription;

/// Subscriptions with news. Bounded by how many there are.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    news: HashSet<SubscriptionId, foldhash::fast::RandomState>,
    waker: Option<Waker>,
}

impl Feed {
    /// There is something about a subscription.
    pub(crate) fn note(&self, subscription: SubscriptionId) {
        let waker = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.news.insert(subscription);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Vec<SubscriptionId>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.news.is_empty() {
            inner.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(inner.news.drain().collect())
    }
}

/// Messages to be delivered.
#[derive(Debug, Default)]
pub struct Followed {
    /// Oldest first. Each is held until it is settled with [`Broker::settle_followed`].
    pub messages: Vec<Leased>,
    /// There is more: ask again when these are settled or there is room, or wait for news.
    pub more: bool,
}

/// Where a message of a subscription is when its end is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Handed out by [`Broker::lease_followed`].
    Leased,
    /// Not handed out, and found by [`Broker::find_followed`]. It can be ended, and nothing else.
    Unheld,
}

/// How an attempt to deliver a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempted<'a> {
    /// It is delivered.
    Delivered,
    /// It failed, and is tried again at this time.
    Failed {
        /// Handed out again then.
        retry_at: Timestamp,
    },
    /// It was not tried: nothing is counted.
    Postponed {
        /// Handed out again then; `None` for at once.
        until: Option<Timestamp>,
    },
    /// It is given up: to a queue of the tenant, made if need be.
    GivenUp {
        /// Its name; `None` for the parking queue.
        queue: Option<&'a str>,
        /// Encoded properties that it has from now on: the message's own, and why it was given up.
        properties: &'a [u8],
    },
}

/// Where a message of a subscription goes inside of its tenant.
#[derive(Debug, Clone, Copy)]
pub struct PassOn<'a> {
    /// Name of the exchange, empty for the default one.
    pub exchange: &'a str,
    /// Routing key.
    pub routing_key: &'a str,
    /// Encoded properties that it has from now on.
    pub properties: &'a [u8],
    /// The body that it has from now on; the message's own if it stays as it is.
    pub body: Option<&'a [u8]>,
    /// Time to live in the queues that it reaches.
    pub ttl_ms: Option<u64>,
}

/// What a subscriber answers to whoever asked.
#[derive(Debug, Clone, Copy)]
pub struct Answering<'a> {
    /// Encoded properties.
    pub properties: &'a [u8],
    /// Body.
    pub body: &'a [u8],
}

/// What became of an answer. The message that was answered is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// When that is durable.
    pub ticket: Ticket,
    /// Whether the answer went to somebody.
    pub sent: Result<(), Unanswerable>,
}

/// Why an answer has nowhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    /// Answers go where the user who asked may publish, and that is nobody.
    #[error("the message has no user-id, and its reply-to is a queue")]
    NoUser,
    /// Whoever asked could not write there.
    #[error("the message's user may not write to the default exchange")]
    MayNotWrite,
    /// There is no such queue, or nobody waits any more.
    #[error("nobody is at the message's reply-to")]
    Nobody,
    /// The queue refuses more.
    #[error("the queue of the message's reply-to is full")]
    Full,
}

/// What [`Broker::tell_subscriber`] sends has this exchange, which no client can publish to.
pub const TOLD_EXCHANGE: &str = "amq.posthouse.told";

impl Broker {
    /// Subscriptions to look at; waits until there are some. For one task at a time. Cancel-safe.
    pub async fn subscription_news(&self) -> Vec<SubscriptionId> {
        poll_fn(|context| self.poll_subscription_news(context)).await
    }

    /// As [`Broker::subscription_news`], for a hand-written future.
    pub fn poll_subscription_news(&self, context: &Context<'_>) -> Poll<Vec<SubscriptionId>> {
        self.feed.poll(context)
    }

    /// How a subscription stands; `None` if it is gone.
    pub fn live_subscription(&self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        self.subscriptions.get(id)
    }

    /// Every subscription of every tenant, in no order.
    pub fn live_subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.subscriptions.all()
    }

    /// What waits for a subscription, and what is being delivered.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn followed_stats(&self, subscription: &Subscription) -> Result<QueueStats, BrokerError> {
        Ok(self.pool.stats(subscription.follower().id).now()?)
    }

    /// Hands out at most `count_max` messages of a subscription.
    ///
    /// # Errors
    ///
    /// If it is gone, or the store fails.
    pub fn lease_followed(
        &self,
        subscription: &Subscription,
        count_max: usize,
        bytes_max: usize,
        now: Timestamp,
    ) -> Result<Followed, BrokerError> {
        let request = LeaseRequest {
            queue: subscription.follower().id,
            messages_max: count_max,
            bytes_max,
            hold: Hold::UntilSettled,
            now,
        };
        let lease = self.pool.lease(request).now()?;
        let mut messages = lease.expired;
        messages.extend(lease.messages);
        Ok(Followed { messages, more: lease.more })
    }

    /// A message of a subscription that is not handed out now, by its place. For the one task that also leases: only while
    /// it does not, the message stays so.
    ///
    /// # Errors
    ///
    /// If the subscription is gone, or the store fails.
    pub fn find_followed(
        &self,
        subscription: &Subscription,
        sequence: Sequence,
    ) -> Result<Option<Leased>, BrokerError> {
        let request = ReadRequest {
            queue: subscription.follower().id,
            which: Which { ready: true, delayed: true, leased: false },
            from: sequence,
            messages_max: 1,
            bytes_max: usize::MAX,
        };
        let found = self.pool.read(request).now()?.into_iter().next();
        Ok(found.filter(|it| it.sequence == sequence).map(|it| Leased {
            sequence,
            message: it.message,
            delivery_count: it.delivery_count,
            redelivered: true,
            expires: it.expires,
            enqueued: it.enqueued,
        }))
    }

    /// Ends messages of a subscription, or their leases, all in one commit. Returned is when that is durable; `None` if
    /// there is no space for what is given up, which is handed out again a little later.
    ///
    /// # Errors
    ///
    /// If the tenant is gone, or the store has failed.
    pub fn settle_followed(
        &self,
        subscription: &Subscription,
        held: Held,
        attempts: &[(Leased, Attempted<'_>)],
        now: Timestamp,
    ) -> Result<Option<Ticket>, BrokerError> {
        let follower = subscription.follower();
        let (mut changes, mut copies, mut reached) = (Vec::new(), Vec::new(), Vec::new());
        for (leased, attempted) in attempts {
            let end = |settlement| settle(follower, leased.sequence, settlement);
            match attempted {
                Attempted::Delivered => changes.push(ended(follower, leased.sequence, held)),
                Attempted::Failed { retry_at } => {
                    self.sweeper.set(*retry_at);
                    let not_before = Some(*retry_at);
                    changes.push(end(Settlement::Release { not_before, counted: true }));
                }
                Attempted::Postponed { until } => {
                    self.sweeper.set(until.unwrap_or(Timestamp::MAX));
                    let not_before = *until;
                    changes.push(end(Settlement::Release { not_before, counted: false }));
                }
                Attempted::GivenUp { queue, properties } => {
                    let name = queue.unwrap_or(PARKING_QUEUE);
                    let grave = self.grave(&subscription.tenant, name, now)?;
                    let to: Vec<_> = RouteTarget::with_followers(grave, false).collect();
                    let reason = Reason::DeliveryLimit;
                    let old = &leased.message;
                    let address = Arc::clone(&old.address);
                    let message = rewritten(old, address, properties, old.body());
                    let (message, _) =
                        with_history(follower, &message, reason, ("", Some(name)), now);
                    let copy = enqueue(message, &to, None, now, &self.sweeper);
                    copies.push((leased.sequence, once(follower, leased.sequence, &to, copy)));
                    reached.extend(to);
                }
            }
        }
        self.commit_settled((follower, held), changes, copies, reached, now)
    }

    /// Publishes a message of a subscription to an exchange of its tenant and ends its lease, in one commit. Returned is
    /// when that is durable; `None`, with nothing changed, if no queue wants it.
    ///
    /// # Errors
    ///
    /// If the tenant or the exchange is gone, or the store has no space or has failed; nothing has changed then.
    pub fn pass_on(
        &self,
        subscription: &Subscription,
        leased: &Leased,
        to: &PassOn<'_>,
        now: Timestamp,
    ) -> Result<Option<Ticket>, BrokerError> {
        let tenant = self
            .tenant(&subscription.tenant)
            .ok_or_else(|| BrokerError::not_found(Kind::Tenant, &subscription.tenant))?;
        let headers = Marked::of(to.properties).ok().and_then(|marked| marked.headers);
        let reached = tenant.route(self, to.exchange, &[to.routing_key], headers)?;
        if reached.is_empty() {
            return Ok(None);
        }
        let address = Address { exchange: to.exchange.into(), routing_key: to.routing_key.into() };
        let old = &leased.message;
        let body = to.body.unwrap_or_else(|| old.body());
        let message = rewritten(old, Arc::new(address), to.properties, body);
        let follower = subscription.follower();
        let copy = enqueue(message, &reached, to.ttl_ms, now, &self.sweeper);
        let changes = vec![
            settle(follower, leased.sequence, Settlement::Ack),
            once(follower, leased.sequence, &reached, copy),
        ];
        let handout = Handout::WhenDurable;
        let receipt =
            self.pool.commit(Commit { changes, now, handout, ..Commit::default() }).now()?;
        self.follow_up(reached, now, 0);
        Ok(Some(receipt.ticket))
    }

    /// Tells a subscriber something that is no message of the queue, such as that it should confirm. It waits among the
    /// subscription's messages and is delivered as they are, also if the subscription collects none; its exchange is
    /// [`TOLD_EXCHANGE`].
    ///
    /// # Errors
    ///
    /// If the subscription is gone, is not delivered to, or the store has no space or has failed.
    pub fn tell_subscriber(
        &self,
        subscription: &Subscription,
        properties: &[u8],
        body: &[u8],
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        let follower = subscription.follower();
        if follower.feeds().is_none() {
            return Err(BrokerError::not_found(Kind::Queue, &follower.name));
        }
        let address = Address { exchange: TOLD_EXCHANGE.into(), routing_key: "".into() };
        let message = Message::new(Arc::new(address), properties, body, true, 0);
        let to = [RouteTarget::new(Arc::clone(follower), false)];
        let changes = vec![enqueue(message, &to, None, now, &self.sweeper)];
        let receipt = self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
        self.dispatch(follower, now);
        Ok(receipt.ticket)
    }

    fn commit_settled(
        &self,
        (follower, held): (&Arc<Queue>, Held),
        plain: Vec<Change>,
        copies: Vec<(Sequence, Change)>,
        reached: Vec<RouteTarget>,
        now: Timestamp,
    ) -> Result<Option<Ticket>, BrokerError> {
        let given_up: Vec<Sequence> = copies.iter().map(|it| it.0).collect();
        let moved = given_up.iter().map(|it| ended(follower, *it, held));
        let handout = if given_up.is_empty() { Handout::AtOnce } else { Handout::WhenDurable };
        let moved = moved.chain(copies.into_iter().map(|it| it.1));
        let changes = plain.iter().cloned().chain(moved).collect();
        let ticket = match self
            .pool
            .commit(Commit { changes, now, handout, ..Commit::default() })
            .now()
        {
            Ok(receipt) => {
                given_up.iter().for_each(|_| self.count_dead(Reason::DeliveryLimit));
                if !given_up.is_empty() && self.stalls.given_up.went_on() {
                    tracing::info!(queue = %follower.name, "deliveries are given up again");
                }
                self.follow_up(reached, now, 0);
                Some(receipt.ticket)
            }
            Err(error) if error.retryable() && !given_up.is_empty() && held == Held::Leased => {
                if self.stalls.given_up.failed(now) {
                    tracing::warn!(queue = %follower.name, %error, "given up deliveries wait on");
                }
                let later = Some(self.a_little_later(now));
                let back = Settlement::Release { not_before: later, counted: false };
                let released = given_up.iter().map(|it| settle(follower, *it, back));
                let changes = plain.into_iter().chain(released).collect();
                self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
                None
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(id) = follower.feeds() {
            self.note_if_ready(id, follower);
        }
        Ok(ticket)
    }

    /// What came back is news.
    fn note_if_ready(&self, id: SubscriptionId, follower: &Queue) {
        if self.pool.stats(follower.id).now().is_ok_and(|stats| stats.ready > 0) {
            self.feed.note(id);
        }
    }

    /// The queue of a tenant that is given what nobody could deliver.
    fn grave(&self, tenant: &str, name: &str, now: Timestamp) -> Result<Arc<Queue>, BrokerError> {
        if name == PARKING_QUEUE {
            return self.parking_queue(tenant, now);
        }
        let tenant =
            self.tenant(tenant).ok_or_else(|| BrokerError::not_found(Kind::Tenant, tenant))?;
        let mut state = tenant.write();
        if let Some(queue) = state.queues.get(name) {
            return Ok(Arc::clone(queue));
        }
        let definition = QueueDefinition::plain(name);
        Ok(self.add_queue(&tenant, &mut state, definition, None, now)?.0)
    }
}

/// The same message with other properties, on its way to somewhere else.
fn rewritten(old: &Message, address: Arc<Address>, properties: &[u8], body: &[u8]) -> Message {
    Message::new(address, properties, body, old.persistent, old.priority)
}

fn settle(queue: &Queue, sequence: Sequence, settlement: Settlement) -> Change {
    Change::Settle { queue: queue.id, sequences: smallvec![(sequence, sequence)], settlement }
}

/// The end of a message, wherever it is held.
pub(crate) fn ended(queue: &Queue, sequence: Sequence, held: Held) -> Change {
    match held {
        Held::Leased => settle(queue, sequence, Settlement::Ack),
        Held::Unheld => Change::Remove {
            queue: queue.id,
            sequences: Box::new([sequence]),
            condition: Condition::Unheld,
        },
    }
}
