//! How fast the embedded store is, without a broker around it: `cargo bench -p store -- directory`.
//!
//! Prints nanoseconds per message of each figure; run it pinned to one core and compare with itself.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a program for developers"
)]

use std::path::PathBuf;
use std::time::Instant;

use model::{QueueId, Sequence, Timestamp};
use store::embedded::{Embedded, Options};
use store::{
    Change, Commit, Hold, LeaseRequest, Pool, QueueKind, Sequences, Settlement, Target, Targets,
};
use testkit::store::{message, wait};

const NOW: Timestamp = Timestamp(1000);

fn main() {
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = directory.map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(directory).expect("a directory");
    let store = Embedded::open(directory.path(), Options::default()).expect("opened");
    let durable = QueueKind { durable: true, priority_max: 0, stream: false };
    for queue in 1..=10 {
        commit(&store, vec![Change::CreateQueue { queue: QueueId(queue), kind: durable }]);
    }

    let count = 3_000_000;
    report("16 B transient, publish and take", count, || transient(&store, count, true));
    report("16 B transient, publish, lease, ack", count, || transient(&store, count, false));
    let count = 1_000_000;
    report("1 KiB persistent, publish, lease, ack", count, || live(&store, count));
    report("1 KiB persistent, fill", count, || fill(&store, count));
    let stats = store.embedded_stats();
    println!("{stats:?}, RSS {} MiB", resident_mib());
    drop(store);
    let start = Instant::now();
    let store = Embedded::open(directory.path(), Options::default()).expect("opened");
    println!("open: {:?}, {:?}, RSS {} MiB", start.elapsed(), store.recovery(), resident_mib());
    report("1 KiB persistent, drain", count, || drain(&store, count));
    println!("{:?}, RSS {} MiB", store.embedded_stats(), resident_mib());
    report("fan-out to 10, 1 KiB persistent, per delivery", 1_000_000, || fan_out(&store, 100_000));
}

fn report(what: &str, count: u64, work: impl FnOnce()) {
    let (start, own, all) = (Instant::now(), own_cpu(), all_cpu());
    work();
    let each = |nanoseconds: u64| nanoseconds as f64 / count as f64;
    let wall = each(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    let (own, all) = (each(own_cpu() - own), each(all_cpu().saturating_sub(all)));
    println!("{what}: {wall:.0} ns, CPU {own:.0} ns here, {all:.0} ns in all threads");
}

fn cpu_of(task: &str) -> u64 {
    let text = std::fs::read_to_string(format!("{task}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// Nanoseconds that this thread has run.
fn own_cpu() -> u64 {
    cpu_of("/proc/thread-self")
}

/// Nanoseconds that all threads have run.
fn all_cpu() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.map(|task| cpu_of(&task.path().to_string_lossy())).sum()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096 / 1024 / 1024
}

fn commit(store: &Embedded, changes: Vec<Change>) -> model::Ticket {
    wait(store.commit(Commit { changes, now: NOW, ..Commit::default() })).expect("accepted").ticket
}

fn to(queue: u64) -> Target {
    Target { queue: QueueId(queue), priority: 0, expires: None, not_before: None }
}

fn batch(size: usize, persistent: bool, queues: u64) -> Vec<Change> {
    let body = vec![7; size];
    let one = |_| Change::Enqueue {
        message: message(&body, persistent),
        targets: (1..=queues).map(to).collect::<Targets>(),
        dedup: None,
    };
    (0..100).map(one).collect()
}

fn lease(store: &Embedded, queue: u64, messages_max: usize, hold: Hold) -> Vec<u64> {
    let queue = QueueId(queue);
    let request = LeaseRequest { queue, messages_max, bytes_max: usize::MAX, hold, now: NOW };
    loop {
        let lease = wait(store.lease(request)).expect("accepted");
        if !lease.messages.is_empty() || !lease.more {
            return lease.messages.iter().map(|leased| leased.sequence.0).collect();
        }
        wait(std::future::poll_fn(|context| store.watch().poll_ready(context)));
    }
}

fn ack(store: &Embedded, queue: u64, sequences: &[u64]) {
    let (Some(first), Some(last)) = (sequences.first(), sequences.last()) else { return };
    let sequences = Sequences::from_iter([(Sequence(*first), Sequence(*last))]);
    let settlement = Settlement::Ack;
    commit(store, vec![Change::Settle { queue: QueueId(queue), sequences, settlement }]);
}

fn transient(store: &Embedded, count: u64, take: bool) {
    // Making messages is the door's cost, so they are made beforehand and shared.
    let changes = batch(16, false, 1);
    for _ in 0..count / 100 {
        commit(store, changes.clone());
        if take {
            assert_eq!(lease(store, 1, 100, Hold::Take).len(), 100);
        } else {
            let sequences = lease(store, 1, 100, Hold::UntilSettled);
            ack(store, 1, &sequences);
        }
    }
}

fn live(store: &Embedded, count: u64) {
    let changes = batch(1024, true, 1);
    for _ in 0..count / 100 {
        commit(store, changes.clone());
        let sequences = lease(store, 1, 100, Hold::UntilSettled);
        ack(store, 1, &sequences);
    }
}

fn fill(store: &Embedded, count: u64) {
    let changes = batch(1024, true, 1);
    let mut ticket = model::Ticket::NONE;
    for _ in 0..count / 100 {
        ticket = commit(store, changes.clone());
    }
    wait(store.watch().until_durable(ticket)).expect("durable");
}

fn drain(store: &Embedded, count: u64) {
    let mut left = count;
    while left > 0 {
        let sequences = lease(store, 1, 100, Hold::UntilSettled);
        ack(store, 1, &sequences);
        left -= sequences.len() as u64;
    }
}

fn fan_out(store: &Embedded, count: u64) {
    let changes = batch(1024, true, 10);
    for _ in 0..count / 100 {
        commit(store, changes.clone());
        for queue in 1..=10 {
            let sequences = lease(store, queue, 100, Hold::UntilSettled);
            ack(store, queue, &sequences);
        }
    }
}
