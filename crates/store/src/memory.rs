//! The memory driver: the contract in its simplest form.
//!
//! One lock, ordered maps, no cleverness: this is the executable specification that property tests compare every other
//! driver with. It promises nothing across a restart; every commit is as durable as it will ever be at once.

mod queue;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::{ClaimId, DedupId, Message, QueueId, Sequence, Ticket, Timestamp};

use crate::catalog::{Catalog, Definition, DefinitionChange};
use crate::error::{ErrorKind, StoreError};
use crate::pool::{
    Capabilities, Change, Claim, Claimed, Commit, Due, Extended, Hold, Lease, LeaseRequest,
    Pending, Pool, QueueKind, QueueStats, ReadRequest, Receipt, Removal, Stored, Targets,
};
use crate::watch::Watch;
use queue::Queue;

/// How long a [`DedupId`] is remembered.
pub const DEDUP_WINDOW: Duration = Duration::from_mins(10);

/// Most [`DedupId`]s remembered; the oldest is forgotten first.
pub const DEDUP_IDS_MAX: usize = 1_000_000;

/// Most expired messages that one lease request reports; more come with the next.
pub const EXPIRED_PER_LEASE_MAX: usize = 1024;

/// A pool and a catalog that live as long as the process.
#[derive(Debug, Default)]
pub struct Memory {
    state: Mutex<State>,
    watch: Watch,
}

#[derive(Debug, Default)]
struct State {
    queues: BTreeMap<QueueId, Queue>,
    definitions: BTreeMap<Box<str>, Box<[u8]>>,
    dedup: HashMap<DedupId, Timestamp>,
    dedup_order: VecDeque<(Timestamp, DedupId)>,
    /// When something is due, as was said last.
    next_due: Option<Timestamp>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says so if the queue's head expires earlier than was said.
    fn hint_due(&self, state: &mut State, queue: QueueId) {
        let head = state.queues.get(&queue).and_then(Queue::head_expires);
        if let Some(head) = head
            && state.next_due.is_none_or(|said| head < said)
        {
            state.next_due = Some(head);
            self.watch.hint_due();
        }
    }

    fn with_queue<T>(
        &self,
        queue: QueueId,
        with: impl FnOnce(&mut Queue) -> Result<T, StoreError>,
    ) -> Pending<T> {
        Pending::ready(match self.state().queues.get_mut(&queue) {
            Some(queue) => with(queue),
            None => Err(no_queue(queue)),
        })
    }
}

pub(crate) fn no_queue(queue: QueueId) -> StoreError {
    StoreError::new(ErrorKind::NotFound, format!("there is no queue {}", queue.0))
}

pub(crate) fn no_lease_from_stream(queue: QueueId) -> StoreError {
    StoreError::new(
        ErrorKind::Unsupported,
        format!("queue {} is a stream: its messages are read, not leased", queue.0),
    )
}

/// Refuses a commit that makes a queue whose id is taken: by a queue that exists, or twice in the commit.
pub(crate) fn check_creations(
    changes: &[Change],
    exists: impl Fn(QueueId) -> bool,
) -> Result<(), StoreError> {
    let mut created: Vec<QueueId> = Vec::new();
    for change in changes {
        if let Change::CreateQueue { queue, .. } = change {
            if exists(*queue) || created.contains(queue) {
                return Err(StoreError::new(
                    ErrorKind::Unsupported,
                    format!("the id of queue {} was used before", queue.0),
                ));
            }
            created.push(*queue);
        }
    }
    Ok(())
}

impl Pool for Memory {
    fn capabilities(&self) -> Capabilities {
        Capabilities { durable: false, atomic_across_queues: true, ordered: true, delayed: true }
    }

    fn commit(&self, commit: Commit) -> Pending<Receipt> {
        let mut state = self.state();
        if let Err(error) = check_creations(&commit.changes, |id| state.queues.contains_key(&id)) {
            return Pending::ready(Err(error));
        }
        let mut receipt = Receipt::default();
        let settled = commit.changes.iter().filter_map(|change| match change {
            Change::Settle { queue, .. }
            | Change::Remove { queue, .. }
            | Change::EndClaim { queue, .. } => Some(*queue),
            Change::CreateQueue { .. }
            | Change::DeleteQueue { .. }
            | Change::Purge { .. }
            | Change::Trim { .. }
            | Change::Enqueue { .. } => None,
        });
        let settled: Vec<QueueId> = settled.collect();
        for (index, change) in commit.changes.into_iter().enumerate() {
            if !state.apply(change, commit.now, &mut receipt) {
                receipt.duplicates.push(index);
            }
        }
        settled.into_iter().for_each(|queue| self.hint_due(&mut state, queue));
        Pending::ready(Ok(receipt))
    }

    fn lease(&self, request: LeaseRequest) -> Pending<Lease> {
        let leased = self.with_queue(request.queue, |queue| {
            if queue.kind.stream {
                return Err(no_lease_from_stream(request.queue));
            }
            Ok(queue.lease(&request))
        });
        self.hint_due(&mut self.state(), request.queue);
        leased
    }

    fn extend(&self, queue: QueueId, claim: Claim, now: Timestamp) -> Pending<Extended> {
        let extended = |messages| Extended { messages, ticket: Ticket::NONE };
        self.with_queue(queue, |queue| Ok(extended(queue.extend(claim, now))))
    }

    fn claimed(&self, queue: QueueId, claim: ClaimId) -> Pending<Option<Claimed>> {
        self.with_queue(queue, |queue| Ok(queue.claimed(claim)))
    }

    fn newest(&self, queue: QueueId) -> Pending<Option<Stored>> {
        self.with_queue(queue, |queue| Ok(queue.newest()))
    }

    fn due(&self, now: Timestamp, messages_max: usize) -> Pending<Due> {
        let mut state = self.state();
        let mut due = Due::default();
        for (id, queue) in &mut state.queues {
            if queue.wake(now) {
                due.ready.push(*id);
            }
            let room = messages_max.saturating_sub(due.expired.len());
            due.expired.extend(queue.take_expired(now, room).into_iter().map(|one| (*id, one)));
            due.next = [due.next, queue.next_due()].into_iter().flatten().min();
        }
        state.next_due = due.next;
        Pending::ready(Ok(due))
    }

    fn read(&self, request: ReadRequest) -> Pending<Vec<Stored>> {
        self.with_queue(request.queue, |queue| Ok(queue.read(&request)))
    }

    fn sequence_at(&self, queue: QueueId, since: Timestamp) -> Pending<Sequence> {
        self.with_queue(queue, |queue| Ok(queue.sequence_at(since)))
    }

    fn stats(&self, queue: QueueId) -> Pending<QueueStats> {
        self.with_queue(queue, |queue| Ok(queue.stats()))
    }

    fn queues(&self) -> Pending<Vec<(QueueId, QueueKind)>> {
        Pending::ready(Ok(self
            .state()
            .queues
            .iter()
            .map(|(id, queue)| (*id, queue.kind))
            .collect()))
    }

    fn watch(&self) -> &Watch {
        &self.watch
    }
}

impl Catalog for Memory {
    fn load(&self) -> Pending<Vec<Definition>> {
        let definitions = self.state().definitions.clone().into_iter();
        Pending::ready(Ok(definitions.map(|(key, value)| Definition { key, value }).collect()))
    }

    fn commit_definitions(&self, changes: Vec<DefinitionChange>) -> Pending<Ticket> {
        let mut state = self.state();
        for change in changes {
            match change {
                DefinitionChange::Put(Definition { key, value }) => {
                    state.definitions.insert(key, value);
                }
                DefinitionChange::Remove(key) => {
                    state.definitions.remove(&key);
                }
            }
        }
        Pending::ready(Ok(Ticket::NONE))
    }
}

impl State {
    /// Applies one change; false if it was a duplicate and skipped.
    fn apply(&mut self, change: Change, now: Timestamp, receipt: &mut Receipt) -> bool {
        match change {
            Change::CreateQueue { queue, kind } => {
                self.queues.insert(queue, Queue::new(kind));
            }
            Change::DeleteQueue { queue } => {
                if let Some(queue) = self.queues.remove(&queue) {
                    receipt.removed += queue.stats().ready;
                }
            }
            Change::Enqueue { message, targets, dedup } => {
                return self.enqueue(&message, &targets, dedup, now, receipt);
            }
            Change::Remove { queue, sequences, condition } => {
                let queue = self.queues.get_mut(&queue);
                match queue.filter(|queue| !queue.kind.stream) {
                    Some(queue) => {
                        let removal = |it: &Sequence| queue.remove(*it, condition, now);
                        receipt.removals.extend(sequences.iter().map(removal));
                    }
                    None => receipt.removals.extend(sequences.iter().map(|_| Removal::Missing)),
                }
            }
            Change::EndClaim { queue, claim } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.end_claim(claim);
                }
            }
            Change::Settle { queue, sequences, settlement } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.settle(&sequences, settlement, now);
                }
            }
            Change::Purge { queue } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    receipt.removed += queue.purge();
                }
            }
            Change::Trim { queue, before } => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    receipt.removed += queue.trim(before);
                }
            }
        }
        true
    }

    fn enqueue(
        &mut self,
        message: &Message,
        targets: &Targets,
        dedup: Option<DedupId>,
        now: Timestamp,
        receipt: &mut Receipt,
    ) -> bool {
        if let Some(id) = dedup
            && self.seen(id, now)
        {
            return false;
        }
        let mut stored = false;
        for target in targets {
            if let Some(queue) = self.queues.get_mut(&target.queue) {
                let sequence = queue.enqueue(message.clone(), *target, now);
                if !stored {
                    receipt.last = sequence;
                }
                stored = true;
            }
        }
        // A message that nobody took may be published again, once there is a queue for it.
        if let Some(id) = dedup
            && stored
        {
            self.dedup.insert(id, now);
            self.dedup_order.push_back((now, id));
            if self.dedup.len() > DEDUP_IDS_MAX {
                self.forget_oldest();
            }
        }
        true
    }

    fn seen(&mut self, id: DedupId, now: Timestamp) -> bool {
        while let Some((when, _)) = self.dedup_order.front()
            && now.since(*when) >= DEDUP_WINDOW
        {
            self.forget_oldest();
        }
        self.dedup.contains_key(&id)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.dedup_order.pop_front() {
            self.dedup.remove(&id);
        }
    }
}

/// Whether a hold that is given to a message lets it go at once.
pub(crate) fn takes(hold: Hold) -> bool {
    matches!(hold, Hold::Take | Hold::TakeDurably)
}
