//! Claims: leases by a holder with a name, that last until a time and survive what a lease does not.

use model::{QueueId, Sequence, Ticket, Timestamp};
use store::{Change, Condition, Due, Hold, Lease, Removal, Settlement, Target, Which};

use crate::store::{DURABLE, Store, Talk, ack, claim, enqueue, enqueue_to, settle, text, to, wait};

fn due(talk: &Talk<'_>) -> Due {
    wait(talk.store.due(talk.now, 10)).expect("accepted")
}

fn take_claim(talk: &Talk<'_>, count: usize, id: u64, until: u64) -> Lease {
    let lease = talk.lease_held(1, count, Hold::Claim(claim(id, until)));
    wait(talk.store.watch().until_durable(lease.ticket)).expect("the store lives");
    lease
}

fn end(id: u64) -> Change {
    Change::EndClaim { queue: QueueId(1), claim: claim(id, 0).id }
}

fn filled<'a>(store: &'a dyn Store, bodies: &[&str]) -> Talk<'a> {
    let talk = Talk::new(store);
    talk.create(1, DURABLE);
    talk.commit(bodies.iter().map(|body| enqueue(1, body)));
    talk
}

fn sequences(lease: &Lease) -> Vec<u64> {
    lease.messages.iter().map(|leased| leased.sequence.0).collect()
}

/// Then they are ready again, in their place, redelivered and counted.
pub fn a_claim_holds_its_messages_until_its_time(store: &dyn Store) {
    let mut talk = filled(store, &["a", "b"]);
    let lease = take_claim(&talk, 1, 7, 2000);
    assert_eq!((text(&lease.messages[0].message).as_str(), lease.messages.len()), ("a", 1));
    assert_eq!(due(&talk).next, Some(Timestamp(2000)));
    assert_eq!((talk.stats(1).ready, talk.stats(1).leased), (1, 1));

    talk.now = Timestamp(2000);
    assert_eq!(due(&talk).ready, [QueueId(1)]);

    let lease = talk.lease(1, 10);
    assert_eq!(text(&lease.messages[0].message), "a");
    assert_eq!((lease.messages[0].delivery_count, lease.messages[0].redelivered), (1, true));
    assert!(wait(store.claimed(QueueId(1), claim(7, 0).id)).expect("accepted").is_none());
}

/// All of it; others end as they would.
pub fn a_claim_can_be_extended(store: &dyn Store) {
    let mut talk = filled(store, &["a", "b", "c"]);
    take_claim(&talk, 2, 7, 2000);
    take_claim(&talk, 1, 8, 2000);

    let extend = |id, until| wait(store.extend(QueueId(1), claim(id, until), talk.now));
    let extended = extend(7, 4000).expect("accepted");
    let missing = extend(9, 4000).expect("accepted");

    wait(store.watch().until_durable(extended.ticket)).expect("the store lives");
    assert_eq!((extended.messages, missing.messages), (2, 0));
    assert_eq!(missing.ticket, Ticket::NONE);
    talk.now = Timestamp(2000);
    due(&talk);
    assert_eq!((talk.stats(1).ready, talk.stats(1).leased), (1, 2));
    talk.now = Timestamp(4000);
    due(&talk);
    assert_eq!((talk.stats(1).ready, talk.stats(1).leased), (3, 0));
}

/// Its time may come, nothing happens.
pub fn a_settled_claim_does_not_end_again(store: &dyn Store) {
    let mut talk = filled(store, &["a", "b"]);
    let held = sequences(&take_claim(&talk, 2, 7, 2000));
    let release = Settlement::Release { not_before: None, counted: false };

    talk.commit([ack(1, &held[..1]), settle(1, &held[1..], release)]);

    assert!(wait(store.claimed(QueueId(1), claim(7, 0).id)).expect("accepted").is_none());
    talk.now = Timestamp(2000);
    let due = due(&talk);
    assert!(due.ready.is_empty());
    assert_eq!((due.next, talk.stats(1).ready), (None, 1));
}

/// What it holds returns to its place, counted; other claims stay.
pub fn a_claim_ends_when_it_is_told_to(store: &dyn Store) {
    let talk = filled(store, &["a", "b", "c", "d"]);
    take_claim(&talk, 2, 7, 2000);
    take_claim(&talk, 1, 8, 2000);

    talk.commit([end(7), end(9)]);

    assert_eq!((talk.stats(1).ready, talk.stats(1).leased), (3, 1));
    let lease = talk.lease(1, 10);
    let counts: Vec<u32> = lease.messages.iter().map(|leased| leased.delivery_count).collect();
    assert_eq!((sequences(&lease), counts), (vec![0, 1, 3], vec![1, 1, 0]));
}

/// It lives as long as the claim says; what lives longer anyway stays as it is.
pub fn a_claimed_message_does_not_expire_before_its_claim(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);
    let expiring = |at| Target { expires: Some(Timestamp(at)), ..to(1) };
    talk.commit([enqueue_to("short", [expiring(1500)]), enqueue_to("long", [expiring(9000)])]);

    let lease = take_claim(&talk, 2, 7, 2000);

    let expires: Vec<_> = lease.messages.iter().map(|leased| leased.expires).collect();
    assert_eq!(expires, [Some(Timestamp(2500)), Some(Timestamp(9000))]);
    let extended = wait(store.extend(QueueId(1), claim(7, 3000), talk.now)).expect("accepted");
    assert_eq!(extended.messages, 2);
    assert_eq!(talk.read(1, 0, 1)[0].expires, Some(Timestamp(3500)));
    talk.now = Timestamp(3000);
    due(&talk);
    assert_eq!(talk.lease_sequences(1, 1), [0]);
}

/// With its times; it is none when nothing is left of it.
pub fn a_claim_shows_what_it_holds(store: &dyn Store) {
    let mut talk = filled(store, &["a", "b", "c"]);
    let held = sequences(&take_claim(&talk, 3, 7, 2000));
    let look =
        |talk: &Talk<'_>| wait(talk.store.claimed(QueueId(1), claim(7, 0).id)).expect("there");

    let whole = look(&talk).expect("a claim");
    talk.now = Timestamp(1500);
    wait(store.extend(QueueId(1), claim(7, 3000), talk.now)).expect("accepted");
    talk.remove(1, &held[1..2], Condition::HeldBy(claim(7, 0).id));
    let rest = look(&talk).expect("a claim");
    talk.commit([ack(1, &held)]);

    assert_eq!((whole.since, whole.until), (Timestamp(1000), Timestamp(2000)));
    assert_eq!((rest.since, rest.until), (Timestamp(1500), Timestamp(3000)));
    let bodies: Vec<String> = rest.messages.iter().map(|stored| text(&stored.message)).collect();
    assert_eq!((whole.messages.len(), bodies), (3, vec!["a".to_owned(), "c".to_owned()]));
    assert!(look(&talk).is_none());
}

/// A lease of another kind has no holder with a name.
pub fn what_is_claimed_is_read_with_its_holder(store: &dyn Store) {
    let talk = filled(store, &["a", "b", "c"]);
    take_claim(&talk, 1, 7, 2000);
    talk.lease(1, 1);

    let read = talk.read(1, 0, 10);

    let seen: Vec<_> = read.iter().map(|stored| (stored.leased, stored.claim)).collect();
    assert_eq!(seen, [(true, Some(claim(7, 0).id)), (true, None), (false, None)]);
    assert!(read.iter().all(|stored| stored.enqueued == Timestamp(1000)));
}

/// With a ticket to wait for.
pub fn a_message_taken_durably_is_gone(store: &dyn Store) {
    let talk = filled(store, &["a", "b"]);

    let lease = talk.lease_held(1, 1, Hold::TakeDurably);
    wait(store.watch().until_durable(lease.ticket)).expect("the store lives");

    assert_eq!(text(&lease.messages[0].message), "a");
    assert_eq!(lease.messages[0].enqueued, Timestamp(1000));
    assert_eq!((talk.stats(1).ready, talk.stats(1).leased), (1, 0));
    assert_eq!(store.capabilities().durable, lease.ticket != Ticket::NONE);
}

/// Ready or delayed, wherever in the queue; what is told is in the order of the question.
pub fn a_message_is_removed_if_nobody_holds_it(store: &dyn Store) {
    let talk = filled(store, &["claimed", "leased", "a", "b", "c"]);
    take_claim(&talk, 1, 7, 2000);
    talk.lease(1, 1);
    let late = Target { not_before: Some(Timestamp(5000)), ..to(1) };
    talk.commit([enqueue_to("late", [late])]);

    let removals = talk.remove(1, &[3, 0, 1, 5, 3, 99], Condition::Unheld);

    let (gone, held, missing) = (Removal::Removed, Removal::Held, Removal::Missing);
    assert_eq!(removals, [gone, held, held, gone, missing, missing]);
    assert_eq!(due(&talk).next, Some(Timestamp(2000)));
    assert_eq!((talk.stats(1).ready, talk.stats(1).delayed), (2, 0));
    assert_eq!(talk.stats(1).ready_bytes, 2);
    assert_eq!(talk.lease_bodies(1, 10), ["a", "c"]);
}

/// By nobody else, and not when nobody holds it.
pub fn a_message_is_removed_by_its_holder_only(store: &dyn Store) {
    let talk = filled(store, &["a", "b", "c", "d"]);
    take_claim(&talk, 1, 7, 2000);
    take_claim(&talk, 1, 8, 2000);
    talk.lease(1, 1);

    let removals = talk.remove(1, &[0, 1, 2, 3, 9], Condition::HeldBy(claim(8, 0).id));

    use Removal::{Held, Missing, NotHeld, Removed};
    assert_eq!(removals, [Held, Removed, Held, NotHeld, Missing]);
    assert_eq!((talk.stats(1).ready, talk.stats(1).leased), (1, 2));
}

/// What comes of a lease later is as for any that ended.
pub fn a_message_can_be_removed_whoever_holds_it(store: &dyn Store) {
    let mut talk = filled(store, &["a", "b", "c"]);
    take_claim(&talk, 1, 7, 2000);
    talk.lease(1, 1);

    let removals = talk.remove(1, &[0, 1, 2], Condition::Always);

    assert_eq!(removals, [Removal::Removed; 3]);
    talk.commit([ack(1, &[0, 1]), end(7)]);
    talk.now = Timestamp(2000);
    assert!(due(&talk).ready.is_empty());
    let stats = talk.stats(1);
    assert_eq!((stats.ready, stats.leased, stats.ready_bytes, stats.first), (0, 0, 0, stats.next));
}

/// It is found in its turn, by whoever decides what becomes of it.
pub fn an_expired_message_is_not_removed(store: &dyn Store) {
    let mut talk = Talk::new(store);
    talk.create(1, DURABLE);
    let expiring = Target { expires: Some(Timestamp(2000)), ..to(1) };
    talk.commit([enqueue_to("a", [expiring])]);
    talk.now = Timestamp(2000);

    let removals = talk.remove(1, &[0], Condition::Always);

    assert_eq!(removals, [Removal::Missing]);
    assert_eq!(due(&talk).expired.len(), 1);
}

/// And no more than that.
pub fn a_read_shows_what_was_asked_for(store: &dyn Store) {
    let talk = filled(store, &["leased", "a", "b", "c"]);
    let late = Target { not_before: Some(Timestamp(5000)), ..to(1) };
    talk.commit([enqueue_to("late", [late])]);
    talk.lease(1, 1);
    let none = Which { ready: false, delayed: false, leased: false };
    let read = |which, from, count| -> Vec<u64> {
        talk.read_of(1, which, from, count).iter().map(|stored| stored.sequence.0).collect()
    };

    assert_eq!(read(Which { ready: true, ..none }, 0, 2), [1, 2]);
    assert_eq!(read(Which { ready: true, ..none }, 3, 9), [3]);
    assert_eq!(read(Which { delayed: true, ..none }, 0, 9), [4]);
    assert_eq!(read(Which { leased: true, ..none }, 0, 9), [0]);
    assert_eq!(read(Which { leased: true, ready: true, ..none }, 0, 3), [0, 1, 2]);
    assert_eq!(read(Which::ALL, 0, 9), [0, 1, 2, 3, 4]);
}

/// In whatever state it is.
pub fn the_newest_message_is_found(store: &dyn Store) {
    let mut talk = filled(store, &["a", "b", "c", "d"]);
    let newest = |talk: &Talk<'_>| {
        let stored = wait(talk.store.newest(QueueId(1))).expect("the queue is there");
        stored.map(|stored| (stored.sequence, text(&stored.message)))
    };
    assert_eq!(newest(&talk), Some((Sequence(3), "d".to_owned())));
    talk.lease(1, 4);
    assert_eq!(newest(&talk), Some((Sequence(3), "d".to_owned())));

    talk.commit([ack(1, &[1, 3])]);
    assert_eq!(newest(&talk), Some((Sequence(2), "c".to_owned())));
    let later = Settlement::Release { not_before: Some(Timestamp(3000)), counted: true };
    talk.commit([settle(1, &[2], later)]);
    assert_eq!(newest(&talk), Some((Sequence(2), "c".to_owned())));
    talk.now = Timestamp(3000);
    due(&talk);
    assert_eq!(newest(&talk), Some((Sequence(2), "c".to_owned())));
    talk.remove(1, &[2], Condition::Always);
    assert_eq!(newest(&talk), Some((Sequence(0), "a".to_owned())));
    talk.remove(1, &[0], Condition::Always);
    assert_eq!(newest(&talk), None);
}

/// From which those of the whole commit are known.
pub fn a_receipt_tells_the_last_sequence(store: &dyn Store) {
    let talk = filled(store, &["a"]);
    talk.create(2, DURABLE);

    let receipt = talk.commit(["b", "c"].map(|body| enqueue_to(body, [to(99), to(1), to(2)])));

    assert_eq!(receipt.last, Sequence(2));
}

/// Nothing ends in it later.
pub fn a_deleted_queue_takes_its_claims_with_it(store: &dyn Store) {
    let mut talk = filled(store, &["a"]);
    take_claim(&talk, 1, 7, 2000);

    talk.commit([Change::DeleteQueue { queue: QueueId(1) }]);

    talk.now = Timestamp(2000);
    let due = due(&talk);
    assert!(due.ready.is_empty());
    assert_eq!(due.next, None);
}
