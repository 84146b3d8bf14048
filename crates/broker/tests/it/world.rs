//! A broker with a clock that tests move, over a store that they can close and open again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use broker::{Access, Broker, Clock, Post, Posted, Quotas, Seen};
use model::{Sequence, Ticket, Timestamp};
use posthouse_amqp::properties::Properties;
use store::embedded::{Embedded, Options};
use store::{Catalog, Memory, Pool};
use tempfile::TempDir;
use testkit::store::wait;

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub(crate) struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Acquire))
    }
}

/// A broker that can be stopped and started.
pub(crate) struct World {
    pub(crate) broker: Arc<Broker>,
    clock: Arc<Hands>,
    directory: Option<TempDir>,
}

fn start<S: Pool + Catalog + 'static>(store: S, clock: &Arc<Hands>) -> Arc<Broker> {
    let store = Arc::new(store);
    let (pool, catalog) = (Arc::clone(&store) as Arc<dyn Pool>, store as Arc<dyn Catalog>);
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Broker::open(pool, catalog, clock, Quotas::default()).unwrap()
}

fn disk(path: &Path) -> Embedded {
    Embedded::open(path, Options::default()).unwrap()
}

impl World {
    pub(crate) fn in_memory() -> Self {
        let clock = Arc::new(Hands(AtomicU64::new(1_000_000)));
        Self { broker: start(Memory::new(), &clock), clock, directory: None }
    }

    pub(crate) fn on_disk() -> Self {
        Self::with_options(Options::default())
    }

    /// On disk, with other limits.
    pub(crate) fn with_options(options: Options) -> Self {
        let clock = Arc::new(Hands(AtomicU64::new(1_000_000)));
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), options).unwrap();
        Self { broker: start(store, &clock), clock, directory: Some(directory) }
    }

    /// Stops the broker and starts another over what it left.
    pub(crate) fn restarted(self) -> Self {
        let Self { broker, clock, directory } = self;
        assert_eq!(Arc::strong_count(&broker), 1, "an access is still open");
        drop(broker);
        let directory = directory.expect("a world on disk");
        Self { broker: start(disk(directory.path()), &clock), clock, directory: Some(directory) }
    }

    pub(crate) fn enter(&self) -> Access {
        self.broker.enter_service_or_create("project", 100).unwrap()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.broker.now()
    }

    /// Lets time pass, and has the broker notice.
    pub(crate) fn pass(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::AcqRel);
        self.broker.sweep_now();
    }

    pub(crate) fn durable(&self, ticket: Ticket) {
        wait(self.broker.watch().until_durable(ticket)).unwrap();
    }
}

/// A world in memory with an access to a tenant that has the queue `q`.
pub(crate) fn with_queue() -> (World, Access) {
    let world = World::in_memory();
    let access = world.enter();
    access.ensure_queue("q", world.now()).unwrap();
    (world, access)
}

pub(crate) fn properties(app_id: &str) -> Vec<u8> {
    let properties =
        Properties { delivery_mode: Some(2), app_id: Some(app_id), ..Properties::default() };
    let mut encoded = Vec::new();
    properties.encode(&mut encoded).unwrap();
    encoded
}

/// Posts messages that stay, from the client `me`.
pub(crate) fn post(access: &Access, queue: &str, bodies: &[&str]) -> Posted {
    let properties = properties("me");
    let post = |body: &&str| (*body).to_owned();
    let bodies: Vec<String> = bodies.iter().map(post).collect();
    let batch: Vec<Post<'_>> = bodies
        .iter()
        .map(|body| Post {
            properties: &properties,
            body: body.as_bytes(),
            expires: None,
            not_before: None,
        })
        .collect();
    access.post(queue, &batch, access.now()).unwrap()
}

pub(crate) fn bodies(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(|one| String::from_utf8_lossy(one.message.body()).into_owned()).collect()
}

pub(crate) fn sequences(seen: &[Seen]) -> Vec<Sequence> {
    seen.iter().map(|one| one.sequence).collect()
}
