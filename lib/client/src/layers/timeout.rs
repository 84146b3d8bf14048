//! A handler that takes too long has failed.

use std::task::{Context, Poll};
use std::time::Duration;

use tower::{Layer, Service};

use super::{Answered, Inner, take_ready};
use crate::consumer::BoxError;
use crate::delivery::Delivery;
use crate::outcome::Outcome;

/// Ends a handler after so long; its message is tried again.
#[derive(Debug, Clone, Copy)]
pub struct TimeoutLayer(Duration);

impl TimeoutLayer {
    /// At most so long.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self(limit)
    }
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Timeout<S> {
        Timeout { inner, limit: self.0 }
    }
}

/// See [`TimeoutLayer`].
#[derive(Debug, Clone)]
pub struct Timeout<S> {
    inner: S,
    limit: Duration,
}

impl<S: Inner> Service<Delivery> for Timeout<S> {
    type Response = Outcome;
    type Error = BoxError;
    type Future = Answered;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, delivery: Delivery) -> Answered {
        let (mut inner, limit) = (take_ready(&mut self.inner), self.limit);
        Box::pin(async move {
            match tokio::time::timeout(limit, inner.call(delivery)).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    let reason = format!("the handler took longer than {limit:?}");
                    Ok(Outcome::Retry { after: None, reason })
                }
            }
        })
    }
}
