//! Several pools as one: what spans them is neither lost nor doubled, whenever the power goes.

use std::sync::Arc;

use model::{DedupId, QueueId, Ticket, Timestamp};
use store::embedded::{Embedded, Options};
use store::pools::{pool_of, queue_in};
use store::{Admission, Change, Commit, ErrorKind, Pool, Pools, Receipt};
use testkit::disk::SimDisk;
use testkit::store::{DURABLE, Talk, ack, enqueue, enqueue_once, wait};

/// Two pools that write only when they are told to.
struct Two {
    disks: [SimDisk; 2],
    members: [Arc<Embedded>; 2],
    pools: Pools,
}

fn here() -> u64 {
    queue_in(0, 1).0
}

fn there() -> u64 {
    queue_in(1, 2).0
}

impl Two {
    fn on(disks: [SimDisk; 2]) -> Self {
        let options = Options { background: false, salt: Some(1), ..Options::default() };
        let open = |disk: &SimDisk| {
            let disk = Arc::new(disk.clone());
            Arc::new(Embedded::open_with(disk, options.clone()).expect("opened"))
        };
        let members = [open(&disks[0]), open(&disks[1])];
        let first = Arc::clone(&members[0]);
        let pools = Pools::new(Arc::clone(&first) as _, first as _);
        pools.add(1, Arc::clone(&members[1]) as _);
        Self { disks, members, pools }
    }

    /// With a queue in each, and a leased message in the first.
    fn begun() -> Self {
        let two = Self::on([SimDisk::new(), SimDisk::new()]);
        let create = |queue| Change::CreateQueue { queue: QueueId(queue), kind: DURABLE };
        two.commit(vec![create(here())]);
        two.commit(vec![create(there())]);
        two.commit(vec![enqueue(here(), "a")]);
        two.drive();
        two.drive();
        assert_eq!(two.lease(), 1);
        two.drive();
        two
    }

    fn drive(&self) {
        self.members.iter().for_each(|member| member.drive_writer());
    }

    fn commit(&self, changes: Vec<Change>) -> Receipt {
        let now = Timestamp(1000);
        wait(self.pools.commit(Commit { changes, now, ..Commit::default() })).expect("accepted")
    }

    /// Leases what is in the first pool, with what that needs of the disk.
    fn lease(&self) -> usize {
        let request = store::LeaseRequest {
            queue: QueueId(here()),
            messages_max: 10,
            bytes_max: usize::MAX,
            hold: store::Hold::UntilSettled,
            now: Timestamp(1000),
        };
        let mut leased = 0;
        for _ in 0..2 {
            leased += wait(self.pools.lease(request)).expect("accepted").messages.len();
            self.drive();
        }
        leased
    }

    /// Moves the message as who moves it again would.
    fn hop(&self) -> Receipt {
        self.commit(vec![ack(here(), &[0]), enqueue_once(there(), "a", 7)])
    }

    fn stats(&self) -> [(u64, u64); 2] {
        let talk = Talk::new(&self.pools);
        [here(), there()].map(|queue| {
            let stats = talk.stats(queue);
            (stats.ready, stats.leased)
        })
    }

    fn cut(self) -> Self {
        let disks = self.disks.each_ref().map(SimDisk::killed);
        drop(self.pools);
        Self::on(disks)
    }
}

#[test]
fn a_queue_s_identity_says_where_it_lives() {
    assert_eq!((pool_of(queue_in(3, 77)), pool_of(QueueId(77))), (3, 0));
    assert_eq!(queue_in(0, 77), QueueId(77));
}

#[test]
fn a_lease_ends_when_the_copy_in_the_other_pool_is_durable() {
    let two = Two::begun();

    let receipt = two.hop();
    assert_eq!(two.stats(), [(0, 1), (1, 0)]);
    two.members[1].drive_writer();
    assert_eq!(two.stats(), [(0, 0), (1, 0)]);
    assert!(two.pools.watch().durable() < receipt.ticket);

    two.members[0].drive_writer();
    assert_eq!(two.pools.watch().durable(), receipt.ticket);
}

#[test]
fn a_crash_between_the_pools_neither_loses_nor_doubles() {
    for driven in [false, true] {
        let two = Two::begun();
        two.hop();
        if driven {
            two.members[1].drive_writer();
        }

        let two = two.cut();

        assert_eq!(two.lease(), 1, "the move was not done");
        let again = two.hop();
        assert_eq!(again.duplicates, if driven { vec![1] } else { vec![] });
        two.drive();
        two.drive();
        assert_eq!(two.stats(), [(0, 0), (1, 0)]);
        assert_eq!(two.cut().stats(), [(0, 0), (1, 0)]);
    }
}

/// What the power leaves of a transaction that is not finished. Over several pools it is not all or nothing.
#[test]
fn a_crash_may_leave_a_part_of_what_a_transaction_puts_into_several_pools_but_ends_no_lease() {
    for first in [0, 1] {
        let two = Two::begun();
        two.commit(vec![ack(here(), &[0]), enqueue(here(), "b"), enqueue(there(), "c")]);
        two.members[first].drive_writer();

        let two = two.cut();

        let expected = [[(2, 0), (0, 0)], [(1, 0), (1, 0)]];
        assert_eq!(two.stats(), expected[first], "what was taken is there again");
    }
}

#[test]
fn a_pool_that_becomes_full_while_others_have_their_parts_takes_its_own() {
    let two = Two::begun();
    let full = two.members[1].watch();
    let commit = |admission| {
        let changes = vec![enqueue(there(), "b")];
        let commit = Commit { changes, now: Timestamp(1000), admission, ..Commit::default() };
        wait(two.members[1].commit(commit))
    };

    full.set_full(true);
    assert_eq!(commit(Admission::Asked).unwrap_err().kind, ErrorKind::Unavailable);
    commit(Admission::Granted).expect("accepted");
    let both = vec![enqueue(here(), "c"), enqueue(there(), "c")];
    let refused = wait(two.pools.commit(Commit { changes: both, ..Commit::default() }));

    assert_eq!(refused.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(two.stats(), [(0, 1), (1, 0)], "nothing of what was refused is there");
}

#[test]
fn the_watermark_waits_for_the_slower_pool() {
    let two = Two::begun();

    let slow = two.commit(vec![enqueue(here(), "slow")]);
    let fast = two.commit(vec![enqueue(there(), "fast")]);
    two.members[1].drive_writer();
    assert!(two.pools.watch().durable() < slow.ticket);
    two.members[0].drive_writer();

    assert_eq!(two.pools.watch().durable(), fast.ticket);
    assert_ne!(slow.ticket, Ticket::NONE);
}

#[test]
fn a_member_that_fails_takes_all_with_it() {
    let two = Two::begun();
    two.commit(vec![enqueue(there(), "a")]);

    two.disks[1].fail_call(1, testkit::disk::Fault::Io, true);
    two.drive();
    two.drive();

    assert!(two.pools.watch().failed());
}

#[test]
fn pools_that_write_by_themselves_are_closed_when_they_are_dropped() {
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let open = |nth: usize| {
        Arc::new(
            Embedded::open(directories[nth].path(), Options::default()).expect("closed before"),
        )
    };
    for round in 0..30 {
        let first = open(0);
        let pools = Pools::new(Arc::clone(&first) as _, first as _);
        pools.add(1, open(1));
        let talk = Talk::new(&pools);
        if round == 0 {
            talk.create(here(), DURABLE);
            talk.create(there(), DURABLE);
        }
        talk.commit([enqueue(here(), "a")]);
        // The writer is about to wake whoever waits for this.
        talk.commit([enqueue(there(), "b")]);
        talk.try_commit([enqueue(there(), "c")]).expect("accepted");
    }
}

#[test]
fn a_fan_out_over_pools_reaches_all() {
    let two = Two::begun();
    let targets = [here(), there()].map(testkit::store::to);

    let change = testkit::store::enqueue_to("b", targets);
    let Change::Enqueue { message, targets, .. } = change else { panic!("an enqueue") };
    let once = || Change::Enqueue {
        message: message.clone(),
        targets: targets.clone(),
        dedup: Some(DedupId(9)),
    };
    two.commit(vec![once()]);
    let again = two.commit(vec![once()]);

    assert_eq!((two.stats(), again.duplicates), ([(1, 1), (1, 0)], vec![0]));
}
