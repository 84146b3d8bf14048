//! From the records of the log to queues, definitions and the dedup window: the same for sidecars, segments and tails.
//!
//! Order is the order of the log. A queue may be met before the record that tells its kind, when the segment with its
//! first one was dropped and the record carried to the end; until then it is provisional. A message met again has moved.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use model::{QueueId, Ticket, Timestamp};

use super::claims::{claim_timer, kept};
use super::damage::Damage;
use super::dedup::Dedup;
use super::definitions::{Defined, Definitions};
use super::entry::Entry;
use super::event::{ClaimEvent, EnqueueMeta, Event, Placed, Runs};
use super::options::Options;
use super::queue::QueueState;
use super::record::{Head, Kind};
use super::reservation::Reservation;
use super::segment::{Position, Segment};
use super::timers::{Reason, Timer};
use crate::pool::QueueKind;

/// What a queue is taken for until its own record comes.
const PROVISIONAL: QueueKind = QueueKind { durable: true, priority_max: 0, stream: false };

/// A state being built from the log.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) queues: HashMap<QueueId, QueueState, foldhash::fast::RandomState>,
    known: HashSet<QueueId>,
    pub(crate) definitions: Definitions,
    pub(crate) dedup: Dedup,
    pub(crate) ticket: u64,
    pub(crate) damages: Vec<Damage>,
    pub(crate) segments: BTreeMap<u32, Arc<Segment>>,
    /// Messages that became settled, to be told to their segments.
    settled: HashMap<u32, u64>,
}

impl Replay {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            queues: HashMap::default(),
            known: HashSet::new(),
            definitions: BTreeMap::new(),
            dedup: Dedup::new(options.dedup_window, options.dedup_ids_max),
            ticket: 0,
            damages: Vec::new(),
            segments: BTreeMap::new(),
            settled: HashMap::new(),
        }
    }

    pub(crate) fn damaged(&mut self, segment: u32, offset: u32, bytes: u32, what: &str) {
        self.damages.push(Damage { segment, offset, bytes, what: what.to_owned() });
    }

    /// Applies a record; `value` is the body of a definition.
    pub(crate) fn record(
        &mut self,
        segment: &Segment,
        offset: u32,
        head: &Head,
        meta: &[u8],
        value: &[u8],
    ) {
        self.ticket = self.ticket.max(head.ticket);
        match head.kind {
            Kind::Spill | Kind::Mark => {}
            Kind::Enqueue => {
                let Some(enqueue) = EnqueueMeta::decode(meta) else {
                    let bytes = u32::try_from(head.record_len()).unwrap_or(u32::MAX);
                    self.damaged(segment.id, offset, bytes, "a message that does not parse");
                    return;
                };
                if let Some(id) = enqueue.dedup {
                    let when = Timestamp(enqueue.enqueued);
                    self.dedup.insert(id, when, Ticket::NONE, segment.id);
                }
                let body_len = head.body_len.saturating_sub(head.properties_len);
                for placed in enqueue.targets().filter(|placed| placed.durable) {
                    self.enqueue(segment, offset, &placed, body_len);
                }
            }
            kind => match Event::decode(kind, meta) {
                Some(event) => self.event(segment.id, event, value),
                None => self.damaged(segment.id, offset, 0, "a record that does not parse"),
            },
        }
    }

    pub(crate) fn enqueue(
        &mut self,
        segment: &Segment,
        offset: u32,
        placed: &Placed,
        body_len: u32,
    ) {
        let position = Position { segment: segment.id, offset };
        segment.add_targets(1);
        let state = self.provisional(placed.queue);
        let mut moved = None;
        if placed.sequence >= state.next {
            state.next = placed.sequence.saturating_add(1);
        } else {
            take_where(state, placed.sequence, placed.sequence, |entry| moved = Some(entry));
        }
        let entry = Entry::of_placed(placed, position, body_len);
        if placed.not_before != 0 {
            state.delay(entry);
        } else if placed.delivery_count > 0 {
            state.put_back(entry);
        } else {
            state.push(entry, false);
        }
        if let Some(moved) = moved {
            self.settle(moved.position);
        }
    }

    fn settle(&mut self, position: Position) {
        *self.settled.entry(position.segment).or_default() += 1;
    }

    fn provisional(&mut self, queue: QueueId) -> &mut QueueState {
        self.queues.entry(queue).or_insert_with(|| QueueState::new(PROVISIONAL))
    }

    fn event(&mut self, segment: u32, event: Event, value: &[u8]) {
        match event {
            Event::Mark { .. } => {}
            Event::Ack { queue, runs } => self.each(queue, &runs, |_, _| None),
            Event::Release { queue, counted, not_before, runs } => {
                self.each(queue, &runs, |state, mut entry| {
                    entry.redelivered = true;
                    entry.delivery_count += u32::from(counted);
                    entry.until = not_before;
                    if not_before == 0 {
                        state.put_back(entry);
                    } else {
                        state.delay(entry);
                    }
                    Some(())
                });
            }
            Event::Purge { queue, next, kept } => {
                let mut before = 0;
                let mut gone = Runs::new();
                let mut kept: Vec<_> = kept.into_iter().collect();
                kept.sort_unstable();
                for (first, last) in kept {
                    if let Some(end) = first.checked_sub(1).filter(|end| *end >= before) {
                        gone.push((before, end));
                    }
                    before = before.max(last.saturating_add(1));
                }
                if let Some(end) = next.checked_sub(1).filter(|end| *end >= before) {
                    gone.push((before, end));
                }
                self.each(queue, &gone, |_, _| None);
            }
            Event::Trim { queue, before } => {
                if let Some(last) = before.checked_sub(1) {
                    self.each(queue, &Runs::from_slice(&[(0, last)]), |_, _| None);
                }
            }
            Event::Queue { queue, kind, next, reserved } => {
                self.known.insert(queue);
                let state = self.provisional(queue);
                state.kind = kind;
                state.next = state.next.max(next);
                state.redelivered_before = state.redelivered_before.max(reserved);
                state.state_segment = segment;
            }
            Event::Delete { queue } => self.delete(queue),
            Event::Reserve { queue, up_to } => {
                let state = self.provisional(queue);
                state.redelivered_before = state.redelivered_before.max(up_to);
            }
            Event::Claim(claim) => self.claim(&claim),
            Event::Define { key } => {
                self.definitions.insert(key, Defined { value: value.into(), segment });
            }
            Event::Undefine { key } => {
                self.definitions.remove(&key);
            }
            Event::Dedup { ids } => {
                for (id, when) in ids {
                    self.dedup.insert(id, Timestamp(when), Ticket::NONE, segment);
                }
            }
        }
    }

    fn claim(&mut self, event: &ClaimEvent) {
        let ClaimEvent { queue, id, since, until, keep_until, runs } = event;
        self.each(*queue, runs, |state, mut entry| {
            let claims = state.claims_mut();
            let number = claims.open(*id, *since, *until);
            claims.move_end(number, *since, *until);
            claims.add(number, entry.sequence);
            entry.until = number;
            entry.expires = kept(entry.expires, *until, *keep_until);
            state.leased.insert(entry);
            Some(())
        });
    }

    /// Takes all messages of these runs out of a queue; those that `keep` does not put back are settled.
    fn each(
        &mut self,
        queue: QueueId,
        runs: &Runs,
        mut keep: impl FnMut(&mut QueueState, Entry) -> Option<()>,
    ) {
        let Some(state) = self.queues.get_mut(&queue) else { return };
        let mut taken = Vec::new();
        for (first, last) in runs {
            state.next = state.next.max(last.saturating_add(1));
            take_where(state, *first, *last, |entry| taken.push(entry));
        }
        for entry in taken {
            let position = entry.position;
            if keep(state, entry).is_none() {
                *self.settled.entry(position.segment).or_default() += 1;
            }
        }
    }

    fn delete(&mut self, queue: QueueId) {
        self.known.remove(&queue);
        if let Some(mut state) = self.queues.remove(&queue) {
            take_where(&mut state, 0, u64::MAX, |entry| self.settle(entry.position));
        }
    }

    /// Ends the replay: what was delivered before is known, times are set.
    pub(crate) fn finish(&mut self) -> Vec<Timer> {
        self.keep_unknown();
        for (segment, count) in self.settled.drain() {
            if let Some(segment) = self.segments.get(&segment) {
                segment.settle(count);
            }
        }
        let mut timers = Vec::new();
        for (queue, state) in &mut self.queues {
            // Flagged sequences are not given again, so that no new message is flagged.
            state.next = state.next.max(state.redelivered_before);
            state.reservation = Reservation::new(state.redelivered_before);
            timers.extend(state.delayed.values().map(|entry| Timer {
                at: entry.until,
                queue: *queue,
                reason: Reason::Delayed,
                sequence: entry.sequence,
            }));
            let claims = state.claims.iter().flat_map(|claims| claims.all());
            timers.extend(claims.map(|(number, held)| claim_timer(*queue, number, held.until)));
        }
        timers
    }
}

impl Replay {
    /// A queue that was neither made nor deleted lost the record of its making: it is kept, as far as it is known.
    fn keep_unknown(&mut self) {
        let known = &self.known;
        for (queue, state) in self.queues.iter_mut().filter(|it| !known.contains(it.0)) {
            let lanes = state.lanes.len().saturating_sub(1);
            state.kind.priority_max = u8::try_from(lanes).unwrap_or(u8::MAX);
            let what = format!("the record of queue {}, taken for a plain one", queue.0);
            self.damages.push(Damage { segment: 0, offset: 0, bytes: 0, what });
        }
    }
}

/// Takes the messages of an inclusive range out of a queue that only claims lease from yet.
pub(crate) fn take_where(
    state: &mut QueueState,
    first: u64,
    last: u64,
    mut taken: impl FnMut(Entry),
) {
    for priority in 0..state.lanes.len() {
        let Some(lane) = state.lanes.get_mut(priority) else { continue };
        let number = u8::try_from(priority).unwrap_or(u8::MAX);
        let mut gone: Vec<Entry> = Vec::new();
        if first == last {
            gone.extend(lane.cold.remove(first).map(|cold| Entry::of_cold(&cold, number)));
        } else {
            let within = lane.cold.iter_from(first).take_while(|cold| cold.sequence <= last);
            gone.extend(within.map(|cold| Entry::of_cold(&cold, number)));
            for entry in &gone {
                lane.cold.remove(entry.sequence);
            }
        }
        while let Some((sequence, _)) = lane.returned.range(first..=last).next() {
            let sequence = *sequence;
            gone.extend(lane.returned.remove(&sequence));
        }
        for entry in gone {
            state.ready -= 1;
            state.ready_bytes -= u64::from(entry.body_len);
            state.resident -= entry.resident_cost();
            taken(entry);
        }
    }
    while let Some((sequence, _)) = state.delayed.range(first..=last).next() {
        let sequence = *sequence;
        if let Some(entry) = state.take_delayed(sequence) {
            taken(entry);
        }
    }
    if let Some(claims) = &mut state.claims {
        state.leased.take(first, last, |entry| {
            claims.forget(entry.until, entry.sequence);
            taken(Entry { until: 0, ..entry });
        });
    }
}
