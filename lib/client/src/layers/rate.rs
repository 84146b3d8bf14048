//! So many in a time, over all consumers that share the layer.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tower::{Layer, Service};

use super::{Answered, Inner, take_ready};
use crate::consumer::BoxError;
use crate::delivery::Delivery;
use crate::outcome::Outcome;

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

impl<S> Layer<S> for RateLayer {
    type Service = Rate<S>;

    fn layer(&self, inner: S) -> Rate<S> {
        Rate { inner, layer: self.clone() }
    }
}

/// See [`RateLayer`].
#[derive(Debug, Clone)]
pub struct Rate<S> {
    inner: S,
    layer: RateLayer,
}

impl<S: Inner> Service<Delivery> for Rate<S> {
    type Response = Outcome;
    type Error = BoxError;
    type Future = Answered;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, delivery: Delivery) -> Answered {
        let (mut inner, layer) = (take_ready(&mut self.inner), self.layer.clone());
        Box::pin(async move {
            tokio::time::sleep_until(layer.place()).await;
            inner.call(delivery).await
        })
    }
}
