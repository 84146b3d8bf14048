//! Power cuts, kills and failing calls at every point, by seed.
//!
//! `STORE_SEEDS` sets how many seeds are run, `STORE_SEED` runs one.

use std::sync::Arc;

use model::Ticket;
use store::embedded::{Embedded, Options};
use store::{ErrorKind, Pool, StoreError};
use testkit::disk::{Fault, SimDisk};
use testkit::random::Random;

use crate::world::World;

/// Segments so small that every run rolls, seals, compacts and drops some.
fn options(random: &mut Random) -> Options {
    Options {
        segment_bytes: 64 * 1024,
        first_segment_bytes: 8 * 1024 << random.below(4),
        reserve_segments: random.index(3),
        resident_persistent_bytes: if random.chance(1, 2) { 0 } else { 1 << 20 },
        resident_transient_bytes: if random.chance(1, 2) { 0 } else { 1 << 20 },
        background: false,
        salt: Some(random.next_u64()),
        ..Options::default()
    }
}

fn open(disk: &SimDisk, options: Options) -> Result<Embedded, StoreError> {
    Embedded::open_with(Arc::new(disk.clone()), options)
}

fn seeds(usual: u64) -> std::ops::Range<u64> {
    let variable = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match (variable("STORE_SEED"), variable("STORE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(usual),
    }
}

/// What a disk is like after the fault.
fn after(disk: &SimDisk, random: &mut Random) -> SimDisk {
    if random.chance(1, 4) { disk.killed() } else { disk.cut(random) }
}

/// Opens a store, with crashes on the way.
fn reopen(mut disk: SimDisk, random: &mut Random) -> (SimDisk, Embedded) {
    for _ in 0..random.below(3) {
        disk.power_off_after(random.below(40));
        // Done before the power went: a crash after it is the next fault.
        drop(open(&disk, options(random)));
        disk = after(&disk, random);
        if random.chance(1, 3) {
            for name in disk.names().iter().filter(|name| name.ends_with(".index")) {
                disk.delete(name);
            }
        }
    }
    let store = open(&disk, options(random)).expect("a sound disk opens");
    (disk, store)
}

#[test]
fn nothing_confirmed_is_lost_in_a_crash() {
    for seed in seeds(1500) {
        let mut random = Random::new(seed);
        let mut disk = SimDisk::new();
        let mut world = World::default();
        let mut store = open(&disk, options(&mut random)).expect("opened");
        world.begin(&store).expect("the power is on");
        for round in 0..4 {
            let why = format!("seed {seed}, round {round}");
            disk.power_off_after(1 + random.below(300));
            for _ in 0..random.below(400) {
                if disk.is_off() {
                    break;
                }
                world.act(&store, &mut random);
            }
            let durable = store.watch().durable();
            drop(store);
            (disk, store) = reopen(after(&disk, &mut random), &mut random);
            assert_eq!(store.damages(), [], "{why}");
            world.check(&store, durable, &why);
            store.drive();
        }
    }
}

/// Runs the same short life with the Nth call failing; returns how many calls there were.
fn life_with_fault(seed: u64, fault: Option<(u64, Fault, bool)>) -> u64 {
    let why = format!("seed {seed}, fault {fault:?}");
    let mut random = Random::new(seed);
    let disk = SimDisk::new();
    let mut world = World::default();
    let options = options(&mut random);
    if let Some((at, fault, sticky)) = fault {
        disk.fail_call(at, fault, sticky);
    }
    let mut durable = Ticket::NONE;
    let mut began = false;
    if let Ok(store) = open(&disk, options.clone()) {
        began = world.begin(&store).is_ok();
        for _ in 0..60 {
            world.act(&store, &mut random);
        }
        store.drive();
        let calls = disk.calls();
        disk.heal();
        if !store.watch().failed() {
            // Space is back, or nothing was wrong for long: all that waits gets through.
            store.drive();
            assert!(!store.watch().full(), "{why}");
            assert!(world.begin_again(&store), "{why}");
        }
        durable = store.watch().durable();
        drop(store);
        if fault.is_none() {
            return calls;
        }
    }
    disk.heal();
    let disk = after(&disk, &mut random);
    let store = open(&disk, options).unwrap_or_else(|error| panic!("{why}: {error}"));
    if began && durable > Ticket::NONE {
        world.check(&store, durable, &why);
    }
    disk.calls()
}

#[test]
fn any_one_call_may_fail() {
    for seed in seeds(2) {
        let calls = life_with_fault(seed, None);
        assert!(calls > 20, "{calls} calls are too few to learn from");
        for fault in [Fault::Io, Fault::Full, Fault::Short, Fault::Interrupted] {
            for sticky in [false, true] {
                for call in 1..=calls {
                    life_with_fault(seed, Some((call, fault, sticky)));
                }
            }
        }
    }
}

#[test]
fn a_failed_sync_ends_the_log_and_is_not_tried_again() {
    let mut random = Random::new(7);
    let disk = SimDisk::new();
    let store = open(&disk, options(&mut random)).expect("opened");
    let mut world = World::default();
    world.begin(&store).expect("accepted");
    let durable = store.watch().durable();
    world.publish_some(&store, &mut random);

    // The write, then the sync.
    disk.fail_call(2, Fault::Io, false);
    store.drive_writer();
    store.drive_writer();

    assert!(store.watch().failed());
    assert_eq!(store.watch().durable(), durable);
    let refused = world.try_publish(&store, &mut random).expect_err("it has failed");
    assert_eq!(refused.kind, ErrorKind::Poisoned);
}
