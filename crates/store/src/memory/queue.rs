//! One queue of the memory driver: every message in one map, and which of them are ready in an ordered set.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use model::{ClaimId, Message, Sequence, Timestamp};

use super::{EXPIRED_PER_LEASE_MAX, takes};
use crate::pool::{
    Claim, Claimed, Condition, Hold, Lease, LeaseRequest, Leased, QueueKind, QueueStats,
    ReadRequest, Removal, Sequences, Settlement, Stored, Target,
};

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) kind: QueueKind,
    next: u64,
    messages: BTreeMap<u64, Entry>,
    /// Highest priority first, then by sequence.
    ready: BTreeSet<(Reverse<u8>, u64)>,
    claims: BTreeMap<ClaimId, Span>,
}

/// From when to when a claim holds.
#[derive(Debug, Clone, Copy)]
struct Span {
    since: Timestamp,
    until: Timestamp,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    priority: u8,
    enqueued: Timestamp,
    expires: Option<Timestamp>,
    not_before: Option<Timestamp>,
    delivery_count: u32,
    redelivered: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Delayed(Timestamp),
    Leased(Option<ClaimId>),
}

impl Entry {
    fn leased(&self, sequence: u64) -> Leased {
        Leased {
            sequence: Sequence(sequence),
            message: self.message.clone(),
            delivery_count: self.delivery_count,
            redelivered: self.redelivered,
            expires: self.expires,
            enqueued: self.enqueued,
        }
    }

    fn stored(&self, sequence: u64) -> Stored {
        Stored {
            sequence: Sequence(sequence),
            message: self.message.clone(),
            enqueued: self.enqueued,
            expires: self.expires,
            not_before: self.not_before,
            delivery_count: self.delivery_count,
            leased: matches!(self.state, State::Leased(_)),
            claim: self.claim(),
        }
    }

    fn claim(&self) -> Option<ClaimId> {
        match self.state {
            State::Leased(claim) => claim,
            State::Ready | State::Delayed(_) => None,
        }
    }

    /// A message that is claimed does not expire before its claim ends.
    fn keep(&mut self, claim: Claim) {
        if self.expires.is_some_and(|expires| expires < claim.until) {
            self.expires = Some(claim.keep_until);
        }
    }

    fn expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

fn range((first, last): (Sequence, Sequence)) -> Option<RangeInclusive<u64>> {
    (first <= last).then_some(first.0..=last.0)
}

impl Queue {
    pub(super) fn new(kind: QueueKind) -> Self {
        let (messages, ready, claims) = Default::default();
        Self { kind, next: 0, messages, ready, claims }
    }

    pub(super) fn enqueue(&mut self, message: Message, target: Target, now: Timestamp) -> Sequence {
        let sequence = self.next;
        self.next += 1;
        let not_before = target.not_before.filter(|when| *when > now && !self.kind.stream);
        let entry = Entry {
            message,
            priority: target.priority.min(self.kind.priority_max),
            enqueued: now,
            expires: target.expires,
            not_before,
            delivery_count: 0,
            redelivered: false,
            state: not_before.map_or(State::Ready, State::Delayed),
        };
        if entry.state == State::Ready {
            self.ready.insert((Reverse(entry.priority), sequence));
        }
        self.messages.insert(sequence, entry);
        Sequence(sequence)
    }

    pub(super) fn lease(&mut self, request: &LeaseRequest) -> Lease {
        let mut lease = Lease::default();
        let mut bytes = 0;
        while lease.messages.len() < request.messages_max
            && lease.expired.len() < EXPIRED_PER_LEASE_MAX
            && (bytes < request.bytes_max || lease.messages.is_empty())
        {
            let Some((_, sequence)) = self.ready.pop_first() else { break };
            let Some(entry) = self.messages.get_mut(&sequence) else { continue };
            if entry.expired(request.now) {
                lease.expired.push(entry.leased(sequence));
                entry.state = State::Leased(None);
                continue;
            }
            bytes += entry.message.body_len();
            entry.state = match request.hold {
                Hold::Claim(claim) => {
                    entry.keep(claim);
                    let span = Span { since: request.now, until: claim.until };
                    self.claims.insert(claim.id, span);
                    State::Leased(Some(claim.id))
                }
                Hold::Take | Hold::TakeDurably | Hold::UntilSettled => State::Leased(None),
            };
            let leased = entry.leased(sequence);
            if takes(request.hold) {
                self.messages.remove(&sequence);
            }
            lease.messages.push(leased);
        }
        lease.more = !self.ready.is_empty();
        lease
    }

    pub(super) fn settle(&mut self, sequences: &Sequences, settlement: Settlement, now: Timestamp) {
        for range in sequences.iter().copied().filter_map(range) {
            let held: Vec<u64> = self.held(range);
            for sequence in held {
                match settlement {
                    Settlement::Ack => self.forget(sequence),
                    Settlement::Release { not_before, counted } => {
                        self.release(sequence, not_before.filter(|when| *when > now), counted);
                    }
                }
            }
        }
    }

    fn held(&self, range: RangeInclusive<u64>) -> Vec<u64> {
        let within = self.messages.range(range);
        within
            .filter(|(_, entry)| matches!(entry.state, State::Leased(_)))
            .map(|(sequence, _)| *sequence)
            .collect()
    }

    fn release(&mut self, sequence: u64, not_before: Option<Timestamp>, counted: bool) {
        let Some(entry) = self.messages.get_mut(&sequence) else { return };
        let claim = entry.claim();
        entry.redelivered = true;
        entry.delivery_count += u32::from(counted);
        entry.not_before = not_before;
        entry.state = not_before.map_or(State::Ready, State::Delayed);
        if entry.state == State::Ready {
            self.ready.insert((Reverse(entry.priority), sequence));
        }
        self.tidy_claim(claim);
    }

    fn forget(&mut self, sequence: u64) {
        let Some(entry) = self.messages.remove(&sequence) else { return };
        self.ready.remove(&(Reverse(entry.priority), sequence));
        self.tidy_claim(entry.claim());
    }

    /// A claim that holds nothing any more is none.
    fn tidy_claim(&mut self, claim: Option<ClaimId>) {
        if let Some(claim) = claim
            && self.held_by(claim).is_empty()
        {
            self.claims.remove(&claim);
        }
    }

    fn held_by(&self, claim: ClaimId) -> Vec<u64> {
        let held = self.messages.iter().filter(|(_, entry)| entry.claim() == Some(claim));
        held.map(|(sequence, _)| *sequence).collect()
    }

    pub(super) fn extend(&mut self, claim: Claim, now: Timestamp) -> u64 {
        let Some(span) = self.claims.get_mut(&claim.id) else { return 0 };
        *span = Span { since: now, until: claim.until };
        let held = self.held_by(claim.id);
        for sequence in &held {
            if let Some(entry) = self.messages.get_mut(sequence) {
                entry.keep(claim);
            }
        }
        held.len() as u64
    }

    pub(super) fn claimed(&self, claim: ClaimId) -> Option<Claimed> {
        let Span { since, until } = *self.claims.get(&claim)?;
        let held = self.messages.iter().filter(|(_, entry)| entry.claim() == Some(claim));
        let messages = held.map(|(sequence, entry)| entry.stored(*sequence)).collect();
        Some(Claimed { since, until, messages })
    }

    pub(super) fn end_claim(&mut self, claim: ClaimId) {
        for sequence in self.held_by(claim) {
            self.release(sequence, None, true);
        }
    }

    pub(super) fn remove(
        &mut self,
        sequence: Sequence,
        condition: Condition,
        now: Timestamp,
    ) -> Removal {
        let Some(entry) = self.messages.get(&sequence.0) else { return Removal::Missing };
        let leased = matches!(entry.state, State::Leased(_));
        if !leased && entry.expired(now) {
            return Removal::Missing;
        }
        let claim = entry.claim();
        match condition {
            Condition::Unheld if leased => return Removal::Held,
            Condition::HeldBy(_) if !leased => return Removal::NotHeld,
            Condition::HeldBy(id) if claim != Some(id) => return Removal::Held,
            Condition::Unheld | Condition::HeldBy(_) | Condition::Always => {}
        }
        self.forget(sequence.0);
        Removal::Removed
    }

    pub(super) fn newest(&self) -> Option<Stored> {
        self.messages.last_key_value().map(|(sequence, entry)| entry.stored(*sequence))
    }

    /// Makes ready what waited for a time that has come; whether there was any.
    pub(super) fn wake(&mut self, now: Timestamp) -> bool {
        let mut delayed = Vec::new();
        let mut ended = Vec::new();
        for (sequence, entry) in &self.messages {
            match entry.state {
                State::Delayed(when) if when <= now => delayed.push(*sequence),
                State::Leased(Some(claim)) if self.ends(claim) <= Some(now) => {
                    ended.push(*sequence);
                }
                State::Ready | State::Delayed(_) | State::Leased(_) => {}
            }
        }
        let woken = !delayed.is_empty() || !ended.is_empty();
        for sequence in delayed {
            if let Some(entry) = self.messages.get_mut(&sequence) {
                entry.not_before = None;
                entry.state = State::Ready;
                self.ready.insert((Reverse(entry.priority), sequence));
            }
        }
        for sequence in ended {
            self.release(sequence, None, true);
        }
        woken
    }

    fn ends(&self, claim: ClaimId) -> Option<Timestamp> {
        self.claims.get(&claim).map(|span| span.until)
    }

    /// Leases expired messages from the head of every priority.
    pub(super) fn take_expired(&mut self, now: Timestamp, messages_max: usize) -> Vec<Leased> {
        let mut expired = Vec::new();
        while expired.len() < messages_max {
            let Some(sequence) = self.heads().find(|(_, entry)| entry.expired(now)).map(|it| it.0)
            else {
                break;
            };
            if let Some(entry) = self.messages.get_mut(&sequence) {
                self.ready.remove(&(Reverse(entry.priority), sequence));
                entry.state = State::Leased(None);
                expired.push(entry.leased(sequence));
            }
        }
        expired
    }

    /// The first ready message of every priority.
    fn heads(&self) -> impl Iterator<Item = (u64, &Entry)> {
        let priorities =
            if self.kind.stream { None } else { Some((0..=self.kind.priority_max).rev()) };
        priorities.into_iter().flatten().filter_map(|priority| {
            let of_priority = (Reverse(priority), 0)..=(Reverse(priority), u64::MAX);
            let (_, sequence) = self.ready.range(of_priority).next()?;
            Some((*sequence, self.messages.get(sequence)?))
        })
    }

    /// When the first head expires.
    pub(super) fn head_expires(&self) -> Option<Timestamp> {
        self.heads().filter_map(|(_, entry)| entry.expires).min()
    }

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let waits = self.messages.values().filter_map(|entry| match entry.state {
            State::Delayed(when) => Some(when),
            State::Leased(claim) => claim.and_then(|claim| self.ends(claim)),
            State::Ready => None,
        });
        waits.chain(self.head_expires()).min()
    }

    pub(super) fn read(&self, request: &ReadRequest) -> Vec<Stored> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for (sequence, entry) in self.messages.range(request.from.0..) {
            let asked = match entry.state {
                State::Ready => request.which.ready,
                State::Delayed(_) => request.which.delayed,
                State::Leased(_) => request.which.leased,
            };
            if !asked {
                continue;
            }
            if found.len() >= request.messages_max
                || (bytes >= request.bytes_max && !found.is_empty())
            {
                break;
            }
            bytes += entry.message.body_len();
            found.push(entry.stored(*sequence));
        }
        found
    }

    pub(super) fn sequence_at(&self, since: Timestamp) -> Sequence {
        let found = self.messages.iter().find(|(_, entry)| entry.enqueued >= since);
        Sequence(found.map_or(self.next, |(sequence, _)| *sequence))
    }

    pub(super) fn purge(&mut self) -> u64 {
        let removed = self.ready.len() as u64;
        self.ready.clear();
        self.messages.retain(|_, entry| matches!(entry.state, State::Leased(_)));
        removed
    }

    pub(super) fn trim(&mut self, before: Sequence) -> u64 {
        if !self.kind.stream {
            return 0;
        }
        let kept = self.messages.split_off(&before.0);
        let removed = std::mem::replace(&mut self.messages, kept);
        self.ready.retain(|(_, sequence)| *sequence >= before.0);
        removed.len() as u64
    }

    pub(super) fn stats(&self) -> QueueStats {
        let mut stats = QueueStats {
            first: Sequence(self.messages.keys().next().copied().unwrap_or(self.next)),
            next: Sequence(self.next),
            ..QueueStats::default()
        };
        for entry in self.messages.values() {
            match entry.state {
                State::Ready => {
                    stats.ready += 1;
                    stats.ready_bytes += entry.message.body_len() as u64;
                }
                State::Delayed(_) => stats.delayed += 1,
                State::Leased(_) => stats.leased += 1,
            }
        }
        stats
    }
}
