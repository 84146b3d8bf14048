//! Several pools: queues live where they were put, and messages cross over.

use std::path::Path;
use std::sync::Arc;

use broker::{
    Access, Broker, BrokerError, BrowseFilter, ClaimRequest, Kind, OpenPool, Poison, PutPool,
    Quotas, Subscribe, Subscribed,
};
use model::Timestamp;
use store::embedded::Options;
use store::pools::pool_of;
use store::{ErrorKind, Pools};
use testkit::store::wait;

use crate::world::{bodies, post};

#[derive(Debug)]
struct Stopped;

impl broker::Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000)
    }
}

/// Where the pool of this name is, on a temporary disk.
fn uri(directory: &Path, name: &str) -> String {
    format!("file:{}", directory.join(name).display())
}

fn start(directory: &Path) -> Arc<Broker> {
    let open: OpenPool = Box::new(|uri| Ok(store::open(uri, Options::default())?.pool));
    let first = store::open(&uri(directory, "first"), Options::default()).unwrap();
    let pools = Arc::new(Pools::new(first.pool, first.catalog));
    Broker::open_pooled(&pools, open, Arc::new(Stopped), Quotas::default()).unwrap()
}

fn enter(broker: &Arc<Broker>) -> Access {
    broker.enter_service_or_create("project", 100).unwrap()
}

fn put(broker: &Broker, directory: &Path, name: &str, flavor: Option<&str>) {
    let uri = uri(directory, name);
    let pool = PutPool { weight: 100, uri: &uri, flavor, options: b"{}" };
    wait(broker.watch().until_durable(broker.put_pool(name, &pool).unwrap())).unwrap();
}

fn home(access: &Access, queue: &str) -> u16 {
    pool_of(access.tenant().queue(queue).unwrap().id)
}

#[test]
fn a_queue_lives_in_a_pool_of_its_flavor_through_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path());
    let access = enter(&broker);
    let now = access.now();
    put(&broker, directory.path(), "gold-1", Some("gold"));
    access.ensure_queue("plain", now).unwrap();
    let (_, made, _) = access.ensure_queue_of_flavor("fine", Some("gold"), now).unwrap();
    let missing = access.ensure_queue_of_flavor("none", Some("lead"), now);

    let ticket = post(&access, "fine", &["a", "b"]).ticket;
    let ticket = ticket.max(post(&access, "plain", &["c"]).ticket);
    let request = ClaimRequest { count_max: 1, ttl_ms: 60_000, grace_ms: 0, poison: None };
    let claim = access.claim("fine", &request, now).unwrap();
    wait(broker.watch().until_durable(ticket.max(claim.ticket))).unwrap();
    drop((access, broker));
    let broker = start(directory.path());
    let access = enter(&broker);

    assert!(made);
    assert!(matches!(missing, Err(BrokerError::NotFound { kind: Kind::Flavor, .. })));
    assert_eq!((home(&access, "plain"), home(&access, "fine")), (0, 1));
    assert_eq!(broker.flavor("gold").unwrap(), ["gold-1".into()]);
    let seen = access.browse("fine", None, 10, BrowseFilter::default(), now).unwrap();
    assert_eq!(bodies(&seen.messages), ["b"]);
    let view = access.claim_view("fine", claim.id, now).unwrap().unwrap();
    assert_eq!(bodies(&view.messages), ["a"]);
    assert_eq!(bodies(&access.pop("plain", 5, now).unwrap().messages), ["c"]);
}

#[test]
fn queues_are_shared_out_by_weight() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path());
    let access = enter(&broker);
    for (name, weight) in [("one", 10), ("two", 30), ("never", 0)] {
        let uri = uri(directory.path(), name);
        broker.put_pool(name, &PutPool { weight, uri: &uri, flavor: None, options: b"" }).unwrap();
    }

    let mut counts = [0; 4];
    for number in 0..400 {
        let name = format!("q{number}");
        access.ensure_queue(&name, access.now()).unwrap();
        counts[usize::from(home(&access, &name))] += 1;
    }

    assert_eq!((counts[0], counts[3]), (0, 0));
    assert!((50..150).contains(&counts[1]), "{counts:?}");
}

#[test]
fn messages_go_from_one_pool_to_another() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path());
    let access = enter(&broker);
    let now = access.now();
    put(&broker, directory.path(), "gold-1", Some("gold"));
    access.ensure_queue_of_flavor("q", Some("gold"), now).unwrap();
    access.ensure_queue("dead", now).unwrap();
    let subscribe = Subscribe {
        subscriber: "http://one",
        options: b"{}",
        ttl_ms: 60_000,
        confirmation: broker::Confirmation::NotNeeded,
        output: broker::Output::Delivery,
    };
    let Subscribed::New(subscription, _) = access.subscribe("q", &subscribe, now).unwrap() else {
        panic!("it is new")
    };
    post(&access, "q", &["poison"]);
    let poison = Some(Poison { count_max: 0, queue: "dead", ttl_ms: None });
    let request = ClaimRequest { count_max: 1, ttl_ms: 60_000, grace_ms: 0, poison };

    let claim = access.claim("q", &request, now).unwrap();
    wait(broker.watch().until_durable(claim.ticket)).unwrap();

    assert_eq!(pool_of(subscription.follower().id), 1);
    assert!(claim.messages.is_empty());
    let fill = access.queue_fill("q", now).unwrap();
    assert_eq!((fill.free, fill.claimed), (0, 0));
    let dead = access.browse("dead", None, 5, BrowseFilter::default(), now).unwrap();
    assert_eq!(bodies(&dead.messages), ["poison"]);
}

#[test]
fn a_pool_is_defined_as_it_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path());
    let access = enter(&broker);
    put(&broker, directory.path(), "one", Some("gold"));
    let (one, two) = (uri(directory.path(), "one"), uri(directory.path(), "two"));
    let pool = |uri| PutPool { weight: 1, uri, flavor: None, options: b"" };

    let unknown = broker.put_pool("x", &pool("mongodb://localhost")).unwrap_err();
    let taken = broker.put_pool("x", &pool(&one)).unwrap_err();
    access.ensure_queue_of_flavor("q", Some("gold"), access.now()).unwrap();
    let moved = broker.put_pool("one", &pool(&two)).unwrap_err();
    let flavored = broker.delete_pool("one").unwrap_err();
    broker.delete_flavor("gold").unwrap();
    let used = broker.delete_pool("one").unwrap_err();
    access.delete_queue("q", false, false, access.now()).unwrap();
    broker.delete_pool("one").unwrap();

    let is = |error: &BrokerError| match error {
        BrokerError::Store(error) => error.kind == ErrorKind::Unsupported,
        _ => false,
    };
    assert!(is(&unknown) && matches!(taken, BrokerError::Inequivalent(_)));
    let in_use = |error, of| matches!(error, BrokerError::InUse { kind, .. } if kind == of);
    assert!(in_use(moved, Kind::Pool) && in_use(used, Kind::Pool));
    assert!(in_use(flavored, Kind::Flavor));
    assert!(broker.pools_page("", 10).is_empty() && broker.pool("one").is_none());
}

#[test]
fn a_flavor_is_a_name_for_pools() {
    let directory = tempfile::tempdir().unwrap();
    let broker = start(directory.path());
    for name in ["a", "b"] {
        put(&broker, directory.path(), name, None);
    }

    broker.put_flavor("gold", &["a", "b"]).unwrap();
    broker.put_flavor("gold", &["b"]).unwrap();
    let missing = broker.put_flavor("lead", &["c"]).unwrap_err();

    assert!(matches!(missing, BrokerError::NotFound { kind: Kind::Pool, .. }));
    assert_eq!(broker.flavor("gold").unwrap(), ["b".into()]);
    assert_eq!(broker.pool("a").unwrap().flavor, None);
    assert_eq!(broker.flavors_page("", 10), ["gold".into()]);
    assert!(broker.flavor("lead").is_none());
}
