//! One channel of a connection: what it holds unsettled, what it owes confirms for, and its transaction.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use broker::{Consumer, Credit, Holder, Publisher, Refused, SettleBatch};
use model::{Sequence, Setback, Ticket, Timestamp};

/// A delivery that its client has not settled.
#[derive(Debug, Clone)]
pub(crate) struct Unacked {
    pub(crate) tag: u64,
    pub(crate) holder: Holder,
    pub(crate) sequence: Sequence,
    pub(crate) delivery_count: u32,
    pub(crate) delivered: Timestamp,
    settled: bool,
}

impl Unacked {
    pub(crate) fn new(
        tag: u64,
        holder: Holder,
        sequence: Sequence,
        delivery_count: u32,
        now: Timestamp,
    ) -> Self {
        Self { tag, holder, sequence, delivery_count, delivered: now, settled: false }
    }

    /// How long it may stay unsettled, if its consumer, its queue, a policy or the server's configuration says so.
    pub(crate) fn timeout_ms(&self, otherwise: Option<Duration>) -> Option<u64> {
        let of_consumer = match &self.holder {
            Holder::Consumer(consumer) => consumer.options.timeout_ms,
            Holder::Fetched(_) => None,
        };
        let otherwise = || otherwise.and_then(|limit| u64::try_from(limit.as_millis()).ok());
        of_consumer.or_else(|| self.holder.queue().settings().consumer_timeout).or_else(otherwise)
    }

    pub(crate) fn refused(&self, setback: Setback) -> Refused {
        Refused {
            setback,
            holder: self.holder.clone(),
            sequence: self.sequence,
            delivery_count: self.delivery_count,
        }
    }
}

/// The unsettled deliveries of a channel, by growing tag.
///
/// Acks mostly come in order, so that the front goes; one in the middle leaves a mark that goes with the front later.
#[derive(Debug, Default)]
pub(crate) struct UnackedRing {
    entries: VecDeque<Unacked>,
}

/// The client named a tag that it does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnknownTag;

impl UnackedRing {
    pub(crate) fn push(&mut self, unacked: Unacked) {
        self.entries.push_back(unacked);
    }

    /// Takes one delivery, or with `multiple` all up to it (AMQP: tag 0 means all there are).
    pub(crate) fn take(
        &mut self,
        tag: u64,
        multiple: bool,
        mut each: impl FnMut(&Unacked),
    ) -> Result<(), UnknownTag> {
        if !multiple {
            let index = self.position(tag).ok_or(UnknownTag)?;
            let entry = self.entries.get_mut(index).ok_or(UnknownTag)?;
            entry.settled = true;
            each(entry);
            self.drop_settled_front();
            return Ok(());
        }
        if tag != 0 && self.position(tag).is_none() {
            return Err(UnknownTag);
        }
        while let Some(front) = self.entries.front().filter(|front| tag == 0 || front.tag <= tag) {
            if !front.settled {
                each(front);
            }
            self.entries.pop_front();
        }
        self.drop_settled_front();
        Ok(())
    }

    /// Deliveries whose settling was rolled back are held again.
    pub(crate) fn put_back(&mut self, unacked: Vec<Unacked>) {
        let mut entries: Vec<Unacked> =
            std::mem::take(&mut self.entries).into_iter().filter(|e| !e.settled).collect();
        entries.extend(unacked.into_iter().map(|entry| Unacked { settled: false, ..entry }));
        entries.sort_unstable_by_key(|entry| entry.tag);
        self.entries = entries.into();
    }

    /// Everything held, oldest first.
    pub(crate) fn take_all(&mut self) -> Vec<Unacked> {
        std::mem::take(&mut self.entries).into_iter().filter(|entry| !entry.settled).collect()
    }

    /// The oldest that is held.
    pub(crate) fn oldest(&self) -> Option<&Unacked> {
        self.entries.front()
    }

    fn position(&self, tag: u64) -> Option<usize> {
        let index = match self.entries.front() {
            // Usually every delivery of the channel is here, and the index is the distance of the tags.
            Some(front) => {
                let near = usize::try_from(tag.checked_sub(front.tag)?).ok()?;
                match self.entries.get(near) {
                    Some(entry) if entry.tag == tag => near,
                    _ => self.entries.binary_search_by_key(&tag, |entry| entry.tag).ok()?,
                }
            }
            None => return None,
        };
        self.entries.get(index).filter(|entry| !entry.settled).map(|_| index)
    }

    fn drop_settled_front(&mut self) {
        while self.entries.front().is_some_and(|front| front.settled) {
            self.entries.pop_front();
        }
    }
}

/// What a channel in confirm mode owes.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    /// Tag of the last publish; the first is 1.
    pub(crate) published: u64,
    /// Publishes up to the tag are confirmed when the ticket is durable; both grow.
    waiting: VecDeque<(Ticket, u64)>,
    /// Up to here everything is confirmed.
    confirmed: u64,
}

impl Confirms {
    /// All publishes so far depend on `ticket`.
    pub(crate) fn depend_on(&mut self, ticket: Ticket) {
        let ticket = self.waiting.back().map_or(ticket, |(last, _)| ticket.max(*last));
        match self.waiting.back_mut() {
            Some((last, tag)) if *last == ticket => *tag = self.published,
            _ => self.waiting.push_back((ticket, self.published)),
        }
    }

    /// The tag up to which everything is durable now, if that is news: it, and how many it confirms.
    pub(crate) fn durable(&mut self, watermark: Ticket) -> Option<(u64, u64)> {
        let mut tag = None;
        while let Some((_, up_to)) = self.waiting.front().filter(|(ticket, _)| *ticket <= watermark)
        {
            tag = Some(*up_to);
            self.waiting.pop_front();
        }
        let tag = tag.filter(|tag| *tag > self.confirmed)?;
        let count = tag - self.confirmed;
        self.confirmed = tag;
        Some((tag, count))
    }

    /// A publish was refused with a nack of its own; the ack that passes over it later does not count it.
    pub(crate) fn refused(&mut self, tag: u64) {
        if self.waiting.is_empty() && self.confirmed + 1 == tag {
            self.confirmed = tag;
        }
    }

    /// Everything published and not promised yet is refused: the tags to nack.
    pub(crate) fn refuse(&mut self) -> std::ops::RangeInclusive<u64> {
        let promised = self.waiting.back().map_or(self.confirmed, |(_, tag)| *tag);
        promised + 1..=self.published
    }

    /// The ticket that is waited for next.
    pub(crate) fn next(&self) -> Option<Ticket> {
        self.waiting.front().map(|(ticket, _)| *ticket)
    }
}

/// Deliveries that the client gave back or refused.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) released: Vec<Refused>,
    pub(crate) rejected: Vec<Refused>,
}

impl Refusals {
    pub(crate) fn is_empty(&self) -> bool {
        self.released.is_empty() && self.rejected.is_empty()
    }
}

/// A transaction: publishes and settles that take effect together.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) publisher: Publisher,
    pub(crate) acks: SettleBatch,
    /// What was settled, to be unsettled by a rollback.
    pub(crate) settled: Vec<Unacked>,
    pub(crate) refusals: Refusals,
    /// Returned at the commit: their frames, and how many they are.
    pub(crate) returns: Vec<u8>,
    pub(crate) returned: usize,
    /// Bytes of its publishes.
    pub(crate) bytes: usize,
    /// A full queue refused one of its messages: it cannot be committed.
    pub(crate) refused: bool,
}

/// How the channel publishes.
#[derive(Debug)]
pub(crate) enum Mode {
    Plain,
    Confirm(Confirms),
    Transaction(Box<Transaction>),
}

/// One open channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) consumers: HashMap<Arc<str>, Arc<Consumer>>,
    pub(crate) unacked: UnackedRing,
    pub(crate) mode: Mode,
    /// Shared by all consumers of the channel (`basic.qos` with global).
    pub(crate) credit: Arc<Credit>,
    /// For consumers to come (`basic.qos` without global).
    pub(crate) prefetch: u32,
    pub(crate) next_tag: u64,
    /// What an empty queue name means.
    pub(crate) last_queue: Option<Arc<str>>,
    /// The token of its direct reply-to consumer.
    pub(crate) reply_token: Option<Arc<str>>,
}

impl Channel {
    /// A channel that may hold at most `unacked_max` deliveries.
    pub(crate) fn new(unacked_max: usize) -> Self {
        Self {
            consumers: HashMap::new(),
            unacked: UnackedRing::default(),
            mode: Mode::Plain,
            credit: Arc::new(Credit::capped(u32::try_from(unacked_max).unwrap_or(0))),
            prefetch: 0,
            next_tag: 1,
            last_queue: None,
            reply_token: None,
        }
    }

    /// The tag of the next delivery.
    pub(crate) fn take_tag(&mut self) -> u64 {
        let tag = self.next_tag;
        self.next_tag += 1;
        tag
    }
}
