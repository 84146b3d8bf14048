//! What is measured, and where Prometheus and probes read it.
//!
//! Names are RabbitMQ's wherever it has one, so that its dashboards and alerts work; `posthouse_…` where it has none.
//! The broker counts in its own atomics and hands a plain [`Snapshot`] over per scrape: nothing here is on the hot path.

pub mod exposition;
pub mod http;
mod per_queue;

use store::embedded::SyncTimes;

pub use http::{Endpoint, Observed};

/// Most queues that `/metrics/per-object` shows. Beyond them, Prometheus would suffer more than the reader would learn.
pub const QUEUES_SHOWN_MAX: usize = 20_000;

/// Whoever knows the numbers.
pub trait MetricsSource: Send + Sync + 'static {
    /// Everything over all tenants. Called once per scrape, on a thread that may block shortly.
    fn snapshot(&self) -> Snapshot;

    /// At most `max` queues, and how many there are in all. Called once per scrape of `/metrics/per-object`.
    fn queues(&self, max: usize) -> (Vec<QueueSample>, usize);

    /// Whether clients are served: recovered, listening, and not stopping.
    fn is_ready(&self) -> bool;

    /// Whether the process should be left alone; `false` asks a supervisor to restart it.
    fn is_alive(&self) -> bool {
        true
    }
}

/// Numbers over all tenants.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// What there is now.
    pub now: Standing,
    /// What happened since the start.
    pub since_start: Totals,
    /// What the store does.
    pub store: StoreNumbers,
    /// What is delivered to subscribers.
    pub delivery: DeliveryNumbers,
    /// What came to the inbox.
    pub inbox: InboxNumbers,
}

/// What came to the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each is what its name says; see `door::inbox::Counters`")]
pub struct InboxNumbers {
    pub accepted: u64,
    pub duplicates: u64,
    pub refused: u64,
    pub unroutable: u64,
    pub unavailable: u64,
    pub connections: u64,
}

/// What is delivered to subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each is what its name says; see `delivery::Counters`")]
pub struct DeliveryNumbers {
    pub attempts: u64,
    pub delivered: u64,
    pub failed: u64,
    pub given_up: u64,
    pub filtered: u64,
    pub unanswered: u64,
    /// Answers that went to whoever asked.
    pub answers: u64,
    /// Answers that had nowhere to go.
    pub answers_nowhere: u64,
    /// Messages settled by name.
    pub settled_later: u64,
    /// Messages that wait to be settled by name.
    pub unsettled: u64,
    pub running: u64,
    pub waiting: u64,
    pub resting: u64,
}

/// What there is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each is what its name says, counted over all tenants")]
pub struct Standing {
    pub tenants: u64,
    pub connections: u64,
    pub channels: u64,
    pub consumers: u64,
    /// Channels that have published.
    pub publishers: u64,
    pub queues: u64,
    pub exchanges: u64,
    pub bindings: u64,
    pub messages_ready: u64,
    pub messages_unacked: u64,
    pub message_bytes_ready: u64,
    pub message_bytes_unacked: u64,
    /// Waiting for their time: delayed messages and retries.
    pub messages_delayed: u64,
    /// Confirms that wait for the disk.
    pub messages_unconfirmed: u64,
    /// Connections that an alarm blocks.
    pub connections_blocked: u64,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each is what its name says, counted over all tenants")]
pub struct Totals {
    pub connections_opened: u64,
    pub connections_closed: u64,
    pub channels_opened: u64,
    pub channels_closed: u64,
    pub queues_declared: u64,
    pub queues_created: u64,
    pub queues_deleted: u64,
    /// Published by clients.
    pub received: u64,
    /// Published on channels in confirm mode.
    pub received_confirm: u64,
    /// Copies put into queues.
    pub routed: u64,
    pub confirmed: u64,
    /// Refused by confirm: nacked.
    pub nacked: u64,
    pub unroutable_dropped: u64,
    pub unroutable_returned: u64,
    pub delivered_consume_manual_ack: u64,
    pub delivered_consume_auto_ack: u64,
    pub delivered_get_manual_ack: u64,
    pub delivered_get_auto_ack: u64,
    pub get_empty: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
    pub dead_lettered_expired: u64,
    pub dead_lettered_rejected: u64,
    pub dead_lettered_maxlen: u64,
    pub dead_lettered_delivery_limit: u64,
    /// Publishes that were confirmed without a copy, because their `x-dedup-id` was known.
    pub deduplicated: u64,
    pub auth_succeeded: u64,
    pub auth_failed: u64,
    pub auth_throttled: u64,
    pub parked: u64,
    pub parked_lost: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
}

/// What the store does.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoreNumbers {
    /// How long each fdatasync took.
    pub syncs: SyncTimes,
    /// Bytes written to the log since the start.
    pub bytes_written: u64,
    /// Commits accepted since the start.
    pub commits: u64,
    /// Bytes of the log on disk now.
    pub disk_bytes: u64,
    /// Segments on disk now.
    pub segments: u64,
    /// Records found damaged since the start.
    pub records_damaged: u64,
}

/// One queue, for `/metrics/per-object`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "each is what its name says")]
pub struct QueueSample {
    pub tenant: String,
    pub queue: String,
    pub messages_ready: u64,
    pub messages_unacked: u64,
    pub message_bytes: u64,
    pub consumers: u64,
    /// Copies enqueued since the start.
    pub published: u64,
    pub delivered: u64,
    pub redelivered: u64,
    pub acknowledged: u64,
}
