//! The brokers that every scenario runs on.

use std::future::Future;
use std::time::{Duration, Instant};

use posthouse_client::{Client, Options};
use posthouse_testing::TestBus;

/// The longest that anything may take before a test gives up; generous, because test machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a scenario on a Posthouse of its own and on the RabbitMQ of this test program.
///
/// The scenario gets an address and a prefix for names, because RabbitMQ's queues outlive it.
pub(crate) async fn on_both<F: Future<Output = ()>>(scenario: impl Fn(String, String) -> F) {
    let bus = TestBus::start().await;
    scenario(bus.url(), "t".to_owned()).await;
    if let Some(url) = rabbitmq().await {
        let unique = std::thread::current().name().unwrap_or("test").replace("::", "-");
        scenario(url, unique).await;
    }
}

/// A client that comes back quickly.
pub(crate) async fn client(url: &str) -> Client {
    Client::connect_with(url, options()).await.unwrap()
}

pub(crate) fn options() -> Options {
    Options::default()
        .reconnect(Duration::from_millis(20), Duration::from_millis(200))
        .drain_within(Duration::from_secs(10))
}

/// Looks again and again until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::task::yield_now().await;
    }
}

/// RabbitMQ's address; `None` if it is not installed here. It starts once in this test program.
pub(crate) async fn rabbitmq() -> Option<String> {
    // Its start takes longer than the other tasks of a thread should wait.
    let started = tokio::task::spawn_blocking(it::rabbitmq::rabbitmq).await.unwrap();
    started.map(|address| format!("amqp://guest:guest@{address}"))
}
