//! One queue of the memory driver: every message in one map, and which of them are ready in an ordered set.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use model::{Message, Sequence, Timestamp};

use super::{EXPIRED_PER_LEASE_MAX, takes};
use crate::pool::{
    Hold, Lease, LeaseRequest, Leased, QueueKind, QueueStats, ReadRequest, Sequences, Settlement,
    Stored, Target,
};

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) kind: QueueKind,
    next: u64,
    messages: BTreeMap<u64, Entry>,
    /// Highest priority first, then by sequence.
    ready: BTreeSet<(Reverse<u8>, u64)>,
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
    Leased(Option<Timestamp>),
}

impl Entry {
    fn leased(&self, sequence: u64) -> Leased {
        Leased {
            sequence: Sequence(sequence),
            message: self.message.clone(),
            delivery_count: self.delivery_count,
            redelivered: self.redelivered,
            expires: self.expires,
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
        Self { kind, next: 0, messages: BTreeMap::new(), ready: BTreeSet::new() }
    }

    pub(super) fn enqueue(&mut self, message: Message, target: Target, now: Timestamp) {
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
            let leased = entry.leased(sequence);
            if entry.expired(request.now) {
                entry.state = State::Leased(None);
                lease.expired.push(leased);
                continue;
            }
            bytes += leased.message.body_len();
            entry.state = match request.hold {
                Hold::UntilTime(deadline) => State::Leased(Some(deadline)),
                Hold::Take | Hold::UntilSettled => State::Leased(None),
            };
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
                    Settlement::Ack => {
                        self.messages.remove(&sequence);
                    }
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
        entry.redelivered = true;
        entry.delivery_count += u32::from(counted);
        entry.not_before = not_before;
        entry.state = not_before.map_or(State::Ready, State::Delayed);
        if entry.state == State::Ready {
            self.ready.insert((Reverse(entry.priority), sequence));
        }
    }

    pub(super) fn extend(&mut self, sequences: &Sequences, until: Timestamp) -> u64 {
        let mut extended = 0;
        for range in sequences.iter().copied().filter_map(range) {
            for (_, entry) in self.messages.range_mut(range) {
                if let State::Leased(Some(deadline)) = &mut entry.state {
                    *deadline = until;
                    extended += 1;
                }
            }
        }
        extended
    }

    /// Makes ready what waited for a time that has come; whether there was any.
    pub(super) fn wake(&mut self, now: Timestamp) -> bool {
        let mut delayed = Vec::new();
        let mut ended = Vec::new();
        for (sequence, entry) in &self.messages {
            match entry.state {
                State::Delayed(when) if when <= now => delayed.push(*sequence),
                State::Leased(Some(deadline)) if deadline <= now => ended.push(*sequence),
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

    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let waits = self.messages.values().filter_map(|entry| match entry.state {
            State::Delayed(when) => Some(when),
            State::Leased(deadline) => deadline,
            State::Ready => None,
        });
        waits.chain(self.heads().filter_map(|(_, entry)| entry.expires)).min()
    }

    pub(super) fn read(&self, request: &ReadRequest) -> Vec<Stored> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for (sequence, entry) in self.messages.range(request.from.0..) {
            if found.len() >= request.messages_max
                || (bytes >= request.bytes_max && !found.is_empty())
            {
                break;
            }
            bytes += entry.message.body_len();
            found.push(Stored {
                sequence: Sequence(*sequence),
                message: entry.message.clone(),
                enqueued: entry.enqueued,
                expires: entry.expires,
                not_before: entry.not_before,
                delivery_count: entry.delivery_count,
                leased: matches!(entry.state, State::Leased(_)),
            });
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
