//! Ending leases: acknowledge, give back, or refuse for good.
//!
//! Settles come in batches, one commit for all queues of a batch. A refused message that has somewhere to go is moved
//! there in the commit that ends its lease, so it is never lost or doubled between the two.

use std::sync::Arc;

use model::{Sequence, Setback, Timestamp};
use store::{Change, Commit, Sequences, Settlement};

use crate::access::Access;
use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::dead_letter::Reason;
use crate::error::BrokerError;
use crate::hop::Hop;
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
pub(crate) fn in_order(mut runs: Sequences) -> Sequences {
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
    /// Why it comes back, for queues that ask.
    pub setback: Setback,
}

impl Access {
    /// Acknowledges leases.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Store`] if the pool has failed.
    pub fn acknowledge(&self, mut batch: SettleBatch, now: Timestamp) -> Result<(), BrokerError> {
        let changes = batch.changes(Settlement::Ack);
        if !changes.is_empty() {
            self.commit(Commit { changes, now, ..Commit::default() })?;
        }
        self.settled(&batch, now);
        Ok(())
    }

    /// The changes that acknowledge leases, for a transaction to commit; [`Access::settled`] afterwards.
    pub fn acknowledging(&self, batch: &mut SettleBatch) -> Vec<Change> {
        batch.changes(Settlement::Ack)
    }

    /// Acknowledgements of a committed transaction: credit returns.
    pub fn settled(&self, batch: &SettleBatch, now: Timestamp) {
        let count: u32 = batch.groups.iter().map(|group| group.count).sum();
        self.inner.broker.counters.acknowledged.add(u64::from(count));
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
        self.inner.broker.give_up(refused, counted, &[], now)
    }

    /// Gives messages back, counted, and refuses others for good, which go to their dead-letter exchanges if there are
    /// any: one commit, or a few for thousands.
    ///
    /// # Errors
    ///
    /// [`BrokerError::Store`] if the pool has failed.
    pub fn refuse(
        &self,
        released: &[Refused],
        rejected: &[Refused],
        now: Timestamp,
    ) -> Result<(), BrokerError> {
        self.inner.broker.give_up(released, Counted::Yes, rejected, now)
    }

    /// As [`Access::refuse`], but for a transaction to commit; [`Access::landed`] afterwards.
    ///
    /// # Errors
    ///
    /// [`BrokerError::LimitReached`] if more moves than one commit may hold, [`BrokerError::Store`] if the pool has failed.
    pub fn refusing(
        &self,
        released: &[Refused],
        rejected: &[Refused],
        now: Timestamp,
    ) -> Result<Hop, BrokerError> {
        let broker = &self.inner.broker;
        let mut hop = Hop::default();
        for one in released {
            broker.plan_release(&mut hop, one, Counted::Yes, now)?;
            hop.check_size()?;
        }
        for one in rejected {
            broker.plan_refusal(&mut hop, one, Reason::Rejected, now)?;
            hop.check_size()?;
        }
        Ok(hop)
    }

    /// The transaction that a hop belongs to is committed.
    pub fn landed(&self, hop: Hop, now: Timestamp) {
        self.inner.broker.landed(hop, now, 0);
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
    /// Returns the credit of leases that ended, and has their queues deliver.
    pub(crate) fn settled(&self, batch: &SettleBatch, now: Timestamp) {
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
