//! A message that is settled after its handler has returned: by whoever took the [`Held`] of its [`Later`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::outcome::{Ack, Answer, Fail, IntoOutcome, Outcome};

/// What was decided, and where to say that it was done.
type Decision = (Outcome, oneshot::Sender<()>);

/// The promise that a message will be settled, by the one [`Held`] that can be taken from it.
///
/// A service of [`crate::http_consumer`] finds it in the extensions of each request; it takes the [`Held`] and answers 202.
/// A handler makes one, gives the [`Held`] to whoever goes on with the work, and returns the `Later`. Not for batches.
///
/// The message holds its place of the prefetch meanwhile, and those behind it in an order by key wait, but no worker is
/// kept. After [`crate::Consumer::settle_within`] it is tried again.
#[derive(Debug, Clone, Default)]
pub struct Later(Arc<Slots>);

#[derive(Debug)]
struct Slots {
    to: Mutex<Option<oneshot::Sender<Decision>>>,
    from: Mutex<Option<oneshot::Receiver<Decision>>>,
}

impl Default for Slots {
    fn default() -> Self {
        let (to, from) = oneshot::channel();
        Self { to: Mutex::new(Some(to)), from: Mutex::new(Some(from)) }
    }
}

/// The same promise.
impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Later {}

impl Later {
    /// A promise that nobody has taken.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What settles the message; `None` if somebody has taken it already.
    #[must_use]
    pub fn take(&self) -> Option<Held> {
        self.0.to.lock().unwrap_or_else(PoisonError::into_inner).take().map(Held)
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.0.to.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Waits for the decision; another attempt if there is none in time.
    pub(crate) async fn decided(self, within: Duration) -> Decided {
        let from = self.0.from.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nobody who has this promise as well may keep it open.
        drop(self);
        let Some(from) = from else { return Decided::again("it was promised to be settled twice") };
        match tokio::time::timeout(within, from).await {
            Ok(Ok((outcome, done))) => Decided { outcome, done: Some(done) },
            Ok(Err(_)) => Decided::again("whoever was to settle it later has let it go"),
            Err(_) => Decided::again(&format!("it was not settled within {within:?}")),
        }
    }
}

/// How a promise was kept.
pub(crate) struct Decided {
    pub(crate) outcome: Outcome,
    /// To be dropped or told when the settlement is on its way.
    pub(crate) done: Option<oneshot::Sender<()>>,
}

impl From<Outcome> for Decided {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, done: None }
    }
}

/// The settlement is on its way.
pub(crate) fn tell(done: Option<oneshot::Sender<()>>) {
    // Who does not wait for it need not know.
    done.map(|done| done.send(()).ok());
}

impl Decided {
    fn again(reason: &str) -> Self {
        Self { outcome: Outcome::Retry { after: None, reason: reason.to_owned() }, done: None }
    }
}

/// The settlement is not to be had any more: the time for it was over, the answer was another than 202, or the consumer
/// has ended. The message comes again, or was settled otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is too late to settle the message: it comes again, or was settled otherwise")]
pub struct TooLate;

/// Settles a message later, once. Dropped, it has the message tried again.
#[derive(Debug)]
#[must_use = "dropped, it has the message tried again"]
pub struct Held(oneshot::Sender<Decision>);

impl Held {
    /// It is done with.
    ///
    /// # Errors
    ///
    /// [`TooLate`]. That there is none does not mean that the broker has heard of it: as with every acknowledgement, the
    /// connection may be lost, and the message comes again.
    pub async fn ack(self) -> Result<(), TooLate> {
        self.settle(Ack).await
    }

    /// It is done with, and this is the answer for its `reply_to`.
    ///
    /// # Errors
    ///
    /// [`TooLate`].
    pub async fn reply(self, answer: Answer) -> Result<(), TooLate> {
        self.settle(answer).await
    }

    /// Again, when the consumer's backoff says. For another wait see [`Held::settle`] with [`Fail::after`].
    ///
    /// # Errors
    ///
    /// [`TooLate`].
    pub async fn retry(self, reason: impl std::fmt::Display) -> Result<(), TooLate> {
        self.settle(Fail::retry(reason)).await
    }

    /// To the dead letters.
    ///
    /// # Errors
    ///
    /// [`TooLate`].
    pub async fn dead(self, reason: impl std::fmt::Display) -> Result<(), TooLate> {
        self.settle(Fail::dead(reason)).await
    }

    /// Never again, and nobody wants to see it.
    ///
    /// # Errors
    ///
    /// [`TooLate`].
    pub async fn drop(self, reason: impl std::fmt::Display) -> Result<(), TooLate> {
        self.settle(Fail::drop(reason)).await
    }

    /// As a handler that returns this. Ends when the settlement is on its way to the broker, behind the copy of a message
    /// that is put aside. Cancelled after its first poll, it has been decided all the same.
    ///
    /// # Errors
    ///
    /// [`TooLate`].
    pub async fn settle(self, outcome: impl IntoOutcome) -> Result<(), TooLate> {
        let (done, is_done) = oneshot::channel();
        self.0.send((outcome.into_outcome(), done)).map_err(|_| TooLate)?;
        is_done.await.map_err(|_| TooLate)
    }
}
