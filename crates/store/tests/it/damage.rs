//! Damage at rest: torn tails, flipped bits, lost sidecars. Always detected, neighbours intact, the store opens.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::{QueueId, Timestamp};
use store::embedded::{Embedded, Options, inspect_with};
use store::{ErrorKind, Hold, LeaseRequest, Pool};
use testkit::disk::SimDisk;
use testkit::random::Random;
use testkit::store::{DURABLE, Talk, enqueue, wait};

const MESSAGES: u64 = 300;

fn options() -> Options {
    Options {
        segment_bytes: 64 * 1024,
        first_segment_bytes: 16 * 1024,
        background: false,
        salt: Some(5),
        ..Options::default()
    }
}

fn open(disk: &SimDisk) -> Embedded {
    Embedded::open_with(Arc::new(disk.clone()), options()).expect("a damaged store opens")
}

fn body(number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let mut body = format!("{number:>8}").into_bytes();
    body.resize_with(200 + random.index(600), || random.next_u64().to_le_bytes()[0]);
    body
}

/// A stopped store with a queue of messages, each durable.
fn filled(settle: bool) -> SimDisk {
    let disk = SimDisk::new();
    let store = open(&disk);
    let commit = |changes| {
        let commit = store::Commit { changes, now: Timestamp(1), ..store::Commit::default() };
        wait(store.commit(commit)).expect("accepted");
        store.drive();
    };
    commit(vec![store::Change::CreateQueue { queue: QueueId(1), kind: DURABLE }]);
    for number in 0..MESSAGES {
        commit(vec![enqueue(1, body(number))]);
    }
    if settle {
        let lease = lease(&store, 10);
        let sequences: Vec<u64> = lease.iter().map(|it| it.0).collect();
        commit(vec![testkit::store::ack(1, &sequences)]);
    }
    drop(store);
    disk.killed()
}

/// Leases up to a number of messages: their sequences and bodies.
fn lease(store: &Embedded, messages_max: usize) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let request = LeaseRequest {
            queue: QueueId(1),
            messages_max: messages_max - all.len(),
            bytes_max: usize::MAX,
            hold: Hold::UntilSettled,
            now: Timestamp(1),
        };
        let lease = wait(store.lease(request)).expect("accepted");
        let got = lease.messages.iter();
        all.extend(got.map(|leased| (leased.sequence.0, leased.message.body().to_vec())));
        if !lease.more || all.len() >= messages_max {
            return all;
        }
        store.drive_writer();
    }
}

/// Numbers of the messages that a store delivers, each checked to be what was sent.
fn delivered(disk: &SimDisk, why: &str) -> (BTreeSet<u64>, Embedded) {
    let store = open(disk);
    let mut numbers = BTreeSet::new();
    for (_, got) in lease(&store, usize::MAX) {
        let number = std::str::from_utf8(&got[..8]).ok().and_then(|it| it.trim().parse().ok());
        let number = number.unwrap_or_else(|| panic!("{why}: a corrupt message was delivered"));
        assert!(got == body(number), "{why}: message {number} was delivered corrupt");
        numbers.insert(number);
    }
    (numbers, store)
}

fn logs(disk: &SimDisk) -> Vec<String> {
    disk.names().into_iter().filter(|name| name.ends_with(".log")).collect()
}

#[test]
fn a_flipped_bit_costs_at_most_one_message_and_is_reported() {
    let disk = filled(false);
    let mut random = Random::new(11);
    for round in 0..400 {
        let damaged = disk.killed();
        let names = logs(&damaged);
        let name = &names[random.index(names.len())];
        let mut place = 0;
        damaged.edit(name, |bytes| {
            place = random.index(bytes.len() * 8);
            bytes[place / 8] ^= 1 << (place % 8);
        });
        if round % 2 == 0 {
            for name in damaged.names().iter().filter(|name| name.ends_with(".index")) {
                damaged.delete(name);
            }
        }
        let why = format!("round {round}, {name}, bit {place}");

        let (numbers, store) = delivered(&damaged, &why);

        let lost = MESSAGES - numbers.len() as u64;
        assert!(lost <= 1, "{why}: {lost} messages are lost");
        if lost == 1 {
            assert!(!store.damages().is_empty(), "{why}: a loss was not reported");
        }
        drop(store);
        let (again, _) = delivered(&damaged.killed(), &why);
        assert_eq!(again, numbers, "{why}: the next start finds the same");
    }
}

#[test]
fn a_zeroed_page_costs_what_it_held() {
    let disk = filled(false);
    let mut random = Random::new(12);
    for round in 0..100 {
        let damaged = disk.killed();
        let names = logs(&damaged);
        let name = &names[random.index(names.len())];
        damaged.edit(name, |bytes| {
            let at = random.index(bytes.len() / 4096) * 4096;
            bytes[at..at + 4096].fill(0);
        });

        // The page with the header may cost the segment, which is said; no other costs more than it held.
        let (numbers, store) = delivered(&damaged, &format!("round {round}"));
        let lost = MESSAGES - numbers.len() as u64;
        // At the very end it cannot be told from a tail that was never synced.
        let torn = numbers.last().is_some_and(|last| numbers.len() as u64 == last + 1);
        let told = !store.damages().is_empty();
        assert!(lost == 0 || torn || told, "round {round}: {lost} lost in silence");
    }
}

#[test]
fn a_torn_tail_is_dropped_and_nothing_else() {
    let disk = filled(true);
    let mut random = Random::new(13);
    for round in 0..200 {
        let damaged = disk.killed();
        let name = logs(&damaged).pop().expect("a log");
        let last_message = round % 3;
        damaged.edit(&name, |bytes| {
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            let torn = (1 + random.index(8192)).min(used.saturating_sub(8192));
            match last_message {
                0 => bytes.truncate(used - torn),
                1 => bytes[used - torn..used].fill(0),
                _ => bytes[used - torn..used].fill_with(|| random.next_u64().to_le_bytes()[0]),
            }
        });

        let (numbers, _) = delivered(&damaged, &format!("round {round}"));

        // Messages are lost from the end only; settles from the end, too.
        let kept: Vec<u64> = numbers.into_iter().collect();
        assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "round {round}: {kept:?}");
        assert!(kept.first().is_none_or(|first| *first == 0 || *first == 10), "{kept:?}");
    }
}

#[test]
fn sidecars_are_a_cache() {
    let disk = filled(true);
    let whole = delivered(&disk.killed(), "whole").0;
    let mut random = Random::new(14);
    for round in 0..50 {
        let damaged = disk.killed();
        for name in damaged.names().iter().filter(|name| name.ends_with(".index")) {
            match random.below(3) {
                0 => damaged.delete(name),
                1 => damaged.edit(name, |bytes| {
                    let at = random.index(bytes.len());
                    bytes[at] ^= 1;
                }),
                _ => {}
            }
        }

        let (numbers, store) = delivered(&damaged, &format!("round {round}"));

        assert_eq!(numbers, whole);
        assert_eq!(store.damages(), []);
    }
}

#[test]
fn damage_while_running_is_found_by_the_next_read() {
    let disk = filled(false);
    let store = open(&disk);
    let name = logs(&disk)[1].clone();
    disk.edit(&name, |bytes| bytes[10_000] ^= 1);

    let got = lease(&store, usize::MAX);

    assert_eq!(got.len() as u64, MESSAGES - 1);
    assert_eq!(store.damages().len(), 1);
}

#[test]
fn an_inspection_counts_what_is_there_and_what_is_damaged() {
    let disk = filled(true);
    let sound = inspect_with(&disk).expect("readable");
    assert_eq!(sound.damages, []);
    assert_eq!(sound.queues.len(), 1);
    assert_eq!(sound.queues[0].messages, MESSAGES - 10);
    let live: u64 = sound.segments.iter().map(|segment| segment.live).sum();
    assert_eq!(live, MESSAGES - 10);

    disk.edit(&logs(&disk)[1], |bytes| bytes[10_000] ^= 1);
    let damaged = inspect_with(&disk).expect("readable");

    assert_eq!(damaged.damages.len(), 1);
    assert_eq!(damaged.segments[1].damaged, 1);
}

#[test]
fn a_loss_is_known_after_its_segment_is_gone_and_after_the_next_start() {
    let disk = filled(false);
    disk.edit(&logs(&disk)[1], |bytes| bytes[10_000] ^= 1);
    let store = open(&disk);
    let lost = lease(&store, usize::MAX);
    let sequences: Vec<u64> = lost.iter().map(|it| it.0).collect();
    let changes = vec![testkit::store::ack(1, &sequences)];
    let commit = store::Commit { changes, now: Timestamp(1), ..store::Commit::default() };
    wait(store.commit(commit)).expect("accepted");
    store.drive();
    drop(store);
    drop(open(&disk));

    let inspection = inspect_with(&disk.killed()).expect("readable");

    assert_eq!(inspection.damages, [], "the damaged segment is gone");
    assert_eq!(inspection.quarantined.len(), 1);
    assert!(inspection.quarantined[0].what.contains("message"), "{:?}", inspection.quarantined);
}

#[test]
fn a_second_user_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = Embedded::open(directory.path(), Options::default()).expect("opened");

    let second = Embedded::open(directory.path(), Options::default()).expect_err("it is in use");

    assert_eq!(second.kind, ErrorKind::Unavailable);
    assert!(second.text.contains("in use by another process"), "{second}");
    drop(first);
    Embedded::open(directory.path(), Options::default()).expect("it is free again");
}

#[test]
fn what_was_committed_before_an_orderly_stop_is_there_after_it() {
    let directory = tempfile::tempdir().expect("a directory");
    {
        let store = Embedded::open(directory.path(), Options::default()).expect("opened");
        let talk = Talk::new(&store);
        talk.create(1, DURABLE);
        for number in 0..50 {
            talk.try_commit([enqueue(1, format!("{number}"))]).expect("accepted");
        }
    }

    let store = Embedded::open(directory.path(), Options::default()).expect("opened");

    let lease = Talk::new(&store).lease(1, 100);
    assert_eq!(lease.messages.len(), 50);
    assert!(lease.messages.iter().all(|leased| !leased.redelivered));
    assert_eq!(store.recovery().damages, 0);
}

#[test]
fn one_stuck_message_does_not_hold_a_history() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let create = |queue| store::Change::CreateQueue { queue: QueueId(queue), kind: DURABLE };
    let commit = |changes| {
        let commit = store::Commit { changes, now: Timestamp(1), ..store::Commit::default() };
        wait(store.commit(commit)).expect("accepted");
        store.drive();
    };
    commit(vec![create(1), create(2), enqueue(2, "stuck")]);

    for number in 0..3000 {
        commit(vec![enqueue(1, body(number))]);
        let sequences: Vec<u64> = lease(&store, 1).iter().map(|it| it.0).collect();
        commit(vec![testkit::store::ack(1, &sequences)]);
    }

    assert!(store.embedded_stats().log_bytes < 1024 * 1024, "{:?}", store.embedded_stats());
    assert_eq!(Talk::new(&store).stats(2).ready, 1);
}
