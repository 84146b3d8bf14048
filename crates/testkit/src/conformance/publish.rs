//! Commits that put messages into queues.

use std::sync::Arc;
use std::time::Duration;

use model::{Address, DedupId, Message, Ticket};
use store::{Change, Targets};

use crate::store::{
    DURABLE, Store, TRANSIENT, Talk, ack, enqueue, enqueue_once, enqueue_to, message, to, wait,
};

/// Properties, body, address and flags are what was published.
pub fn a_message_comes_out_as_it_went_in(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    let address = Arc::new(Address { exchange: "logs".into(), routing_key: "a.b".into() });
    let sent = Message::new(address, b"some properties", b"some body", true, 7);

    let targets = Targets::from_iter([to(1)]);
    talk.commit([Change::Enqueue { message: sent.clone(), targets, dedup: None }]);

    let lease = talk.lease(1, 10);
    assert_eq!(lease.messages.len(), 1);
    assert_eq!(lease.messages[0].message, sent);
    assert_eq!((lease.messages[0].delivery_count, lease.messages[0].redelivered), (0, false));
    assert!(!lease.more);
}

/// First in, first out; sequences grow.
pub fn messages_come_in_the_order_they_went_in(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);

    talk.commit([enqueue(1, "a"), enqueue(1, "b")]);
    talk.commit([enqueue(1, "c")]);

    let lease = talk.lease(1, 10);
    let sequences: Vec<u64> = lease.messages.iter().map(|leased| leased.sequence.0).collect();
    assert!(sequences.is_sorted_by(|one, next| one < next), "{sequences:?}");
    let bodies: Vec<&[u8]> = lease.messages.iter().map(|leased| leased.message.body()).collect();
    assert_eq!(bodies, [b"a", b"b", b"c"]);
}

/// One message, several queues.
pub fn a_commit_over_several_queues_fills_all(store: &dyn Store) {
    let talk = Talk::new(store);
    for queue in 1..=3 {
        talk.create(queue, if queue == 2 { TRANSIENT } else { DURABLE });
    }

    talk.commit([enqueue_to("shared", [to(1), to(2), to(3)]), enqueue(3, "own")]);

    assert_eq!(talk.lease_bodies(1, 10), ["shared"]);
    assert_eq!(talk.lease_bodies(2, 10), ["shared"]);
    assert_eq!(talk.lease_bodies(3, 10), ["shared", "own"]);
}

/// It was deleted while the message was on its way.
pub fn an_enqueue_into_a_queue_that_is_gone_is_skipped(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);

    talk.commit([enqueue_to("x", [to(9), to(1)]), enqueue(8, "y")]);

    assert_eq!(talk.lease_bodies(1, 10), ["x"]);
}

/// The receipt names the change, and its ticket covers the original.
pub fn a_duplicate_within_the_window_is_skipped_and_reported(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);

    let first = talk.commit([enqueue_once(1, "a", 5)]);
    talk.now = talk.now.after(Duration::from_secs(599));
    let again = talk.commit([enqueue(1, "b"), enqueue_once(1, "a", 5), enqueue_once(1, "c", 6)]);
    let only = talk.commit([enqueue_once(1, "a", 5), enqueue_once(1, "a", 5)]);

    assert!(first.duplicates.is_empty());
    assert_eq!(again.duplicates, [1]);
    assert_eq!(only.duplicates, [0, 1]);
    assert!(only.ticket >= first.ticket);
    assert_eq!(talk.lease_bodies(1, 10), ["a", "b", "c"]);
}

/// Ten minutes later it is another message.
pub fn a_duplicate_after_the_window_is_stored(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);

    talk.commit([enqueue_once(1, "a", 5)]);
    talk.now = talk.now.after(Duration::from_secs(600));
    let again = talk.commit([enqueue_once(1, "b", 5)]);

    assert!(again.duplicates.is_empty());
    assert_eq!(talk.lease_bodies(1, 10), ["a", "b"]);
}

/// Once there is a queue for it, it may be published again.
pub fn an_id_of_a_message_that_no_queue_took_is_not_remembered(store: &dyn Store) {
    let talk = Talk::new(store);

    talk.commit([enqueue_once(1, "a", 5)]);
    talk.create(1, DURABLE);
    let again = talk.commit([enqueue_once(1, "b", 5)]);

    assert!(again.duplicates.is_empty());
    assert_eq!(talk.lease_bodies(1, 10), ["b"]);
}

/// A commit may make a queue, fill it and empty another.
pub fn changes_of_a_commit_take_effect_in_order(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue(1, "a")]);
    let sequences = talk.lease_sequences(1, 1);

    let queue = model::QueueId(2);
    talk.commit([
        enqueue(2, "too early"),
        Change::CreateQueue { queue, kind: DURABLE },
        enqueue(2, "moved"),
        ack(1, &sequences),
    ]);

    assert_eq!(talk.lease_bodies(2, 10), ["moved"]);
    assert_eq!((talk.stats(1).leased, talk.stats(1).ready), (0, 0));
}

/// Waiting for a ticket ends; nothing to wait for is durable from the start.
pub fn a_ticket_becomes_durable(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);

    let receipt = talk.try_commit([enqueue(1, "a")]).expect("accepted");
    wait(store.watch().until_durable(receipt.ticket)).expect("durable");

    let transient = Change::Enqueue {
        message: message("b", false),
        targets: Targets::from_iter([to(1)]),
        dedup: Some(DedupId(1)),
    };
    let receipt = talk.try_commit([transient]).expect("accepted");
    assert_eq!(receipt.ticket, Ticket::NONE);
    assert!(store.watch().durable() >= receipt.ticket);
}

/// Larger than any buffer or segment of a test store.
pub fn a_large_message_comes_out_as_it_went_in(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();

    talk.commit([enqueue(1, "before"), enqueue(1, &body), enqueue(1, "after")]);

    let lease = talk.lease(1, 10);
    assert_eq!(lease.messages.len(), 3);
    assert!(lease.messages[1].message.body() == body);
}

/// More than a store wants to keep in memory.
pub fn many_messages_come_in_order(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    let body = |number: u32| format!("{number:0>500}");

    for batch in 0..30 {
        let of_batch = |number: u32| {
            let message = message(body(batch * 100 + number), number % 3 != 0);
            Change::Enqueue { message, targets: Targets::from_iter([to(1)]), dedup: None }
        };
        talk.commit((0..100).map(of_batch));
    }

    let mut next = 0;
    while next < 3000 {
        let lease = talk.lease(1, 77);
        for leased in &lease.messages {
            assert_eq!(leased.message.body(), body(next).as_bytes());
            next += 1;
        }
        let sequences: Vec<u64> = lease.messages.iter().map(|leased| leased.sequence.0).collect();
        talk.commit([ack(1, &sequences)]);
    }
    assert_eq!(talk.stats(1).ready, 0);
}
