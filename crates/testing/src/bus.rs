//! The bus that a test holds.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use broker::{Broker, Clock};
use posthouse_client::{App, Client, Options, Router};
use tempfile::TempDir;

use crate::clock::TestClock;
use crate::queue::TestQueue;
use crate::recorder::Recorder;
use crate::server_thread::{End, ServerThread};

/// How long the bus may take to become quiet before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long consumers may take to come back after a crash.
const RETURN_WITHIN: Duration = Duration::from_secs(20);

/// How often the bus is looked at, and how often in a row nothing may go on before it is quiet.
///
/// Together longer than a commit takes to become durable and be handed out. Looks and not time are counted, because they take
/// longer on a busy machine, as all the rest does.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const QUIET_LOOKS: u32 = 40;

/// A Posthouse in this process, on a free port of the loopback, in a folder that goes with it.
///
/// Tests that use it need a runtime with several threads: `#[tokio::test(flavor = "multi_thread")]`.
#[derive(Debug)]
pub struct TestBus {
    server: Mutex<Option<ServerThread>>,
    client: Client,
    clock: Arc<TestClock>,
    settings: Vec<String>,
    address: SocketAddr,
    folder: TempDir,
}

impl TestBus {
    /// Starts it with the default settings: AMQP alone, user guest.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts it with more settings, each `key=value` as for `posthouse serve --set`.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn start_with(settings: &[&str]) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let clock = Arc::new(TestClock::start());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let path = folder.path().to_owned();
        let server = blocking({
            let (settings, clock) = (settings.clone(), Arc::clone(&clock));
            move || ServerThread::start(&path, any, &settings, clock)
        })
        .await;
        let address = server.address;
        let client = connected(&url_of(address)).await;
        let server = Mutex::new(Some(server));
        Self { server, client, clock, settings, address, folder }
    }

    /// Where it listens; stays the same over crashes.
    #[must_use]
    pub fn url(&self) -> String {
        url_of(self.address)
    }

    /// Where it listens with TLS, if a setting says that it does.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.lock().as_ref().and_then(|server| server.tls)
    }

    /// Where its queue service listens, if a setting says that it does.
    #[must_use]
    pub fn queues_address(&self) -> Option<SocketAddr> {
        self.lock().as_ref().and_then(|server| server.queues)
    }

    /// A connection of the test's own.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Serves a router on a connection that comes back quickly after a crash.
    ///
    /// # Panics
    ///
    /// If it cannot be served.
    pub async fn serve(&self, router: Router) -> App {
        match App::start(&self.url(), router, quick("app")).await {
            Ok(app) => app,
            Err(error) => panic!("the router cannot be served: {error}"),
        }
    }

    /// Keeps a copy of everything that is published to an exchange from now on, as far as its key matches.
    ///
    /// # Panics
    ///
    /// If there is no such exchange.
    pub async fn record(&self, exchange: &str, key: &str) -> Recorder<'_> {
        Recorder::start(self, exchange, key).await
    }

    /// A queue, to look into.
    #[must_use]
    pub fn queue(&self, name: &str) -> TestQueue {
        TestQueue::new(&self.broker(), self.clock.now(), name)
    }

    /// Lets so much time pass for the broker: delays, times to live and retries that end within it end, one after the
    /// other, and everybody has time to do what follows. Time of the test's own does not move.
    ///
    /// # Panics
    ///
    /// If the bus does not become quiet.
    pub async fn advance(&self, time: Duration) {
        let until = self.clock.now().after(time);
        loop {
            self.quiet().await;
            let next = self.broker().sweep_now().filter(|next| *next <= until);
            let Some(next) = next else { break };
            self.clock.jump_to(next);
            self.broker().sweep_now();
        }
        self.clock.jump_to(until);
        self.broker().sweep_now();
        self.quiet().await;
    }

    /// Waits until nothing happens by itself: no consumer has a message or could get one, no publisher waits.
    ///
    /// # Panics
    ///
    /// If that does not come to pass within a minute.
    pub async fn quiet(&self) {
        let began = Instant::now();
        let mut quiet_looks = 0;
        while quiet_looks < QUIET_LOOKS {
            quiet_looks += 1;
            if let Some(busy) = self.busy() {
                quiet_looks = 0;
                assert!(began.elapsed() < PATIENCE, "the bus does not become quiet: {busy}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What is going on, if anything.
    fn busy(&self) -> Option<String> {
        let (unconfirmed, _) = self.client.unconfirmed();
        if unconfirmed > 0 {
            return Some(format!("{unconfirmed} messages of the test are not confirmed"));
        }
        let broker = self.broker();
        broker.all_queues().iter().find_map(|queue| {
            let stats = broker.stats(queue).ok().filter(|_| !queue.is_stream())?;
            let consumers = queue.consumer_count();
            let waiting = stats.leased > 0 || (stats.ready > 0 && consumers > 0);
            waiting.then(|| {
                let name = &queue.name;
                let (ready, leased) = (stats.ready, stats.leased);
                format!("`{name}` has {ready} ready, {leased} delivered, {consumers} consumers")
            })
        })
    }

    /// How often handlers of an app were called for messages of a queue.
    #[must_use]
    pub fn attempts(&self, app: &App, queue: &str) -> u64 {
        let label = posthouse_client::QueueLabel { queue: queue.to_owned() };
        app.metrics().attempts.get_or_create(&label).get()
    }

    /// Asserts how often handlers of an app were called for messages of a queue.
    ///
    /// # Panics
    ///
    /// If it was another number.
    pub fn assert_attempts(&self, app: &App, queue: &str, expected: u64) {
        assert_eq!(self.attempts(app, queue), expected, "attempts at messages of `{queue}`");
    }

    /// Ends the server as `kill -9` would, starts it again on what is left, and waits until the test's own connection
    /// stands and every queue has as many consumers as before.
    ///
    /// # Panics
    ///
    /// If it does not start again.
    pub async fn crash_and_restart(&self) {
        self.restart(End::Suddenly).await;
    }

    /// Ends the server as SIGTERM would, and starts it again.
    ///
    /// # Panics
    ///
    /// If it does not start again.
    pub async fn stop_and_restart(&self) {
        self.restart(End::Gently).await;
    }

    async fn restart(&self, how: End) {
        let consumers = self.consumers();
        let server = self.lock().take().expect("a server");
        let (path, address) = (self.folder.path().to_owned(), self.address);
        let (settings, clock) = (self.settings.clone(), Arc::clone(&self.clock));
        let server = blocking(move || {
            server.end(how);
            ServerThread::start(&path, address, &settings, clock)
        })
        .await;
        *self.lock() = Some(server);
        // The old connection may not have noticed yet: an answer proves that there is a new one.
        let began = Instant::now();
        while self.client.plan(&probe()).await.is_err() {
            assert!(began.elapsed() < PATIENCE, "the test's connection does not come back");
            self.client.until_connected().await;
        }
        // An app that the test has dropped does not come back; there is nothing wrong with that.
        let began = Instant::now();
        let missing = |(queue, count): &(Arc<str>, usize)| {
            let now = self.consumers().into_iter().find(|(found, _)| found == queue);
            now.is_none_or(|(_, present)| present < *count)
        };
        while began.elapsed() < RETURN_WITHIN && consumers.iter().any(missing) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Queues that have consumers, and how many.
    fn consumers(&self) -> Vec<(Arc<str>, usize)> {
        let queues = self.broker().all_queues();
        let counted = queues.iter().map(|queue| (Arc::clone(&queue.name), queue.consumer_count()));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn broker(&self) -> Arc<Broker> {
        Arc::clone(&self.lock().as_ref().expect("a server that runs").broker)
    }

    fn lock(&self) -> MutexGuard<'_, Option<ServerThread>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to a server that has just started; on a starved machine not the first one that is tried.
async fn connected(url: &str) -> Client {
    let began = Instant::now();
    loop {
        match Client::connect_with(url, quick("test")).await {
            Ok(client) => return client,
            Err(error) => {
                assert!(began.elapsed() < PATIENCE, "no connection to the server: {error}");
            }
        }
    }
}

/// Something that every broker has.
fn probe() -> posthouse_client::Topology {
    posthouse_client::Topology::new().exchange(posthouse_client::Exchange::topic("amq.topic"))
}

fn url_of(address: SocketAddr) -> String {
    format!("amqp://guest:guest@{address}")
}

/// Limits that suit a broker which is back in a moment.
fn quick(name: &str) -> Options {
    Options::default()
        .named(name)
        .reconnect(Duration::from_millis(10), Duration::from_millis(100))
        .drain_within(Duration::from_secs(10))
}

/// Runs what blocks where that hinders nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("the test's runtime ends: {error}"),
        },
    }
}
