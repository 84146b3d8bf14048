//! Who follows a queue: the subscriptions of a tenant by queue, and all of a broker by identity and by end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{SubscriptionId, Timestamp};
use serde::{Deserialize, Serialize};
use store::DefinitionChange;

use crate::definitions::{key, put};
use crate::queue::Queue;
use crate::tenant::State;

/// Most subscriptions of one queue.
pub const SUBSCRIPTIONS_PER_QUEUE_MAX: usize = 10_000;

/// A subscription as it stands; a change makes another one of the same identity.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Its identity.
    pub id: SubscriptionId,
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// The name of the queue that is followed, whether there is one or not.
    pub queue: Arc<str>,
    /// Who is told, as a URI. Unique for a queue.
    pub subscriber: Box<str>,
    /// JSON text that the broker does not understand.
    pub options: Arc<[u8]>,
    /// How long it lasts after [`Subscription::updated`].
    pub ttl_ms: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When its time to live began.
    pub updated: Timestamp,
    /// Whether the subscriber has agreed.
    pub confirmed: bool,
    /// Whether messages are kept for it.
    pub collects: bool,
    pub(crate) follower: Arc<Queue>,
}

impl Subscription {
    /// When it is over.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.updated.after_ms(self.ttl_ms)
    }

    /// Whether it survives a restart, and its messages too.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.follower.kind().durable
    }

    /// The queue that holds what is to be delivered to it. Clients do not see it.
    #[must_use]
    pub fn follower(&self) -> &Arc<Queue> {
        &self.follower
    }
}

/// The subscriptions of one queue.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    by_id: BTreeMap<SubscriptionId, Arc<Subscription>>,
    by_subscriber: HashMap<Box<str>, SubscriptionId>,
}

impl Subscriptions {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn get(&self, id: SubscriptionId) -> Option<&Arc<Subscription>> {
        self.by_id.get(&id)
    }

    pub(crate) fn of_subscriber(&self, subscriber: &str) -> Option<&Arc<Subscription>> {
        self.by_id.get(self.by_subscriber.get(subscriber)?)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.by_id.values()
    }

    pub(crate) fn after(
        &self,
        after: Option<SubscriptionId>,
    ) -> impl Iterator<Item = &Arc<Subscription>> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_id.range((begin, Bound::Unbounded)).map(|it| it.1)
    }

    /// Adds one, or replaces the one of its identity.
    fn insert(&mut self, subscription: Arc<Subscription>) {
        if let Some(before) = self.by_id.get(&subscription.id) {
            self.by_subscriber.remove(&before.subscriber);
        }
        self.by_subscriber.insert(subscription.subscriber.clone(), subscription.id);
        self.by_id.insert(subscription.id, subscription);
    }

    fn remove(&mut self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        let subscription = self.by_id.remove(&id)?;
        self.by_subscriber.remove(&subscription.subscriber);
        Some(subscription)
    }
}

/// A subscription as the catalog has it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SubscriptionValue {
    /// The queue that follows for it.
    pub(crate) follower: u64,
    pub(crate) subscriber: Box<str>,
    /// JSON text.
    pub(crate) options: Box<str>,
    pub(crate) ttl_ms: u64,
    pub(crate) created: u64,
    pub(crate) updated: u64,
    pub(crate) confirmed: bool,
    pub(crate) collects: bool,
    /// Delivered by who is told, and not by a consumer.
    pub(crate) fed: bool,
}

pub(crate) fn put_subscription(subscription: &Subscription) -> DefinitionChange {
    let id = subscription.id.to_string();
    let value = SubscriptionValue {
        follower: subscription.follower.id.0,
        subscriber: subscription.subscriber.clone(),
        options: String::from_utf8_lossy(&subscription.options).into(),
        ttl_ms: subscription.ttl_ms,
        created: subscription.created.0,
        updated: subscription.updated.0,
        confirmed: subscription.confirmed,
        collects: subscription.collects,
        fed: subscription.follower.feeds().is_some(),
    };
    put(&["subscription", &subscription.tenant, &subscription.queue, &id], &value)
}

pub(crate) fn remove_subscription(subscription: &Subscription) -> DefinitionChange {
    let id = subscription.id.to_string();
    DefinitionChange::Remove(key(&["subscription", &subscription.tenant, &subscription.queue, &id]))
}

impl State {
    /// Adds a subscription, or replaces the one of its identity.
    pub(crate) fn put_subscription(&mut self, subscription: Arc<Subscription>) {
        let queue = Arc::clone(&subscription.queue);
        self.subscriptions.entry(Arc::clone(&queue)).or_default().insert(subscription);
        self.attach_followers(&queue);
    }

    pub(crate) fn remove_subscription(
        &mut self,
        queue: &str,
        id: SubscriptionId,
    ) -> Option<Arc<Subscription>> {
        let of_queue = self.subscriptions.get_mut(queue)?;
        let subscription = of_queue.remove(id)?;
        if of_queue.len() == 0 {
            self.subscriptions.remove(queue);
        }
        self.attach_followers(queue);
        Some(subscription)
    }

    /// Tells a queue who follows it.
    pub(crate) fn attach_followers(&self, queue: &str) {
        let Some(found) = self.queues.get(queue) else { return };
        let all = self.subscriptions.get(queue).into_iter().flat_map(Subscriptions::all);
        let collecting = all.filter(|subscription| subscription.collects);
        found.set_followers(collecting.map(|it| Arc::clone(&it.follower)).collect());
    }
}

/// Every subscription of a broker.
#[derive(Debug, Default)]
pub(crate) struct Register {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<SubscriptionId, Arc<Subscription>>,
    ends: BTreeSet<(Timestamp, SubscriptionId)>,
}

impl Register {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: SubscriptionId) -> Option<Arc<Subscription>> {
        self.known().by_id.get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Subscription>> {
        self.known().by_id.values().cloned().collect()
    }

    pub(crate) fn insert(&self, subscription: Arc<Subscription>) {
        let mut known = self.known();
        let end = (subscription.expires(), subscription.id);
        if let Some(before) = known.by_id.insert(subscription.id, subscription) {
            known.ends.remove(&(before.expires(), before.id));
        }
        known.ends.insert(end);
    }

    pub(crate) fn remove(&self, id: SubscriptionId) {
        let mut known = self.known();
        if let Some(before) = known.by_id.remove(&id) {
            known.ends.remove(&(before.expires(), before.id));
        }
    }

    /// The first that is over, or else when one will be.
    pub(crate) fn next_end(&self, now: Timestamp) -> Result<Arc<Subscription>, Option<Timestamp>> {
        let known = self.known();
        let Some((end, id)) = known.ends.first() else { return Err(None) };
        match known.by_id.get(id).filter(|_| *end <= now) {
            Some(subscription) => Ok(Arc::clone(subscription)),
            None => Err(Some(*end)),
        }
    }
}
