//! Looking at messages without taking them.

use model::permission::Verb;
use model::{ClaimId, Message, Sequence, Timestamp};
use posthouse_amqp::properties::Properties;
use store::{Leased, ReadRequest, Stored, Which};

use crate::access::Access;
use crate::error::{BrokerError, Kind};
use crate::queue::Queue;

/// Most body bytes of one page; a page ends behind the message that passes it.
pub(crate) const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most messages looked at for one page, however few of them are wanted.
const LOOKED_AT_MAX: usize = 4096;

/// Messages read at once beyond those that are wanted.
const READ_AHEAD: usize = 32;

/// A message in a queue, as somebody sees it who does not take it, or has claimed it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its place.
    pub sequence: Sequence,
    /// The message.
    pub message: Message,
    /// When it was enqueued.
    pub enqueued: Timestamp,
    /// When it is gone.
    pub expires: Option<Timestamp>,
    /// Not delivered before.
    pub not_before: Option<Timestamp>,
    /// Who holds it by a claim.
    pub claim: Option<ClaimId>,
    /// How often it was claimed or delivered without being settled, a claim that holds it included.
    pub claim_count: u32,
}

impl Seen {
    pub(crate) fn of_stored(stored: Stored) -> Self {
        Self {
            sequence: stored.sequence,
            message: stored.message,
            enqueued: stored.enqueued,
            expires: stored.expires,
            not_before: stored.not_before,
            claim: stored.claim,
            claim_count: stored.delivery_count + u32::from(stored.claim.is_some()),
        }
    }

    pub(crate) fn of_leased(leased: Leased, claim: Option<ClaimId>) -> Self {
        Self {
            sequence: leased.sequence,
            message: leased.message,
            enqueued: leased.enqueued,
            expires: leased.expires,
            not_before: None,
            claim,
            claim_count: leased.delivery_count + u32::from(claim.is_some()),
        }
    }

    /// The time from when it was enqueued until it is gone, in milliseconds; `None` if it stays.
    #[must_use]
    pub fn ttl_ms(&self) -> Option<u64> {
        self.expires.map(|expires| expires.0.saturating_sub(self.enqueued.0))
    }
}

/// Which messages a browse shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct BrowseFilter<'a> {
    /// Also those that are claimed, or delivered and not settled.
    pub claimed: bool,
    /// Also those that are not to be delivered yet.
    pub delayed: bool,
    /// Not those whose property `app-id` is this.
    pub not_from: Option<&'a str>,
}

/// One page of a queue.
#[derive(Debug, Default)]
pub struct Browsed {
    /// By sequence.
    pub messages: Vec<Seen>,
    /// So many messages were passed over that the page ends before it is full: browse on after this one.
    pub more_after: Option<Sequence>,
}

/// How full a queue is, as its users see it.
#[derive(Debug, Clone, Default)]
pub struct QueueFill {
    /// Messages that can be claimed.
    pub free: u64,
    /// Messages that are claimed, or delivered and not settled.
    pub claimed: u64,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// The first, whatever its state.
    pub oldest: Option<Seen>,
    /// The last, whatever its state.
    pub newest: Option<Seen>,
}

impl Access {
    /// Messages behind `after` (from the beginning for `None`), at most `count_max`. Expired ones are not shown.
    ///
    /// The cost does not depend on how many there are, or how many are claimed or delayed and not asked for.
    ///
    /// # Errors
    ///
    /// If the queue does not exist, belongs to a connection, or may not be read.
    pub fn browse(
        &self,
        queue: &str,
        after: Option<Sequence>,
        count_max: usize,
        filter: BrowseFilter<'_>,
        now: Timestamp,
    ) -> Result<Browsed, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let which = Which { ready: true, delayed: filter.delayed, leased: filter.claimed };
        let mut from = after.map_or(Sequence(0), |after| Sequence(after.0.saturating_add(1)));
        let mut page = Browsed::default();
        let (mut looked_at, mut bytes) = (0, 0);
        // Whoever wants all of them needs no more than a page.
        let ahead = if filter.not_from.is_some() { READ_AHEAD } else { 0 };
        while page.messages.len() < count_max && bytes < PAGE_BYTES_MAX {
            let wanted = count_max - page.messages.len();
            let request = ReadRequest {
                queue: queue.id,
                which,
                from,
                messages_max: wanted + ahead,
                bytes_max: PAGE_BYTES_MAX - bytes,
            };
            let stored = self.inner.broker.pool.read(request).now()?;
            let Some(last) = stored.last().map(|last| last.sequence) else { break };
            from = Sequence(last.0.saturating_add(1));
            looked_at += stored.len();
            let shown = stored.into_iter().filter(|one| is_shown(one, &filter, now));
            for one in shown.take(wanted) {
                bytes += one.message.body_len();
                page.messages.push(Seen::of_stored(one));
            }
            if looked_at >= LOOKED_AT_MAX && page.messages.len() < count_max {
                page.more_after = Some(last);
                break;
            }
        }
        Ok(page)
    }

    /// The messages of these sequences that are there, in their order, whatever their state. Expired ones are not.
    ///
    /// # Errors
    ///
    /// As [`Access::browse`].
    pub fn peek(
        &self,
        queue: &str,
        sequences: &[Sequence],
        now: Timestamp,
    ) -> Result<Vec<Seen>, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let mut seen = Vec::with_capacity(sequences.len().min(64));
        for sequence in sequences {
            let found = self.first_from(&queue, *sequence)?;
            let alive = |one: &Stored| !is_expired(one, now) && one.sequence == *sequence;
            seen.extend(found.filter(alive).map(Seen::of_stored));
        }
        Ok(seen)
    }

    /// How full a queue is. The cost does not depend on that.
    ///
    /// # Errors
    ///
    /// As [`Access::browse`].
    pub fn queue_fill(&self, queue: &str, now: Timestamp) -> Result<QueueFill, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let pool = &self.inner.broker.pool;
        let stats = pool.stats(queue.id).now()?;
        let oldest = self.first_from(&queue, stats.first)?;
        let newest = pool.newest(queue.id).now()?;
        Ok(QueueFill {
            free: stats.ready,
            claimed: stats.leased,
            delayed: stats.delayed,
            oldest: oldest.map(Seen::of_stored),
            newest: newest.map(Seen::of_stored),
        })
    }

    fn first_from(&self, queue: &Queue, from: Sequence) -> Result<Option<Stored>, BrokerError> {
        let (messages_max, bytes_max) = (1, usize::MAX);
        let request =
            ReadRequest { queue: queue.id, which: Which::ALL, from, messages_max, bytes_max };
        Ok(self.inner.broker.pool.read(request).now()?.pop())
    }
}

fn is_expired(stored: &Stored, now: Timestamp) -> bool {
    !stored.leased && stored.expires.is_some_and(|expires| expires <= now)
}

fn is_shown(stored: &Stored, filter: &BrowseFilter<'_>, now: Timestamp) -> bool {
    let own = filter.not_from.is_some_and(|client| {
        Properties::decode(stored.message.properties())
            .is_ok_and(|properties| properties.app_id == Some(client))
    });
    !own && !is_expired(stored, now)
}
