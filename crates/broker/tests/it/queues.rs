//! Queues as a queue service sees them: made on the way, described, posted to, browsed, popped.

use broker::{BrokerError, BrowseFilter, ClaimRequest, Post};
use model::{Sequence, Ticket};

use crate::world::{World, bodies, post, properties, sequences, with_queue};

#[test]
fn a_tenant_is_made_up_to_a_limit() {
    let world = World::in_memory();

    assert!(matches!(world.broker.enter_service("a"), Err(BrokerError::NotFound { .. })));
    world.broker.enter_service_or_create("a", 1).unwrap();
    world.broker.enter_service_or_create("a", 1).unwrap();
    let refused = world.broker.enter_service_or_create("b", 1);

    assert!(matches!(refused, Err(BrokerError::LimitReached(_))));
    assert!(world.broker.enter_service("a").unwrap().is_valid());
}

#[test]
fn a_queue_is_made_once() {
    let (world, access) = with_queue();

    let (queue, made, ticket) = access.ensure_queue("q", world.now()).unwrap();

    assert_eq!((&*queue.name, made, ticket), ("q", false, Ticket::NONE));
    assert!(access.queue_exists("q") && !access.queue_exists("r"));
}

#[test]
fn queues_are_listed_by_name_in_pages() {
    let (world, access) = with_queue();
    for name in ["b", "a", "z", "c"] {
        access.ensure_queue(name, world.now()).unwrap();
    }
    let names = |after: &str, count| -> Vec<String> {
        let page = access.queues_page(after, count, |queue| &*queue.name != "b");
        page.iter().map(|queue| queue.name.to_string()).collect()
    };

    assert_eq!(names("", 2), ["a", "c"]);
    assert_eq!(names("c", 10), ["q", "z"]);
    access.delete_queue("q", false, false, world.now()).unwrap();
    assert_eq!(names("c", 10), ["z"]);
}

#[test]
fn metadata_are_kept_with_the_queue() {
    let world = World::on_disk();
    let access = world.enter();
    access.ensure_queue("q", world.now()).unwrap();
    let first = access.set_metadata("q", br#"{"a":1}"#, world.now()).unwrap();
    let changed = access.change_metadata(
        "q",
        |json| {
            assert_eq!(json, br#"{"a":1}"#);
            Ok::<_, ()>(br#"{"a":2}"#.to_vec())
        },
        world.now(),
    );
    let (_, second) = changed.unwrap().unwrap();
    let refused = access.change_metadata("q", |_| Err::<Vec<u8>, _>("no"), world.now()).unwrap();
    assert!(second > first && refused.is_err_and(|why| why == "no"));
    world.durable(second);
    drop(access);

    let world = world.restarted();
    let access = world.enter();

    let metadata = access.metadata("q").unwrap().unwrap();
    assert_eq!(metadata.json(), br#"{"a":2}"#);
    let parsed = metadata.parsed(<[u8]>::len);
    assert!(std::sync::Arc::ptr_eq(&parsed, &metadata.parsed(|_| unreachable!("made once"))));
    let (_, ticket) = access.delete_queue("q", false, false, world.now()).unwrap();
    world.durable(ticket);
    access.ensure_queue("q", world.now()).unwrap();
    assert!(access.metadata("q").unwrap().is_none());
    drop((access, metadata));
    let world = world.restarted();
    assert!(world.enter().metadata("q").unwrap().is_none());
}

#[test]
fn a_batch_has_places_in_a_row() {
    let (_world, access) = with_queue();
    post(&access, "q", &["a"]);

    let posted = post(&access, "q", &["b", "c", "d"]);

    let places: Vec<Sequence> = (1..4).map(Sequence).collect();
    assert_eq!(posted.first, places[0]);
    let seen = access.peek("q", &[places[2], Sequence(9), places[0]], access.now()).unwrap();
    assert_eq!(bodies(&seen), ["d", "b"]);
}

#[test]
fn browsing_goes_on_after_a_place() {
    let (world, access) = with_queue();
    post(&access, "q", &["a", "b", "c", "d"]);
    let page = |after, filter| access.browse("q", after, 2, filter, world.now()).unwrap().messages;

    let first = page(None, BrowseFilter::default());
    let second = page(Some(first[1].sequence), BrowseFilter::default());

    assert_eq!(
        (bodies(&first), bodies(&second)),
        (vec!["a".into(), "b".into()], vec!["c".into(), "d".into()])
    );
    assert!(page(Some(second[1].sequence), BrowseFilter::default()).is_empty());
}

#[test]
fn browsing_shows_what_the_filter_lets_through() {
    let (world, access) = with_queue();
    post(&access, "q", &["claimed", "mine"]);
    let other = properties("other");
    let late = Some(world.now().after_ms(9000));
    let soon = Some(world.now().after_ms(1000));
    let one = |body, expires, not_before| Post { properties: &other, body, expires, not_before };
    let batch = [one(b"theirs", None, None), one(b"late", None, late), one(b"gone", soon, None)];
    access.post("q", &batch, world.now()).unwrap();
    let request = ClaimRequest { count_max: 1, ttl_ms: 60_000, grace_ms: 0, poison: None };
    access.claim("q", &request, world.now()).unwrap();
    world.pass(1000);
    let seen =
        |filter| bodies(&access.browse("q", None, 10, filter, world.now()).unwrap().messages);

    let none = BrowseFilter::default();
    assert_eq!(seen(none), ["mine", "theirs"]);
    assert_eq!(seen(BrowseFilter { claimed: true, ..none }), ["claimed", "mine", "theirs"]);
    assert_eq!(seen(BrowseFilter { delayed: true, ..none }), ["mine", "theirs", "late"]);
    assert_eq!(seen(BrowseFilter { not_from: Some("me"), ..none }), ["theirs"]);
}

#[test]
fn a_browse_that_finds_only_what_it_must_not_show_says_where_to_go_on() {
    let (world, access) = with_queue();
    let many = vec!["own"; 5000];
    post(&access, "q", &many);
    let filter = BrowseFilter { not_from: Some("me"), ..BrowseFilter::default() };

    let page = access.browse("q", None, 10, filter, world.now()).unwrap();
    let rest = access.browse("q", page.more_after, 10, filter, world.now()).unwrap();

    assert!(page.messages.is_empty() && page.more_after.is_some());
    assert!(rest.messages.is_empty() && rest.more_after.is_none());
}

#[test]
fn a_pop_takes_what_is_free() {
    let (world, access) = with_queue();
    post(&access, "q", &["a", "b", "c"]);
    let request = ClaimRequest { count_max: 1, ttl_ms: 60_000, grace_ms: 0, poison: None };
    access.claim("q", &request, world.now()).unwrap();

    let popped = access.pop("q", 10, world.now()).unwrap();

    assert_eq!(bodies(&popped.messages), ["b", "c"]);
    assert!(access.pop("q", 10, world.now()).unwrap().messages.is_empty());
}

#[test]
fn the_fill_tells_the_oldest_and_the_newest() {
    let (world, access) = with_queue();
    let empty = access.queue_fill("q", world.now()).unwrap();
    assert!(empty.oldest.is_none() && empty.newest.is_none());
    post(&access, "q", &["a", "b", "c"]);
    world.pass(10);
    let request = ClaimRequest { count_max: 1, ttl_ms: 60_000, grace_ms: 0, poison: None };
    access.claim("q", &request, world.now()).unwrap();

    let fill = access.queue_fill("q", world.now()).unwrap();

    assert_eq!((fill.free, fill.claimed, fill.delayed), (2, 1, 0));
    let (oldest, newest) = (fill.oldest.unwrap(), fill.newest.unwrap());
    assert_eq!(sequences(&[oldest, newest]), [Sequence(0), Sequence(2)]);
}

#[test]
fn what_is_missing_is_not_found() {
    let (world, access) = with_queue();
    let missing = |error| matches!(error, BrokerError::NotFound { .. });

    assert!(missing(access.post("none", &[], world.now()).unwrap_err()));
    assert!(missing(access.pop("none", 1, world.now()).unwrap_err()));
    assert!(missing(access.metadata("none").unwrap_err()));
    assert!(missing(access.queue_fill("none", world.now()).unwrap_err()));
}

#[test]
fn a_message_that_waits_is_claimed_when_its_time_has_come() {
    let (world, access) = with_queue();
    let properties = properties("me");
    let not_before = Some(world.now().after_ms(5000));
    let one = Post { properties: &properties, body: b"late", expires: None, not_before };
    access.post("q", &[one], world.now()).unwrap();

    assert!(access.pop("q", 1, world.now()).unwrap().messages.is_empty());
    assert_eq!(access.queue_fill("q", world.now()).unwrap().delayed, 1);
    world.pass(5000);

    assert_eq!(bodies(&access.pop("q", 1, world.now()).unwrap().messages), ["late"]);
}
