//! The receiving end: a message is handled once, in the transaction of its effects.

#[cfg(feature = "axum")]
pub mod door;

use sqlx::Connection;

use crate::dialect::Dialect;
use crate::error::Error;
use crate::message::NAME_BYTES_MAX;

/// Whether a message is to be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Claim {
    /// It is ours to handle, in the same transaction.
    First,
    /// It was handled before. There is nothing to do but to tell the sender so.
    Duplicate,
}

/// Claims a message for a consumer, in the transaction that its effects will be in.
///
/// If that transaction commits, the message is handled and every later claim is a [`Claim::Duplicate`]; if not, it was
/// never claimed, so that a retry is not taken for its own duplicate. A claim of the same message that is open elsewhere
/// is waited for. `id` is the sender's name of the message, the same in each of its attempts, and not that of a delivery.
///
/// ```no_run
/// # async fn handle(pool: sqlx::PgPool, id: &str) -> Result<(), posthouse_outbox::Error> {
/// use posthouse_outbox::inbox::{Claim, claim_once};
///
/// let mut transaction = pool.begin().await?;
/// if claim_once(&mut *transaction, "shipping", id).await? == Claim::First {
///     sqlx::query("insert into parcels default values").execute(&mut *transaction).await?;
/// }
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// If a name breaks a limit, or the database refuses; the transaction should then be rolled back.
pub async fn claim_once<C>(connection: &mut C, consumer: &str, id: &str) -> Result<Claim, Error>
where
    C: Connection,
    C::Database: Dialect<Connection = C>,
{
    for (what, name) in [("consumer", consumer), ("message id", id)] {
        // The same rules as for the names of a message: what one database takes, all take, and compare alike.
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let limit = format!("{what} must be 1 to {NAME_BYTES_MAX} bytes, not {}", name.len());
            return Err(Error::Invalid(limit));
        }
        if name.contains('\0') || name.ends_with(' ') {
            return Err(Error::Invalid(format!("{what} must have no NUL and no space at its end")));
        }
    }
    match <C::Database as Dialect>::claim(connection, consumer, id).await? {
        true => Ok(Claim::First),
        false => Ok(Claim::Duplicate),
    }
}

/// Whether a claim of [`claim_once`] still stands in the transaction of `connection`: to be asked before its commit.
///
/// Databases undo transactions by themselves, and then let their connections say commit and even answer that they did:
/// PostgreSQL after any statement that failed, MySQL after a deadlock, SQLite when it finds no space. Whoever does not pass
/// the error of a statement on would take a message for handled whose effects are gone.
///
/// # Errors
///
/// If the database refuses, as PostgreSQL does then.
pub async fn still_claimed<C>(connection: &mut C, consumer: &str, id: &str) -> Result<bool, Error>
where
    C: Connection,
    C::Database: Dialect<Connection = C>,
{
    <C::Database as Dialect>::is_claimed(connection, consumer, id).await
}
