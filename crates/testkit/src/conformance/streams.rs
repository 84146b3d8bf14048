//! Streams: read by sequence, cut by retention.

use std::time::Duration;

use model::{QueueId, Sequence, Timestamp};
use store::{Change, ErrorKind, Hold, LeaseRequest, ReadRequest, Which};

use crate::store::{STREAM, Store, Talk, enqueue, text, wait};

/// Any number of times, from anywhere.
pub fn a_stream_is_read_by_sequence(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, STREAM);
    for batch in 0..20 {
        talk.commit((0..50).map(|number| enqueue(1, (batch * 50 + number).to_string())));
    }
    let first = talk.stats(1).first.0;

    for from in [0, 1, 500, 998, 999] {
        let read = talk.read(1, first + from, 3);
        let bodies: Vec<String> = read.iter().map(|stored| text(&stored.message)).collect();
        let expected: Vec<String> = (from..1000).take(3).map(|it| it.to_string()).collect();
        assert_eq!(bodies, expected);
        assert_eq!(read[0].sequence, Sequence(first + from));
    }
    assert_eq!(talk.read(1, first, 2000).len(), 1000);
    assert!(talk.read(1, first + 1000, 10).is_empty());
}

/// It has no leases.
pub fn a_stream_is_not_leased(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, STREAM);

    let request = LeaseRequest {
        queue: QueueId(1),
        messages_max: 1,
        bytes_max: 1,
        hold: Hold::UntilSettled,
        now: talk.now,
    };
    let refused = wait(store.lease(request)).map_err(|error| error.kind).err();

    assert_eq!(refused, Some(ErrorKind::Unsupported));
}

/// Sequences stay as they are.
pub fn a_trimmed_stream_begins_later(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, STREAM);
    talk.commit(["a", "b", "c"].map(|body| enqueue(1, body)));
    let first = talk.stats(1).first.0;

    let before = Sequence(first + 2);
    let receipt = talk.commit([Change::Trim { queue: QueueId(1), before }]);

    let stats = talk.stats(1);
    assert_eq!((receipt.removed, stats.first, stats.ready, stats.ready_bytes), (2, before, 1, 1));
    assert_eq!(text(&talk.read(1, first, 10)[0].message), "c");
    let all = talk.commit([Change::Trim { queue: QueueId(1), before: Sequence(first + 99) }]);
    assert_eq!((all.removed, talk.stats(1).first), (1, Sequence(first + 3)));
}

/// The first at or after a time.
pub fn a_stream_is_searched_by_time(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, STREAM);
    for second in 0..10 {
        talk.now = Timestamp(second * 1000);
        talk.commit(["a", "b"].map(|body| enqueue(1, body)));
    }
    let first = talk.stats(1).first.0;

    let at = |since| wait(store.sequence_at(QueueId(1), Timestamp(since))).expect("found").0;

    assert_eq!(at(0), first);
    assert_eq!(at(3000), first + 6);
    assert_eq!(at(3001), first + 8);
    assert_eq!(at(Timestamp(9000).after(Duration::from_secs(1)).0), first + 20);
}

/// With the message that passes them.
pub fn a_stream_read_stops_after_the_bytes(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, STREAM);
    talk.commit((0..5).map(|_| enqueue(1, [0; 100])));

    for (bytes_max, expected) in [(0, 1), (100, 1), (101, 2), (1000, 5)] {
        let (queue, from) = (QueueId(1), Sequence(0));
        let request = ReadRequest { queue, which: Which::ALL, from, messages_max: 100, bytes_max };
        assert_eq!(wait(store.read(request)).expect("read").len(), expected, "{bytes_max} bytes");
    }
}
