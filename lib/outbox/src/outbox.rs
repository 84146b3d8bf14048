//! The application's end: messages enter the outbox in the transaction that causes them.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::{Connection as _, Pool, Transaction};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::dialect::{Counts, DeadLetter, Dialect, State, Which};
use crate::error::Error;
use crate::message::Message;
use crate::relay::{Relay, Settings};
use crate::transport::Routes;

/// An outbox in a database. Cheap to clone; clones wake the same relays.
pub struct Outbox<D: Dialect> {
    pool: Pool<D>,
    wake: Arc<Notify>,
}

/// What became of [`Outbox::send`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is in the outbox and leaves if the transaction commits.
    Added(Uuid),
    /// A message of this source, topic and dedupe id is there already.
    Duplicate,
}

impl<D: Dialect> Outbox<D> {
    /// The outbox of the database that this pool leads to. Does not connect; see [`Outbox::migrate`].
    #[must_use]
    pub fn new(pool: Pool<D>) -> Self {
        Self { pool, wake: Arc::new(Notify::new()) }
    }

    /// Makes the tables, or brings them up to date. Safe to be called by several programs at once.
    ///
    /// # Errors
    ///
    /// If the database refuses, or its tables are of a later version.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut connection = self.pool.acquire().await?;
        D::migrate(&mut connection).await
    }

    /// Adds a message in the transaction of `connection`, with one statement.
    ///
    /// It is sent after that transaction commits and never if it does not. The relay looks by itself; call
    /// [`Outbox::wake`] after the commit, or use [`Outbox::begin`], to have it sent at once.
    ///
    /// # Errors
    ///
    /// If the message breaks a limit, or the database refuses; the transaction should then be rolled back.
    pub async fn send(
        &self,
        connection: &mut D::Connection,
        message: &Message,
    ) -> Result<Sent, Error> {
        insert::<D>(connection, message).await
    }

    /// Begins a transaction that wakes the relay when it commits.
    ///
    /// # Errors
    ///
    /// If the database is away.
    pub async fn begin(&self) -> Result<OutboxTransaction<'static, D>, Error> {
        let transaction = begin(&self.pool).await?;
        Ok(OutboxTransaction { transaction, wake: Arc::clone(&self.wake), sent: false })
    }

    /// Tells relays in this process that something may be due. Cheap, and any number of calls is one look.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Withdraws waiting messages, in the transaction of `connection`; returns how many.
    ///
    /// A message that is being sent just now is not withdrawn.
    ///
    /// # Errors
    ///
    /// If the database refuses.
    pub async fn cancel(
        &self,
        connection: &mut D::Connection,
        cancel_key: &str,
    ) -> Result<u64, Error> {
        D::cancel(connection, cancel_key).await
    }

    /// What became of a message; `None` if there is none with this id, or no longer.
    ///
    /// This is how to find out whether a transaction took place when the connection broke during its commit: a message
    /// that is there says yes.
    ///
    /// # Errors
    ///
    /// If the database refuses.
    pub async fn state(&self, id: Uuid) -> Result<Option<State>, Error> {
        let mut connection = self.pool.acquire().await?;
        D::state(&mut connection, id).await
    }

    /// How full it is.
    ///
    /// # Errors
    ///
    /// If the database refuses.
    pub async fn count(&self) -> Result<Counts, Error> {
        let mut connection = self.pool.acquire().await?;
        D::count(&mut connection).await
    }

    /// Messages that were given up, the oldest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// If the database refuses.
    pub async fn dead_letters(&self, limit: u32) -> Result<Vec<DeadLetter>, Error> {
        let mut connection = self.pool.acquire().await?;
        D::dead(&mut connection, limit).await
    }

    /// Lets messages that were given up be sent again, with all their attempts; returns how many.
    ///
    /// # Errors
    ///
    /// If the database refuses.
    pub async fn retry_dead_letters(&self, which: &Which) -> Result<u64, Error> {
        let mut connection = self.pool.acquire().await?;
        let count = D::revive(&mut connection, which).await?;
        self.wake();
        Ok(count)
    }

    /// Removes messages that were given up; returns how many.
    ///
    /// # Errors
    ///
    /// If the database refuses.
    pub async fn purge_dead_letters(&self, which: &Which) -> Result<u64, Error> {
        let mut connection = self.pool.acquire().await?;
        D::purge_dead(&mut connection, which).await
    }

    /// A relay that this outbox wakes; see [`Relay::run`].
    #[must_use]
    pub fn relay(&self, routes: Routes, settings: Settings) -> Relay<D> {
        Relay::new(self.pool.clone(), Arc::clone(&self.wake), routes, settings)
    }
}

impl<D: Dialect> Clone for Outbox<D> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<D: Dialect> fmt::Debug for Outbox<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("database", &D::NAME).finish_non_exhaustive()
    }
}

/// A transaction that messages can be sent in. It is the connection as well: `&mut *transaction` runs queries.
///
/// Rolled back when it is dropped without [`OutboxTransaction::commit`].
pub struct OutboxTransaction<'c, D: Dialect> {
    transaction: Transaction<'c, D>,
    wake: Arc<Notify>,
    sent: bool,
}

impl<D: Dialect> OutboxTransaction<'_, D> {
    /// Adds a message, as [`Outbox::send`].
    ///
    /// # Errors
    ///
    /// As [`Outbox::send`].
    pub async fn send(&mut self, message: &Message) -> Result<Sent, Error> {
        self.sent = true;
        insert::<D>(&mut self.transaction, message).await
    }

    /// Commits, and wakes the relay if something was sent.
    ///
    /// # Errors
    ///
    /// If the database refuses. If the connection broke, nobody knows whether the transaction took place: ask
    /// [`Outbox::state`] with the id of one of its messages before doing it again.
    pub async fn commit(self) -> Result<(), Error> {
        self.transaction.commit().await?;
        if self.sent {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Undoes everything.
    ///
    /// # Errors
    ///
    /// If the connection broke; the database then undoes it by itself.
    pub async fn rollback(self) -> Result<(), Error> {
        Ok(self.transaction.rollback().await?)
    }
}

impl<D: Dialect> Deref for OutboxTransaction<'_, D> {
    type Target = D::Connection;

    fn deref(&self) -> &D::Connection {
        &self.transaction
    }
}

impl<D: Dialect> DerefMut for OutboxTransaction<'_, D> {
    fn deref_mut(&mut self) -> &mut D::Connection {
        &mut self.transaction
    }
}

impl<D: Dialect> fmt::Debug for OutboxTransaction<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxTransaction").field("sent", &self.sent).finish_non_exhaustive()
    }
}

/// Begins a transaction on a connection that is in none.
///
/// SQLite undoes a transaction by itself when it finds no space. sqlx cannot roll it back then, believes that it goes on, and
/// begins the connection's next ones inside of it: they would not be committed when their commit says so, and would hold the
/// lock of all writers for ever. So such a connection is closed.
pub(crate) async fn begin<D: Dialect>(pool: &Pool<D>) -> Result<Transaction<'static, D>, Error> {
    loop {
        let connection = pool.acquire().await?;
        if !connection.is_in_transaction() {
            return Ok(Transaction::begin(connection, None).await?);
        }
        if let Err(error) = connection.close().await {
            tracing::debug!(%error, "a connection in an unknown state does not close well");
        }
    }
}

async fn insert<D: Dialect>(
    connection: &mut D::Connection,
    message: &Message,
) -> Result<Sent, Error> {
    message.check()?;
    match D::insert(connection, message).await? {
        true => Ok(Sent::Added(message.id)),
        false => Ok(Sent::Duplicate),
    }
}
