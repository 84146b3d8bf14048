//! Claims as a whole: looking at one, moving its end, ending it.

use model::{ClaimId, QueueId, Timestamp};

use super::claims::{claim_timer, end_of, kept};
use super::commit::{Work, runs_bound};
use super::entry::Entry;
use super::event::{ClaimEvent, Event, Runs, push_run};
use super::queue::QueueState;
use super::shared::Shared;
use crate::error::StoreError;
use crate::memory::no_queue;
use crate::pool::{Change, Claim, Claimed, Extended};

/// Most bytes of a record of a claim, its runs aside.
const RECORD_BYTES: usize = 256;

impl Shared {
    pub(crate) fn extend(
        &self,
        queue: QueueId,
        claim: Claim,
        now: Timestamp,
    ) -> Result<Extended, StoreError> {
        self.check_alive()?;
        let found = self.queue(queue).ok_or_else(|| no_queue(queue))?;
        let mut state = found.lock(&self.resident);
        let state = &mut *state;
        let (until, keep_until) = (end_of(claim.until), claim.keep_until.0);
        let mut extended = Extended::default();
        let Some(claims) = state.claims.as_mut() else { return Ok(extended) };
        let Some(number) = claims.number_of(claim.id.to_bits()) else { return Ok(extended) };
        if let Some(before) = claims.move_end(number, now.0, until) {
            self.timers.remove(&claim_timer(queue, number, before));
            self.timers.insert(claim_timer(queue, number, until));
        }
        let mut runs = Runs::new();
        for sequence in claims.get(number).iter().flat_map(|held| &held.sequences) {
            let Some(entry) = state.leased.get_mut(*sequence) else { continue };
            entry.expires = kept(entry.expires, until, keep_until);
            extended.messages += 1;
            if entry.durable {
                push_run(&mut runs, *sequence);
            }
        }
        if !runs.is_empty() {
            let (id, since) = (claim.id.to_bits(), now.0);
            let mut log = self.log.begin(RECORD_BYTES + runs.len() * 16);
            log.event(&Event::Claim(ClaimEvent { queue, id, since, until, keep_until, runs }));
            extended.ticket = log.finish().0;
        }
        Ok(extended)
    }

    pub(crate) fn claimed(
        &self,
        queue: QueueId,
        claim: ClaimId,
    ) -> Result<Option<Claimed>, StoreError> {
        self.check_alive()?;
        let found = self.queue(queue).ok_or_else(|| no_queue(queue))?;
        let state = found.lock(&self.resident);
        let Some(claims) = state.claims.as_ref() else { return Ok(None) };
        let number = claims.number_of(claim.to_bits());
        let Some(held) = number.and_then(|number| claims.get(number)) else { return Ok(None) };
        let entries = held.sequences.iter().filter_map(|sequence| state.leased.get(*sequence));
        let messages = entries.filter_map(|entry| {
            let (message, enqueued) = self.message(entry)?;
            let mut stored = entry.stored(message, 0, true);
            (stored.enqueued, stored.claim) = (Timestamp(enqueued), Some(claim));
            Some(stored)
        });
        let (since, until) = (Timestamp(held.since), Timestamp(held.until));
        Ok(Some(Claimed { since, until, messages: messages.collect() }))
    }

    /// Takes a leased entry out of its claim.
    pub(crate) fn leave_claim(&self, queue: QueueId, state: &mut QueueState, entry: &mut Entry) {
        let number = std::mem::take(&mut entry.until);
        let Some(claims) = state.claims.as_mut() else { return };
        if let Some(until) = claims.forget(number, entry.sequence) {
            self.timers.remove(&claim_timer(queue, number, until));
        }
    }

    /// Forgets all claims of a queue that goes.
    pub(crate) fn forget_claims(&self, queue: QueueId, state: &mut QueueState) {
        let Some(claims) = state.claims.take() else { return };
        for (number, held) in claims.all() {
            self.timers.remove(&claim_timer(queue, number, held.until));
        }
    }
}

impl Work<'_> {
    pub(super) fn end_claim(&mut self, queue: QueueId, claim: ClaimId, rest: &[Change]) {
        let shared = self.shared;
        let Some(index) = self.index_of(queue) else { return };
        let Some(state) = self.locked.get_mut(index) else { return };
        let Some(claims) = state.claims.as_mut() else { return };
        let Some(number) = claims.number_of(claim.to_bits()) else { return };
        let Some(held) = claims.take(number) else { return };
        shared.timers.remove(&claim_timer(queue, number, held.until));
        let mut runs = Runs::new();
        shared.end_claim(queue, state, &held, &mut runs);
        if !runs.is_empty() {
            let own = runs_bound(runs.len());
            let event = Event::Release { queue, counted: true, not_before: 0, runs };
            self.log(own, rest).event(&event);
        }
    }
}
