//! Tries again in the worker's hands, before the queue's own retries begin.

use std::time::Duration;

use tower::ServiceExt;

use super::{Answered, Around, Inner};
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

impl Around for RetryLayer {
    fn around<S: Inner>(&self, mut inner: S, delivery: Delivery) -> Answered {
        let layer = *self;
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
