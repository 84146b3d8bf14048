//! Delays and expiry.

use std::task::{Context, Waker};

use model::{QueueId, Timestamp};
use store::{Due, Hold, Settlement, Target};

use crate::store::{DURABLE, Store, Talk, ack, enqueue, enqueue_to, settle, text, to, wait};

fn due(talk: &Talk<'_>, count: usize) -> Due {
    wait(talk.store.due(talk.now, count)).expect("accepted")
}

fn delayed(queue: u64, until: u64) -> Target {
    Target { not_before: Some(Timestamp(until)), ..to(queue) }
}

fn expiring(queue: u64, at: u64) -> Target {
    Target { expires: Some(Timestamp(at)), ..to(queue) }
}

/// Until its time; then it is in its place.
pub fn a_delayed_message_waits(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([
        enqueue_to("late", [delayed(1, 3000)]),
        enqueue_to("past", [delayed(1, 1000)]),
        enqueue(1, "now"),
    ]);
    assert_eq!(talk.stats(1).delayed, 1);
    assert_eq!(talk.read(1, 0, 1)[0].not_before, Some(Timestamp(3000)));

    talk.now = Timestamp(2999);
    assert!(due(&talk, 10).ready.is_empty());
    talk.now = Timestamp(3000);
    assert_eq!(due(&talk, 10).ready, [QueueId(1)]);

    assert_eq!(talk.lease_bodies(1, 10), ["late", "past", "now"]);
}

/// The message is redelivered then.
pub fn a_release_may_delay(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue(1, "a")]);
    let sequences = talk.lease_sequences(1, 1);

    let settlement = Settlement::Release { not_before: Some(Timestamp(5000)), counted: true };
    talk.commit([settle(1, &sequences, settlement)]);

    assert_eq!((talk.stats(1).ready, talk.stats(1).delayed), (0, 1));
    talk.now = Timestamp(5000);
    assert_eq!(due(&talk, 10).ready, [QueueId(1)]);
    let lease = talk.lease(1, 1);
    assert_eq!((lease.messages[0].delivery_count, lease.messages[0].redelivered), (1, true));
}

/// Leased to the caller, who settles it by policy; what follows is handed out.
pub fn an_expired_message_is_reported_by_a_lease(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue_to("a", [expiring(1, 2000)]), enqueue_to("b", [expiring(1, 3000)])]);

    talk.now = Timestamp(2000);
    let lease = talk.lease_held(1, 10, Hold::Take);

    assert_eq!(lease.expired.len(), 1);
    assert_eq!(text(&lease.expired[0].message), "a");
    assert_eq!(text(&lease.messages[0].message), "b");
    assert_eq!(lease.messages[0].expires, Some(Timestamp(3000)));
    assert_eq!(talk.stats(1).leased, 1);
    talk.commit([ack(1, &[lease.expired[0].sequence.0])]);
    assert_eq!(talk.stats(1).leased, 0);
}

/// Without anybody leasing.
pub fn an_expired_head_becomes_due(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue_to("a", [expiring(1, 2000)]), enqueue_to("b", [expiring(1, 2000)])]);
    assert_eq!(due(&talk, 10).next, Some(Timestamp(2000)));

    talk.now = Timestamp(2000);
    let due = due(&talk, 10);

    assert_eq!(due.expired.len(), 2);
    assert_eq!((due.expired[0].0, due.next), (QueueId(1), None));
    assert_eq!((talk.stats(1).ready, talk.stats(1).leased), (0, 2));
}

/// As in RabbitMQ: what expires behind one that does not waits for it.
pub fn only_heads_expire(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit([enqueue(1, "stays"), enqueue_to("goes", [expiring(1, 2000)])]);

    talk.now = Timestamp(9000);
    assert!(due(&talk, 10).expired.is_empty());
    let sequences = talk.lease_sequences(1, 1);
    talk.commit([ack(1, &sequences)]);

    assert_eq!(due(&talk, 10).expired.len(), 1);
}

/// Who sleeps until the next deadline cannot know that another one has come to the head.
pub fn a_deadline_that_comes_to_the_head_is_hinted(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);
    let hinted = || store.watch().poll_due(&Context::from_waker(Waker::noop())).is_ready();
    talk.commit([enqueue(1, "stays"), enqueue_to("goes", [expiring(1, 2000)])]);
    let before = due(&talk, 10).next;
    hinted();

    let stays = talk.lease_sequences(1, 1);
    let after_lease = (hinted(), due(&talk, 10).next);
    let goes = talk.lease_sequences(1, 1);
    talk.now = Timestamp(9000);
    let nothing = due(&talk, 10);
    hinted();
    talk.commit([settle(1, &goes, Settlement::Release { not_before: None, counted: true })]);

    assert_eq!((before, stays.len()), (None, 1));
    assert_eq!(after_lease, (true, Some(Timestamp(2000))));
    assert!(nothing.expired.is_empty());
    assert!(hinted(), "it was given back after its deadline");
    assert_eq!(due(&talk, 10).expired.len(), 1);
}

/// And says to ask again at once.
pub fn due_reports_no_more_than_asked(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.create(2, DURABLE);
    talk.commit((0..4).map(|it| enqueue_to("a", [expiring(1 + it % 2, 2000)])));

    talk.now = Timestamp(2500);
    let first = due(&talk, 3);
    let second = due(&talk, 3);

    assert_eq!((first.expired.len(), second.expired.len()), (3, 1));
    assert!(first.next.is_some_and(|next| next <= talk.now));
    assert_eq!(second.next, None);
}

/// The earliest of all that waits.
pub fn due_tells_when_to_ask_again(store: &dyn Store) {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    assert_eq!(due(&talk, 10).next, None);

    talk.commit([enqueue_to("a", [delayed(1, 8000)]), enqueue_to("b", [expiring(1, 6000)])]);
    assert_eq!(due(&talk, 10).next, Some(Timestamp(6000)));
}
