//! Several pools as one: each queue lives in one of them, and its identity says in which.
//!
//! A commit that touches one pool is that pool's commit. One that touches several cannot be all or none: it is cut so that
//! nothing is lost. What fills queues is committed first, in each pool; leases of other pools end only when that is durable.
//! A crash in between leaves a message in both, and whoever moves it again names the same [`DedupId`](model::DedupId), so
//! that the second copy is skipped. The tickets of all members become one order of tickets, see [`order`].

mod cut;
mod order;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use model::{ClaimId, QueueId, Sequence, Ticket, Timestamp};
use smallvec::{SmallVec, smallvec};

use crate::catalog::{Catalog, Definition, DefinitionChange};
use crate::error::{ErrorKind, StoreError};
use crate::memory::no_queue;
use crate::pool::{
    Capabilities, Claim, Claimed, Commit, Due, Extended, Lease, LeaseRequest, Pending, Pool,
    QueueKind, QueueStats, ReadRequest, Receipt, Stored,
};
use crate::watch::Watch;
use cut::{Cut, homes};
use order::{Members, Order};

/// Bits of a queue's identity that count queues; above them stands the pool.
const COUNT_BITS: u32 = 48;

/// Which pool a queue lives in.
#[must_use]
pub fn pool_of(queue: QueueId) -> u16 {
    u16::try_from(queue.0 >> COUNT_BITS).unwrap_or(u16::MAX)
}

/// The identity of the queue with this count in a pool. Counts are below 2⁴⁸.
#[must_use]
pub fn queue_in(pool: u16, count: u64) -> QueueId {
    QueueId(u64::from(pool) << COUNT_BITS | count & ((1 << COUNT_BITS) - 1))
}

/// Several pools, and the catalog of the first.
#[derive(Debug)]
pub struct Pools {
    catalog: Arc<dyn Catalog>,
    home: fn(QueueId) -> u16,
    order: Arc<Order>,
}

impl Pools {
    /// One pool, number 0, which keeps the definitions as well.
    #[must_use]
    pub fn new(pool: Arc<dyn Pool>, catalog: Arc<dyn Catalog>) -> Self {
        Self::with_homes(pool, catalog, pool_of)
    }

    /// As [`Pools::new`], with another rule of which queue lives where.
    #[must_use]
    pub fn with_homes(
        pool: Arc<dyn Pool>,
        catalog: Arc<dyn Catalog>,
        home: fn(QueueId) -> u16,
    ) -> Self {
        let pools = Self { catalog, home, order: Order::new() };
        pools.add(0, pool);
        pools
    }

    /// Adds a pool under a number that none has had, or opens it again.
    pub fn add(&self, number: u16, pool: Arc<dyn Pool>) {
        self.order.add(number, pool);
    }

    /// Lets go of a pool in which no queue lives any more.
    pub fn remove(&self, number: u16) {
        self.order.remove(number);
    }

    /// Whether there is a pool of this number.
    #[must_use]
    pub fn contains(&self, number: u16) -> bool {
        self.order.members().contains_key(&number)
    }

    fn member(&self, queue: QueueId) -> Result<(u16, Arc<dyn Pool>), StoreError> {
        let number = (self.home)(queue);
        let members = self.order.members();
        members.get(&number).map(|pool| (number, Arc::clone(pool))).ok_or_else(|| no_queue(queue))
    }

    fn ask<T>(
        &self,
        queue: QueueId,
        ask: impl FnOnce(&dyn Pool) -> Pending<T>,
    ) -> Result<(u16, T), StoreError> {
        let (number, pool) = self.member(queue)?;
        Ok((number, ask(&*pool).now()?))
    }

    fn asked<T>(&self, queue: QueueId, ask: impl FnOnce(&dyn Pool) -> Pending<T>) -> Pending<T> {
        Pending::ready(self.ask(queue, ask).map(|it| it.1))
    }

    fn apply(&self, commit: Commit) -> Result<Receipt, StoreError> {
        let homes = homes(&commit.changes, self.home);
        let (&[] | &[_]) = &homes[..] else { return self.apply_to_several(commit) };
        let number = homes.first().copied().unwrap_or(0);
        let Some(pool) = self.order.members().get(&number).cloned() else {
            return Ok(Receipt::default());
        };
        let mut receipt = self.order.noticing(pool.commit(commit).now())?;
        receipt.ticket = self.order.enter(smallvec![(number, receipt.ticket)], Vec::new());
        Ok(receipt)
    }

    fn apply_to_several(&self, commit: Commit) -> Result<Receipt, StoreError> {
        let cut = Cut::new(commit, self.home)?;
        let members = self.order.members();
        let full = |number: &u16| members.get(number).is_some_and(|pool| pool.watch().full());
        if cut.filled.iter().any(full) {
            let text = "there is no space left for messages in one of the pools";
            return Err(StoreError::new(ErrorKind::Unavailable, text));
        }
        let mut receipts = BTreeMap::new();
        let mut parts: SmallVec<[(u16, Ticket); 2]> = SmallVec::new();
        for (number, commit) in cut.first.iter() {
            let Some(pool) = members.get(number) else { continue };
            let receipt = self.order.noticing(pool.commit(commit.clone()).now())?;
            parts.push((*number, receipt.ticket));
            receipts.insert(*number, receipt);
        }
        let mut receipt = cut.merge(receipts);
        receipt.ticket = self.order.enter(parts, cut.then);
        Ok(receipt)
    }

    fn all<T>(&self, mut ask: impl FnMut(&dyn Pool) -> Pending<Vec<T>>) -> Pending<Vec<T>> {
        let members = self.order.members();
        let each = members.values().map(|pool| ask(&**pool).now());
        let found: Result<Vec<Vec<T>>, StoreError> = each.collect();
        Pending::ready(found.map(|found| found.into_iter().flatten().collect()))
    }

    fn due_in_all(&self, now: Timestamp, messages_max: usize) -> Result<Due, StoreError> {
        let mut whole = Due::default();
        for pool in self.order.members().values() {
            let room = messages_max.saturating_sub(whole.expired.len());
            let due = pool.due(now, room).now()?;
            whole.expired.extend(due.expired);
            whole.ready.extend(due.ready);
            whole.next = [whole.next, due.next].into_iter().flatten().min();
        }
        Ok(whole)
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        self.order.close();
    }
}

impl Pool for Pools {
    fn capabilities(&self) -> Capabilities {
        let members = self.order.members();
        let all = members.values().map(|pool| pool.capabilities());
        let alone = members.len() == 1;
        let whole = Capabilities {
            durable: true,
            atomic_across_queues: alone,
            ordered: true,
            delayed: true,
        };
        all.fold(whole, |whole, one| Capabilities {
            durable: whole.durable && one.durable,
            atomic_across_queues: whole.atomic_across_queues && one.atomic_across_queues,
            ordered: whole.ordered && one.ordered,
            delayed: whole.delayed && one.delayed,
        })
    }

    fn commit(&self, commit: Commit) -> Pending<Receipt> {
        Pending::ready(self.apply(commit))
    }

    fn lease(&self, request: LeaseRequest) -> Pending<Lease> {
        let leased = self.ask(request.queue, |pool| pool.lease(request));
        Pending::ready(leased.map(|(number, mut lease)| {
            // Others wait for none.
            for ticket in [&mut lease.ticket, &mut lease.blocked_until] {
                if *ticket != Ticket::NONE {
                    *ticket = self.order.enter(smallvec![(number, *ticket)], Vec::new());
                }
            }
            lease
        }))
    }

    fn extend(&self, queue: QueueId, claim: Claim, now: Timestamp) -> Pending<Extended> {
        let extended = self.ask(queue, |pool| pool.extend(queue, claim, now));
        Pending::ready(extended.map(|(number, mut extended)| {
            let parts = smallvec![(number, extended.ticket)];
            extended.ticket = self.order.enter(parts, Vec::new());
            extended
        }))
    }

    fn claimed(&self, queue: QueueId, claim: ClaimId) -> Pending<Option<Claimed>> {
        self.asked(queue, |pool| pool.claimed(queue, claim))
    }

    fn due(&self, now: Timestamp, messages_max: usize) -> Pending<Due> {
        Pending::ready(self.due_in_all(now, messages_max))
    }

    fn read(&self, request: ReadRequest) -> Pending<Vec<Stored>> {
        self.asked(request.queue, |pool| pool.read(request))
    }

    fn newest(&self, queue: QueueId) -> Pending<Option<Stored>> {
        self.asked(queue, |pool| pool.newest(queue))
    }

    fn sequence_at(&self, queue: QueueId, since: Timestamp) -> Pending<Sequence> {
        self.asked(queue, |pool| pool.sequence_at(queue, since))
    }

    fn stats(&self, queue: QueueId) -> Pending<QueueStats> {
        self.asked(queue, |pool| pool.stats(queue))
    }

    fn queues(&self) -> Pending<Vec<(QueueId, QueueKind)>> {
        self.all(|pool| pool.queues())
    }

    fn watch(&self) -> &Watch {
        self.order.watch()
    }
}

impl Catalog for Pools {
    fn load(&self) -> Pending<Vec<Definition>> {
        self.catalog.load()
    }

    fn commit_definitions(&self, changes: Vec<DefinitionChange>) -> Pending<Ticket> {
        let committed = self.order.noticing(self.catalog.commit_definitions(changes).now());
        Pending::ready(committed.map(|ticket| {
            // The first pool's log has them.
            self.order.enter(smallvec![(0, ticket)], Vec::new())
        }))
    }
}

/// Members under a lock that is held for a copy only.
#[derive(Debug, Default)]
struct Table(RwLock<Arc<Members>>);

impl Table {
    fn get(&self) -> Arc<Members> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, change: impl FnOnce(&mut Members)) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut members = Members::clone(&table);
        change(&mut members);
        *table = Arc::new(members);
    }
}
