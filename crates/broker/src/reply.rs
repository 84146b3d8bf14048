//! Direct reply-to: replies that go straight to the connection that asked, without a queue.
//!
//! A requester consumes the pseudo-queue `amq.rabbitmq.reply-to`; its requests carry a token in `reply-to`, and what is
//! published to the default exchange with the token as routing key is delivered to it. At most once, as in RabbitMQ.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use model::{Message, Sequence, Timestamp};
use store::Leased;

use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::outbox::Outgoing;

/// The pseudo-queue that requesters consume.
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// The requesters of one broker, by token.
#[derive(Debug, Default)]
pub(crate) struct ReplyConsumers {
    by_token: Mutex<HashMap<Arc<str>, Arc<Consumer>, RandomState>>,
}

/// Whether a name is a reply token and not a queue's.
#[must_use]
pub fn is_reply_token(name: &str) -> bool {
    name.strip_prefix(REPLY_TO).is_some_and(|rest| rest.starts_with('.'))
}

impl ReplyConsumers {
    pub(crate) fn insert(&self, token: Arc<str>, consumer: Arc<Consumer>) {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner).insert(token, consumer);
    }

    pub(crate) fn remove(&self, token: &str) {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner).remove(token);
    }

    /// The requester of a token, while its channel lives.
    pub(crate) fn get(&self, token: &str) -> Option<Arc<Consumer>> {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }
}

impl Broker {
    /// Hands a reply to the connection of this tenant that waits for it; false if none does any more.
    pub(crate) fn reply(&self, tenant: &str, message: Message, now: Timestamp) -> bool {
        let found = self.replies.get(&message.address.routing_key);
        let Some(consumer) = found.filter(|consumer| *consumer.queue.tenant == *tenant) else {
            return false;
        };
        let leased = Leased {
            sequence: Sequence(0),
            message,
            delivery_count: 0,
            redelivered: false,
            expires: None,
            enqueued: now,
        };
        let outbox = Arc::clone(&consumer.outbox);
        outbox.push(&mut vec![Outgoing::Deliver { consumer, leased }]);
        true
    }
}
