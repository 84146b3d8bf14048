//! Applying a commit: all queues it touches are locked, its records encoded, its changes made.
//!
//! Nothing can fail after the first change: what may be refused is checked before. The log's lock is taken when the first
//! record is written and kept to the end, so that a commit's records lie together.

use std::sync::{Arc, MutexGuard, PoisonError};

use model::{DedupId, Message, QueueId, Sequence, Ticket, Timestamp};
use smallvec::SmallVec;

use super::bytes::u32_of;
use super::dedup::Dedup;
use super::entry::Entry;
use super::event::{self, Event, Placed, Runs, push_run};
use super::log::{COMMIT_BYTES_MAX, LogCommit};
use super::queue::{Locked, Queue, QueueState};
use super::segment::{Freed, Position};
use super::shared::{Shared, Table};
use super::timers::{Reason, Timer};
use crate::error::{ErrorKind, StoreError};
use crate::memory::check_creations;
use crate::pool::{
    Admission, Change, Commit, Handout, Pending, QueueKind, Receipt, Sequences, Settlement, Target,
    Targets,
};

/// A queue with fewer ready messages is likely to hand out a new one at once, so its reservation goes ahead of it.
const RESERVE_AHEAD_READY: u64 = 1024;

/// A commit in work.
pub(super) struct Work<'a> {
    pub(super) shared: &'a Shared,
    queues: &'a [Arc<Queue>],
    pub(super) locked: SmallVec<[Locked<'a>; 4]>,
    /// Index of the queue that the last change was about.
    last: usize,
    dedup: Option<MutexGuard<'a, Dedup>>,
    log: Option<LogCommit<'a>>,
    pub(super) now: Timestamp,
    handout: Handout,
    pub(super) receipt: Receipt,
    pub(super) freed: Freed,
    room: Room,
}

/// Whether the pool has memory left for more resident messages.
struct Room {
    persistent: bool,
    transient: bool,
}

impl Shared {
    pub(crate) fn commit(self: &Arc<Self>, commit: Commit) -> Pending<Receipt> {
        match self.apply(commit) {
            Ok((mut receipt, waiting)) => {
                self.numbers.committed();
                receipt.congested = waiting > self.options.buffer_bytes;
                Pending::ready(Ok(receipt))
            }
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Returns the receipt, and how many bytes wait for the disk.
    fn apply(&self, commit: Commit) -> Result<(Receipt, usize), StoreError> {
        self.check_alive()?;
        let outline = Outline::of(&commit.changes);
        self.check_admitted(&outline, commit.admission)?;
        if outline.structural {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            check_creations(&commit.changes, |id| table.contains_key(&id))?;
            for change in &commit.changes {
                if let Change::CreateQueue { queue, kind } = change {
                    // There for whoever looks only from its change on.
                    let state = QueueState { deleted: true, ..QueueState::new(*kind) };
                    table.insert(*queue, Arc::new(Queue::new(*queue, state)));
                }
            }
            let queues = queues_of(&table, &outline.queues);
            let done = self.work(&queues, commit, &outline);
            for queue in &queues {
                if queue.lock(&self.resident).deleted {
                    table.remove(&queue.id);
                }
            }
            return Ok(done);
        }
        let queues = {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            queues_of(&table, &outline.queues)
        };
        Ok(self.work(&queues, commit, &outline))
    }

    fn check_admitted(&self, outline: &Outline, admission: Admission) -> Result<(), StoreError> {
        if outline.enqueues && admission == Admission::Asked && self.watch.full() {
            return Err(StoreError::new(
                ErrorKind::Unavailable,
                "there is no space left for messages",
            ));
        }
        if outline.bytes > COMMIT_BYTES_MAX {
            return Err(StoreError::new(
                ErrorKind::Unsupported,
                format!("a commit of {} bytes exceeds {COMMIT_BYTES_MAX}", outline.bytes),
            ));
        }
        Ok(())
    }

    fn work(&self, queues: &[Arc<Queue>], commit: Commit, outline: &Outline) -> (Receipt, usize) {
        let mut work = Work {
            shared: self,
            queues,
            locked: queues.iter().map(|queue| queue.lock(&self.resident)).collect(),
            last: 0,
            dedup: outline.dedup.then(|| self.dedup()),
            log: None,
            now: commit.now,
            handout: commit.handout,
            receipt: Receipt::default(),
            freed: Freed::default(),
            room: Room {
                persistent: self.pool_has_room(true),
                transient: self.pool_has_room(false),
            },
        };
        let mut changes = commit.changes.into_iter();
        let mut index = 0;
        while let Some(change) = changes.next() {
            let checksum = outline.checksums.get(index).copied();
            if !work.change(change, checksum, changes.as_slice()) {
                work.receipt.duplicates.push(index);
            }
            index += 1;
        }
        work.finish()
    }
}

/// What is learned of a commit before anything is locked.
#[derive(Default)]
struct Outline {
    /// All queues it names, sorted.
    queues: SmallVec<[QueueId; 8]>,
    structural: bool,
    enqueues: bool,
    dedup: bool,
    bytes: usize,
    /// Of every change's message; empty if none is persistent.
    checksums: Vec<u32>,
}

impl Outline {
    fn of(changes: &[Change]) -> Self {
        let mut outline = Self::default();
        for (index, change) in changes.iter().enumerate() {
            match change {
                Change::CreateQueue { queue, .. } | Change::DeleteQueue { queue } => {
                    outline.structural = true;
                    outline.name(*queue);
                }
                Change::Settle { queue, .. }
                | Change::Purge { queue }
                | Change::Remove { queue, .. }
                | Change::EndClaim { queue, .. }
                | Change::Trim { queue, .. } => outline.name(*queue),
                Change::Enqueue { message, targets, dedup } => {
                    outline.enqueues = true;
                    outline.dedup |= dedup.is_some();
                    outline.bytes += message.payload().len();
                    for target in targets {
                        outline.name(target.queue);
                    }
                    if message.persistent {
                        if outline.checksums.is_empty() {
                            outline.checksums.resize(changes.len(), 0);
                        }
                        if let Some(checksum) = outline.checksums.get_mut(index) {
                            *checksum = crc32fast::hash(message.payload());
                        }
                    }
                }
            }
        }
        outline.queues.sort_unstable();
        outline.queues.dedup();
        outline
    }

    fn name(&mut self, queue: QueueId) {
        if self.queues.last() != Some(&queue) {
            self.queues.push(queue);
        }
    }
}

fn queues_of(table: &Table, ids: &[QueueId]) -> SmallVec<[Arc<Queue>; 4]> {
    ids.iter().filter_map(|id| table.get(id).cloned()).collect()
}

/// Most bytes that a change may add to the log.
fn bound_of(change: &Change, leases: impl Fn(QueueId) -> usize) -> usize {
    match change {
        Change::CreateQueue { .. } | Change::DeleteQueue { .. } | Change::Trim { .. } => 256,
        Change::Enqueue { message, targets, .. } => enqueue_bound(message, targets.len()),
        Change::Settle { queue, sequences, .. } => {
            let spans = sequences.iter().map(|(first, last)| last.0.saturating_sub(first.0));
            let named = spans.fold(sequences.len() as u64, u64::saturating_add);
            runs_bound(leases(*queue).min(usize::try_from(named).unwrap_or(usize::MAX)))
        }
        Change::Purge { queue } | Change::EndClaim { queue, .. } => runs_bound(leases(*queue)),
        Change::Remove { sequences, .. } => runs_bound(sequences.len()),
    }
}

fn enqueue_bound(message: &Message, targets: usize) -> usize {
    event::enqueue_bound(message, targets) + message.payload().len()
}

pub(super) fn runs_bound(runs: usize) -> usize {
    128 + runs * 16
}

impl<'a> Work<'a> {
    /// Makes one change; false if it was a duplicate.
    fn change(&mut self, change: Change, checksum: Option<u32>, rest: &[Change]) -> bool {
        match change {
            Change::Enqueue { message, targets, dedup } => match dedup {
                None => {
                    self.enqueue(message, &targets, None, checksum, rest);
                }
                Some(id) => return self.enqueue_once(message, &targets, id, checksum, rest),
            },
            Change::Settle { queue, sequences, settlement } => {
                self.settle(queue, &sequences, settlement, rest);
            }
            Change::CreateQueue { queue, kind } => self.create(queue, kind, rest),
            Change::DeleteQueue { queue } => self.delete(queue, rest),
            Change::Purge { queue } => self.purge(queue, rest),
            Change::Remove { queue, sequences, condition } => {
                self.remove(queue, &sequences, condition, rest);
            }
            Change::EndClaim { queue, claim } => self.end_claim(queue, claim, rest),
            Change::Trim { queue, before } => self.trim(queue, before.0, rest),
        }
        true
    }

    /// Where the queue is among the locked ones, if it is there.
    pub(super) fn index_of(&mut self, queue: QueueId) -> Option<usize> {
        if self.queues.get(self.last).is_none_or(|last| last.id != queue) {
            self.last = self.queues.binary_search_by_key(&queue, |queue| queue.id).ok()?;
        }
        self.locked.get(self.last).filter(|state| !state.deleted).map(|_| self.last)
    }

    /// The log, opened for `own` bytes and all that the changes to come may add.
    pub(super) fn log(&mut self, own: usize, rest: &[Change]) -> &mut LogCommit<'a> {
        let Self { shared, queues, locked, log, .. } = self;
        log.get_or_insert_with(|| {
            let leases = |queue: QueueId| {
                let index = queues.binary_search_by_key(&queue, |queue| queue.id).ok();
                index.and_then(|index| locked.get(index)).map_or(0, |state| state.leased.len())
            };
            let rest: usize = rest.iter().map(|change| bound_of(change, leases)).sum();
            shared.log.begin(own.saturating_add(rest))
        })
    }

    fn enqueue_once(
        &mut self,
        message: Message,
        targets: &Targets,
        id: DedupId,
        checksum: Option<u32>,
        rest: &[Change],
    ) -> bool {
        let now = self.now;
        let original = self.dedup.as_mut().and_then(|dedup| dedup.find(id.0, now));
        if let Some(ticket) = original {
            self.receipt.ticket = self.receipt.ticket.max(ticket);
            return false;
        }
        // A message that nobody took may be published again, once there is a queue for it.
        if let Some((position, durable)) =
            self.enqueue(message, targets, Some(id.0), checksum, rest)
        {
            let recorded = durable && position.is_logged();
            let ticket =
                self.log.as_ref().filter(|_| recorded).map_or(Ticket::NONE, |it| it.ticket());
            let segment = if recorded { position.segment } else { 0 };
            if let Some(dedup) = &mut self.dedup {
                dedup.insert(id.0, now, ticket, segment);
            }
        }
        true
    }

    /// Puts a message into its queues. Returns where it lies and whether it is durable; `None` if no queue took it.
    fn enqueue(
        &mut self,
        message: Message,
        targets: &Targets,
        dedup: Option<u128>,
        checksum: Option<u32>,
        rest: &[Change],
    ) -> Option<(Position, bool)> {
        let mut placed: SmallVec<[Placed; 1]> = SmallVec::new();
        let mut keep: SmallVec<[(usize, bool); 4]> = SmallVec::new();
        let (mut durable, mut logged) = (false, false);
        for target in targets {
            let Some(index) = self.index_of(target.queue) else { continue };
            let Some(state) = self.locked.get_mut(index) else { continue };
            let place = place(state, target, &message, self.now);
            let room = if place.durable { self.room.persistent } else { self.room.transient };
            let stream = state.kind.stream;
            let stays = !stream && state.may_stay(place.priority, room);
            durable |= place.durable;
            logged |= place.durable || stream || !stays;
            placed.push(place);
            keep.push((index, stays));
        }
        self.receipt.last = Sequence(placed.first()?.sequence);
        let mut position = Position::NONE;
        if logged {
            let own = enqueue_bound(&message, placed.len());
            self.log(own, rest);
            if durable {
                self.reserve_ahead(&placed, &keep);
            }
            let checksum = match checksum {
                Some(checksum) if message.persistent => checksum,
                _ => crc32fast::hash(message.payload()),
            };
            if let Some(log) = &mut self.log {
                position = log.enqueue(&message, checksum, self.now.0, dedup, &placed);
            }
        }
        self.take_in(message, position, &placed, &keep);
        Some((position, durable))
    }

    /// Makes entries of a placed message.
    fn take_in(
        &mut self,
        message: Message,
        position: Position,
        placed: &[Placed],
        keep: &[(usize, bool)],
    ) {
        let body_len = u32_of(message.body_len());
        let mut message = Some(message);
        for (number, (place, (index, stays))) in placed.iter().zip(keep).enumerate() {
            let Some(state) = self.locked.get_mut(*index) else { continue };
            if place.durable
                && self.handout == Handout::WhenDurable
                && let Some(log) = self.log.as_mut()
            {
                state.reservation.hold(place.sequence, log.ticket());
                log.hint(place.queue);
            }
            let mut entry = Entry::of_placed(place, position, body_len);
            entry.enqueued = self.now.0;
            let resident = *stays || state.kind.stream;
            if resident && (place.not_before == 0 || !position.is_logged()) {
                // The last one needs no copy.
                let last = number + 1 == placed.len();
                entry.message = if last { message.take() } else { message.clone() };
            }
            if place.not_before == 0 {
                state.push(entry, *stays);
                continue;
            }
            let (at, sequence) = (place.not_before, place.sequence);
            state.delay(entry);
            let timer = Timer { at, queue: place.queue, reason: Reason::Delayed, sequence };
            self.shared.timers.insert(timer);
        }
    }

    /// Reserves, in front of a message, the sequences of queues that are likely to hand it out at once.
    fn reserve_ahead(&mut self, placed: &[Placed], keep: &[(usize, bool)]) {
        for (place, (index, _)) in placed.iter().zip(keep) {
            let Some(state) = self.locked.get_mut(*index) else { continue };
            let (queue, sequence) = (place.queue, place.sequence);
            let wanted = place.durable
                && state.consumed
                && !state.kind.stream
                && state.ready < RESERVE_AHEAD_READY
                && sequence >= state.reservation.top();
            if let Some(log) = self.log.as_mut().filter(|_| wanted) {
                let up_to = state.reservation.propose(sequence);
                log.event(&Event::Reserve { queue, up_to });
                log.hint(queue);
                state.reservation.appended(up_to, sequence, log.ticket());
            }
        }
    }

    fn settle(
        &mut self,
        queue: QueueId,
        sequences: &Sequences,
        settlement: Settlement,
        rest: &[Change],
    ) {
        let (shared, now) = (self.shared, self.now);
        let Some(index) = self.index_of(queue) else { return };
        let Some(state) = self.locked.get_mut(index) else { return };
        let mut runs = Runs::new();
        let mut leased = std::mem::take(&mut state.leased);
        for (first, last) in sequences {
            leased.take(first.0, last.0, |mut entry| {
                let claimed = entry.until != 0;
                if claimed {
                    shared.leave_claim(queue, state, &mut entry);
                }
                match settlement {
                    Settlement::Ack => {
                        if entry.durable {
                            push_run(&mut runs, entry.sequence);
                        }
                        self.freed.add(&shared.log.segments, entry.position);
                    }
                    Settlement::Release { not_before, counted } => {
                        let not_before = not_before.filter(|when| *when > now);
                        if entry.durable && (counted || not_before.is_some() || claimed) {
                            push_run(&mut runs, entry.sequence);
                        }
                        shared.give_back(queue, state, entry, counted, not_before);
                    }
                }
            });
        }
        state.leased = leased;
        if runs.is_empty() {
            return;
        }
        let own = runs_bound(runs.len());
        let event = match settlement {
            Settlement::Ack => Event::Ack { queue, runs },
            Settlement::Release { not_before, counted } => {
                let not_before = not_before.filter(|when| *when > now).map_or(0, |when| when.0);
                Event::Release { queue, counted, not_before, runs }
            }
        };
        self.log(own, rest).event(&event);
    }

    fn create(&mut self, queue: QueueId, kind: QueueKind, rest: &[Change]) {
        let index = self.queues.binary_search_by_key(&queue, |queue| queue.id).ok();
        if let Some(state) = index.and_then(|index| self.locked.get_mut(index)) {
            state.deleted = false;
        }
        if !kind.durable {
            return;
        }
        let event = Event::Queue { queue, kind, next: 0, reserved: 0 };
        let log = self.log(256, rest);
        // Twice, because damage to it would cost more than one message.
        log.event(&event);
        let segment = log.event(&event).segment;
        if let Some(state) = index.and_then(|index| self.locked.get_mut(index)) {
            state.state_segment = segment;
        }
    }

    fn delete(&mut self, queue: QueueId, rest: &[Change]) {
        let shared = self.shared;
        let Some(index) = self.index_of(queue) else { return };
        let Some(state) = self.locked.get_mut(index) else { return };
        let durable = state.kind.durable;
        self.receipt.removed += state.ready;
        state.clear_ready(|entry| self.freed.add(&shared.log.segments, entry.position));
        shared.forget_delayed(queue, state, &mut self.freed);
        state.leased.take(0, u64::MAX, |entry| {
            self.freed.add(&shared.log.segments, entry.position);
        });
        shared.forget_claims(queue, state);
        state.deleted = true;
        if durable {
            self.log(128, rest).event(&Event::Delete { queue });
        }
    }

    fn purge(&mut self, queue: QueueId, rest: &[Change]) {
        let shared = self.shared;
        let Some(index) = self.index_of(queue) else { return };
        let Some(state) = self.locked.get_mut(index) else { return };
        let (durable, next) = (state.kind.durable, state.next);
        self.receipt.removed += state.ready;
        state.clear_ready(|entry| self.freed.add(&shared.log.segments, entry.position));
        shared.forget_delayed(queue, state, &mut self.freed);
        if durable {
            let mut kept = Runs::new();
            for entry in state.leased.iter_from(0, usize::MAX).filter(|entry| entry.durable) {
                push_run(&mut kept, entry.sequence);
            }
            let own = runs_bound(kept.len());
            self.log(own, rest).event(&Event::Purge { queue, next, kept });
        }
    }

    fn trim(&mut self, queue: QueueId, before: u64, rest: &[Change]) {
        let shared = self.shared;
        let Some(index) = self.index_of(queue) else { return };
        let Some(state) = self.locked.get_mut(index) else { return };
        let durable = state.kind.durable;
        // Sequences that are still to be given are not gone.
        let before = before.min(state.next);
        let freed = &mut self.freed;
        let removed = state.trim(before, |entry| freed.add(&shared.log.segments, entry.position));
        self.receipt.removed += removed;
        if durable && removed > 0 {
            self.log(128, rest).event(&Event::Trim { queue, before });
        }
    }

    fn finish(mut self) -> (Receipt, usize) {
        for (queue, state) in self.queues.iter().zip(&mut self.locked) {
            if state.expiring {
                self.shared.watch_head(queue.id, state);
            }
        }
        let (ticket, waiting) = self.log.map_or((Ticket::NONE, 0), LogCommit::finish);
        self.receipt.ticket = self.receipt.ticket.max(ticket);
        drop(self.locked);
        if self.freed.flush(&self.shared.log.segments) {
            self.shared.keeper.ring();
        }
        (self.receipt, waiting)
    }
}

/// The facts of a message in one queue, with its sequence.
fn place(state: &mut QueueState, target: &Target, message: &Message, now: Timestamp) -> Placed {
    let sequence = state.next;
    state.next += 1;
    let kind = state.kind;
    let not_before = target.not_before.filter(|when| *when > now && !kind.stream);
    Placed {
        queue: target.queue,
        sequence,
        priority: target.priority.min(kind.priority_max),
        expires: target.expires.map_or(u64::MAX, |when| when.0),
        not_before: not_before.map_or(0, |when| when.0),
        delivery_count: 0,
        durable: message.persistent && kind.durable,
    }
}

impl Shared {
    /// Returns a message whose lease has ended to its queue.
    pub(crate) fn give_back(
        &self,
        queue: QueueId,
        state: &mut QueueState,
        mut entry: Entry,
        counted: bool,
        not_before: Option<Timestamp>,
    ) {
        entry.redelivered = true;
        entry.delivery_count += u32::from(counted);
        match not_before {
            None => state.put_back(entry),
            Some(when) => {
                entry.until = when.0;
                let sequence = entry.sequence;
                state.delay(entry);
                let timer = Timer { at: when.0, queue, reason: Reason::Delayed, sequence };
                self.timers.insert(timer);
            }
        }
    }

    fn forget_delayed(&self, queue: QueueId, state: &mut QueueState, freed: &mut Freed) {
        for (sequence, entry) in std::mem::take(&mut state.delayed) {
            state.resident -= entry.resident_cost();
            freed.add(&self.log.segments, entry.position);
            let timer = Timer { at: entry.until, queue, reason: Reason::Delayed, sequence };
            self.timers.remove(&timer);
        }
    }
}
