//! Waiting for what becomes of one message: a future without a task of its own, woken from the message's entry.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::Outgoing;
use crate::error::PublishError;

/// What becomes of one message: `Ok` when the broker has it for good.
///
/// Dropped, the message goes its way all the same; if it is not accepted then, that is logged as an error.
#[derive(Debug)]
#[must_use = "a message that is not accepted says so here"]
pub struct Confirm {
    outgoing: Arc<Outgoing>,
    sequence: u64,
    done: bool,
}

impl Confirm {
    pub(super) fn new(outgoing: Arc<Outgoing>, sequence: u64) -> Self {
        Self { outgoing, sequence, done: false }
    }

    /// Waits at most so long.
    ///
    /// # Errors
    ///
    /// What kept the broker from taking the message, or [`PublishError::Timeout`]: then the message is withdrawn if it
    /// has not been sent.
    pub async fn within(mut self, timeout: Duration) -> Result<(), PublishError> {
        let outcome = tokio::time::timeout(timeout, &mut self).await;
        outcome.unwrap_or_else(|_| Err(self.late(timeout)))
    }

    /// Waits until then, which is the end of what was to take at most so long.
    pub(crate) async fn until(
        mut self,
        end: Instant,
        within: Duration,
    ) -> Result<(), PublishError> {
        let outcome = tokio::time::timeout_at(end, &mut self).await;
        outcome.unwrap_or_else(|_| Err(self.late(within)))
    }

    fn late(&self, within: Duration) -> PublishError {
        let sent = self.outgoing.withdraw(self.sequence);
        self.outgoing.late(within, sent)
    }
}

impl Future for Confirm {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let sequence = self.sequence;
        let outcome = {
            let mut state = self.outgoing.lock();
            let found = state.find(sequence).ok();
            match found.and_then(|index| state.entries.get_mut(index)) {
                Some(entry) if !entry.settled => {
                    entry.waker = Some(context.waker().clone());
                    return Poll::Pending;
                }
                _ => state.failures.remove(&sequence).map_or(Ok(()), Err),
            }
        };
        self.done = true;
        Poll::Ready(outcome)
    }
}

impl Drop for Confirm {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.outgoing.lock();
        if let Some(error) = state.failures.remove(&self.sequence) {
            tracing::error!(%error, "a message was not accepted and nobody waits to hear of it");
        }
        let found = state.find(self.sequence).ok();
        if let Some(entry) = found.and_then(|index| state.entries.get_mut(index)) {
            (entry.watched, entry.waker) = (false, None);
        }
    }
}
