//! Tries again in the worker's hands, before the queue's own retries begin.

use std::task::{Context, Poll};
use std::time::Duration;

use tower::{Layer, Service, ServiceExt};

use super::{Answered, Inner, take_ready};
use crate::consumer::BoxError;
use crate::delivery::Delivery;
use crate::outcome::Outcome;

/// For failures that pass in moments: tries a few times more, with short pauses. The message keeps its place and its
/// worker meanwhile, and the attempts do not count.
#[derive(Debug, Clone, Copy)]
pub struct RetryLayer {
    times: u32,
    pause: Duration,
}

impl RetryLayer {
    /// So many times more, with such a pause in between.
    #[must_use]
    pub const fn new(times: u32, pause: Duration) -> Self {
        Self { times, pause }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner, layer: *self }
    }
}

/// See [`RetryLayer`].
#[derive(Debug, Clone)]
pub struct Retry<S> {
    inner: S,
    layer: RetryLayer,
}

impl<S: Inner> Service<Delivery> for Retry<S> {
    type Response = Outcome;
    type Error = BoxError;
    type Future = Answered;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, delivery: Delivery) -> Answered {
        let (mut inner, layer) = (take_ready(&mut self.inner), self.layer);
        Box::pin(async move {
            let mut outcome = inner.call(delivery.clone()).await;
            for _ in 0..layer.times {
                // A wait that the handler asks for is the queue's affair.
                if !matches!(&outcome, Err(_) | Ok(Outcome::Retry { after: None, .. })) {
                    break;
                }
                tokio::time::sleep(layer.pause).await;
                outcome = inner.ready().await?.call(delivery.clone()).await;
            }
            outcome
        })
    }
}
