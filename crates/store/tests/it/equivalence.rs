//! The embedded driver does what the memory driver does, whatever is asked of both, restarts included.
//!
//! A restart of the memory driver is imitated by releasing all that is leased. Sequences may have gaps after a restart,
//! so messages are compared by the number in their body, and what is leased is named by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{ClaimId, DedupId, QueueId, Sequence, Timestamp};
use proptest::prelude::*;
use store::embedded::{Embedded, Options};
use store::{
    Change, Claim, Commit, Condition, Extended, Hold, LeaseRequest, Leased, Memory, Pool,
    QueueKind, ReadRequest, Removal, Settlement, Target, Targets, Which,
};
use testkit::disk::SimDisk;
use testkit::store::{Store, message, runs, wait};

const PLAIN: QueueId = QueueId(1);
const PRIORITY: QueueId = QueueId(2);
const STREAM: QueueId = QueueId(3);

/// Holders of claims.
const CLAIMS: u8 = 3;

#[derive(Debug, Clone)]
enum Op {
    Publish { queues: u8, priority: u8, size: usize, delay: Option<u64>, ttl: Option<u64> },
    PublishOnce { id: u8 },
    Lease { priority_queue: bool, count: usize, hold: u8 },
    Extend { priority_queue: bool, claim: u8 },
    EndClaim { priority_queue: bool, claim: u8 },
    Remove { priority_queue: bool, nth: Vec<usize>, condition: u8 },
    Settle { nth: Vec<usize>, how: u8 },
    Due { pass: u64, count: usize },
    Purge { priority_queue: bool },
    Trim { nth: u64 },
    Browse { queue: u8, from: usize, count: usize },
    Drive,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let when = || proptest::option::weighted(0.2, 1..60_u64);
    prop_oneof![
        6 => (1..8_u8, 0..6_u8, prop_oneof![Just(20_usize), Just(900), Just(9000)], when(), when())
            .prop_map(|(queues, priority, size, delay, ttl)| {
                Op::Publish { queues, priority, size, delay, ttl }
            }),
        1 => (0..4_u8).prop_map(|id| Op::PublishOnce { id }),
        1 => (any::<bool>(), 0..CLAIMS)
            .prop_map(|(priority_queue, claim)| Op::Extend { priority_queue, claim }),
        1 => (any::<bool>(), 0..CLAIMS)
            .prop_map(|(priority_queue, claim)| Op::EndClaim { priority_queue, claim }),
        2 => (any::<bool>(), prop::collection::vec(0..40_usize, 1..5), 0..CLAIMS + 2).prop_map(
            |(priority_queue, nth, condition)| Op::Remove { priority_queue, nth, condition }
        ),
        5 => (any::<bool>(), 1..9_usize, 0..3 + CLAIMS)
            .prop_map(|(priority_queue, count, hold)| Op::Lease { priority_queue, count, hold }),
        5 => (prop::collection::vec(0..40_usize, 1..8), 0..4_u8)
            .prop_map(|(nth, how)| Op::Settle { nth, how }),
        2 => (0..40_u64, 1..5_usize).prop_map(|(pass, count)| Op::Due { pass, count }),
        1 => any::<bool>().prop_map(|priority_queue| Op::Purge { priority_queue }),
        1 => (0..30_u64).prop_map(|nth| Op::Trim { nth }),
        2 => (0..3_u8, 0..20_usize, 1..20_usize)
            .prop_map(|(queue, from, count)| Op::Browse { queue, from, count }),
        3 => Just(Op::Drive),
        1 => Just(Op::Restart),
    ]
}

/// A driver, and what it calls the messages it has leased out.
struct Side<S> {
    store: S,
    held: BTreeMap<(QueueId, u32), Sequence>,
}

/// What two drivers must say alike of a leased message.
#[derive(Debug, PartialEq)]
struct Seen {
    number: u32,
    delivery_count: u32,
    expires: Option<Timestamp>,
}

fn number(body: &[u8]) -> u32 {
    u32::from_le_bytes(*body.first_chunk().expect("a number"))
}

impl<S: Store> Side<S> {
    fn commit(&self, changes: Vec<Change>, now: Timestamp) -> (Vec<usize>, u64) {
        let receipt = wait(self.store.commit(Commit { changes, now, ..Commit::default() }))
            .expect("accepted");
        (receipt.duplicates, receipt.removed)
    }

    fn note(&mut self, queue: QueueId, leased: &[Leased], held: bool) -> Vec<Seen> {
        let see = |leased: &Leased| {
            let number = number(leased.message.body());
            if held {
                self.held.insert((queue, number), leased.sequence);
            }
            Seen { number, delivery_count: leased.delivery_count, expires: leased.expires }
        };
        leased.iter().map(see).collect()
    }

    fn lease(
        &mut self,
        request: LeaseRequest,
        drive: impl Fn(&S),
    ) -> (Vec<Seen>, Vec<Seen>, bool, Vec<bool>) {
        let mut whole = (Vec::new(), Vec::new(), false, Vec::new());
        loop {
            let messages_max = request.messages_max - whole.0.len();
            let lease = wait(self.store.lease(LeaseRequest { messages_max, ..request }));
            let lease = lease.expect("accepted");
            // Claims are settled as such.
            let held = matches!(request.hold, Hold::UntilSettled);
            whole.0.extend(self.note(request.queue, &lease.messages, held));
            whole.1.extend(self.note(request.queue, &lease.expired, true));
            whole.2 = lease.more;
            whole.3.extend(lease.messages.iter().map(|leased| leased.redelivered));
            if !lease.more || whole.0.len() >= request.messages_max {
                return whole;
            }
            drive(&self.store);
        }
    }

    /// Sequences by number, in the order of the queue.
    fn sequences(&self, queue: QueueId) -> Vec<(u32, Sequence)> {
        let (from, which) = (Sequence(0), Which::ALL);
        let request = ReadRequest { queue, which, from, messages_max: 1000, bytes_max: usize::MAX };
        let read = wait(self.store.read(request)).expect("read");
        read.iter().map(|stored| (number(stored.message.body()), stored.sequence)).collect()
    }

    fn remove(
        &mut self,
        queue: QueueId,
        numbers: &[u32],
        condition: Condition,
        now: Timestamp,
    ) -> Vec<Removal> {
        let there: BTreeMap<u32, Sequence> = self.sequences(queue).into_iter().collect();
        let sequences = numbers.iter().map(|number| there[number]).collect();
        let changes = vec![Change::Remove { queue, sequences, condition }];
        let commit = Commit { changes, now, ..Commit::default() };
        let removals = wait(self.store.commit(commit)).expect("accepted").removals;
        for (number, removal) in numbers.iter().zip(&removals) {
            if *removal == Removal::Removed {
                self.held.remove(&(queue, *number));
            }
        }
        removals
    }

    fn claims(&self, queue: QueueId) -> Vec<Option<String>> {
        let claimed = |id| wait(self.store.claimed(queue, claim_id(id))).expect("there");
        let describe = |id| {
            let claimed = claimed(id)?;
            let numbers: Vec<u32> =
                claimed.messages.iter().map(|stored| number(stored.message.body())).collect();
            Some(format!("{:?} {:?} {numbers:?}", claimed.since, claimed.until))
        };
        (0..CLAIMS).map(describe).collect()
    }

    fn newest(&self, queue: QueueId) -> Option<u32> {
        let newest = wait(self.store.newest(queue)).expect("there");
        newest.map(|stored| number(stored.message.body()))
    }

    fn browse(&self, queue: QueueId, which: Which, skip: usize, count: usize) -> Vec<String> {
        let from = Sequence(0);
        let request =
            ReadRequest { queue, which, from, messages_max: skip + count, bytes_max: usize::MAX };
        let read = wait(self.store.read(request)).expect("read");
        let describe = |stored: &store::Stored| {
            let number = number(stored.message.body());
            let sequence = (queue == STREAM).then_some(stored.sequence);
            let times = (stored.enqueued, stored.expires, stored.not_before);
            let leased = (stored.delivery_count, stored.leased, stored.claim);
            format!("{number} {sequence:?} {times:?} {leased:?}")
        };
        read.iter().skip(skip).map(describe).collect()
    }

    fn counters(&self, queue: QueueId) -> (u64, u64, u64, u64) {
        let stats = wait(self.store.stats(queue)).expect("there");
        (stats.ready, stats.ready_bytes, stats.leased, stats.delayed)
    }
}

fn claim_id(number: u8) -> ClaimId {
    ClaimId::from_bits(u128::from(number) + 1)
}

fn priority(yes: bool) -> QueueId {
    if yes { PRIORITY } else { PLAIN }
}

struct Pair {
    memory: Side<Memory>,
    embedded: Option<Side<Embedded>>,
    disk: SimDisk,
    now: Timestamp,
    next: u32,
}

fn open(disk: &SimDisk) -> Embedded {
    let options = Options {
        segment_bytes: 64 * 1024,
        first_segment_bytes: 16 * 1024,
        resident_persistent_bytes: 4000,
        background: false,
        salt: Some(1),
        ..Options::default()
    };
    Embedded::open_with(Arc::new(disk.clone()), options).expect("opened")
}

impl Pair {
    fn new() -> Self {
        let disk = SimDisk::new();
        let embedded = Side { store: open(&disk), held: BTreeMap::new() };
        let memory = Side { store: Memory::new(), held: BTreeMap::new() };
        let mut pair =
            Self { memory, embedded: Some(embedded), disk, now: Timestamp(1000), next: 0 };
        let kind = |priority_max, stream| QueueKind { durable: true, priority_max, stream };
        let kinds = [(PLAIN, kind(0, false)), (PRIORITY, kind(4, false)), (STREAM, kind(0, true))];
        pair.commit(kinds.map(|(queue, kind)| Change::CreateQueue { queue, kind }).to_vec());
        pair
    }

    fn embedded(&mut self) -> &mut Side<Embedded> {
        self.embedded.as_mut().expect("open")
    }

    fn commit(&mut self, changes: Vec<Change>) {
        let now = self.now;
        let expected = self.memory.commit(changes.clone(), now);
        assert_eq!(self.embedded().commit(changes, now), expected);
    }

    fn publish(&mut self, size: usize, targets: Targets, dedup: Option<DedupId>) {
        let mut body = self.next.to_le_bytes().to_vec();
        self.next += 1;
        body.resize(size, 3);
        self.commit(vec![Change::Enqueue { message: message(body, true), targets, dedup }]);
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Publish { queues, priority, size, delay, ttl } => {
                let after = |wait: Option<u64>| wait.map(|wait| self.now.after_ms(wait));
                let (not_before, expires) = (after(delay), after(ttl));
                let chosen = [PLAIN, PRIORITY, STREAM].into_iter().enumerate();
                let targets = chosen.filter(|(bit, _)| queues & (1 << bit) != 0).map(|it| it.1);
                let target = |queue| Target { queue, priority, expires, not_before };
                self.publish(size, targets.map(target).collect(), None);
            }
            Op::PublishOnce { id } => {
                let target = Target { queue: PLAIN, priority: 0, expires: None, not_before: None };
                let id = Some(DedupId(u128::from(id)));
                self.publish(50, Targets::from_iter([target]), id);
            }
            Op::Lease { priority_queue, count, hold } => {
                let hold = match hold {
                    0 => Hold::Take,
                    1 => Hold::TakeDurably,
                    2 => Hold::UntilSettled,
                    claim => Hold::Claim(self.claim(claim - 3)),
                };
                self.lease(priority(priority_queue), count, hold);
            }
            Op::Extend { priority_queue, claim } => {
                let (queue, claim, now) = (priority(priority_queue), self.claim(claim), self.now);
                let count = |extended: Extended| extended.messages;
                let expected = wait(self.memory.store.extend(queue, claim, now)).map(count);
                let got = wait(self.embedded().store.extend(queue, claim, now)).map(count);
                assert_eq!(got.expect("accepted"), expected.expect("accepted"));
            }
            Op::EndClaim { priority_queue, claim } => {
                let (queue, claim) = (priority(priority_queue), claim_id(claim));
                self.commit(vec![Change::EndClaim { queue, claim }]);
            }
            Op::Remove { priority_queue, nth, condition } => {
                self.remove(priority(priority_queue), &nth, condition);
            }
            Op::Settle { nth, how } => self.settle(&nth, how),
            Op::Due { pass, count } => self.due(pass, count),
            Op::Purge { priority_queue } => {
                let queue = priority(priority_queue);
                self.commit(vec![Change::Purge { queue }]);
            }
            Op::Trim { nth } => {
                let first = wait(self.memory.store.stats(STREAM)).expect("there").first;
                let before = Sequence(first.0 + nth);
                self.commit(vec![Change::Trim { queue: STREAM, before }]);
            }
            Op::Browse { queue, from, count } => {
                let queue = [PLAIN, PRIORITY, STREAM][usize::from(queue)];
                let which = Which { ready: count % 2 == 0, delayed: count % 3 == 0, leased: true };
                for which in [which, Which::ALL] {
                    let expected = self.memory.browse(queue, which, from, count);
                    assert_eq!(self.embedded().browse(queue, which, from, count), expected);
                }
            }
            Op::Drive => self.embedded().store.drive(),
            Op::Restart => self.restart(),
        }
    }

    fn claim(&self, number: u8) -> Claim {
        let until = self.now.after_ms(25);
        Claim { id: claim_id(number), until, keep_until: until.after_ms(10) }
    }

    fn remove(&mut self, queue: QueueId, nth: &[usize], condition: u8) {
        let there = self.memory.sequences(queue);
        let numbers: Vec<u32> =
            nth.iter().filter_map(|nth| there.get(*nth)).map(|it| it.0).collect();
        let condition = match condition {
            0 => Condition::Unheld,
            1 => Condition::Always,
            claim => Condition::HeldBy(claim_id(claim - 2)),
        };
        let now = self.now;
        let expected = self.memory.remove(queue, &numbers, condition, now);
        assert_eq!(self.embedded().remove(queue, &numbers, condition, now), expected);
    }

    fn lease(&mut self, queue: QueueId, messages_max: usize, hold: Hold) {
        let bytes_max = usize::MAX;
        let request = LeaseRequest { queue, messages_max, bytes_max, hold, now: self.now };
        let expected = self.memory.lease(request, |_| {});
        let got = self.embedded().lease(request, Embedded::drive_writer);
        assert_eq!((&got.0, &got.1, got.2), (&expected.0, &expected.1, expected.2));
        // Flagged too often is allowed, too seldom is not.
        let flags = got.3.iter().zip(&expected.3);
        assert!(flags.into_iter().all(|(got, expected)| got >= expected), "{got:?} {expected:?}");
    }

    fn settle(&mut self, nth: &[usize], how: u8) {
        let held: Vec<_> = self.memory.held.keys().copied().collect();
        let chosen = nth.iter().filter_map(|nth| held.get(*nth).copied());
        let chosen: std::collections::BTreeSet<_> = chosen.collect();
        let not_before = (how == 2).then(|| self.now.after_ms(15));
        let settlement = match how {
            0 => Settlement::Ack,
            _ => Settlement::Release { not_before, counted: how != 1 },
        };
        for (queue, number) in chosen {
            let now = self.now;
            let change = |sequence: Option<Sequence>| {
                let sequences = runs(&sequence.map(|it| it.0).into_iter().collect::<Vec<_>>());
                vec![Change::Settle { queue, sequences, settlement }]
            };
            let expected = change(self.memory.held.remove(&(queue, number)));
            self.memory.commit(expected, now);
            let same = change(self.embedded().held.remove(&(queue, number)));
            self.embedded().commit(same, now);
        }
    }

    fn due(&mut self, pass: u64, count: usize) {
        self.now = self.now.after_ms(pass);
        loop {
            let now = self.now;
            let expected = wait(self.memory.store.due(now, count)).expect("accepted");
            let got = wait(self.embedded().store.due(now, count)).expect("accepted");
            assert_eq!(got.expired.len(), expected.expired.len());
            for (queue, leased) in expected.expired {
                self.memory.note(queue, &[leased], true);
            }
            for (queue, leased) in got.expired {
                self.embedded().note(queue, &[leased], true);
            }
            if expected.next.is_none_or(|next| next > now) {
                // Which of several queues comes first is free while there is more.
                let held: Vec<_> = self.memory.held.keys().copied().collect();
                assert!(self.embedded().held.keys().copied().eq(held));
                return;
            }
        }
    }

    fn restart(&mut self) {
        let embedded = self.embedded.take().expect("open");
        embedded.store.drive_writer();
        drop(embedded);
        self.disk = self.disk.killed();
        self.embedded = Some(Side { store: open(&self.disk), held: BTreeMap::new() });
        let release = Settlement::Release { not_before: None, counted: false };
        // Claims stay as they are.
        for ((queue, _), sequence) in &self.memory.held {
            let (queue, sequences) = (*queue, runs(&[sequence.0]));
            let change = Change::Settle { queue, sequences, settlement: release };
            self.memory.commit(vec![change], self.now);
        }
        self.memory.held.clear();
        // What was delayed until now waits for the next look at the clock in one, and not in the other.
        self.due(0, 1000);
    }

    fn compare(&mut self) {
        for queue in [PLAIN, PRIORITY, STREAM] {
            let expected = self.memory.counters(queue);
            assert_eq!(self.embedded().counters(queue), expected, "{queue:?}");
            let expected = (self.memory.newest(queue), self.memory.claims(queue));
            let embedded = self.embedded();
            assert_eq!((embedded.newest(queue), embedded.claims(queue)), expected, "{queue:?}");
        }
    }
}

proptest! {
    #[test]
    fn the_embedded_driver_does_what_the_memory_driver_does(
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut pair = Pair::new();
        for op in ops {
            pair.apply(op);
            pair.compare();
        }
    }
}
