//! Leases and how they end.

use model::{QueueId, Sequence, Timestamp};
use store::{Change, ErrorKind, Hold, LeaseRequest, QueueKind, Sequences, Settlement, Target};

use crate::store::{DURABLE, Store, Talk, ack, enqueue, enqueue_to, release, settle, to, wait};

/// What one has, nobody else gets.
pub fn a_message_is_never_in_two_leases(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue(1, "a"), enqueue(1, "b"), enqueue(1, "c")]);

    assert_eq!(talk.lease_bodies(1, 2), ["a", "b"]);
    assert_eq!(talk.lease_bodies(1, 2), ["c"]);
    assert!(talk.lease_bodies(1, 2).is_empty());
}

/// Before everything younger, redelivered.
pub fn a_released_message_returns_to_its_place(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit(["a", "b", "c", "d"].map(|body| enqueue(1, body)));
    let sequences = talk.lease_sequences(1, 3);

    talk.commit([release(1, &[sequences[2]])]);
    talk.commit([release(1, &[sequences[0]])]);

    let lease = talk.lease(1, 10);
    let got: Vec<(&[u8], bool)> =
        lease.messages.iter().map(|it| (it.message.body(), it.redelivered)).collect();
    assert_eq!(got, [(&b"a"[..], true), (b"c", true), (b"d", false)]);
    assert_eq!(lease.messages[0].sequence.0, sequences[0]);
}

/// And one that is not counted does not.
pub fn a_counted_release_counts(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue(1, "a")]);

    for (counted, expected) in [(true, 1), (false, 1), (true, 2)] {
        let sequences = talk.lease_sequences(1, 1);
        talk.commit([settle(1, &sequences, Settlement::Release { not_before: None, counted })]);

        let lease = talk.lease(1, 1);
        assert_eq!(lease.messages[0].delivery_count, expected);
        talk.commit([release(1, &sequences)]);
    }
}

/// It is in no counter and in no lease.
pub fn an_acknowledged_message_is_gone(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue(1, "a"), enqueue(1, "b")]);
    let sequences = talk.lease_sequences(1, 1);

    talk.commit([ack(1, &sequences)]);
    talk.commit([release(1, &sequences)]);

    assert_eq!(talk.lease_bodies(1, 10), ["b"]);
    assert_eq!((talk.stats(1).ready, talk.stats(1).leased), (0, 1));
}

/// Ready messages, unknown ones, other queues.
pub fn settling_what_is_not_leased_changes_nothing(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue(1, "a")]);
    let first = talk.stats(1).first.0;

    talk.commit([ack(1, &[first, first + 1, 999]), ack(77, &[1])]);

    assert_eq!(talk.lease_bodies(1, 10), ["a"]);
}

/// Leased and acknowledged in one.
pub fn a_taken_message_is_gone_at_once(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue(1, "a"), enqueue(1, "b")]);

    let lease = talk.lease_held(1, 1, Hold::Take);

    assert_eq!(lease.messages[0].message.body(), b"a");
    talk.commit([release(1, &[lease.messages[0].sequence.0])]);
    assert_eq!((talk.stats(1).ready, talk.stats(1).leased), (1, 0));
}

/// And says that there is more.
pub fn a_lease_stops_at_the_count(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit(["a", "b", "c"].map(|body| enqueue(1, body)));

    let lease = talk.lease(1, 2);

    assert_eq!((lease.messages.len(), lease.more), (2, true));
    assert!(!talk.lease(1, 1).more);
}

/// With the message that passes them, so always with one.
pub fn a_lease_stops_after_the_bytes(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue(1, "warm up")]);
    talk.lease(1, 1);
    talk.commit((0..5).map(|_| enqueue(1, [0; 100])));

    for (bytes_max, expected) in [(0, 1), (101, 2), (1000, 2)] {
        let request = LeaseRequest {
            queue: QueueId(1),
            messages_max: 100,
            bytes_max,
            hold: Hold::UntilSettled,
            now: talk.now,
        };
        let lease = wait(store.lease(request)).expect("accepted");
        assert_eq!(lease.messages.len(), expected, "{bytes_max} bytes");
    }
}

fn with_priority(queue: u64, priority: u8) -> Target {
    Target { priority, ..to(queue) }
}

const PRIORITY: QueueKind = QueueKind { durable: true, priority_max: 5, stream: false };

/// Within one priority, by sequence.
pub fn higher_priorities_come_first(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, PRIORITY);

    talk.commit(
        [("low", 0), ("high", 5), ("middle", 3), ("high too", 5)]
            .map(|(body, priority)| enqueue_to(body, [with_priority(1, priority)])),
    );

    assert_eq!(talk.lease_bodies(1, 10), ["high", "high too", "middle", "low"]);
}

/// As RabbitMQ does.
pub fn a_priority_above_the_highest_counts_as_the_highest(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, PRIORITY);

    talk.commit([
        enqueue_to("five", [with_priority(1, 5)]),
        enqueue_to("nine", [with_priority(1, 9)]),
    ]);

    assert_eq!(talk.lease_bodies(1, 10), ["five", "nine"]);
}

/// A multiple acknowledgement names a run with gaps.
pub fn a_range_settles_only_what_is_leased(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit(["a", "b", "c", "d"].map(|body| enqueue(1, body)));
    let sequences = talk.lease_sequences(1, 3);
    talk.commit([release(1, &[sequences[1]])]);

    let whole = Sequences::from_iter([(Sequence(0), Sequence(u64::MAX))]);
    let queue = QueueId(1);
    talk.commit([Change::Settle { queue, sequences: whole, settlement: Settlement::Ack }]);

    assert_eq!(talk.lease_bodies(1, 10), ["b", "d"]);
}

/// Also counters and reading.
pub fn leasing_from_nowhere_is_not_found(store: &dyn Store) {
    let request = LeaseRequest {
        queue: QueueId(1),
        messages_max: 1,
        bytes_max: 1,
        hold: Hold::Take,
        now: Timestamp(0),
    };

    assert_eq!(wait(store.lease(request)).map_err(|it| it.kind).err(), Some(ErrorKind::NotFound));
    let stats = wait(store.stats(QueueId(1)));
    assert_eq!(stats.map_err(|error| error.kind).err(), Some(ErrorKind::NotFound));
}
