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
    /// Publishes confirmed to their publishers.
    confirmed,
    /// Publishes that reached no queue and were dropped.
    unroutable_dropped,
    /// Publishes that reached no queue and were returned.
    unroutable_returned,
    /// Messages sent to consumers that acknowledge.
    delivered,
    /// Messages sent to consumers that do not acknowledge.
    delivered_no_ack,
    /// Messages fetched one by one.
    fetched,
    /// Messages sent that may have been sent before.
    redelivered,
    /// Deliveries acknowledged.
    acknowledged,
    /// Messages that expired.
    expired,
    /// Messages dead-lettered to an exchange.
    dead_lettered,
    /// Messages put into a parking queue because nothing else was said about them.
    parked,
    /// Connections opened.
    connections_opened,
    /// Connections closed.
    connections_closed,
    /// Channels opened.
    channels_opened,
    /// Channels closed.
    channels_closed,
    /// Queues declared anew.
    queues_created,
    /// Queues deleted.
    queues_deleted,
    /// Logins that succeeded.
    logins,
    /// Logins that failed.
    logins_failed,
    /// Publishes recognised as repeated.
    duplicates,
}
