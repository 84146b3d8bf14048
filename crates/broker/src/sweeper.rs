//! What time has made ready: expired messages, delays that ended, idle queues.
//!
//! One task per broker. It asks the pool what is due and sleeps until the next deadline; publishers of an earlier one
//! wake it. A broker in which nothing waits for time runs no timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::{QueueId, Timestamp};
use tokio::sync::Notify;

use crate::broker::Broker;

/// Most expired messages handled in one go, so that others get the processor in between.
const EXPIRED_BATCH_MAX: usize = 512;

/// Longest sleep while a deadline is known: a queue's next head may be due earlier than the one that was asked about.
const NAP_MAX: Duration = Duration::from_millis(100);

/// Tells the sweeper about deadlines earlier than the one it sleeps towards.
#[derive(Debug)]
pub(crate) struct Alarm {
    next: AtomicU64,
    notify: Notify,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { next: AtomicU64::new(u64::MAX), notify: Notify::new() }
    }
}

impl Alarm {
    /// Something becomes due at `deadline`.
    pub(crate) fn set(&self, deadline: Timestamp) {
        if deadline.0 < self.next.load(Ordering::Acquire) {
            self.next.fetch_min(deadline.0, Ordering::AcqRel);
            self.notify.notify_one();
        }
    }
}

/// Runs until the future is dropped.
pub(crate) async fn run(broker: Arc<Broker>) {
    loop {
        broker.sweeper.next.store(u64::MAX, Ordering::Release);
        let next = sweep(&broker);
        if let Some(next) = next {
            broker.sweeper.next.fetch_min(next.0, Ordering::AcqRel);
        }
        let next = Timestamp(broker.sweeper.next.load(Ordering::Acquire));
        if next == Timestamp::MAX {
            broker.sweeper.notify.notified().await;
            continue;
        }
        let nap = next.since(broker.now()).clamp(Duration::from_millis(1), NAP_MAX);
        // Either outcome means: look again.
        drop(tokio::time::timeout(nap, broker.sweeper.notify.notified()).await);
    }
}

impl Broker {
    /// Handles everything that is due now, as the sweeper does in its time; returns when something will be next. For
    /// tests that move the clock.
    pub fn sweep_now(&self) -> Option<Timestamp> {
        sweep(self)
    }
}

/// Handles everything that is due; returns when something will be next.
fn sweep(broker: &Broker) -> Option<Timestamp> {
    loop {
        let now = broker.now();
        let due = match broker.pool.due(now, EXPIRED_BATCH_MAX).now() {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "cannot ask what is due");
                return None;
            }
        };
        for (queue, leased) in by_queue(due.expired) {
            broker.expire(queue, leased, now);
        }
        for queue in due.ready {
            broker.became_ready(queue, now);
        }
        let idle = broker.expire_idle_queues(now);
        let old = broker.trim_old_streams(now);
        let ended = broker.end_subscriptions(now);
        let next = [due.next, idle, old, ended].into_iter().flatten().min();
        if next.is_none_or(|next| next > now) {
            return next;
        }
    }
}

fn by_queue(expired: Vec<(QueueId, store::Leased)>) -> Vec<(QueueId, Vec<store::Leased>)> {
    let mut groups: Vec<(QueueId, Vec<store::Leased>)> = Vec::new();
    for (queue, leased) in expired {
        match groups.last_mut() {
            Some((last, group)) if *last == queue => group.push(leased),
            _ => groups.push((queue, vec![leased])),
        }
    }
    groups
}
