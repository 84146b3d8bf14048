//! A message that was handled a while ago is not handled again: remembered in memory, by message id.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Answered, Around, Inner};
use crate::delivery::Delivery;
use crate::outcome::Outcome;

/// Acknowledges messages whose id was handled well by this process within a while, without calling the handler.
///
/// It spares work; it is no promise: it forgets at a restart, and two processes do not know of each other. Where an effect
/// must happen once, note the id in the transaction of the effect. Messages without an id pass.
#[derive(Debug, Clone)]
pub struct DedupeLayer {
    window: Duration,
    ids_max: usize,
    handled: Arc<Mutex<Handled>>,
}

#[derive(Debug, Default)]
struct Handled {
    known: HashSet<String>,
    /// Oldest first.
    order: VecDeque<(Instant, String)>,
}

impl DedupeLayer {
    /// Remembers ids for so long, and at most so many of them: the oldest are forgotten first.
    #[must_use]
    pub fn new(window: Duration, ids_max: usize) -> Self {
        Self { window, ids_max: ids_max.max(1), handled: Arc::default() }
    }

    fn is_known(&self, id: &str) -> bool {
        let mut handled = self.lock();
        handled.forget(Instant::now(), self.window, self.ids_max);
        handled.known.contains(id)
    }

    fn remember(&self, id: String) {
        let mut handled = self.lock();
        let now = Instant::now();
        if handled.known.insert(id.clone()) {
            handled.order.push_back((now, id));
        }
        handled.forget(now, self.window, self.ids_max);
    }

    fn lock(&self) -> MutexGuard<'_, Handled> {
        self.handled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handled {
    fn forget(&mut self, now: Instant, window: Duration, ids_max: usize) {
        while let Some((at, _)) = self.order.front()
            && (self.order.len() > ids_max || now.duration_since(*at) > window)
        {
            if let Some((_, id)) = self.order.pop_front() {
                self.known.remove(&id);
            }
        }
    }
}

impl Around for DedupeLayer {
    fn around<S: Inner>(&self, mut inner: S, delivery: Delivery) -> Answered {
        let layer = self.clone();
        let Some(id) = delivery.message_id().map(str::to_owned) else {
            return Box::pin(inner.call(delivery));
        };
        Box::pin(async move {
            if layer.is_known(&id) {
                return Ok(Outcome::Drop { reason: format!("`{id}` was handled already") });
            }
            let outcome = inner.call(delivery).await;
            if matches!(&outcome, Ok(Outcome::Ack | Outcome::Reply(_))) {
                layer.remember(id);
            }
            outcome
        })
    }
}
