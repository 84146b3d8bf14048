//! What can go wrong, and whether to try again.

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
                // PostgreSQL: serialisation, deadlock, shutdown, connections. MySQL: deadlock, lock wait. SQLite: busy.
                let transient =
                    ["40001", "40P01", "57P01", "57P02", "57P03", "53300", "1213", "1205"];
                transient.contains(&&*code)
                    || matches!(&*code, "5" | "6" | "261" | "517")
                    || code.starts_with("08")
            }
            _ => false,
        }
    }
}
