//! A transaction per message: the inbox row, what the handler writes, what it sends; commit, and only then the ack.
//!
//! The extractor begins and claims; a hook behind the handler ends it ([`Delivery::before_settling`]). They share the
//! transaction, and whoever is last has it: the handler drops its [`Tx`] when it returns.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use posthouse_outbox::inbox::{Claim, claim_once, still_claimed};
use posthouse_outbox::{Dialect, Error, Message, Outbox, OutboxTransaction, Sent};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::delivery::Delivery;
use crate::extract::{FromParts, FromState};
use crate::outcome::{Fail, Outcome, story};

/// The transaction of a message, as an extractor. It is the connection as well: `&mut *tx` runs queries.
///
/// When the handler begins, the message's inbox row is claimed in it, by the queue's name and the property `message-id`.
/// A message that was handled before is acknowledged without the handler. What the handler returns ends it:
///
/// | outcome | the transaction | the message |
/// |---|---|---|
/// | `Ack`, `Reply` | is committed | is settled after that |
/// | anything else, a panic, a timeout | is rolled back | as the outcome says |
/// | `Ack`, `Reply`, but the commit meets a conflict, or its connection is lost | did not take place, or did: nobody knows | is tried again within moments; if it did take place, the message is known then |
///
/// An error of a statement that says that transactions were in each other's way is no failed attempt, if the handler
/// returns it with `?`: the message is tried again within moments. So it is while the database is away.
///
/// A message without a `message-id` is a dead letter, as its duplicates could not be told. The state must have an
/// [`Outbox`] of this database in it ([`FromState`]), with as many connections as the consumer has workers. The claim is
/// the first statement; an isolation level other than the database's is set where the pool connects. Not for batches.
///
/// ```no_run
/// # #[cfg(feature = "postgres")] {
/// use posthouse_client::prelude::*;
/// use posthouse_outbox::{Message, Outbox};
/// use sqlx::Postgres;
///
/// async fn ship(mut tx: Tx<Postgres>, Json(order): Json<i64>) -> Result<Ack, Fail> {
///     sqlx::query("insert into parcels (order_id) values ($1)").bind(order).execute(&mut *tx).await?;
///     tx.send(&Message::json("parcels.ready", &order)?.key(order)).await?;
///     Ok(Ack) // commit, then the ack
/// }
///
/// # async fn example(pool: sqlx::PgPool) -> posthouse_client::Result<()> {
/// let routes = Router::new().queue("shipping", consume(ship)).with_state(Outbox::new(pool));
/// posthouse_client::serve("amqp://localhost", routes).await
/// # }
/// # }
/// ```
pub struct Tx<D: Dialect>(OwnedMutexGuard<OutboxTransaction<'static, D>>);

impl<D: Dialect> Tx<D> {
    /// Puts a message into the outbox; it leaves if the transaction commits. See [`Outbox::send`].
    ///
    /// # Errors
    ///
    /// If the message breaks a limit, or the database refuses.
    pub async fn send(&mut self, message: &Message) -> Result<Sent, Error> {
        self.0.send(message).await
    }
}

impl<D: Dialect> Deref for Tx<D> {
    type Target = D::Connection;

    fn deref(&self) -> &D::Connection {
        &self.0
    }
}

impl<D: Dialect> DerefMut for Tx<D> {
    fn deref_mut(&mut self) -> &mut D::Connection {
        &mut self.0
    }
}

impl<D: Dialect> fmt::Debug for Tx<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("database", &D::NAME).finish_non_exhaustive()
    }
}

impl<S: Sync, D: Dialect> FromParts<S> for Tx<D>
where
    Outbox<D>: FromState<S>,
{
    async fn from_parts(delivery: &mut Delivery, state: &S) -> Result<Self, Fail> {
        let Some(id) = delivery.message_id().filter(|id| !id.is_empty()) else {
            return Err(Fail::dead("it has no message-id, so nobody could tell its duplicates"));
        };
        let claim = ClaimedAs { consumer: delivery.queue().to_owned(), id: id.to_owned() };
        let outbox = Outbox::<D>::from_state(state);
        let mut transaction = outbox.begin().await.map_err(not_begun)?;
        let claimed = claim_once::<D::Connection>(&mut transaction, &claim.consumer, &claim.id);
        if claimed.await.map_err(not_begun)? == Claim::Duplicate {
            roll_back(transaction).await;
            return Err(Fail::handled_before());
        }
        let transaction = Arc::new(Mutex::new(transaction));
        let shared = Arc::clone(&transaction);
        delivery.before_settling(move |outcome| end(shared, claim, outcome));
        Ok(Self(transaction.lock_owned().await))
    }
}

/// Whose inbox row is which message's.
struct ClaimedAs {
    consumer: String,
    id: String,
}

/// There is no transaction: the message has nothing to do with that, unless its name breaks the rules.
fn not_begun(error: Error) -> Fail {
    match &error {
        Error::Invalid(_) => Fail::dead(error),
        _ if error.is_transient() => Fail::conflict(story(&error)),
        _ => Fail::retry(story(&error)),
    }
}

async fn end<D: Dialect>(
    transaction: Arc<Mutex<OutboxTransaction<'static, D>>>,
    claim: ClaimedAs,
    outcome: Outcome,
) -> Outcome {
    let is_handled = matches!(outcome, Outcome::Ack | Outcome::Reply(_));
    let Some(transaction) = Arc::into_inner(transaction) else {
        let reason = "the handler has given its transaction away, so it cannot be committed";
        return match is_handled {
            true => Outcome::Retry { after: None, reason: reason.to_owned() },
            false => outcome,
        };
    };
    let transaction = transaction.into_inner();
    if is_handled {
        return commit(transaction, &claim).await.err().unwrap_or(outcome);
    }
    roll_back(transaction).await;
    match outcome {
        // Its effects would be lost if it were acknowledged some day.
        Outcome::Later(_) => {
            let reason = "a message with a transaction cannot be settled later";
            Outcome::Dead { reason: reason.to_owned() }
        }
        outcome => outcome,
    }
}

/// Commits; otherwise says what becomes of the message instead.
async fn commit<D: Dialect>(
    mut transaction: OutboxTransaction<'static, D>,
    claim: &ClaimedAs,
) -> Result<(), Outcome> {
    let undone = |why: &str| Outcome::Retry {
        after: None,
        reason: format!(
            "the transaction was undone before its commit, as after an error that was not passed on: {why}"
        ),
    };
    match still_claimed::<D::Connection>(&mut transaction, &claim.consumer, &claim.id).await {
        Ok(true) => {}
        Ok(false) => return Err(undone("its inbox row is gone")),
        Err(error) if error.is_transient() => {
            return Err(Outcome::Conflict { reason: story(&error) });
        }
        Err(error) => return Err(undone(&story(&error))),
    }
    transaction.commit().await.map_err(|error| match &error {
        // The database said no, as a constraint does that is checked at the end.
        Error::Database(sqlx::Error::Database(_)) if !error.is_transient() => {
            Outcome::Retry { after: None, reason: story(&error) }
        }
        // It took place or it did not: the claim of the next attempt will tell.
        _ => Outcome::Conflict { reason: format!("nobody knows of the commit: {}", story(&error)) },
    })
}

async fn roll_back<D: Dialect>(transaction: OutboxTransaction<'static, D>) {
    if let Err(error) = transaction.rollback().await {
        tracing::debug!(error = story(&error), "a rollback failed; the database does it by itself");
    }
}
