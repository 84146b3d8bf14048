//! Consuming, fetching, and leaving.

use std::sync::Arc;

use model::permission::Verb;
use model::{Ticket, Timestamp};
use store::{Hold, LeaseRequest, Leased};

use crate::access::Access;
use crate::consumer::{ConsumeOptions, Consumer, Credit};
use crate::error::{BrokerError, Kind};
use crate::outbox::Outbox;
use crate::queue::{AddConsumerError, Queue};

/// What came of a fetch.
#[derive(Debug)]
pub enum Fetched {
    /// A message, its queue, and how many are left.
    Message(Arc<Queue>, Leased, u64),
    /// The queue is empty.
    Nothing,
    /// There is one, which may be handed out when the ticket is durable: ask again then.
    NotYet(Ticket),
}

impl Access {
    /// Starts a consumer. It gets its first messages with the next [`Access::dispatch`] of the queue.
    ///
    /// # Errors
    ///
    /// If the queue does not exist, is locked or in exclusive use, or may not be read.
    pub fn consume(
        &self,
        name: &str,
        options: ConsumeOptions,
        outbox: &Arc<Outbox>,
        channel_credit: Arc<Credit>,
        now: Timestamp,
    ) -> Result<Arc<Consumer>, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, name)?;
        let queue = self.existing_queue(name)?;
        self.unlocked(&queue)?;
        self.start_consumer(&queue, options, outbox, channel_credit, now)
    }

    /// Starts a consumer of a queue that it may read.
    pub(crate) fn start_consumer(
        &self,
        queue: &Arc<Queue>,
        options: ConsumeOptions,
        outbox: &Arc<Outbox>,
        channel_credit: Arc<Credit>,
        now: Timestamp,
    ) -> Result<Arc<Consumer>, BrokerError> {
        let broker = &self.inner.broker;
        let name = &*queue.name;
        let cursor = if queue.is_stream() {
            if options.no_ack || options.prefetch == crate::consumer::PREFETCH_UNLIMITED {
                return Err(BrokerError::Invalid(format!(
                    "consumer prefetch and acknowledgements are required to consume stream '{name}'"
                )));
            }
            crate::stream::start(queue.id, options.stream_offset.as_ref(), &*broker.pool, now)?.0
        } else {
            0
        };
        let outbox = Arc::clone(outbox);
        let consumer = Arc::new(Consumer::new(
            broker.unique(),
            options,
            Arc::clone(queue),
            outbox,
            channel_credit,
            cursor,
        ));
        queue.touch(now);
        match queue.add_consumer(Arc::clone(&consumer)) {
            Ok(()) => Ok(consumer),
            Err(AddConsumerError::ExclusiveUse) => Err(BrokerError::ExclusiveUse(name.into())),
            Err(AddConsumerError::Deleted) => Err(BrokerError::not_found(Kind::Queue, name)),
        }
    }

    /// Makes a consumer of direct replies, known by `token` until [`Access::cancel_replies`].
    pub fn consume_replies(
        &self,
        token: Arc<str>,
        options: ConsumeOptions,
        outbox: &Arc<Outbox>,
        now: Timestamp,
    ) -> Arc<Consumer> {
        let broker = &self.inner.broker;
        let queue = Queue::for_replies(Arc::clone(&self.inner.tenant.name), now);
        let consumer = Consumer::new(
            broker.unique(),
            options,
            Arc::new(queue),
            Arc::clone(outbox),
            Arc::default(),
            0,
        );
        let consumer = Arc::new(consumer);
        broker.replies.insert(token, Arc::clone(&consumer));
        consumer
    }

    /// The requester of a token is gone.
    pub fn cancel_replies(&self, token: &str) {
        self.inner.broker.replies.remove(token);
    }

    /// Whether the requester of a token still waits for replies.
    #[must_use]
    pub fn reply_consumer_exists(&self, token: &str) -> bool {
        self.inner
            .broker
            .replies
            .get(token)
            .is_some_and(|consumer| consumer.queue.tenant == self.inner.tenant.name)
    }

    /// Has a queue deliver what it can.
    pub fn dispatch(&self, queue: &Arc<Queue>, now: Timestamp) {
        self.inner.broker.dispatch(queue, now);
    }

    /// Stops giving messages to a consumer; it stays registered until [`Access::cancel`].
    pub fn stop(&self, consumer: &Consumer) {
        consumer.cancel();
    }

    /// Ends a consumer; the last one of an auto-delete queue takes the queue with it.
    pub fn cancel(&self, consumer: &Arc<Consumer>, now: Timestamp) {
        consumer.cancel();
        let queue = &consumer.queue;
        let was_last = queue.remove_consumer(consumer.id, now);
        if was_last && queue.definition.auto_delete {
            self.inner.broker.delete_queue_now(&self.inner.tenant, queue, now);
        } else {
            // What it did not take may go to others, and a single active consumer has a successor.
            self.inner.broker.dispatch(queue, now);
        }
    }

    /// Fetches one message.
    ///
    /// # Errors
    ///
    /// If the queue does not exist, is locked, is a stream, or may not be read.
    pub fn get(&self, name: &str, no_ack: bool, now: Timestamp) -> Result<Fetched, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, name)?;
        let queue = self.existing_queue(name)?;
        self.unlocked(&queue)?;
        if queue.is_stream() {
            return Err(BrokerError::Unsupported(format!(
                "basic.get is not supported by stream '{name}'"
            )));
        }
        queue.touch(now);
        let broker = &self.inner.broker;
        let hold = if no_ack { Hold::Take } else { Hold::UntilSettled };
        loop {
            let request =
                LeaseRequest { queue: queue.id, messages_max: 1, bytes_max: usize::MAX, hold, now };
            let lease = broker.pool.lease(request).now()?;
            let nothing_expired = lease.expired.is_empty();
            if !nothing_expired {
                broker.expire_in(&queue, lease.expired, now);
            }
            if let Some(leased) = lease.messages.into_iter().next() {
                let left = broker.pool.stats(queue.id).now()?.ready;
                let counter =
                    if no_ack { &broker.counters.fetched_no_ack } else { &broker.counters.fetched };
                counter.add(1);
                return Ok(Fetched::Message(queue, leased, left));
            }
            if nothing_expired || !lease.more {
                if lease.more {
                    return Ok(Fetched::NotYet(lease.blocked_until));
                }
                broker.counters.fetched_nothing.add(1);
                return Ok(Fetched::Nothing);
            }
        }
    }

    /// The connection ends: what belonged to it alone goes.
    pub fn leave(&self, now: Timestamp) {
        let own = Some(self.inner.connection);
        let exclusive: Vec<_> = {
            let mut queues = self.inner.exclusive();
            queues.drain(..).collect()
        };
        for queue in exclusive.iter().filter(|queue| queue.owner == own) {
            self.inner.broker.delete_queue_now(&self.inner.tenant, queue, now);
        }
    }

    pub(crate) fn existing_queue(&self, name: &str) -> Result<Arc<Queue>, BrokerError> {
        self.inner.tenant.queue(name).ok_or_else(|| BrokerError::not_found(Kind::Queue, name))
    }
}
