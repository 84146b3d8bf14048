//! Posting: a batch of messages into one queue by its name, all or nothing, and their places there.

use model::permission::Verb;
use model::{Message, QueueId, Sequence, Ticket, Timestamp};
use posthouse_amqp::properties::Peek;
use smallvec::SmallVec;
use store::{Change, Commit, Handout, Target, Targets};

use crate::access::Access;
use crate::error::{BrokerError, Kind};
use crate::route_cache::RouteTarget;

/// One message of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Post<'a> {
    /// Encoded properties, see [`Message::properties`].
    pub properties: &'a [u8],
    /// Body.
    pub body: &'a [u8],
    /// When it is gone; the queue's own time to live may say earlier.
    pub expires: Option<Timestamp>,
    /// Not delivered before.
    pub not_before: Option<Timestamp>,
}

/// A batch that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Posted {
    /// The queue.
    pub queue: QueueId,
    /// Place of the first message; the others follow it one by one.
    pub first: Sequence,
    /// Durable when the watermark reaches it.
    pub ticket: Ticket,
    /// The store has more to write than it likes: post again when `ticket` is durable.
    pub congested: bool,
}

impl Access {
    /// Puts messages into a queue, in one commit. An empty batch is fine.
    ///
    /// # Errors
    ///
    /// If the queue does not exist, may not be written, belongs to a connection or refuses because it is full
    /// ([`BrokerError::LimitReached`]); if properties are malformed, or the store is out of space.
    pub fn post(
        &self,
        queue: &str,
        batch: &[Post<'_>],
        now: Timestamp,
    ) -> Result<Posted, BrokerError> {
        self.allow(Verb::Write, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let reached: SmallVec<[RouteTarget; 1]> =
            RouteTarget::with_followers(queue, false).collect();
        let Some((to, followers)) = reached.split_first() else {
            return Err(BrokerError::not_found(Kind::Queue, ""));
        };
        self.check_room(to, batch)?;
        let mut changes = Vec::with_capacity(batch.len());
        let mut earliest = Timestamp::MAX;
        for post in batch {
            let peek = Peek::decode(post.properties)
                .map_err(|error| BrokerError::Malformed(error.to_string()))?;
            let (persistent, priority) =
                (peek.is_persistent() || to.keeps_all, peek.priority().unwrap_or(0));
            let (properties, body) = (post.properties, post.body);
            let message = Message::new(to.queue.address(), properties, body, persistent, priority);
            let target = target_of(to, post, priority, now);
            let first = target.not_before.or(target.expires);
            earliest = earliest.min(first.unwrap_or(Timestamp::MAX));
            let copies = followers.iter().map(|follower| Target {
                queue: follower.queue.id,
                priority: priority.min(follower.priority_max),
                expires: None,
                not_before: target.not_before,
            });
            let targets = std::iter::once(target).chain(copies).collect::<Targets>();
            changes.push(Change::Enqueue { message, targets, dedup: None });
        }
        let count = changes.len() as u64;
        let receipt =
            self.commit(Commit { changes, now, handout: Handout::AtOnce, ..Commit::default() })?;
        if to.queue.is_deleted() {
            return Err(BrokerError::not_found(Kind::Queue, &to.queue.name));
        }
        let counters = &self.inner.broker.counters;
        counters.published.add(count);
        counters.routed.add(count * reached.len() as u64);
        if earliest != Timestamp::MAX {
            self.wake_sweeper(earliest);
        }
        for target in &reached {
            self.enqueued(&target.queue, target.overflow.as_ref(), now);
        }
        Ok(Posted {
            queue: to.queue.id,
            first: Sequence((receipt.last.0 + 1).saturating_sub(count)),
            ticket: receipt.ticket,
            congested: receipt.congested,
        })
    }

    /// A queue that refuses when it is full takes all of a batch or nothing.
    fn check_room(&self, to: &RouteTarget, batch: &[Post<'_>]) -> Result<(), BrokerError> {
        let refusing = |mode| mode != model::Overflow::DropHead;
        let Some(overflow) = to.overflow.as_ref().filter(|it| refusing(it.mode)) else {
            return Ok(());
        };
        let (messages, bytes) = self.fill_of(to);
        let more: u64 = batch.iter().map(|post| post.body.len() as u64).sum();
        if messages + batch.len() as u64 > overflow.length_max || bytes + more > overflow.bytes_max
        {
            return Err(BrokerError::LimitReached(format!(
                "queue '{}' is full and refuses messages",
                to.queue.name
            )));
        }
        Ok(())
    }
}

fn target_of(to: &RouteTarget, post: &Post<'_>, priority: u8, now: Timestamp) -> Target {
    let not_before = post.not_before.filter(|when| *when > now);
    let born = not_before.unwrap_or(now);
    let of_queue = to.ttl_ms.map(|ttl_ms| born.after_ms(ttl_ms));
    let expires = if to.queue.is_stream() {
        None
    } else {
        [post.expires, of_queue].into_iter().flatten().min()
    };
    let priority = priority.min(to.priority_max);
    Target { queue: to.queue.id, priority, expires, not_before }
}
