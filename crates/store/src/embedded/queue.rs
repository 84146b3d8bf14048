//! One queue in memory: what is ready, leased and delayed.
//!
//! A ready message is in one of three places of its priority's lane. `hot` holds the next messages with their bodies,
//! `cold` what comes after them, 16 bytes each, and `returned` what came back out of order (released, no longer delayed);
//! the head of a lane is the lower of `returned` and `hot`, or `cold` when `hot` is empty. Every sequence in `hot` is below
//! every sequence in `cold`. A stream uses `cold` for all its messages and `hot` as a cache of the newest.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{ClaimId, QueueId, Sequence};

use super::claims::Claims;
use super::cold::{Cold, ColdList};
use super::entry::Entry;
use super::leases::Leases;
use super::reservation::Reservation;
use crate::pool::{QueueKind, QueueStats};

/// A queue may keep this much resident whatever others do.
pub(crate) const RESIDENT_PER_QUEUE_MIN: usize = 64 * 1024;

/// Messages that a stream keeps resident for those who read at its end.
pub(crate) const STREAM_TAIL_MESSAGES: usize = 256;

/// A queue, and the lock that all work on it happens under.
///
/// Lock order of the driver: queue table, queues by id, dedup window, definitions, log, then segments and timers; the
/// last two never hold another.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) id: QueueId,
    pub(crate) kind: QueueKind,
    state: Mutex<QueueState>,
}

impl Queue {
    pub(crate) fn new(id: QueueId, state: QueueState) -> Self {
        Self { id, kind: state.kind, state: Mutex::new(state) }
    }

    pub(crate) fn lock<'a>(&'a self, resident: &'a AtomicI64) -> Locked<'a> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.resident;
        Locked { state, before, resident }
    }
}

/// A locked queue; tells the pool on release how its resident bytes changed.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    state: MutexGuard<'a, QueueState>,
    before: usize,
    resident: &'a AtomicI64,
}

impl Deref for Locked<'_> {
    type Target = QueueState;

    fn deref(&self) -> &QueueState {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut QueueState {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let change = signed(self.state.resident) - signed(self.before);
        if change != 0 {
            self.resident.fetch_add(change, Ordering::Relaxed);
        }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Ready messages of one priority.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) returned: BTreeMap<u64, Entry>,
    pub(crate) hot: VecDeque<Entry>,
    pub(crate) cold: ColdList,
}

/// Where the head of a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Returned,
    Hot,
    Cold,
}

/// The next message of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneHead {
    pub(crate) place: Place,
    pub(crate) sequence: u64,
    pub(crate) expires: u64,
    pub(crate) durable: bool,
}

impl LaneHead {
    fn of(place: Place, entry: &Entry) -> Self {
        let Entry { sequence, expires, durable, .. } = *entry;
        Self { place, sequence, expires, durable }
    }

    fn of_cold(cold: &Cold) -> Self {
        let Cold { sequence, expires, durable, .. } = *cold;
        Self { place: Place::Cold, sequence, expires, durable }
    }
}

impl Lane {
    /// The next message.
    pub(crate) fn head(&self) -> Option<LaneHead> {
        let next = match self.hot.front() {
            Some(entry) => Some(LaneHead::of(Place::Hot, entry)),
            None => self.cold.front().map(|cold| LaneHead::of_cold(&cold)),
        };
        let Some((sequence, entry)) = self.returned.first_key_value() else { return next };
        match next {
            Some(next) if next.sequence < *sequence => Some(next),
            _ => Some(LaneHead::of(Place::Returned, entry)),
        }
    }
}

/// Everything about a queue that changes.
#[derive(Debug)]
pub(crate) struct QueueState {
    pub(crate) kind: QueueKind,
    /// Deleted while somebody still held a reference.
    pub(crate) deleted: bool,
    /// Somebody leases from it.
    pub(crate) consumed: bool,
    /// Some message expires.
    pub(crate) expiring: bool,
    pub(crate) next: u64,
    pub(crate) ready: u64,
    pub(crate) ready_bytes: u64,
    /// Bytes of messages that are kept in memory, leased ones aside.
    pub(crate) resident: usize,
    /// By priority; made when the first message comes.
    pub(crate) lanes: Vec<Lane>,
    pub(crate) leased: Leases,
    pub(crate) delayed: BTreeMap<u64, Entry>,
    /// Made with the first claim.
    pub(crate) claims: Option<Box<Claims>>,
    pub(crate) reservation: Reservation,
    /// Unsettled before a restart, and perhaps delivered: everything below.
    pub(crate) redelivered_before: u64,
    /// When the pool's timers will look at the head for expiry; `u64::MAX` for never.
    pub(crate) head_timer: u64,
    /// Segment of the newest record that tells of the queue itself.
    pub(crate) state_segment: u32,
}

/// What an idle queue costs, its entry in the table aside.
const _: () = assert!(size_of::<Queue>() <= 320);

impl QueueState {
    pub(crate) fn new(kind: QueueKind) -> Self {
        Self {
            kind,
            deleted: false,
            consumed: false,
            expiring: false,
            next: 0,
            ready: 0,
            ready_bytes: 0,
            resident: 0,
            lanes: Vec::new(),
            leased: Leases::default(),
            delayed: BTreeMap::new(),
            claims: None,
            reservation: Reservation::new(0),
            redelivered_before: 0,
            head_timer: u64::MAX,
            state_segment: 0,
        }
    }

    /// The lane of a priority, made now if need be.
    pub(crate) fn lane_mut(&mut self, priority: u8) -> Option<&mut Lane> {
        let index = usize::from(priority);
        if self.lanes.len() <= index {
            self.lanes.resize_with(index + 1, Lane::default);
        }
        self.lanes.get_mut(index)
    }

    /// Puts a new message behind all others of its priority, in memory while there is room.
    pub(crate) fn push(&mut self, entry: Entry, keep_resident: bool) {
        self.ready += 1;
        self.ready_bytes += u64::from(entry.body_len);
        self.expiring |= entry.expires != u64::MAX;
        let cost = entry.resident_cost();
        let stream = self.kind.stream;
        let Some(lane) = self.lane_mut(entry.priority) else { return };
        if stream {
            lane.cold.insert(&entry.cold());
            self.push_tail(entry, cost);
        } else if keep_resident {
            lane.hot.push_back(entry);
            self.resident += cost;
        } else {
            lane.cold.insert(&entry.cold());
        }
    }

    fn push_tail(&mut self, entry: Entry, cost: usize) {
        if entry.message.is_none() {
            return;
        }
        let mut resident = self.resident + cost;
        if let Some(lane) = self.lanes.first_mut() {
            lane.hot.push_back(entry);
            while resident > RESIDENT_PER_QUEUE_MIN || lane.hot.len() > STREAM_TAIL_MESSAGES {
                let Some(oldest) = lane.hot.pop_front() else { break };
                resident -= oldest.resident_cost();
            }
        }
        self.resident = resident;
    }

    /// Whether a message that comes now may stay in memory and keep the order of the lane.
    pub(crate) fn may_stay(&self, priority: u8, pool_has_room: bool) -> bool {
        let cold_is_empty =
            self.lanes.get(usize::from(priority)).is_none_or(|lane| lane.cold.is_empty());
        cold_is_empty && (pool_has_room || self.resident < RESIDENT_PER_QUEUE_MIN)
    }

    /// Puts a message back into its place.
    pub(crate) fn put_back(&mut self, mut entry: Entry) {
        self.ready += 1;
        self.ready_bytes += u64::from(entry.body_len);
        self.expiring |= entry.expires != u64::MAX;
        self.resident += entry.resident_cost();
        entry.until = 0;
        if let Some(lane) = self.lane_mut(entry.priority) {
            lane.returned.insert(entry.sequence, entry);
        }
    }

    /// Takes the head of a lane, which must not be cold.
    pub(crate) fn pop(&mut self, priority: u8, place: Place) -> Option<Entry> {
        let lane = self.lanes.get_mut(usize::from(priority))?;
        let entry = match place {
            Place::Returned => lane.returned.pop_first().map(|it| it.1)?,
            Place::Hot => lane.hot.pop_front()?,
            Place::Cold => return None,
        };
        self.ready -= 1;
        self.ready_bytes -= u64::from(entry.body_len);
        self.resident -= entry.resident_cost();
        Some(entry)
    }

    pub(crate) fn delay(&mut self, entry: Entry) {
        self.expiring |= entry.expires != u64::MAX;
        self.resident += entry.resident_cost();
        self.delayed.insert(entry.sequence, entry);
    }

    pub(crate) fn take_delayed(&mut self, sequence: u64) -> Option<Entry> {
        let entry = self.delayed.remove(&sequence)?;
        self.resident -= entry.resident_cost();
        Some(entry)
    }

    /// When the first head of a lane expires; `u64::MAX` for never.
    pub(crate) fn head_expires(&self) -> u64 {
        if !self.expiring || self.kind.stream {
            return u64::MAX;
        }
        self.lanes.iter().filter_map(Lane::head).map(|head| head.expires).min().unwrap_or(u64::MAX)
    }

    /// Whether a message may have been delivered before the last start.
    pub(crate) fn was_delivered(&self, sequence: u64) -> bool {
        sequence < self.redelivered_before
    }

    /// The oldest sequence that is still there.
    pub(crate) fn first(&self) -> u64 {
        let ready = self.lanes.iter().filter_map(|lane| {
            if self.kind.stream {
                lane.cold.front().map(|cold| cold.sequence)
            } else {
                lane.head().map(|head| head.sequence)
            }
        });
        let delayed = self.delayed.keys().next().copied();
        ready.chain(delayed).chain(self.leased.first()).min().unwrap_or(self.next)
    }

    /// The newest sequence that is still there.
    pub(crate) fn last(&self) -> Option<u64> {
        let ready = self.lanes.iter().filter_map(|lane| {
            let returned = lane.returned.keys().next_back().copied();
            let hot = lane.hot.back().map(|entry| entry.sequence);
            let cold = lane.cold.back().map(|cold| cold.sequence);
            [returned, hot, cold].into_iter().flatten().max()
        });
        let delayed = self.delayed.keys().next_back().copied();
        ready.chain(delayed).chain(self.leased.last()).max()
    }

    /// Takes a ready message out of its place, wherever in the lanes it is.
    pub(crate) fn take_ready(&mut self, sequence: u64) -> Option<Entry> {
        let found = self.lanes.iter_mut().enumerate().find_map(|(priority, lane)| {
            if let Some(entry) = lane.returned.remove(&sequence) {
                return Some(entry);
            }
            if let Ok(at) = lane.hot.binary_search_by_key(&sequence, |entry| entry.sequence) {
                // Moves the shorter half; what is resident is bounded by bytes, whatever the backlog.
                return lane.hot.remove(at);
            }
            let priority = u8::try_from(priority).unwrap_or(u8::MAX);
            lane.cold.remove(sequence).map(|cold| Entry::of_cold(&cold, priority))
        });
        let entry = found?;
        self.ready -= 1;
        self.ready_bytes -= u64::from(entry.body_len);
        self.resident -= entry.resident_cost();
        Some(entry)
    }

    /// When a ready message expires; `None` if there is none.
    pub(crate) fn ready_expires(&self, sequence: u64) -> Option<u64> {
        self.lanes.iter().find_map(|lane| {
            let hot = lane.hot.binary_search_by_key(&sequence, |entry| entry.sequence);
            let warm = hot.ok().and_then(|at| lane.hot.get(at));
            let warm = warm.or_else(|| lane.returned.get(&sequence)).map(|entry| entry.expires);
            warm.or_else(|| lane.cold.get(sequence).map(|cold| cold.expires))
        })
    }

    pub(crate) fn claims_mut(&mut self) -> &mut Claims {
        self.claims.get_or_insert_default()
    }

    /// The claim that holds a leased entry.
    pub(crate) fn claim_of(&self, entry: &Entry) -> Option<ClaimId> {
        let claims = self.claims.as_ref().filter(|_| entry.until != 0)?;
        claims.get(entry.until).map(|held| ClaimId::from_bits(held.id))
    }

    pub(crate) fn stats(&self) -> QueueStats {
        QueueStats {
            ready: self.ready,
            ready_bytes: self.ready_bytes,
            cold: self.lanes.iter().map(|lane| lane.cold.len() as u64).sum(),
            leased: self.leased.len() as u64,
            delayed: self.delayed.len() as u64,
            first: Sequence(self.first()),
            next: Sequence(self.next),
        }
    }

    /// Forgets all ready messages; each is shown to `forgotten`.
    pub(crate) fn clear_ready(&mut self, mut forgotten: impl FnMut(&Entry)) {
        let stream = self.kind.stream;
        for (priority, mut lane) in std::mem::take(&mut self.lanes).into_iter().enumerate() {
            let priority = u8::try_from(priority).unwrap_or(u8::MAX);
            for entry in lane.returned.values().chain(lane.hot.iter()) {
                self.resident -= entry.resident_cost();
                if !stream {
                    forgotten(entry);
                }
            }
            lane.cold.iter_from(0).for_each(|cold| forgotten(&Entry::of_cold(&cold, priority)));
            lane.cold.clear();
        }
        self.ready = 0;
        self.ready_bytes = 0;
    }

    /// Forgets a stream's messages before a sequence; each is shown to `forgotten`. Returns how many there were.
    pub(crate) fn trim(&mut self, before: u64, mut forgotten: impl FnMut(&Entry)) -> u64 {
        if !self.kind.stream {
            return 0;
        }
        let (mut removed, mut bytes, mut resident) = (0, 0, 0);
        if let Some(lane) = self.lanes.first_mut() {
            while lane.hot.front().is_some_and(|entry| entry.sequence < before) {
                resident += lane.hot.pop_front().map_or(0, |entry| entry.resident_cost());
            }
            while lane.cold.front().is_some_and(|cold| cold.sequence < before) {
                let Some(cold) = lane.cold.pop_front() else { break };
                removed += 1;
                bytes += u64::from(cold.body_len);
                forgotten(&Entry::of_cold(&cold, 0));
            }
        }
        self.resident -= resident;
        self.ready -= removed;
        self.ready_bytes -= bytes;
        removed
    }

    /// The message wherever it is, to tell it that it has moved. Cold ones are told by `ColdList::set_position`.
    pub(crate) fn find_mut(&mut self, sequence: u64) -> Option<&mut Entry> {
        if let Some(entry) = self.delayed.get_mut(&sequence) {
            return Some(entry);
        }
        for lane in &mut self.lanes {
            if let Some(entry) = lane.returned.get_mut(&sequence) {
                return Some(entry);
            }
            if let Ok(index) = lane.hot.binary_search_by_key(&sequence, |entry| entry.sequence) {
                return lane.hot.get_mut(index);
            }
        }
        self.leased.get_mut(sequence)
    }
}
