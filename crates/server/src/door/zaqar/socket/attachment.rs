//! A subscription that a connection serves: its consumer, and what was delivered and is not acknowledged.
//!
//! A durable one can be taken over by another connection, because who reconnects comes back before the server has noticed
//! that the old connection is dead. What the old one holds unacknowledged then returns to its place.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use broker::{Access, Consumer, Counted, Holder, Refused, SettleBatch, Subscription};
use delivery::Filter;
use model::{Message, Sequence, Setback, SubscriptionId, Timestamp};
use store::Leased;

/// When a delivery counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckedBy {
    /// When it is handed to the socket: what is under way when the connection ends is lost.
    Nobody,
    /// When the peer has answered a ping that was sent behind it: it has arrived.
    Pong,
    /// When the client says so.
    Client,
}

/// A subscription with its consumer.
#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) subscription: Arc<Subscription>,
    pub(super) acked_by: AckedBy,
    pub(super) consumer: Arc<Consumer>,
    filter: Option<Filter>,
    access: Access,
    held: Mutex<Held>,
}

/// What is said about a delivery that is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted {
    pub(super) number: u64,
    /// Messages that were dropped since the last delivery, because more waited than may.
    pub(super) missed: u64,
}

#[derive(Debug, Default)]
struct Held {
    /// Oldest first, numbers growing.
    deliveries: VecDeque<Delivery>,
    /// Number of the last delivery.
    last: u64,
    /// Dropped messages that the peer was told of.
    missed: u64,
    /// Another connection has it, or it ended.
    over: bool,
}

/// A delivery that is not acknowledged.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    number: u64,
    /// The ping behind it.
    barrier: u64,
    sequence: Sequence,
    delivery_count: u32,
}

impl Attachment {
    pub(super) fn new(
        access: Access,
        subscription: Arc<Subscription>,
        acked_by: AckedBy,
        consumer: Arc<Consumer>,
        filter: Option<Filter>,
    ) -> Self {
        Self { subscription, acked_by, consumer, filter, access, held: Mutex::default() }
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// Whether the subscriber wants a message, whose body is in the clear.
    pub(super) fn wants(&self, message: &Message) -> bool {
        let Some(filter) = &self.filter else { return true };
        filter.matches_message(message, &self.subscription.queue).unwrap_or_else(|error| {
            tracing::debug!(id = %self.subscription.id, %error, "filter has no answer");
            false
        })
    }

    /// Notes that messages are done which the subscriber does not want.
    pub(super) fn skip(&self, sequences: &[Sequence], now: Timestamp) {
        if self.acked_by == AckedBy::Nobody {
            return;
        }
        let holder = Holder::Consumer(Arc::clone(&self.consumer));
        let mut batch = SettleBatch::default();
        sequences.iter().for_each(|sequence| batch.add(&holder, *sequence));
        self.settle(batch, now);
    }

    /// Notes a delivery in front of the ping `barrier`; `None` if it must not be made.
    pub(super) fn note(&self, leased: &Leased, barrier: u64) -> Option<Noted> {
        let mut held = self.held();
        if held.over {
            return None;
        }
        held.last += 1;
        let number = held.last;
        if self.acked_by != AckedBy::Nobody {
            let Leased { sequence, delivery_count, .. } = *leased;
            held.deliveries.push_back(Delivery { number, barrier, sequence, delivery_count });
        }
        let dropped = self.subscription.follower().pushed_out();
        let missed = dropped - std::mem::replace(&mut held.missed, dropped);
        Some(Noted { number, missed })
    }

    /// The peer has answered the ping `barrier`.
    pub(super) fn arrived(&self, barrier: u64, now: Timestamp) {
        if self.acked_by == AckedBy::Pong {
            self.acknowledge(|delivery| delivery.barrier <= barrier, now);
        }
    }

    /// The client has done all deliveries up to this number.
    pub(super) fn done(&self, number: u64, now: Timestamp) {
        self.acknowledge(|delivery| delivery.number <= number, now);
    }

    fn acknowledge(&self, is_done: impl Fn(&Delivery) -> bool, now: Timestamp) {
        let holder = Holder::Consumer(Arc::clone(&self.consumer));
        let mut batch = SettleBatch::default();
        {
            let mut held = self.held();
            while let Some(done) = held.deliveries.pop_front_if(|delivery| is_done(delivery)) {
                batch.add(&holder, done.sequence);
            }
        }
        self.settle(batch, now);
    }

    fn settle(&self, batch: SettleBatch, now: Timestamp) {
        if !batch.is_empty()
            && let Err(error) = self.access.acknowledge(batch, now)
        {
            tracing::warn!(%error, "deliveries to a socket cannot be acknowledged");
        }
    }

    /// Ends the consumer; what it held returns to its place.
    pub(super) fn let_go(&self, now: Timestamp) {
        self.access.stop(&self.consumer);
        let held = {
            let mut held = self.held();
            held.over = true;
            std::mem::take(&mut held.deliveries)
        };
        let refused: Vec<Refused> = held
            .into_iter()
            .map(|delivery| Refused {
                holder: Holder::Consumer(Arc::clone(&self.consumer)),
                sequence: delivery.sequence,
                delivery_count: delivery.delivery_count,
                setback: Setback::Returned,
            })
            .collect();
        self.release(&refused, now);
        self.access.cancel(&self.consumer, now);
    }

    /// Gives back what never reached the peer.
    pub(super) fn release(&self, refused: &[Refused], now: Timestamp) {
        if !refused.is_empty()
            && let Err(error) = self.access.release(refused, Counted::No, now)
        {
            tracing::warn!(%error, "messages cannot be given back");
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which connection serves which durable subscription.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    by_subscription: Mutex<HashMap<SubscriptionId, Arc<Attachment>>>,
}

impl Attachments {
    /// Takes a subscription from the connection that serves it, if one does.
    pub(super) fn take_over(&self, id: SubscriptionId, now: Timestamp) {
        let before = self.known().remove(&id);
        if let Some(before) = before {
            before.let_go(now);
        }
    }

    /// A connection serves this from now on.
    pub(super) fn put(&self, attachment: &Arc<Attachment>, now: Timestamp) {
        let before = self.known().insert(attachment.subscription.id, Arc::clone(attachment));
        // Two came at once; the later one has it.
        if let Some(before) = before {
            before.let_go(now);
        }
    }

    /// A connection serves this no longer, if it still did.
    pub(super) fn remove(&self, attachment: &Arc<Attachment>) {
        let mut known = self.known();
        let id = attachment.subscription.id;
        if known.get(&id).is_some_and(|current| Arc::ptr_eq(current, attachment)) {
            known.remove(&id);
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<SubscriptionId, Arc<Attachment>>> {
        self.by_subscription.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
