//! Plain `async fn`s as handlers: any number of parts, the body last.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tower::Service;

use crate::delivery::Delivery;
use crate::extract::{FromDelivery, FromParts};
use crate::outcome::{Fail, IntoOutcome, Outcome};

/// An `async fn` whose arguments are taken from a message. `T` are its arguments; it is never written.
pub trait Handler<T, S>: Clone + Send + Sync + 'static {
    /// Takes the arguments out of the message and runs.
    fn call(self, delivery: Delivery, state: S) -> impl Future<Output = Outcome> + Send;
}

impl<F, Fut, R, S> Handler<((),), S> for F
where
    F: FnOnce() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = R> + Send,
    R: IntoOutcome,
    S: Send + Sync + 'static,
{
    async fn call(self, _delivery: Delivery, _state: S) -> Outcome {
        self().await.into_outcome()
    }
}

macro_rules! handlers {
    ($([$($part:ident)*] $last:ident;)*) => {
        $(
            #[allow(non_snake_case, reason = "a type's name is its argument's name here")]
            impl<F, Fut, R, S, M, $($part,)* $last> Handler<(M, $($part,)* $last,), S> for F
            where
                F: FnOnce($($part,)* $last) -> Fut + Clone + Send + Sync + 'static,
                Fut: Future<Output = R> + Send,
                R: IntoOutcome,
                S: Send + Sync + 'static,
                $($part: FromParts<S> + Send,)*
                $last: FromDelivery<S, M> + Send,
            {
                async fn call(self, mut delivery: Delivery, state: S) -> Outcome {
                    // Before the first argument, as the last one takes the delivery with it.
                    let hooks = delivery.hooks();
                    let taken: Result<_, Fail> = async {
                        $(let $part = $part::from_parts(&mut delivery, &state).await?;)*
                        let $last = $last::from_delivery(delivery, &state).await?;
                        Ok(($($part,)* $last,))
                    }
                    .await;
                    let outcome = match taken {
                        Ok(($($part,)* $last,)) => self($($part,)* $last).await.into_outcome(),
                        Err(fail) => fail.into_outcome(),
                    };
                    hooks.run(outcome).await
                }
            }
        )*
    };
}

handlers! {
    [] A;
    [A] B;
    [A B] C;
    [A B C] D;
    [A B C D] E;
    [A B C D E] G;
    [A B C D E G] H;
    [A B C D E G H] I;
}

type Hook = Box<dyn FnOnce(Outcome) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send>;

/// What is to happen between a handler's end and the settlement, such as a commit.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Arc<Mutex<Vec<Hook>>>);

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

impl Hooks {
    /// The one that was added last runs first, as it may stand on those before.
    async fn run(self, mut outcome: Outcome) -> Outcome {
        loop {
            let hook = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match hook {
                Some(hook) => outcome = hook(outcome).await,
                None => return outcome,
            }
        }
    }
}

impl Delivery {
    /// Has something run after the handler and before the message is settled; it may change the outcome.
    ///
    /// For extractors that hold something which has to end well first, such as a transaction: commit it if the outcome
    /// is [`Outcome::Ack`], and make it [`Outcome::Conflict`] if that fails. It runs if a later extractor fails, too; if
    /// the handler panics it is dropped.
    pub fn before_settling<F, Fut>(&mut self, hook: F)
    where
        F: FnOnce(Outcome) -> Fut + Send + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        let hooks = self.hooks();
        let mut list = hooks.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(Box::new(|outcome| Box::pin(hook(outcome))));
    }

    /// The list that everybody who has this delivery adds to.
    fn hooks(&mut self) -> Hooks {
        self.hooks.get_or_insert_default().clone()
    }
}

/// A handler with its state, as a tower service.
pub(crate) struct HandlerService<H, T, S> {
    handler: H,
    state: S,
    arguments: PhantomData<fn() -> T>,
}

impl<H, T, S> HandlerService<H, T, S> {
    pub(crate) const fn new(handler: H, state: S) -> Self {
        Self { handler, state, arguments: PhantomData }
    }
}

impl<H: Clone, T, S: Clone> Clone for HandlerService<H, T, S> {
    fn clone(&self) -> Self {
        Self::new(self.handler.clone(), self.state.clone())
    }
}

impl<H, T, S> Service<Delivery> for HandlerService<H, T, S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    type Response = Outcome;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        let (handler, state) = (self.handler.clone(), self.state.clone());
        Box::pin(async move { Ok(handler.call(delivery, state).await) })
    }
}
