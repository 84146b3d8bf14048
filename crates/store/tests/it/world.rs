//! What a test knows about a store: what was asked, what was confirmed, what was handed out; and the checker that holds
//! it against what a store has after a fault.
//!
//! Outcomes that nobody was told (no durable ticket) are *uncertain*: both are right. Everything else is checked: no
//! confirmed message lost, none made up, none back that was durably settled, none handed out again as if for the first
//! time, none out of order, no commit in part.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use model::{ClaimId, DedupId, Message, QueueId, Sequence, Ticket, Timestamp};
use store::embedded::Embedded;
use store::{
    Catalog, Change, Claim, Commit, Condition, Definition, DefinitionChange, Hold, LeaseRequest,
    Leased, Pool, ReadRequest, Receipt, Removal, Settlement, StoreError, Target, Targets, Which,
};
use testkit::random::Random;
use testkit::store::{DURABLE, message, runs, wait};

/// How a message left, if it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gone {
    No,
    /// Settled for good by a commit with this ticket; taken messages never know theirs.
    Asked(Ticket),
}

#[derive(Debug, Clone)]
struct Known {
    persistent: bool,
    enqueued: Ticket,
    gone: Gone,
    delivered: bool,
    held: Option<u64>,
    claim: Option<Claimed>,
    /// Counted releases asked for, with their tickets.
    counted: Vec<Ticket>,
    /// Went into other queues with the same commit.
    siblings: Vec<Name>,
}

/// A message that somebody claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claimed {
    sequence: u64,
    id: ClaimId,
    until: Timestamp,
    /// The earliest end that it was ever given: nobody knows which of them are durable.
    least: Timestamp,
    ticket: Ticket,
}

/// Queue, then number of the message, which grows with time.
type Name = (u64, u64);

#[derive(Debug, Default)]
pub(crate) struct World {
    next: u64,
    messages: BTreeMap<Name, Known>,
    /// Messages that were not there after a crash, or were durably settled before one.
    buried: HashSet<Name>,
    /// Published with a dedup id, and durable.
    dedup_durable: BTreeSet<u64>,
    dedup_asked: Vec<(u64, Ticket)>,
    definitions: BTreeMap<String, Vec<(u64, Ticket)>>,
    pub(crate) now: Timestamp,
}

pub(crate) const QUEUES: u64 = 3;

fn body_of(number: u64) -> Vec<u8> {
    let length = match number % 17 {
        0 => 5000,
        1..4 => 700,
        _ => 30,
    };
    let mut random = Random::new(number);
    let mut body = number.to_le_bytes().to_vec();
    while body.len() < length {
        body.extend(random.next_u64().to_le_bytes());
    }
    body
}

fn number_of(message: &Message, why: &str) -> u64 {
    let (number, _) = message.body().split_first_chunk::<8>().expect("a body of ours");
    let number = u64::from_le_bytes(*number);
    assert!(message.body() == body_of(number), "{why}: message {number} is not what was sent");
    number
}

fn to(queue: u64) -> Target {
    testkit::store::to(queue)
}

impl World {
    /// Makes the queues that all else is about.
    pub(crate) fn begin(&mut self, store: &Embedded) -> Result<(), StoreError> {
        self.now = Timestamp(1000);
        let create = |queue| Change::CreateQueue { queue: QueueId(queue), kind: DURABLE };
        self.commit(store, (1..=QUEUES).map(create).collect())?;
        store.drive();
        Ok(())
    }

    fn commit(&self, store: &Embedded, changes: Vec<Change>) -> Result<Receipt, StoreError> {
        wait(store.commit(Commit { changes, now: self.now, ..Commit::default() }))
    }

    /// Does something at random. Errors are a matter of the fault that was injected.
    pub(crate) fn act(&mut self, store: &Embedded, random: &mut Random) {
        match random.below(20) {
            0..6 => self.publish(store, random),
            6..10 => self.lease(store, random, false),
            10 => self.lease(store, random, true),
            11..14 => self.settle(store, random),
            14..16 => store.drive_writer(),
            16 if random.chance(1, 4) => self.claim(store, random),
            16 if random.chance(1, 4) => self.change_claim(store, random),
            16 if random.chance(1, 2) => store.drive(),
            16 => store.drive_keeper(),
            17 => self.define(store, random),
            18 => self.pass_time(store, random),
            _ if random.chance(1, 6) => self.purge(store, random),
            _ => store.drive_writer(),
        }
    }

    /// Whether a message gets through to the disk.
    pub(crate) fn begin_again(&mut self, store: &Embedded) -> bool {
        let before = store.watch().durable();
        let mut random = Random::new(self.next);
        self.try_publish(store, &mut random).expect("there is space");
        self.define(store, &mut random);
        store.drive_writer();
        store.watch().durable() > before
    }

    pub(crate) fn publish_some(&mut self, store: &Embedded, random: &mut Random) {
        self.try_publish(store, random).expect("accepted");
    }

    fn publish(&mut self, store: &Embedded, random: &mut Random) {
        // Refused ones are as if they had never been.
        drop(self.try_publish(store, random));
    }

    pub(crate) fn try_publish(
        &mut self,
        store: &Embedded,
        random: &mut Random,
    ) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        let mut sent = Vec::new();
        for _ in 0..=random.below(4) {
            let number = self.next;
            self.next += 1;
            let persistent = random.chance(5, 6);
            let first = 1 + random.below(QUEUES);
            let mut queues = vec![first];
            if random.chance(1, 4) {
                queues.push(1 + first % QUEUES);
            }
            let delay = random.chance(1, 10).then(|| self.now.after_ms(random.below(40)));
            let target = |queue: &u64| Target { not_before: delay, ..to(*queue) };
            let targets: Targets = queues.iter().map(target).collect();
            let dedup = random.chance(1, 3).then_some(DedupId(u128::from(number)));
            let message = message(body_of(number), persistent);
            changes.push(Change::Enqueue { message, targets, dedup });
            sent.push((number, queues, persistent, dedup.is_some()));
        }
        let receipt = self.commit(store, changes)?;
        assert!(receipt.duplicates.is_empty(), "new ids are no duplicates");
        let names = |it: &(u64, Vec<u64>, bool, bool)| {
            let (number, persistent) = (it.0, it.2);
            it.1.clone().into_iter().filter(move |_| persistent).map(move |queue| (queue, number))
        };
        let all: Vec<Name> = sent.iter().flat_map(names).collect();
        for (number, queues, persistent, dedup) in sent {
            if dedup && persistent {
                self.dedup_asked.push((number, receipt.ticket));
            }
            for queue in &queues {
                let name = (*queue, number);
                let siblings = all.iter().copied().filter(|other| *other != name).collect();
                let known = Known {
                    persistent,
                    enqueued: receipt.ticket,
                    gone: Gone::No,
                    delivered: false,
                    held: None,
                    claim: None,
                    counted: Vec::new(),
                    siblings,
                };
                self.messages.insert((*queue, number), known);
            }
        }
        Ok(())
    }

    fn request(&self, queue: u64, messages_max: usize, hold: Hold) -> LeaseRequest {
        let queue = QueueId(queue);
        LeaseRequest { queue, messages_max, bytes_max: usize::MAX, hold, now: self.now }
    }

    fn lease(&mut self, store: &Embedded, random: &mut Random, take: bool) {
        let queue = 1 + random.below(QUEUES);
        let hold = if take { Hold::Take } else { Hold::UntilSettled };
        let request = self.request(queue, 1 + random.index(8), hold);
        let Ok(lease) = wait(store.lease(request)) else { return };
        for leased in &lease.messages {
            let known = self.delivered(queue, leased, "live");
            if take {
                known.gone = Gone::Asked(Ticket(u64::MAX));
            } else {
                known.held = Some(leased.sequence.0);
            }
        }
    }

    fn delivered(&mut self, queue: u64, leased: &Leased, why: &str) -> &mut Known {
        let number = number_of(&leased.message, why);
        assert!(!self.buried.contains(&(queue, number)), "{why}: {number} of {queue} rose again");
        let known = self.messages.get_mut(&(queue, number));
        let known = known.unwrap_or_else(|| panic!("{why}: {number} of {queue} is made up"));
        assert_eq!(known.held, None, "{why}: {number} of {queue} is in two leases");
        assert_eq!(known.claim, None, "{why}: {number} of {queue} is leased and claimed");
        assert_eq!(known.gone, Gone::No, "{why}: {number} of {queue} was settled");
        let lied = known.delivered && !leased.redelivered;
        assert!(!lied, "{why}: {number} of {queue} came again as if for the first time");
        known.delivered = true;
        known
    }

    fn settle(&mut self, store: &Embedded, random: &mut Random) {
        let queue = 1 + random.below(QUEUES);
        let within = (queue, 0)..(queue + 1, 0);
        let held = self.messages.range(within).filter_map(|(name, it)| Some((*name, it.held?)));
        let chosen: Vec<(Name, u64)> = held.filter(|_| random.chance(1, 2)).collect();
        let sequences: Vec<u64> = chosen.iter().map(|it| it.1).collect();
        let counted = random.chance(1, 2);
        let settlement = match random.below(3) {
            0 => Settlement::Release {
                not_before: random.chance(1, 4).then(|| self.now.after_ms(20)),
                counted,
            },
            _ => Settlement::Ack,
        };
        let change =
            Change::Settle { queue: QueueId(queue), sequences: runs(&sequences), settlement };
        let Ok(receipt) = self.commit(store, vec![change]) else { return };
        for (name, _) in chosen {
            let known = self.messages.get_mut(&name).expect("it is held");
            known.held = None;
            match settlement {
                Settlement::Ack => known.gone = Gone::Asked(receipt.ticket),
                Settlement::Release { counted, .. } => {
                    known.counted.extend(counted.then_some(receipt.ticket));
                }
            }
        }
    }

    fn claim(&mut self, store: &Embedded, random: &mut Random) {
        let queue = 1 + random.below(QUEUES);
        let id = ClaimId::from_bits(u128::from(self.next));
        self.next += 1;
        let until = self.now.after_ms(1 + random.below(400));
        let hold = Hold::Claim(Claim { id, until, keep_until: until });
        let Ok(lease) = wait(store.lease(self.request(queue, 1 + random.index(8), hold))) else {
            return;
        };
        for leased in &lease.messages {
            let known = self.delivered(queue, leased, "live");
            // Who claims tells nobody before it is durable.
            known.delivered = leased.redelivered;
            let (sequence, ticket) = (leased.sequence.0, lease.ticket);
            known.claim = Some(Claimed { sequence, id, until, least: until, ticket });
        }
    }

    /// Extends, ends or empties a claim.
    fn change_claim(&mut self, store: &Embedded, random: &mut Random) {
        let claimed: Vec<(Name, Claimed)> =
            self.messages.iter().filter_map(|(name, it)| Some((*name, it.claim?))).collect();
        if claimed.is_empty() {
            return;
        }
        let (name, chosen) = claimed[random.index(claimed.len())];
        let (queue, id) = (QueueId(name.0), chosen.id);
        let all = claimed.iter().filter(|(_, claim)| claim.id == id).map(|it| it.0);
        match random.below(3) {
            0 => {
                let until = self.now.after_ms(100 + random.below(400));
                let claim = Claim { id, until, keep_until: until };
                let Ok(extended) = wait(store.extend(queue, claim, self.now)) else { return };
                assert_eq!(extended.messages, all.clone().count() as u64);
                for name in all {
                    let claim = self.messages.get_mut(&name).and_then(|it| it.claim.as_mut());
                    let claim = claim.expect("it is claimed");
                    claim.until = until;
                    claim.least = claim.least.min(until);
                }
            }
            1 => {
                let change = Change::EndClaim { queue, claim: id };
                let Ok(receipt) = self.commit(store, vec![change]) else { return };
                for name in all {
                    let known = self.messages.get_mut(&name).expect("it is claimed");
                    known.claim = None;
                    known.counted.push(receipt.ticket);
                }
            }
            _ => {
                let sequences = [Sequence(chosen.sequence)].into();
                let condition = Condition::HeldBy(id);
                let change = Change::Remove { queue, sequences, condition };
                let Ok(receipt) = self.commit(store, vec![change]) else { return };
                assert_eq!(receipt.removals, [Removal::Removed]);
                let known = self.messages.get_mut(&name).expect("it is claimed");
                (known.claim, known.gone) = (None, Gone::Asked(receipt.ticket));
                // If that is undone, the claim ends in its time.
                known.counted.push(Ticket(u64::MAX));
            }
        }
    }

    fn purge(&mut self, store: &Embedded, random: &mut Random) {
        let queue = 1 + random.below(QUEUES);
        let changes = vec![Change::Purge { queue: QueueId(queue) }];
        let Ok(receipt) = self.commit(store, changes) else { return };
        let within = (queue, 0)..(queue + 1, 0);
        for (_, known) in self.messages.range_mut(within) {
            let held = known.held.is_some() || known.claim.is_some();
            if !held && known.gone == Gone::No {
                known.gone = Gone::Asked(receipt.ticket);
            }
        }
    }

    fn define(&mut self, store: &Embedded, random: &mut Random) {
        let key = format!("key/{}", random.below(4));
        let value = self.next;
        self.next += 1;
        let definition = Definition { key: key.as_str().into(), value: value.to_le_bytes().into() };
        let changes = vec![DefinitionChange::Put(definition)];
        if let Ok(ticket) = wait(store.commit_definitions(changes)) {
            self.definitions.entry(key).or_default().push((value, ticket));
        }
    }

    fn pass_time(&mut self, store: &Embedded, random: &mut Random) {
        self.now = self.now.after_ms(random.below(30));
        // Nothing here expires, so nothing is handed out.
        if let Ok(due) = wait(store.due(self.now, 10)) {
            assert!(due.expired.is_empty());
            let (now, end) = (self.now, Ticket(u64::MAX));
            for known in self.messages.values_mut() {
                let ended = known.claim.take_if(|claim| claim.until <= now);
                known.counted.extend(ended.map(|_| end));
            }
        }
    }

    /// Holds what a store has after a fault against what is known. `durable` is what the watermark said before.
    pub(crate) fn check(&mut self, store: &Embedded, durable: Ticket, why: &str) {
        self.now = self.now.after_ms(100);
        wait(store.due(self.now, 100)).expect("accepted");
        self.check_claims(store, durable, why);
        let found = self.drain(store, why);
        for (name, known) in &self.messages {
            let confirmed = known.persistent && known.enqueued <= durable;
            let settled = matches!(known.gone, Gone::Asked(ticket) if ticket <= durable);
            let back = found.get(name);
            if confirmed && known.gone == Gone::No {
                assert!(back.is_some(), "{why}: {name:?} is lost, {known:?}, durable {durable:?}");
            }
            let Some(leased) = back else { continue };
            assert!(known.persistent, "{why}: {name:?} is transient and there after a restart");
            assert!(!settled, "{why}: {name:?} was durably settled and is back, {known:?}");
            let lied = known.delivered && !leased.redelivered;
            assert!(!lied, "{why}: {name:?} came again as if for the first time");
            let counted = known.counted.iter().filter(|ticket| **ticket <= durable).count();
            let range = counted..=known.counted.len();
            let count = leased.delivery_count as usize;
            assert!(range.contains(&count), "{why}: {name:?} counts {count}, not {range:?}");
            for sibling in &known.siblings {
                let left = self.messages.get(sibling).is_some_and(|it| it.gone == Gone::No);
                let there = found.contains_key(sibling);
                assert!(there || !left, "{why}: {name:?} is there without {sibling:?}");
            }
        }
        for name in found.keys() {
            assert!(!self.buried.contains(name), "{why}: {name:?} rose again");
            assert!(self.messages.contains_key(name), "{why}: {name:?} is made up");
        }
        self.check_definitions(store, durable, why);
        self.check_dedup(store, durable, why);
        self.go_on_with(&found);
    }

    /// A durable claim holds what it held, until its time; then all claims end, so that everything can be leased.
    fn check_claims(&mut self, store: &Embedded, durable: Ticket, why: &str) {
        let mut claims = BTreeMap::new();
        for queue in (1..=QUEUES).map(QueueId) {
            let which = Which { leased: true, ready: false, delayed: false };
            let (from, messages_max, bytes_max) = (Sequence(0), 100_000, usize::MAX);
            let request = ReadRequest { queue, which, from, messages_max, bytes_max };
            for stored in wait(store.read(request)).expect("the queue is there") {
                let number = number_of(&stored.message, why);
                let claim = stored.claim.expect("nothing else is leased after a start");
                claims.insert((queue.0, number), claim);
            }
        }
        for (name, known) in &mut self.messages {
            let found = claims.get(name);
            let claim = known.claim.take();
            let sure = claim.filter(|claim| claim.ticket <= durable && known.persistent);
            if let Some(claim) = sure.filter(|claim| claim.least > self.now) {
                assert_eq!(found, Some(&claim.id), "{why}: {name:?} lost its claim");
            }
            known.delivered |= sure.is_some();
            match (claim, found) {
                (Some(claim), Some(id)) if claim.id == *id => known.counted.push(Ticket::NONE),
                (Some(_), _) | (None, Some(_)) => known.counted.push(Ticket(u64::MAX)),
                (None, None) => {}
            }
        }
        for ((queue, _), claim) in claims {
            let change = Change::EndClaim { queue: QueueId(queue), claim };
            self.commit(store, vec![change]).expect("accepted");
        }
    }

    /// Leases everything there is.
    fn drain(&self, store: &Embedded, why: &str) -> BTreeMap<Name, Leased> {
        let mut found = BTreeMap::new();
        for queue in 1..=QUEUES {
            let mut last = None;
            for round in 0.. {
                assert!(round < 1000, "{why}: queue {queue} does not come to an end");
                let request = self.request(queue, 50, Hold::UntilSettled);
                let lease = wait(store.lease(request)).expect("accepted");
                for leased in lease.messages {
                    let number = number_of(&leased.message, why);
                    assert!(last < Some(number), "{why}: {number} of {queue} after {last:?}");
                    last = Some(number);
                    found.insert((queue, number), leased);
                }
                if !lease.more {
                    break;
                }
                store.drive_writer();
            }
            let stats = wait(store.stats(QueueId(queue))).expect("the queue is there");
            assert_eq!((stats.ready, stats.ready_bytes, stats.delayed), (0, 0, 0), "{why}");
        }
        found
    }

    fn check_definitions(&mut self, store: &Embedded, durable: Ticket, why: &str) {
        let loaded = wait(store.load()).expect("loaded");
        for (key, values) in &mut self.definitions {
            let found = loaded.iter().find(|definition| *definition.key == **key);
            let found = found.map(|it| u64::from_le_bytes((*it.value).try_into().expect("ours")));
            let last_durable = values.iter().rposition(|it| it.1 <= durable);
            match found {
                None => assert_eq!(last_durable, None, "{why}: {key} is lost"),
                Some(value) => {
                    let index = values.iter().position(|it| it.0 == value);
                    assert!(index.is_some(), "{why}: the value of {key} is made up");
                    assert!(index >= last_durable, "{why}: {key} has an old value");
                }
            }
            values.retain(|it| Some(it.0) == found);
            values.iter_mut().for_each(|it| it.1 = Ticket::NONE);
        }
    }

    fn check_dedup(&mut self, store: &Embedded, durable: Ticket, why: &str) {
        let asked = std::mem::take(&mut self.dedup_asked);
        let durable = asked.into_iter().filter(|it| it.1 <= durable).map(|it| it.0);
        self.dedup_durable.extend(durable);
        let again = |number: &u64| Change::Enqueue {
            message: message(b"a duplicate", true),
            targets: Targets::from_iter([to(1)]),
            dedup: Some(DedupId(u128::from(*number))),
        };
        let changes: Vec<Change> = self.dedup_durable.iter().map(again).collect();
        let count = changes.len();
        let receipt = self.commit(store, changes).expect("accepted");
        assert_eq!(receipt.duplicates.len(), count, "{why}: a dedup id was forgotten");
    }

    fn go_on_with(&mut self, found: &BTreeMap<Name, Leased>) {
        for (name, mut known) in std::mem::take(&mut self.messages) {
            let Some(leased) = found.get(&name) else {
                self.buried.insert(name);
                continue;
            };
            let count = leased.delivery_count as usize;
            known.enqueued = Ticket::NONE;
            known.gone = Gone::No;
            known.delivered = true;
            known.held = Some(leased.sequence.0);
            known.counted = vec![Ticket::NONE; count];
            self.messages.insert(name, known);
        }
        // A sibling that is gone is no witness any more.
        let there: HashSet<Name> = self.messages.keys().copied().collect();
        for known in self.messages.values_mut() {
            known.siblings.retain(|sibling| there.contains(sibling));
        }
    }
}
