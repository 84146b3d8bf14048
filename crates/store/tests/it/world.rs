//! What a test knows about a store: what was asked, what was confirmed, what was handed out; and the checker that holds
//! it against what a store has after a fault.
//!
//! Outcomes that nobody was told (no durable ticket) are *uncertain*: both are right. Everything else is checked: no
//! confirmed message lost, none made up, none back that was durably settled, none handed out again as if for the first
//! time, none out of order, no commit in part.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use model::{DedupId, Message, QueueId, Ticket, Timestamp};
use store::embedded::Embedded;
use store::{
    Catalog, Change, Commit, Definition, DefinitionChange, Hold, LeaseRequest, Leased, Pool,
    Receipt, Settlement, StoreError, Target, Targets,
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
    /// Counted releases asked for, with their tickets.
    counted: Vec<Ticket>,
    /// Went into other queues with the same commit.
    siblings: Vec<Name>,
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

    fn purge(&mut self, store: &Embedded, random: &mut Random) {
        let queue = 1 + random.below(QUEUES);
        let changes = vec![Change::Purge { queue: QueueId(queue) }];
        let Ok(receipt) = self.commit(store, changes) else { return };
        let within = (queue, 0)..(queue + 1, 0);
        for (_, known) in self.messages.range_mut(within) {
            if known.held.is_none() && known.gone == Gone::No {
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
        // Nothing here expires or has a deadline, so nothing is handed out.
        if let Ok(due) = wait(store.due(self.now, 10)) {
            assert!(due.expired.is_empty());
        }
    }

    /// Holds what a store has after a fault against what is known. `durable` is what the watermark said before.
    pub(crate) fn check(&mut self, store: &Embedded, durable: Ticket, why: &str) {
        self.now = self.now.after_ms(100);
        wait(store.due(self.now, 100)).expect("accepted");
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
