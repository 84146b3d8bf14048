//! Transient messages for which memory has no room go through the log, and out of it.

use store::embedded::{Embedded, Options};
use store::{Change, Targets};
use testkit::store::{TRANSIENT, Talk, ack, message, to};

const SEGMENT_BYTES: u32 = 64 * 1024;

fn spill(queue: u64, number: usize) -> Change {
    let message = message(format!("{number:0>4000}"), false);
    Change::Enqueue { message, targets: Targets::from_iter([to(queue)]), dedup: None }
}

#[test]
fn the_log_becomes_shorter_although_nothing_durable_is_committed() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        background: false,
        segment_bytes: SEGMENT_BYTES,
        first_segment_bytes: SEGMENT_BYTES,
        resident_transient_bytes: 0,
        reserve_segments: 0,
        ..Options::default()
    };
    let store = Embedded::open(directory.path(), options).expect("opened");
    let talk = Talk::new(&store);
    talk.create(1, TRANSIENT);
    store.drive();

    for _ in 0..50 {
        for number in 0..20 {
            talk.try_commit([spill(1, number)]).expect("accepted");
        }
        while talk.stats(1).ready > 0 {
            let sequences = talk.lease_sequences(1, 10);
            talk.try_commit([ack(1, &sequences)]).expect("accepted");
        }
        store.drive();
    }

    assert_eq!(talk.stats(1).ready, 0);
    let segments = store.embedded_stats().segments;
    assert!(segments <= 3, "{segments} segments for nothing");
}
