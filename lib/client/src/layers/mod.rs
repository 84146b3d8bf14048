//! Layers for services of deliveries, beside tower's own, which work as well.
//!
//! | layer | what it does |
//! |---|---|
//! | [`TimeoutLayer`] | a handler that takes too long has failed |
//! | [`RetryLayer`] | tries again at once or after moments, in the worker's hands, before the queue's own retries |
//! | [`ConcurrencyLayer`] | so many at a time, over several consumers |
//! | [`RateLayer`] | so many in a time |
//! | [`DedupeLayer`] | a message that was handled a while ago is not handled again |
//! | [`TraceLayer`] | a span per message, as part of the trace that its headers name |

mod concurrency;
mod dedupe;
mod rate;
mod retry;
mod timeout;
mod trace;

pub use concurrency::ConcurrencyLayer;
pub use dedupe::DedupeLayer;
pub use rate::RateLayer;
pub use retry::RetryLayer;
pub use timeout::TimeoutLayer;
pub use trace::TraceLayer;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower::{Layer, Service};

use crate::consumer::BoxError;
use crate::delivery::Delivery;
use crate::outcome::Outcome;

/// What the layers' services answer with.
type Answered = Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;

/// Services that the layers go around.
pub trait Inner:
    Service<Delivery, Response = Outcome, Error = BoxError, Future: Send> + Clone + Send + 'static
{
}

impl<S> Inner for S where
    S: Service<Delivery, Response = Outcome, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// What a layer does about one delivery.
pub(crate) trait Around: Clone + Send + 'static {
    /// Handles the delivery with `inner`, which is ready for one.
    fn around<S: Inner>(&self, inner: S, delivery: Delivery) -> Answered;
}

/// A service with one of these layers around it.
#[derive(Debug, Clone)]
pub struct Layered<L, S> {
    layer: L,
    inner: S,
}

impl<L: Around, S: Inner> Service<Delivery> for Layered<L, S> {
    type Response = Outcome;
    type Error = BoxError;
    type Future = Answered;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, delivery: Delivery) -> Answered {
        // The one that is ready does it, and a clone takes its place.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        self.layer.around(ready, delivery)
    }
}

macro_rules! layers {
    ($($layer:ty),*) => {$(
        impl<S> Layer<S> for $layer {
            type Service = Layered<Self, S>;

            fn layer(&self, inner: S) -> Self::Service {
                Layered { layer: self.clone(), inner }
            }
        }
    )*};
}

layers!(ConcurrencyLayer, DedupeLayer, RateLayer, RetryLayer, TimeoutLayer, TraceLayer);
