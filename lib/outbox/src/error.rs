//! What can go wrong, and whether to try again.

use sqlx::error::DatabaseError;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's message or setting breaks a limit. Trying again does not help.
    #[error("{0}")]
    Invalid(String),
    /// The database refused or is away.
    #[error("database")]
    Database(#[from] sqlx::Error),
    /// The tables are of a later version than this program knows.
    #[error("the tables have version {found}, this program knows {known}; use a later program")]
    TooNew {
        /// What the database has.
        found: i32,
        /// What this crate has.
        known: i32,
    },
}

/// Whether transactions were in each other's way: a serialisable one lost, a deadlock was resolved at our cost, a lock was
/// not to be had in time. Nothing was kept, and the same transaction may succeed a moment later.
///
/// Looks at the error and at everything that has caused it, so it may be an application's own.
#[must_use]
pub fn is_conflict(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let plain = match error.downcast_ref::<sqlx::Error>() {
            Some(sqlx::Error::Database(error)) => return loses(&**error),
            _ => error.downcast_ref::<Box<dyn DatabaseError>>(),
        };
        // An error that passes for its cause (`#[error(transparent)]`) shows what lies behind sqlx's own.
        plain.is_some_and(|error| loses(&**error)) || shows_to_lose(error)
    })
}

fn shows_to_lose(error: &(dyn std::error::Error + 'static)) -> bool {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        return loses(error);
    }
    #[cfg(feature = "mysql")]
    if let Some(error) = error.downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return loses(error);
    }
    #[cfg(feature = "sqlite")]
    if let Some(error) = error.downcast_ref::<sqlx::sqlite::SqliteError>() {
        return loses(error);
    }
    false
}

fn loses(error: &dyn DatabaseError) -> bool {
    // MySQL: deadlock, lock wait timeout, no wait. MariaDB: the row was changed since the transaction's snapshot.
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return matches!(error.number(), 1213 | 1205 | 3572 | 1020);
    }
    let code = error.code().unwrap_or_default();
    match code.parse::<u32>() {
        // SQLite: the lower byte says busy or locked, those above it why.
        Ok(number) if code.len() < 5 => matches!(number & 0xff, 5 | 6),
        // PostgreSQL: serialisation, deadlock, lock not available.
        _ => matches!(&*code, "40001" | "40P01" | "55P03"),
    }
}

impl Error {
    /// Whether the same call may succeed a moment later: the connection broke, a deadlock was resolved at our cost, a
    /// serialisable transaction lost.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        let Self::Database(error) = self else { return false };
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => true,
            sqlx::Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                // PostgreSQL: shutdown, connections. MariaDB: somebody ended the connection.
                let transient = ["57P01", "57P02", "57P03", "53300", "70100"];
                loses(&**error) || transient.contains(&&*code) || code.starts_with("08")
            }
            _ => false,
        }
    }

    /// Whether the database refused one row's values: they break a rule of the table's or of somebody's trigger. Another row
    /// may be taken, which is not so where nothing can be written at all.
    pub(crate) fn is_of_row(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else { return false };
        let code = error.code().unwrap_or_default();
        match code.parse::<u32>() {
            // SQLite: too big, a constraint or what a trigger raises, another type.
            Ok(number) if code.len() < 5 => matches!(number & 0xff, 18..=20),
            // Data, constraints; what a trigger raises on PostgreSQL and on MySQL.
            _ => {
                matches!(&*code, "P0001" | "45000")
                    || ["22", "23"].iter().any(|class| code.starts_with(class))
            }
        }
    }
}
