//! What became due: delays that are over, leases that ended, heads that expired.

use model::{QueueId, Timestamp};

use super::claims::Held;
use super::event::{Event, Runs, push_run};
use super::queue::{Locked, Place};
use super::segment::Freed;
use super::shared::Shared;
use super::timers::{Reason, Timer};
use crate::error::StoreError;
use crate::pool::Due;

/// Timers looked at under one lock.
const TIMERS_PER_ROUND: usize = 256;

impl Shared {
    pub(crate) fn due(&self, now: Timestamp, messages_max: usize) -> Result<Due, StoreError> {
        self.check_alive()?;
        let mut due = Due::default();
        loop {
            let mut timers = self.timers.take_due(now, TIMERS_PER_ROUND);
            if timers.is_empty() {
                break;
            }
            // Each queue once; what comes back to the head does so before the head is looked at.
            timers.sort_unstable_by_key(|timer| (timer.queue, timer.reason, timer.at));
            let mut full = false;
            for of_queue in timers.chunk_by(|one, other| one.queue == other.queue) {
                full |= self.due_in_queue(of_queue, now, messages_max, &mut due);
            }
            if full {
                break;
            }
        }
        due.ready.sort_unstable();
        due.ready.dedup();
        due.next = self.timers.next();
        Ok(due)
    }

    /// True if expired messages had to be left for lack of room.
    fn due_in_queue(
        &self,
        timers: &[Timer],
        now: Timestamp,
        messages_max: usize,
        due: &mut Due,
    ) -> bool {
        let Some(id) = timers.first().map(|timer| timer.queue) else { return false };
        let Some(queue) = self.queue(id) else { return false };
        let mut state = queue.lock(&self.resident);
        if state.deleted {
            return false;
        }
        let mut freed = Freed::default();
        let mut ended = Runs::new();
        let mut ready = false;
        for timer in timers {
            match timer.reason {
                Reason::Delayed => ready |= wake_delayed(&mut state, timer),
                Reason::Claim => {
                    if let Some(held) = over(&mut state, timer) {
                        self.end_claim(id, &mut state, &held, &mut ended);
                        ready = true;
                    }
                }
                Reason::Head => state.head_timer = u64::MAX,
            }
        }
        if ready {
            due.ready.push(id);
        }
        if !ended.is_empty() {
            let mut log = self.log.begin(256 + ended.len() * 16);
            log.event(&Event::Release { queue: id, counted: true, not_before: 0, runs: ended });
            log.finish();
        }
        let full = self.take_expired(id, &mut state, now, messages_max, due, &mut freed);
        self.watch_head(id, &mut state);
        drop(state);
        if freed.flush(&self.log.segments) {
            self.keeper.ring();
        }
        full
    }

    /// Gives back what a claim held. The claim itself is out of the queue already.
    pub(crate) fn end_claim(
        &self,
        queue: QueueId,
        state: &mut Locked<'_>,
        held: &Held,
        ended: &mut Runs,
    ) {
        for sequence in &held.sequences {
            let mut entry = None;
            state.leased.take(*sequence, *sequence, |taken| entry = Some(taken));
            let Some(entry) = entry else { continue };
            if entry.durable {
                push_run(ended, entry.sequence);
            }
            self.give_back(queue, state, entry, true, None);
        }
    }

    fn take_expired(
        &self,
        id: QueueId,
        state: &mut Locked<'_>,
        now: Timestamp,
        messages_max: usize,
        due: &mut Due,
        freed: &mut Freed,
    ) -> bool {
        if !state.expiring || state.kind.stream {
            return false;
        }
        for lane in (0..state.lanes.len()).rev() {
            let priority = u8::try_from(lane).unwrap_or(u8::MAX);
            while let Some(head) = state.lanes.get(lane).and_then(|lane| lane.head())
                && head.expires <= now.0
            {
                if due.expired.len() >= messages_max {
                    return true;
                }
                if head.place == Place::Cold {
                    self.refill(state, priority);
                    continue;
                }
                let Some(entry) = state.pop(priority, head.place) else { break };
                if let Some(leased) = self.hold_expired(state, entry, freed) {
                    due.expired.push((id, leased));
                }
            }
        }
        false
    }
}

/// The claim of a timer, if it ends at that time still.
fn over(state: &mut Locked<'_>, timer: &Timer) -> Option<Held> {
    let claims = state.claims.as_mut()?;
    claims.get(timer.sequence).filter(|held| held.until == timer.at)?;
    claims.take(timer.sequence)
}

/// Whether the message was still waiting for this time.
fn wake_delayed(state: &mut Locked<'_>, timer: &Timer) -> bool {
    if state.delayed.get(&timer.sequence).is_none_or(|entry| entry.until != timer.at) {
        return false;
    }
    let Some(entry) = state.take_delayed(timer.sequence) else { return false };
    state.put_back(entry);
    true
}
