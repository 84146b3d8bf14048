//! Queues, their counters, and definitions.

use model::{QueueId, Sequence};
use store::{Change, Definition, DefinitionChange, ErrorKind};

use crate::store::{DURABLE, STREAM, Store, TRANSIENT, Talk, ack, enqueue, release, text, wait};

/// The commit is refused as a whole.
pub fn a_queue_id_cannot_be_used_twice(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);

    let create = |queue| Change::CreateQueue { queue: QueueId(queue), kind: TRANSIENT };
    let refused = talk.try_commit([enqueue(1, "a"), create(2), create(1)]);
    let twice = talk.try_commit([create(3), create(3)]);

    assert_eq!(refused.map_err(|error| error.kind), Err(ErrorKind::Unsupported));
    assert_eq!(twice.map_err(|error| error.kind), Err(ErrorKind::Unsupported));
    assert_eq!(talk.stats(1).ready, 0);
    assert!(wait(store.stats(QueueId(2))).is_err());
}

/// With its messages and leases; what comes for it later is skipped.
pub fn a_deleted_queue_is_forgotten(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit(["a", "b", "c"].map(|body| enqueue(1, body)));
    let sequences = talk.lease_sequences(1, 1);

    let queue = QueueId(1);
    let receipt = talk.commit([Change::DeleteQueue { queue }]);
    let again = talk.commit([Change::DeleteQueue { queue }, enqueue(1, "d"), ack(1, &sequences)]);

    assert_eq!((receipt.removed, again.removed), (2, 0));
    assert!(wait(store.stats(queue)).is_err());
    assert!(wait(store.queues()).expect("listed").is_empty());
}

/// Ready and delayed ones go; the receipt counts the ready ones.
pub fn a_purge_leaves_leased_messages(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit(["a", "b", "c"].map(|body| enqueue(1, body)));
    let sequences = talk.lease_sequences(1, 1);

    let receipt = talk.commit([Change::Purge { queue: QueueId(1) }, enqueue(1, "d")]);
    talk.commit([release(1, &sequences)]);

    assert_eq!(receipt.removed, 2);
    assert_eq!(talk.lease_bodies(1, 10), ["a", "d"]);
}

/// Ready, leased, delayed, bytes, first and next.
pub fn counters_tell_what_is_there(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    let empty = talk.stats(1);
    assert_eq!((empty.ready, empty.first), (0, empty.next));

    talk.commit(["a", "bb", "ccc"].map(|body| enqueue(1, body)));
    let sequences = talk.lease_sequences(1, 1);

    let stats = talk.stats(1);
    assert_eq!((stats.ready, stats.ready_bytes, stats.leased), (2, 5, 1));
    assert_eq!((stats.first, stats.next), (Sequence(sequences[0]), Sequence(sequences[0] + 3)));

    talk.commit([ack(1, &sequences)]);
    assert_eq!(talk.stats(1).first, Sequence(sequences[0] + 1));
}

/// What recovery found, and what was made since.
pub fn queues_are_listed_with_their_kinds(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(7, TRANSIENT);
    talk.create(2, STREAM);

    let mut queues = wait(store.queues()).expect("listed");
    queues.sort_unstable_by_key(|it| it.0);

    assert_eq!(queues, [(QueueId(2), STREAM), (QueueId(7), TRANSIENT)]);
}

/// Ready, leased and delayed ones, in the order of sequences.
pub fn browsing_shows_all_and_takes_nothing(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit(["a", "b", "c"].map(|body| enqueue(1, body)));
    let sequences = talk.lease_sequences(1, 1);

    let seen = talk.read(1, 0, 10);

    let seen: Vec<(String, bool)> =
        seen.iter().map(|stored| (text(&stored.message), stored.leased)).collect();
    assert_eq!(seen, [("a".into(), true), ("b".into(), false), ("c".into(), false)]);
    assert_eq!(talk.read(1, sequences[0] + 1, 1).len(), 1);
    assert_eq!(talk.lease_bodies(1, 10), ["b", "c"]);
}

/// Put, replaced, removed; listed in the order of keys.
pub fn definitions_are_kept_by_key(store: &dyn Store) {
    let put = |key: &str, value: &str| {
        DefinitionChange::Put(Definition { key: key.into(), value: value.as_bytes().into() })
    };

    let first = [put("queue/b", "1"), put("queue/a", "2"), put("user/x", "3")];
    wait(store.commit_definitions(first.into())).expect("accepted");
    let second = [put("queue/b", "4"), DefinitionChange::Remove("user/x".into())];
    let ticket = wait(store.commit_definitions(second.into())).expect("accepted");
    wait(store.watch().until_durable(ticket)).expect("durable");

    let loaded = wait(store.load()).expect("loaded");
    let loaded: Vec<(&str, &[u8])> = loaded.iter().map(|it| (&*it.key, &*it.value)).collect();
    assert_eq!(loaded, [("queue/a", &b"2"[..]), ("queue/b", b"4")]);
}
