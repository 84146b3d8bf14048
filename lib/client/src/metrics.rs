//! What is counted, in the form that Prometheus reads.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Bounds in seconds of how long handlers take.
const HANDLER_BOUNDS_SECS: [f64; 11] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0];

/// Which queue a figure belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueLabel {
    /// Name of the queue.
    pub queue: String,
}

/// The counters of a client and of what it serves. Clones count together.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Metrics {
    /// Messages written to a connection; one that is sent again counts again.
    pub published: Counter,
    /// Messages that the broker has for good.
    pub confirmed: Counter,
    /// Messages that met no queue.
    pub returned: Counter,
    /// Messages that the broker refused.
    pub refused: Counter,
    /// Connections that were opened.
    pub connections: Counter,
    /// Whether the connection stands (1) or not (0), for each of the application's connections together.
    pub connected: Gauge<i64, AtomicI64>,
    /// Of those, how many the broker has told to send no messages for now.
    pub blocked: Gauge<i64, AtomicI64>,
    /// Calls of handlers, by queue: one per attempt at a message, or at a batch of them.
    pub attempts: Family<QueueLabel, Counter>,
    /// Messages handled well.
    pub acked: Family<QueueLabel, Counter>,
    /// Messages put back, to be tried again later.
    pub retried: Family<QueueLabel, Counter>,
    /// Times that a consumer was told to take nothing for a while.
    pub paused: Family<QueueLabel, Counter>,
    /// Messages given up.
    pub dead_lettered: Family<QueueLabel, Counter>,
    /// Messages dropped on purpose.
    pub dropped: Family<QueueLabel, Counter>,
    /// How long handlers take, in seconds.
    pub handling: Family<QueueLabel, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            published: Counter::default(),
            confirmed: Counter::default(),
            returned: Counter::default(),
            refused: Counter::default(),
            connections: Counter::default(),
            connected: Gauge::default(),
            blocked: Gauge::default(),
            attempts: Family::default(),
            acked: Family::default(),
            retried: Family::default(),
            paused: Family::default(),
            dead_lettered: Family::default(),
            dropped: Family::default(),
            handling: Family::new_with_constructor(|| Histogram::new(HANDLER_BOUNDS_SECS)),
        }
    }
}

impl Metrics {
    /// Adds everything to a registry, under names that begin with `posthouse_client_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("posthouse_client");
        let counters = [
            ("published", "messages written to a connection", &self.published),
            ("confirmed", "messages that the broker has for good", &self.confirmed),
            ("returned", "messages that met no queue", &self.returned),
            ("refused", "messages that the broker refused", &self.refused),
            ("connections", "connections that were opened", &self.connections),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("connected", "connections that stand", self.connected.clone());
        let help = "connections on which the broker takes no messages for now";
        registry.register("blocked", help, self.blocked.clone());
        let families = [
            ("attempts", "calls of handlers", &self.attempts),
            ("acked", "messages handled well", &self.acked),
            ("retried", "messages to be tried again later", &self.retried),
            ("paused", "times that a consumer was told to take nothing for a while", &self.paused),
            ("dead_lettered", "messages given up", &self.dead_lettered),
            ("dropped", "messages dropped on purpose", &self.dropped),
        ];
        for (name, help, family) in families {
            registry.register(name, help, family.clone());
        }
        registry.register("handling_seconds", "how long handlers take", self.handling.clone());
    }
}

/// The counters of one queue, looked up once.
#[derive(Debug, Clone)]
pub(crate) struct QueueMetrics {
    pub(crate) attempts: Counter,
    pub(crate) acked: Counter,
    pub(crate) retried: Counter,
    pub(crate) paused: Counter,
    pub(crate) dead_lettered: Counter,
    pub(crate) dropped: Counter,
    pub(crate) handling: Histogram,
}

impl QueueMetrics {
    pub(crate) fn of(metrics: &Metrics, queue: &str) -> Self {
        let label = QueueLabel { queue: queue.to_owned() };
        Self {
            attempts: metrics.attempts.get_or_create(&label).clone(),
            acked: metrics.acked.get_or_create(&label).clone(),
            retried: metrics.retried.get_or_create(&label).clone(),
            paused: metrics.paused.get_or_create(&label).clone(),
            dead_lettered: metrics.dead_lettered.get_or_create(&label).clone(),
            dropped: metrics.dropped.get_or_create(&label).clone(),
            handling: metrics.handling.get_or_create(&label).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_written_as_prometheus_reads_it() {
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.published.inc_by(3);
        QueueMetrics::of(&metrics, "orders").acked.inc();

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();

        for line in [
            "posthouse_client_published_total 3",
            "posthouse_client_acked_total{queue=\"orders\"} 1",
            "posthouse_client_connected 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
