//! Stays awake while traffic is live.
//!
//! A processor that falls asleep between two messages takes tens of microseconds to wake, in a virtual machine fifty and
//! more: longer than the broker needs for the message, and half as long as the disk for a sync. So while things happen
//! in quick succession one task keeps asking the runtime for more, instead of letting it sleep. Each time it gives the
//! processor to whoever else wants it, and it ends as soon as nothing has happened for a moment. If others keep the
//! processor for long when it is given away, there is none to spare, and nobody watches for a while. An idle broker
//! never does.
//!
//! Where `runtime.processors_awake` says so, the other processors are kept from sleeping as well: those of clients on the
//! same machine, which have to wake for what the broker sends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use crate::processors::ProcessorsAwake;

/// So many events are looked at together.
const EVENTS: u64 = 8;

/// Traffic is live if they happen within this time.
const LIVE_WITHIN: Duration = Duration::from_millis(2);

/// The processor is contended if it comes back later than this. The store's writer keeps it for less.
const CONTENDED: Duration = Duration::from_micros(500);

/// Processors stay awake so long after the last watch: to ask for it wakes each of them.
const LINGER: Duration = Duration::from_secs(1);

/// How long nobody watches after that.
const REST: Duration = Duration::from_millis(100);

/// Counts what happens, and stays awake for what comes next.
#[derive(Debug)]
pub(crate) struct Vigil {
    /// Longest time without an event that is spent awake; zero is off.
    patience: Duration,
    /// Whether the other processors stay awake, too.
    processors_awake: bool,
    began: Instant,
    events: AtomicU64,
    /// When the last [`EVENTS`] were complete, in microseconds since `began`.
    complete_at: AtomicU64,
    awake: AtomicBool,
    wanted: Notify,
}

impl Vigil {
    /// Waits awake for up to `patience`, zero is off; with `processors_awake` none of the machine sleeps meanwhile.
    pub(crate) fn new(patience: Duration, processors_awake: bool) -> Self {
        Self {
            patience,
            processors_awake,
            began: Instant::now(),
            events: AtomicU64::new(0),
            complete_at: AtomicU64::new(0),
            awake: AtomicBool::new(false),
            wanted: Notify::new(),
        }
    }

    /// Something happened: input came, output left, data became durable.
    pub(crate) fn note(&self) {
        let events = self.events.fetch_add(1, Ordering::Relaxed) + 1;
        let asleep = !self.awake.load(Ordering::Relaxed) && !self.patience.is_zero();
        if asleep && events.is_multiple_of(EVENTS) {
            let now = self.began.elapsed();
            let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
            let before = Duration::from_micros(self.complete_at.swap(micros, Ordering::Relaxed));
            if now.saturating_sub(before) <= LIVE_WITHIN {
                self.wanted.notify_one();
            }
        }
    }

    /// Watches whenever traffic is live, for ever.
    pub(crate) async fn keep(&self) {
        let mut may_request = self.processors_awake;
        loop {
            self.wanted.notified().await;
            let request = may_request.then(ProcessorsAwake::request).transpose();
            let request = request.unwrap_or_else(|error| {
                tracing::warn!(%error, "processors cannot be kept awake");
                may_request = false;
                None
            });
            loop {
                self.awake.store(true, Ordering::Relaxed);
                if self.watch().await == Ended::Contended {
                    sleep(REST).await;
                }
                self.awake.store(false, Ordering::Relaxed);
                if request.is_none() || timeout(LINGER, self.wanted.notified()).await.is_err() {
                    break;
                }
            }
        }
    }

    /// Returns when it should end.
    async fn watch(&self) -> Ended {
        let mut seen = self.events.load(Ordering::Relaxed);
        let mut last = Instant::now();
        loop {
            // The runtime asks the system for input, without waiting for it, and runs what became ready.
            yield_now().await;
            let events = self.events.load(Ordering::Relaxed);
            let now = Instant::now();
            if events != seen {
                (seen, last) = (events, now);
            } else if now.duration_since(last) > self.patience {
                return Ended::Quiet;
            }
            std::thread::yield_now();
            if now.elapsed() > CONTENDED {
                return Ended::Contended;
            }
        }
    }
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Nothing happened any more.
    Quiet,
    /// Others need the processor.
    Contended,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Whether somebody watches before `within` is over.
    async fn awakes(vigil: &Vigil, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            if vigil.awake.load(Ordering::Relaxed) {
                return true;
            }
            yield_now().await;
        }
        false
    }

    #[tokio::test]
    async fn traffic_is_watched_while_it_is_live_and_no_longer() {
        let vigil = Arc::new(Vigil::new(Duration::from_millis(1), false));
        let keeper = Arc::clone(&vigil);
        let task = tokio::spawn(async move { keeper.keep().await });

        (0..2 * EVENTS).for_each(|_| vigil.note());

        assert!(awakes(&vigil, Duration::from_secs(10)).await);
        let deadline = Instant::now() + Duration::from_secs(10);
        while vigil.awake.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "still awake although nothing happens");
            yield_now().await;
        }
        task.abort();
    }

    #[tokio::test]
    async fn a_patience_of_zero_never_watches() {
        let vigil = Arc::new(Vigil::new(Duration::ZERO, false));
        let keeper = Arc::clone(&vigil);
        let task = tokio::spawn(async move { keeper.keep().await });

        (0..10 * EVENTS).for_each(|_| vigil.note());

        assert!(!awakes(&vigil, Duration::from_millis(5)).await);
        task.abort();
    }
}
