//! So many at a time, over all consumers that share the layer.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
use tower::{Layer, Service};

use super::{Answered, Inner, take_ready};
use crate::consumer::BoxError;
use crate::delivery::Delivery;
use crate::outcome::Outcome;

/// At most so many handlers at the same time, whatever queue they are for: clones of the layer share the number.
#[derive(Debug, Clone)]
pub struct ConcurrencyLayer(Arc<Semaphore>);

impl ConcurrencyLayer {
    /// At most so many, at least 1.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS))))
    }
}

impl<S> Layer<S> for ConcurrencyLayer {
    type Service = Concurrency<S>;

    fn layer(&self, inner: S) -> Concurrency<S> {
        Concurrency { inner, permits: Arc::clone(&self.0) }
    }
}

/// See [`ConcurrencyLayer`].
#[derive(Debug, Clone)]
pub struct Concurrency<S> {
    inner: S,
    permits: Arc<Semaphore>,
}

impl<S: Inner> Service<Delivery> for Concurrency<S> {
    type Response = Outcome;
    type Error = BoxError;
    type Future = Answered;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, delivery: Delivery) -> Answered {
        let (mut inner, permits) = (take_ready(&mut self.inner), Arc::clone(&self.permits));
        Box::pin(async move {
            let _permit = permits.acquire_owned().await?;
            inner.call(delivery).await
        })
    }
}
