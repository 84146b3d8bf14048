//! A handler that takes too long has failed.

use std::time::Duration;

use super::{Answered, Around, Inner};
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

impl Around for TimeoutLayer {
    fn around<S: Inner>(&self, mut inner: S, delivery: Delivery) -> Answered {
        let limit = self.0;
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
