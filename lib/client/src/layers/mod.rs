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

pub use concurrency::{Concurrency, ConcurrencyLayer};
pub use dedupe::{Dedupe, DedupeLayer};
pub use rate::{Rate, RateLayer};
pub use retry::{Retry, RetryLayer};
pub use timeout::{Timeout, TimeoutLayer};
pub use trace::{Trace, TraceLayer};

use std::future::Future;
use std::pin::Pin;

use tower::Service;

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

/// Calls a service that `poll_ready` has made ready, and leaves a clone in its place.
fn take_ready<S: Clone>(service: &mut S) -> S {
    let clone = service.clone();
    std::mem::replace(service, clone)
}
