//! So many at a time, over all consumers that share the layer.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{Answered, Around, Inner};
use crate::delivery::Delivery;

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

impl Around for ConcurrencyLayer {
    fn around<S: Inner>(&self, mut inner: S, delivery: Delivery) -> Answered {
        let permits = Arc::clone(&self.0);
        Box::pin(async move {
            let _permit = permits.acquire_owned().await?;
            inner.call(delivery).await
        })
    }
}
