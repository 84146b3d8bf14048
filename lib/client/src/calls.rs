//! Calls that wait for replies: which correlation identity belongs to whom.
//!
//! A reply address is good for one channel. So a call whose answer is still out when the connection is lost is published
//! again on the next one: whoever answers calls may get one twice.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::delivery::Delivery;
use crate::outgoing::Packet;

/// The pseudo-queue that replies come through.
pub(crate) const REPLY_QUEUE: &str = "amq.rabbitmq.reply-to";

/// Replies of a scatter that wait for their reader; more are dropped.
const REPLIES_MAX: usize = 1024;

#[derive(Debug)]
struct Call {
    packet: Packet,
    replies: mpsc::Sender<Delivery>,
}

/// The calls of one connection.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    waiting: Mutex<HashMap<String, Call>>,
}

impl Calls {
    /// Notes a call; its replies come out of what is returned until [`Calls::forget`].
    pub(crate) fn expect(&self, id: &str, packet: Packet) -> mpsc::Receiver<Delivery> {
        let (replies, receiver) = mpsc::channel(REPLIES_MAX);
        self.lock().insert(id.to_owned(), Call { packet, replies });
        receiver
    }

    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// A reply came; nobody's is dropped, as it is too late.
    pub(crate) fn answer(&self, reply: Delivery) {
        let waiting = self.lock();
        let id = reply.properties().correlation_id.unwrap_or_default().to_owned();
        let Some(call) = waiting.get(&id) else {
            tracing::debug!(id, "a reply that nobody waits for any more");
            return;
        };
        if call.replies.try_send(reply).is_err() {
            tracing::warn!(id, "a reply was dropped; its reader is slow or gone");
        }
    }

    /// What has to be published again on a new connection.
    pub(crate) fn unanswered(&self) -> Vec<Packet> {
        self.lock().values().map(|call| call.packet.clone()).collect()
    }

    /// Nobody will be answered any more.
    pub(crate) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Call>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
