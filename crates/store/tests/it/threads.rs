//! Many threads at once, with the store's own threads at work.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{QueueId, Timestamp};
use store::embedded::{Embedded, Options};
use store::{Hold, LeaseRequest, Pool};
use testkit::store::{DURABLE, Talk, ack, enqueue, enqueue_to, to, wait};

const PUBLISHERS: u64 = 4;
const MESSAGES: u64 = 3000;

fn body(publisher: u64, number: u64) -> String {
    format!("{publisher} {number} {number:0>300}")
}

fn consume(store: &Embedded, queue: u64, total: &AtomicU64) -> Vec<(u64, u64)> {
    let talk = Talk::new(store);
    let mut got = Vec::new();
    while total.load(Ordering::Acquire) < PUBLISHERS * MESSAGES {
        let request = LeaseRequest {
            queue: QueueId(queue),
            messages_max: 50,
            bytes_max: usize::MAX,
            hold: Hold::UntilSettled,
            now: Timestamp(1),
        };
        let lease = wait(store.lease(request)).expect("accepted");
        let sequences: Vec<u64> = lease.messages.iter().map(|it| it.sequence.0).collect();
        for leased in &lease.messages {
            let text = testkit::store::text(&leased.message);
            let mut words = text.split(' ').map(|word| word.parse::<u64>().expect("a number"));
            got.push((words.next().expect("publisher"), words.next().expect("number")));
        }
        total.fetch_add(sequences.len() as u64, Ordering::AcqRel);
        if sequences.is_empty() {
            std::thread::yield_now();
        } else {
            talk.try_commit([ack(queue, &sequences)]).expect("accepted");
        }
    }
    got
}

#[test]
fn every_message_is_delivered_once_and_in_order_however_many_threads_there_are() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        segment_bytes: 256 * 1024,
        first_segment_bytes: 64 * 1024,
        resident_persistent_bytes: 100_000,
        buffer_bytes: 64 * 1024,
        ..Options::default()
    };
    let store = Embedded::open(directory.path(), options.clone()).expect("opened");
    let talk = Talk::new(&store);
    (1..=2).for_each(|queue| talk.create(queue, DURABLE));
    let totals = [AtomicU64::new(0), AtomicU64::new(0)];

    let (first, second) = std::thread::scope(|scope| {
        for publisher in 0..PUBLISHERS {
            let store = &store;
            scope.spawn(move || {
                let talk = Talk::new(store);
                for number in 0..MESSAGES / 3 {
                    let body = |third: u64| body(publisher, number * 3 + third);
                    let changes = [0, 1, 2].map(|third| enqueue_to(body(third), [to(1), to(2)]));
                    let receipt = talk.try_commit(changes).expect("accepted");
                    if number % 50 == 0 {
                        wait(store.watch().until_durable(receipt.ticket)).expect("it lives");
                    }
                }
            });
        }
        let (store, totals) = (&store, &totals);
        let consumers: Vec<_> = [(1, 0), (2, 1), (2, 1)]
            .map(|(queue, total)| scope.spawn(move || consume(store, queue, &totals[total])))
            .into_iter()
            .collect();
        let mut got = consumers.into_iter().map(|consumer| consumer.join().expect("no panic"));
        let first = got.next().expect("one consumer");
        (first, got.flatten().collect::<Vec<_>>())
    });

    let mut last = HashMap::new();
    for (publisher, number) in &first {
        let before = last.insert(publisher, number);
        assert!(before < Some(number), "queue 1, publisher {publisher}: {number}");
    }
    for mut got in [first, second] {
        got.sort_unstable();
        let all = (0..PUBLISHERS).flat_map(|it| (0..MESSAGES).map(move |number| (it, number)));
        assert!(got.into_iter().eq(all));
    }
    talk.commit([enqueue(1, "last")]);
    drop(store);

    let store = Embedded::open(directory.path(), options).expect("opened");
    let talk = Talk::new(&store);
    assert_eq!((talk.stats(1).ready, talk.stats(2).ready), (1, 0));
}
