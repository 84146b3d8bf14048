//! Which publishes were seen within the window.
//!
//! Ids of durable messages are found again after a restart: they stand in the records of their messages, and are written
//! anew when the segment of such a record is dropped before its time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use model::{Ticket, Timestamp};

#[derive(Debug, Clone, Copy)]
struct Seen {
    when: u64,
    ticket: Ticket,
    /// Where it is recorded; 0 if only in memory.
    segment: u32,
}

/// The ids seen lately.
#[derive(Debug)]
pub(crate) struct Dedup {
    seen: HashMap<u128, Seen, RandomState>,
    order: VecDeque<(u64, u128)>,
    window: Duration,
    ids_max: usize,
    evicted: u64,
}

impl Dedup {
    pub(crate) fn new(window: Duration, ids_max: usize) -> Self {
        let seen = HashMap::with_hasher(RandomState::default());
        Self { seen, order: VecDeque::new(), window, ids_max, evicted: 0 }
    }

    /// The ticket that covers the original, if there was one within the window.
    pub(crate) fn find(&mut self, id: u128, now: Timestamp) -> Option<Ticket> {
        self.expire(now);
        let seen = self.seen.get(&id)?;
        // Ids that were carried over stand behind younger ones, so they may outlive their time in memory.
        (now.since(Timestamp(seen.when)) < self.window).then_some(seen.ticket)
    }

    pub(crate) fn insert(&mut self, id: u128, now: Timestamp, ticket: Ticket, segment: u32) {
        self.seen.insert(id, Seen { when: now.0, ticket, segment });
        self.order.push_back((now.0, id));
        if self.seen.len() > self.ids_max {
            self.evicted += 1;
            self.forget_oldest();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Ids that left before their time, for lack of room.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((when, _)) = self.order.front()
            && now.since(Timestamp(*when)) >= self.window
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((when, id)) = self.order.pop_front()
            && self.seen.get(&id).is_some_and(|seen| seen.when == when)
        {
            self.seen.remove(&id);
        }
    }

    /// Those within the window that are recorded in a segment that goes, as recorded in `to` from now on.
    pub(crate) fn carry(&mut self, up_to_segment: u32, to: u32) -> Vec<(u128, u64)> {
        let mut carried = Vec::new();
        for (when, id) in &self.order {
            if let Some(seen) = self.seen.get_mut(id)
                && seen.when == *when
                && seen.segment != 0
                && seen.segment <= up_to_segment
            {
                seen.segment = to;
                carried.push((*id, *when));
            }
        }
        carried
    }

    /// Whether [`Dedup::carry`] would return something.
    pub(crate) fn must_carry(&self, up_to_segment: u32) -> bool {
        self.seen.values().any(|seen| seen.segment != 0 && seen.segment <= up_to_segment)
    }
}
