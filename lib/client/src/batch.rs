//! Several messages at once, for handlers that are cheaper by the hundred.

use std::future::Future;

use crate::consumer::BatchFuture;
use crate::delivery::Delivery;
use crate::extract::{Body, FromState, State, read};
use crate::outcome::{IntoOutcome, Outcome};

/// The bodies of several messages, in their order. What cannot be read is not among them: it is a dead letter already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<B>(pub Vec<B>);

/// An `async fn` that takes a [`Batch`], and [`State`] in front of it if it likes.
pub trait BatchHandler<T, S>: Clone + Send + Sync + 'static {
    /// Handles several messages; gives one outcome for each.
    fn call(self, deliveries: Vec<Delivery>, state: S) -> BatchFuture;
}

impl<F, Fut, R, S, B> BatchHandler<(Batch<B>,), S> for F
where
    F: FnOnce(Batch<B>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = R> + Send,
    R: IntoOutcome,
    B: Body,
    S: Send + 'static,
{
    fn call(self, deliveries: Vec<Delivery>, _state: S) -> BatchFuture {
        Box::pin(async move { spread(&deliveries, |bodies| self(Batch(bodies))).await })
    }
}

impl<F, Fut, R, S, T, B> BatchHandler<(State<T>, Batch<B>), S> for F
where
    F: FnOnce(State<T>, Batch<B>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = R> + Send,
    R: IntoOutcome,
    T: FromState<S> + Send + 'static,
    B: Body,
    S: Send + 'static,
{
    fn call(self, deliveries: Vec<Delivery>, state: S) -> BatchFuture {
        let state = State(T::from_state(&state));
        Box::pin(async move { spread(&deliveries, |bodies| self(state, Batch(bodies))).await })
    }
}

/// Reads the bodies, has them handled, and gives every message its outcome.
async fn spread<B: Body, Fut: Future<Output: IntoOutcome>>(
    deliveries: &[Delivery],
    handle: impl FnOnce(Vec<B>) -> Fut,
) -> Vec<Outcome> {
    let mut bodies = Vec::with_capacity(deliveries.len());
    let mut unreadable: Vec<Option<Outcome>> = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        match read::<B>(delivery) {
            Ok(body) => {
                bodies.push(body);
                unreadable.push(None);
            }
            Err(fail) => unreadable.push(Some(fail.into_outcome())),
        }
    }
    let outcome = match bodies.is_empty() {
        true => Outcome::Ack,
        false => handle(bodies).await.into_outcome(),
    };
    unreadable.into_iter().map(|own| own.unwrap_or_else(|| outcome.clone())).collect()
}
