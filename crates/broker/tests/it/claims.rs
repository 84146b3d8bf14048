//! Claims: held by name, until a time, through restarts.

use broker::{BrowseFilter, ClaimRequest, Condition, Poison, Removal};

use crate::world::{World, bodies, post, sequences, with_queue};

const CLAIM: ClaimRequest<'_> =
    ClaimRequest { count_max: 2, ttl_ms: 60_000, grace_ms: 60_000, poison: None };

const ALL: BrowseFilter<'_> = BrowseFilter { claimed: true, delayed: true, not_from: None };

#[test]
fn a_claimed_message_is_nobody_elses_until_the_claim_ends() {
    let (world, access) = with_queue();
    post(&access, "q", &["a", "b", "c"]);

    let first = access.claim("q", &CLAIM, world.now()).unwrap();
    let second = access.claim("q", &CLAIM, world.now()).unwrap();
    world.pass(60_000);
    let third = access.claim("q", &CLAIM, world.now()).unwrap();

    assert_eq!(
        (bodies(&first.messages), first.messages[0].claim_count),
        (vec!["a".into(), "b".into()], 1)
    );
    assert_eq!(bodies(&second.messages), ["c"]);
    assert_ne!(first.id, second.id);
    assert_eq!(
        (bodies(&third.messages), third.messages[0].claim_count),
        (vec!["a".into(), "b".into()], 2)
    );
    assert!(access.claim_view("q", first.id, world.now()).unwrap().is_none());
}

#[test]
fn a_claim_survives_a_restart_with_its_messages_and_its_end() {
    let world = World::on_disk();
    let access = world.enter();
    access.ensure_queue("q", world.now()).unwrap();
    post(&access, "q", &["a", "b", "c"]);
    let claim = access.claim("q", &CLAIM, world.now()).unwrap();
    world.durable(claim.ticket);
    drop(access);

    let world = world.restarted();
    let access = world.enter();
    let view = access.claim_view("q", claim.id, world.now()).unwrap().unwrap();
    let other = access.claim("q", &CLAIM, world.now()).unwrap();

    assert_eq!((bodies(&view.messages), view.until), (vec!["a".into(), "b".into()], claim.until));
    assert_eq!(bodies(&other.messages), ["c"]);
    let removed = access.remove(
        "q",
        &sequences(&view.messages)[..1],
        Condition::HeldBy(claim.id),
        world.now(),
    );
    world.durable(removed.unwrap().ticket);
    drop(access);
    let world = world.restarted();
    world.pass(60_000);
    let access = world.enter();
    let again = access.claim("q", &CLAIM, world.now()).unwrap();
    assert_eq!(
        (bodies(&again.messages), again.messages[0].claim_count),
        (vec!["b".into(), "c".into()], 2)
    );
}

#[test]
fn a_renewed_claim_lasts_longer_and_a_released_one_ends_at_once() {
    let (world, access) = with_queue();
    post(&access, "q", &["a", "b", "c"]);
    let claim = access.claim("q", &CLAIM, world.now()).unwrap();
    world.pass(50_000);

    let renewed = access.renew_claim("q", claim.id, (100_000, 60_000), world.now()).unwrap();
    world.pass(60_000);
    let view = access.claim_view("q", claim.id, world.now()).unwrap().unwrap();
    access.release_claim("q", claim.id, world.now()).unwrap();

    assert!(renewed.is_some());
    assert_eq!((view.messages.len(), view.until.0 - view.since.0), (2, 100_000));
    assert!(access.claim_view("q", claim.id, world.now()).unwrap().is_none());
    assert_eq!(access.renew_claim("q", claim.id, (1, 1), world.now()).unwrap(), None);
    let next = access.claim("q", &CLAIM, world.now()).unwrap();
    assert_eq!(
        (bodies(&next.messages), next.messages[0].claim_count),
        (vec!["a".into(), "b".into()], 2)
    );
}

#[test]
fn a_message_claimed_too_often_goes_to_the_dead_letter_queue() {
    let (world, access) = with_queue();
    post(&access, "q", &["poison", "good"]);
    let poison = Poison { count_max: 2, queue: "dead", ttl_ms: Some(5000) };
    let request = ClaimRequest { count_max: 1, poison: Some(poison), ..CLAIM };
    for _ in 0..2 {
        let claim = access.claim("q", &request, world.now()).unwrap();
        assert_eq!(bodies(&claim.messages), ["poison"]);
        access.release_claim("q", claim.id, world.now()).unwrap();
    }

    let claim = access.claim("q", &request, world.now()).unwrap();

    assert_eq!(bodies(&claim.messages), ["good"]);
    let dead = access.browse("dead", None, 10, ALL, world.now()).unwrap();
    assert_eq!(
        (bodies(&dead.messages), dead.messages[0].ttl_ms()),
        (vec!["poison".into()], Some(5000))
    );
    assert_eq!(access.queue_fill("q", world.now()).unwrap().claimed, 1);
}

#[test]
fn a_claimed_message_outlives_its_claim_by_the_grace() {
    let (world, access) = with_queue();
    let properties = crate::world::properties("me");
    let expires = Some(world.now().after_ms(1000));
    let one = broker::Post { properties: &properties, body: b"a", expires, not_before: None };
    access.post("q", &[one], world.now()).unwrap();

    let claim = access.claim("q", &CLAIM, world.now()).unwrap();

    assert_eq!(claim.messages[0].ttl_ms(), Some(120_000));
    world.pass(61_000);
    let fill = access.queue_fill("q", world.now()).unwrap();
    assert_eq!((fill.free, fill.claimed), (1, 0));
    world.pass(60_000);
    let fill = access.queue_fill("q", world.now()).unwrap();
    assert_eq!((fill.free, fill.oldest.is_some()), (0, false));
}

#[test]
fn a_claimed_message_is_removed_by_its_claim_only() {
    let (world, access) = with_queue();
    let posted = post(&access, "q", &["a", "b", "c"]);
    let claim = access.claim("q", &CLAIM, world.now()).unwrap();
    let place = |nth| model::Sequence(posted.first.0 + nth);
    let remove = |sequences: &[_], condition| {
        access.remove("q", sequences, condition, world.now()).unwrap().outcomes
    };

    let free = remove(&[place(0), place(2), place(9)], Condition::Unheld);
    let own = remove(&[place(0), place(2)], Condition::HeldBy(claim.id));
    let any = remove(&[place(1)], Condition::Always);

    assert_eq!(free, [Removal::Held, Removal::Removed, Removal::Missing]);
    assert_eq!(own, [Removal::Removed, Removal::Missing]);
    assert_eq!(any, [Removal::Removed]);
    assert!(access.claim_view("q", claim.id, world.now()).unwrap().is_none());
}
