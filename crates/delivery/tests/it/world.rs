//! A broker with its tasks and a runner, over a store that can be closed and opened again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use broker::{
    Access, Broker, BrowseFilter, Clock, Confirmation, Output, Post, Quotas, Subscribe, Subscribed,
    Subscription, tasks,
};
use delivery::output::connection::Tls;
use delivery::output::webhook::Webhook;
use delivery::sign::Secret;
use delivery::{Addresses, Counters, Defaults, Guard, Limits, Outputs, Resolver, Runner};
use model::Timestamp;
use posthouse_amqp::properties::Properties;
use posthouse_amqp::rewrite::Rewrite;
use serde_json::Value;
use store::embedded::{Embedded, Options};
use store::{Catalog, Memory, Pool};
use tokio::task::JoinSet;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long an attempt may take where none hangs; longer than anybody waits for one.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The server's signing secret.
pub(crate) fn server_secret() -> Secret {
    Secret::from_bytes(vec![9; 32]).unwrap()
}

#[derive(Debug)]
struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp(since.as_millis() as u64)
    }
}

pub(crate) struct World {
    pub(crate) broker: Arc<Broker>,
    pub(crate) access: Access,
    pub(crate) counters: Arc<Counters>,
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn in_memory() -> Self {
        Self::over(Memory::new(), TIMEOUT)
    }

    pub(crate) fn with_timeout(timeout: Duration) -> Self {
        Self::over(Memory::new(), timeout)
    }

    pub(crate) fn on_disk(path: &Path) -> Self {
        let store = Embedded::open(path, Options::default()).unwrap();
        Self::over(store, TIMEOUT)
    }

    fn over<S: Pool + Catalog + 'static>(store: S, timeout: Duration) -> Self {
        let store = Arc::new(store);
        let (pool, catalog) = (Arc::clone(&store) as Arc<dyn Pool>, store as Arc<dyn Catalog>);
        let broker = Broker::open(pool, catalog, Arc::new(WallClock), Quotas::default()).unwrap();
        let allow = vec!["127.0.0.0/8".parse().unwrap()];
        let guard = Arc::new(Guard {
            addresses: Addresses { allow, ..Addresses::default() },
            ports: vec!["1-65535".parse().unwrap()],
        });
        let resolver = Resolver::new(&["127.0.0.1:9".parse().unwrap()]).unwrap();
        let tls = Tls::new(None, Some(b"http/1.1")).unwrap();
        let outputs = Outputs {
            webhook: Webhook::new(Arc::clone(&guard), resolver, tls, timeout),
            smtp: None,
        };
        let defaults = Defaults {
            guard,
            mail_from: None,
            secrets: vec![server_secret()],
            settle_url: Some("http://posthouse.test".into()),
            shown_name: delivery::as_it_is,
        };
        let limits = Limits {
            attempts_max: 1024,
            bytes_max: 16 * 1024 * 1024,
            per_subscription_max: 4,
            answer_bytes_max: 64 * 1024,
            unsettled_max: 100,
            unsettled_per_subscription_max: 10,
            unsettled_bytes_max: 1024 * 1024,
        };
        let runner = Runner::new(Arc::clone(&broker), outputs, defaults, None, limits);
        let counters = runner.counters();
        let mut tasks = JoinSet::new();
        tasks.spawn(tasks::sweep(Arc::clone(&broker)));
        tasks.spawn(tasks::follow_hints(Arc::clone(&broker)));
        tasks.spawn(runner.run());
        let access = broker.enter_service_or_create("project", 10).unwrap();
        access.ensure_queue("q", broker.now()).unwrap();
        Self { broker, access, counters, tasks }
    }

    /// Stops everything, in the middle of whatever runs.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
        drop(self.access);
        assert_eq!(Arc::strong_count(&self.broker), 1, "somebody still has the broker");
    }

    pub(crate) fn subscribe(&self, subscriber: &str, options: &Value) -> Arc<Subscription> {
        let options = options.to_string();
        let subscribe = Subscribe {
            subscriber,
            options: options.as_bytes(),
            ttl_ms: 3_600_000,
            confirmation: Confirmation::NotNeeded,
            output: Output::Delivery,
        };
        match self.access.subscribe("q", &subscribe, self.broker.now()).unwrap() {
            Subscribed::New(subscription, _) => subscription,
            Subscribed::Exists(_) => panic!("{subscriber} is new"),
        }
    }

    /// Posts JSON with a time to live of 300 s.
    pub(crate) async fn post(&self, body: &str) {
        let properties = Properties {
            content_type: Some("application/json"),
            delivery_mode: Some(2),
            expiration: Some("300000"),
            ..Properties::default()
        };
        let mut encoded = Vec::new();
        properties.encode(&mut encoded).unwrap();
        let (properties, body) = (encoded.as_slice(), body.as_bytes());
        let post = Post { properties, body, expires: None, not_before: None };
        let posted = self.access.post("q", &[post], self.broker.now()).unwrap();
        self.broker.watch().until_durable(posted.ticket).await.unwrap();
    }

    /// Bodies of what is in a queue, and its headers as text; nothing if there is no such queue.
    pub(crate) fn content(&self, queue: &str) -> Vec<(String, Vec<(String, String)>)> {
        let filter = BrowseFilter::default();
        let Ok(found) = self.access.browse(queue, None, 100, filter, self.broker.now()) else {
            return Vec::new();
        };
        let read = |message: &model::Message| {
            let headers = Rewrite::of(message.properties()).unwrap().headers();
            let headers = headers.map(|raw| raw.decode().unwrap()).unwrap_or_default();
            let text = |value: &posthouse_amqp::Value| match value.as_i64() {
                Some(number) => number.to_string(),
                None => value.as_str().unwrap_or("?").to_owned(),
            };
            let headers = headers.iter().map(|(name, value)| (name.to_owned(), text(value)));
            (String::from_utf8(message.body().to_vec()).unwrap(), headers.collect())
        };
        found.messages.iter().map(|seen| read(&seen.message)).collect()
    }
}

/// Looks until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        looks.tick().await;
    }
}
