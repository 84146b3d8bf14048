//! Looking at messages without leasing them: browsing queues and reading streams.

use model::{QueueId, Sequence, Timestamp};

use super::entry::Entry;
use super::queue::Locked;
use super::shared::Shared;
use crate::error::StoreError;
use crate::memory::no_queue;
use crate::pool::{QueueKind, QueueStats, ReadRequest, Stored, Which};

/// What a browse found, not yet loaded.
struct Found {
    entry: Entry,
    not_before: u64,
    leased: bool,
}

impl Shared {
    pub(crate) fn read(&self, request: &ReadRequest) -> Result<Vec<Stored>, StoreError> {
        self.check_alive()?;
        let queue = self.queue(request.queue).ok_or_else(|| no_queue(request.queue))?;
        let state = queue.lock(&self.resident);
        if state.kind.stream {
            return Ok(self.read_stream(&state, request));
        }
        let mut stored = Vec::new();
        let mut bytes = 0;
        for Found { mut entry, not_before, leased } in found(&state, request) {
            if stored.len() >= request.messages_max
                || (bytes >= request.bytes_max && !stored.is_empty())
            {
                break;
            }
            let Some((message, enqueued)) = self.message(&entry) else { continue };
            entry.enqueued = enqueued;
            bytes += message.body_len();
            let mut one = entry.stored(message, not_before, leased);
            one.claim = state.claim_of(&entry).filter(|_| leased);
            stored.push(one);
        }
        Ok(stored)
    }

    fn read_stream(&self, state: &Locked<'_>, request: &ReadRequest) -> Vec<Stored> {
        let mut stored = Vec::new();
        let Some(lane) = state.lanes.first().filter(|_| request.which.ready) else {
            return stored;
        };
        let (mut from, mut bytes) = (request.from.0, 0);
        let is_full = |stored: &Vec<Stored>, bytes: usize| {
            stored.len() >= request.messages_max
                || (bytes >= request.bytes_max && !stored.is_empty())
        };
        while !is_full(&stored, bytes) {
            if lane.hot.front().is_some_and(|entry| entry.sequence <= from) {
                let first = lane.hot.partition_point(|entry| entry.sequence < from);
                for entry in lane.hot.range(first..) {
                    if is_full(&stored, bytes) {
                        break;
                    }
                    if let Some(message) = &entry.message {
                        bytes += message.body_len();
                        stored.push(entry.stored(message.clone(), 0, false));
                    }
                }
                break;
            }
            let room = request.messages_max - stored.len();
            let bytes_left = request.bytes_max.saturating_sub(bytes).max(4096);
            let items = lane.cold.iter_from(from).take(room);
            let mut next = None;
            self.load_neighbours(items, bytes_left, |item, loaded| {
                next = Some(item.sequence + 1);
                if let Ok((message, enqueued)) = loaded
                    && !is_full(&stored, bytes)
                {
                    bytes += message.body_len();
                    let mut entry = Entry::of_cold(item, 0);
                    entry.enqueued = enqueued;
                    stored.push(entry.stored(message, 0, false));
                }
            });
            let Some(next) = next else { break };
            from = next;
        }
        stored
    }

    pub(crate) fn newest(&self, queue: QueueId) -> Result<Option<Stored>, StoreError> {
        self.check_alive()?;
        let found = self.queue(queue).ok_or_else(|| no_queue(queue))?;
        let Some(last) = found.lock(&self.resident).last() else { return Ok(None) };
        let (from, which) = (Sequence(last), Which::ALL);
        let request = ReadRequest { queue, which, from, messages_max: 1, bytes_max: usize::MAX };
        Ok(self.read(&request)?.pop())
    }

    pub(crate) fn sequence_at(
        &self,
        queue: QueueId,
        since: Timestamp,
    ) -> Result<Sequence, StoreError> {
        self.check_alive()?;
        let found = self.queue(queue).ok_or_else(|| no_queue(queue))?;
        let state = found.lock(&self.resident);
        if !state.kind.stream {
            let (from, messages_max) = (Sequence(0), usize::MAX);
            let request =
                ReadRequest { queue, which: Which::ALL, from, messages_max, bytes_max: 0 };
            for Found { entry, .. } in self::found(&state, &request) {
                if self.message(&entry).is_some_and(|loaded| loaded.1 >= since.0) {
                    return Ok(Sequence(entry.sequence));
                }
            }
            return Ok(Sequence(state.next));
        }
        Ok(Sequence(self.search_stream(&state, since)))
    }

    /// Enqueue times grow with sequences, so some twenty looks find one among a million.
    fn search_stream(&self, state: &Locked<'_>, since: Timestamp) -> u64 {
        let Some(lane) = state.lanes.first() else { return state.next };
        let first_from = |from: u64| {
            lane.cold.iter_from(from).find_map(|cold| {
                let (_, enqueued) = self.message(&Entry::of_cold(&cold, 0))?;
                Some((cold.sequence, enqueued))
            })
        };
        let (mut low, mut high) = (state.first(), state.next);
        while low < high {
            let middle = low + (high - low) / 2;
            match first_from(middle) {
                Some((sequence, enqueued)) if enqueued < since.0 => low = sequence + 1,
                _ => high = middle,
            }
        }
        first_from(low).map_or(state.next, |found| found.0)
    }

    pub(crate) fn stats(&self, queue: QueueId) -> Result<QueueStats, StoreError> {
        self.check_alive()?;
        let found = self.queue(queue).ok_or_else(|| no_queue(queue))?;
        let state = found.lock(&self.resident);
        if state.deleted { Err(no_queue(queue)) } else { Ok(state.stats()) }
    }

    pub(crate) fn queue_kinds(&self) -> Vec<(QueueId, QueueKind)> {
        self.all_queues().iter().map(|queue| (queue.id, queue.kind)).collect()
    }
}

/// What lies in a queue from a sequence on, in order.
fn found(state: &Locked<'_>, request: &ReadRequest) -> Vec<Found> {
    let (from, max) = (request.from.0, request.messages_max);
    let mut found = Vec::new();
    let mut ready = |entry: Entry| found.push(Found { entry, not_before: 0, leased: false });
    let lanes = if request.which.ready { state.lanes.as_slice() } else { &[] };
    for (priority, lane) in lanes.iter().enumerate() {
        let priority = u8::try_from(priority).unwrap_or(u8::MAX);
        lane.returned.range(from..).take(max).for_each(|it| ready(it.1.clone()));
        let hot = lane.hot.partition_point(|entry| entry.sequence < from);
        lane.hot.range(hot..).take(max).for_each(|entry| ready(entry.clone()));
        // Everything cold is behind everything hot.
        let room = max.saturating_sub(lane.hot.len() - hot);
        let cold = lane.cold.iter_from(from).take(room);
        cold.for_each(|cold| ready(Entry::of_cold(&cold, priority)));
    }
    if request.which.delayed {
        for (_, entry) in state.delayed.range(from..).take(max) {
            found.push(Found { entry: entry.clone(), not_before: entry.until, leased: false });
        }
    }
    if request.which.leased {
        for entry in state.leased.iter_from(from, max) {
            found.push(Found { entry: entry.clone(), not_before: 0, leased: true });
        }
    }
    found.sort_unstable_by_key(|found| found.entry.sequence);
    found.truncate(max);
    found
}
