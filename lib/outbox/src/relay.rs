//! The relay: leases what is due, has it sent, settles.
//!
//! | file | concept |
//! |---|---|
//! | `lane` | one connection's loop: settle, lease, wait |
//! | `settle` | what became of messages is written down |
//! | `flight` | one message on its way, and what is behind it in its key |
//! | `keys` | keys that are passed over for the moment, and keys to be looked at first |
//! | `scan` | where among the due rows the next look begins |
//!
//! Any number of relays may work on one outbox, in one process or many: a row is leased to one of them, and what a relay
//! says about a lease that it has lost counts nothing.

mod flight;
mod keys;
mod lane;
mod scan;
mod settle;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::dialect::{Dialect, Keep};
use crate::schedule::Schedule;
use crate::transport::Routes;
use keys::Keys;
use lane::Lane;
use scan::Scan;

/// How a relay works. The defaults are meant to be kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// When a failed message is tried again, and how often.
    pub schedule: Schedule,
    /// Most messages that a lane leases at once; it has at most half as many more under way. 1 to 10 000, default 500.
    pub batch: u32,
    /// Connections to the database. 1 to 16, default 3: one leases while others settle or wait for the disk.
    pub lanes: u32,
    /// How long a message may take to be sent, once its turn has come ([`crate::Transport::at_once`]). Default 30 s.
    pub send_timeout: Duration,
    /// How long a lease lasts, and so how long the messages of a relay that died wait for another. At least twice
    /// `send_timeout`; default 90 s.
    pub lease: Duration,
    /// How long delivered, expired and cancelled rows stay, and with them their dedupe ids; zero removes delivered rows
    /// at once. Dead letters stay until they are purged. Default 1 day.
    pub retention: Duration,
    /// How long inbox rows stay: duplicates that come later are not recognised. Must be longer than senders try.
    /// Default 14 days; `None` leaves them to somebody else.
    pub inbox_retention: Option<Duration>,
    /// Longest time between two looks when nothing happens. Default 1250 ms.
    pub idle: Duration,
    /// How long messages under way may still take when the relay is stopped. Default 10 s.
    pub farewell: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            schedule: Schedule::default(),
            batch: 500,
            lanes: 3,
            send_timeout: Duration::from_secs(30),
            lease: Duration::from_secs(90),
            retention: Duration::from_secs(24 * 3600),
            inbox_retention: Some(Duration::from_secs(14 * 24 * 3600)),
            idle: Duration::from_millis(1250),
            farewell: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// What cannot be is made the nearest that can.
    fn bounded(mut self) -> Self {
        self.batch = self.batch.clamp(1, 10_000);
        self.lanes = self.lanes.clamp(1, 16);
        self.schedule.attempts = self.schedule.attempts.max(1);
        self.send_timeout = self.send_timeout.min(Duration::from_secs(3600));
        self.lease = self.lease.clamp(self.send_timeout * 2, Duration::from_secs(24 * 3600));
        self.idle = self.idle.max(Duration::from_millis(10));
        self
    }
}

/// What a relay has done since it was made.
#[derive(Debug, Default)]
pub struct Counters {
    delivered: AtomicU64,
    failed: AtomicU64,
    dead: AtomicU64,
    expired: AtomicU64,
    released: AtomicU64,
    looks: AtomicU64,
}

impl Counters {
    /// Messages that were sent and confirmed.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Attempts that failed and will be repeated.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Messages that were given up.
    #[must_use]
    pub fn dead(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// Messages whose time was over.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Leases given back untried: the far end was away, or what was before it in its key failed.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    /// Times the database was asked for due messages.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }
}

/// Sends what is in an outbox. Made by [`crate::Outbox::relay`].
pub struct Relay<D: Dialect> {
    pool: Pool<D>,
    shared: Arc<Shared>,
}

/// What the lanes of a relay share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) keep: Keep,
    pub(crate) routes: Routes,
    pub(crate) counters: Arc<Counters>,
    pub(crate) keys: Keys,
    pub(crate) scan: Scan,
    /// Something may be due.
    pub(crate) wake: Arc<Notify>,
    /// There is more than one lane can do.
    pub(crate) more: Notify,
    pub(crate) stopping: watch::Sender<bool>,
}

impl<D: Dialect> Relay<D> {
    pub(crate) fn new(
        pool: Pool<D>,
        wake: Arc<Notify>,
        routes: Routes,
        settings: Settings,
    ) -> Self {
        let settings = settings.bounded();
        let keep = match settings.retention.is_zero() {
            true => Keep::Nothing,
            false => Keep::Finished,
        };
        let shared = Shared {
            settings,
            keep,
            routes,
            counters: Arc::default(),
            keys: Keys::default(),
            scan: Scan::default(),
            wake,
            more: Notify::new(),
            stopping: watch::Sender::new(false),
        };
        Self { pool, shared: Arc::new(shared) }
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Relays until `shutdown` is ready; then finishes what is under way, at most for [`Settings::farewell`].
    ///
    /// It opens connections of its own with the options of the pool, and opens them again when they break. Dropping the
    /// future is safe as well: what was under way is sent again when its lease is over, so perhaps twice.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let mut lanes = JoinSet::new();
        for number in 0..self.shared.settings.lanes {
            let lane = Lane::<D>::new(number, self.pool.clone(), Arc::clone(&self.shared));
            lanes.spawn(lane.run());
        }
        shutdown.await;
        self.shared.stopping.send_replace(true);
        let ended = async { while lanes.join_next().await.is_some() {} };
        if tokio::time::timeout(self.shared.settings.farewell, ended).await.is_err() {
            tracing::warn!(
                "messages that were under way are sent again when their leases are over"
            );
        }
    }
}

impl<D: Dialect> fmt::Debug for Relay<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("shared", &self.shared).finish_non_exhaustive()
    }
}
