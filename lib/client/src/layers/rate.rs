//! So many in a time, over all consumers that share the layer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Answered, Around, Inner};
use crate::delivery::Delivery;

/// At most so many handlers begin in a time, evenly; clones of the layer share the rate.
#[derive(Debug, Clone)]
pub struct RateLayer {
    interval: Duration,
    next: Arc<Mutex<Option<Instant>>>,
}

impl RateLayer {
    /// At most `count` in each `per`; at least one.
    #[must_use]
    pub fn new(count: u32, per: Duration) -> Self {
        Self { interval: per / count.max(1), next: Arc::default() }
    }

    /// When this caller may begin.
    fn place(&self) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mine = next.map_or(now, |next| next.max(now));
        *next = Some(mine + self.interval);
        mine
    }
}

impl Around for RateLayer {
    fn around<S: Inner>(&self, mut inner: S, delivery: Delivery) -> Answered {
        let layer = self.clone();
        Box::pin(async move {
            tokio::time::sleep_until(layer.place()).await;
            inner.call(delivery).await
        })
    }
}
