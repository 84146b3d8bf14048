//! Ending leases: acknowledge, give back, or refuse for good.
//!
//! Settles come in batches, one commit for all queues of a batch. A refused message that has somewhere to go is moved
//! there in the commit that ends its lease, so it is never lost or doubled between the two.

use std::sync::Arc;

use model::{Sequence, Timestamp};
use store::{Change, Commit, ReadRequest, Sequences, Settlement, Which};

use crate::access::Access;
use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::dead_letter::Reason;
use crate::error::BrokerError;
use crate::queue::Queue;

/// Who holds a lease.
#[derive(Debug, Clone)]
pub enum Holder {
    /// It was delivered to a consumer.
    Consumer(Arc<Consumer>),
    /// It was fetched from the queue.
    Fetched(Arc<Queue>),
}

impl Holder {
    /// The queue that the message belongs to.
    #[must_use]
    pub fn queue(&self) -> &Arc<Queue> {
        match self {
            Self::Consumer(consumer) => &consumer.queue,
            Self::Fetched(queue) => queue,
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Consumer(own), Self::Consumer(other)) => Arc::ptr_eq(own, other),
            (Self::Fetched(own), Self::Fetched(other)) => Arc::ptr_eq(own, other),
            (Self::Consumer(_), Self::Fetched(_)) | (Self::Fetched(_), Self::Consumer(_)) => false,
        }
    }
}

/// Leases to be ended together: runs of sequences, by holder.
#[derive(Debug, Default)]
pub struct SettleBatch {
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    holder: Holder,
    sequences: Sequences,
    count: u32,
}

impl SettleBatch {
    /// Adds one lease.
    pub fn add(&mut self, holder: &Holder, sequence: Sequence) {
        // The last group first: acks come in runs of one consumer.
        let found = self.groups.iter().rposition(|group| group.holder.is(holder));
        let index = found.unwrap_or_else(|| {
            self.groups.push(Group {
                holder: holder.clone(),
                sequences: Sequences::new(),
                count: 0,
            });
            self.groups.len() - 1
        });
        let Some(group) = self.groups.get_mut(index) else { return };
        group.count += 1;
        match group.sequences.last_mut() {
            Some((_, last)) if last.0 + 1 == sequence.0 => *last = sequence,
            _ => group.sequences.push((sequence, sequence)),
        }
    }

    /// Whether there is nothing to end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The changes that end them; what a stream gave out has no lease.
    fn changes(&mut self, settlement: Settlement) -> Vec<Change> {
        self.groups
            .iter_mut()
            .filter(|group| !group.holder.queue().is_stream())
            .map(|group| Change::Settle {
                queue: group.holder.queue().id,
                sequences: in_order(std::mem::take(&mut group.sequences)),
                settlement,
            })
            .collect()
    }
}

/// Runs in growing order, as the store wants them; acks may come in any.
fn in_order(mut runs: Sequences) -> Sequences {
    if !runs.is_sorted() {
        runs.sort_unstable();
    }
    runs
}

/// One message that its holder refuses or gives back.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Who held it.
    pub holder: Holder,
    /// Which.
    pub sequence: Sequence,
    /// Counted deliveries before this one.
    pub delivery_count: u32,
}

impl Access {
    /// Acknowledges leases.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Store`] if the pool has failed.
    pub fn acknowledge(&self, mut batch: SettleBatch, now: Timestamp) -> Result<(), BrokerError> {
        let changes = batch.changes(Settlement::Ack);
        let broker = &self.inner.broker;
        if !changes.is_empty() {
            self.commit(Commit { changes, now, ..Commit::default() })?;
        }
        let count: u32 = batch.groups.iter().map(|group| group.count).sum();
        broker.counters.acknowledged.add(u64::from(count));
        broker.settled(&batch, now);
        Ok(())
    }

    /// The changes that acknowledge leases, for a transaction to commit; [`Access::settled`] afterwards.
    pub fn acknowledging(&self, batch: &mut SettleBatch) -> Vec<Change> {
        batch.changes(Settlement::Ack)
    }

    /// Leases of a committed transaction are over: credit returns.
    pub fn settled(&self, batch: &SettleBatch, now: Timestamp) {
        self.inner.broker.settled(batch, now);
    }

    /// Gives messages back to their queues, or where their delivery limit sends them.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Store`] if the pool has failed.
    pub fn release(
        &self,
        refused: &[Refused],
        counted: Counted,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        self.inner.broker.release(refused, counted, now)
    }

    /// Refuses messages for good: to their dead-letter exchange, if there is one.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Store`] if the pool has failed.
    pub fn reject(&self, refused: &[Refused], now: Timestamp) -> Result<(), BrokerError> {
        self.inner.broker.reject(refused, Reason::Rejected, now)
    }
}

/// Whether a release counts as a delivery that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// The holder refused it, or died holding it.
    Yes,
    /// It never reached its holder.
    No,
}

impl Broker {
    pub(crate) fn release(
        &self,
        refused: &[Refused],
        counted: Counted,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let mut plain = SettleBatch::default();
        let mut delayed: Vec<(Timestamp, SettleBatch)> = Vec::new();
        let mut exhausted = Vec::new();
        for one in refused {
            let settings = one.holder.queue().settings();
            let attempts = one.delivery_count + 1;
            let limited = counted == Counted::Yes
                && settings.delivery_limit.is_some_and(|limit| attempts > limit);
            if limited {
                exhausted.push(one.clone());
                continue;
            }
            match settings.retry_delay_ms(attempts).filter(|_| counted == Counted::Yes) {
                Some(delay_ms) => {
                    let mut batch = SettleBatch::default();
                    batch.add(&one.holder, one.sequence);
                    delayed.push((now.after_ms(delay_ms), batch));
                }
                None => plain.add(&one.holder, one.sequence),
            }
        }
        let counted = counted == Counted::Yes;
        let mut changes = plain.changes(Settlement::Release { not_before: None, counted });
        for (not_before, batch) in &mut delayed {
            changes.extend(
                batch.changes(Settlement::Release { not_before: Some(*not_before), counted }),
            );
            self.sweeper.set(*not_before);
        }
        if !changes.is_empty() {
            self.pool.commit(Commit { changes, now, ..Commit::default() }).now()?;
        }
        for batch in delayed.iter().map(|(_, batch)| batch).chain([&plain]) {
            self.settled(batch, now);
        }
        if exhausted.is_empty() {
            Ok(())
        } else {
            self.reject(&exhausted, Reason::DeliveryLimit, now)
        }
    }

    pub(crate) fn reject(
        &self,
        refused: &[Refused],
        reason: Reason,
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        let mut gone = SettleBatch::default();
        for one in refused {
            gone.add(&one.holder, one.sequence);
            let queue = one.holder.queue();
            if queue.is_stream() {
                continue;
            }
            let request = ReadRequest {
                queue: queue.id,
                which: Which::ALL,
                from: one.sequence,
                messages_max: 1,
                bytes_max: usize::MAX,
            };
            let stored = self.pool.read(request).now()?;
            let found = stored.into_iter().find(|stored| stored.sequence == one.sequence);
            if let Some(stored) = found {
                self.move_dead(queue, vec![(stored.sequence, stored.message)], reason, now, 0)?;
            }
        }
        self.settled(&gone, now);
        Ok(())
    }

    /// Returns the credit of leases that ended, and has their queues deliver.
    fn settled(&self, batch: &SettleBatch, now: Timestamp) {
        for group in &batch.groups {
            if let Holder::Consumer(consumer) = &group.holder {
                consumer.return_credit(group.count);
            }
        }
        for group in &batch.groups {
            self.dispatch(group.holder.queue(), now);
        }
    }
}
