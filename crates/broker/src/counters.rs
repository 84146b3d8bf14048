//! What happened since the start, as counters for the metrics.
//!
//! Added to per batch, not per message. Relaxed atomics: each is a figure of its own.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters that only grow.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Counter,)* }
    };
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number now.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Messages published by clients.
    published,
    /// Of them on channels in confirm mode.
    published_confirm,
    /// Copies put into queues.
    routed,
    /// Publishes confirmed to their publishers.
    confirmed,
    /// Publishes refused to their publishers.
    nacked,
    /// Publishes that reached no queue and were dropped.
    unroutable_dropped,
    /// Publishes that reached no queue and were returned.
    unroutable_returned,
    /// Messages sent to consumers that acknowledge.
    delivered,
    /// Messages sent to consumers that do not acknowledge.
    delivered_no_ack,
    /// Messages fetched one by one, to be acknowledged.
    fetched,
    /// Messages fetched one by one, settled at once.
    fetched_no_ack,
    /// Fetches that found nothing.
    fetched_nothing,
    /// Messages sent that may have been sent before.
    redelivered,
    /// Deliveries acknowledged.
    acknowledged,
    /// Messages that expired.
    expired,
    /// Messages dead-lettered because they were refused.
    dead_lettered_rejected,
    /// Messages dead-lettered because they expired.
    dead_lettered_expired,
    /// Messages dead-lettered because their queue was full.
    dead_lettered_maxlen,
    /// Messages dead-lettered because they were tried too often.
    dead_lettered_delivery_limit,
    /// Messages put into a parking queue because nothing else was said about them.
    parked,
    /// Messages that left a parking queue because it was full or their time there was over.
    parked_lost,
    /// Connections opened.
    connections_opened,
    /// Connections closed.
    connections_closed,
    /// Channels opened.
    channels_opened,
    /// Channels closed.
    channels_closed,
    /// Queue declarations.
    queues_declared,
    /// Queues made by them.
    queues_created,
    /// Queues deleted.
    queues_deleted,
    /// Logins that succeeded.
    logins,
    /// Logins that failed.
    logins_failed,
    /// Of them, without looking at the password, after many wrong ones.
    logins_throttled,
    /// Publishes recognised as repeated.
    duplicates,
    /// Bytes read from clients.
    bytes_received,
    /// Bytes written to clients.
    bytes_sent,
}
