//! What the three databases have in common, as far as the rig needs it: statements and rows of numbers.

use std::future::Future;
use std::time::Duration;

use posthouse_outbox::Dialect;
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, MySql, Pool, Postgres, Row as _, Sqlite};

/// How long a connection of a pool may be waited for, and a lock of SQLite.
const PATIENCE: Duration = Duration::from_secs(10);

/// A database of the rig. Statements have only numbers in them, so they are texts.
pub(crate) trait Base: Dialect {
    /// How a column counts its rows.
    const COUNTED: &'static str;

    /// How many transactions at once make sense.
    const WORKERS: usize;

    /// Opens a pool. Does not wait for the server.
    fn open(url: &str) -> anyhow::Result<Pool<Self>>;

    /// Runs a statement.
    fn run(
        connection: &mut Self::Connection,
        sql: String,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The numbers that a query finds.
    fn rows(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = Result<Vec<Vec<i64>>, sqlx::Error>> + Send;
}

macro_rules! base {
    ($database:ty, counted: $counted:literal, workers: $workers:literal, open: $url:ident => $open:expr) => {
        impl Base for $database {
            const COUNTED: &'static str = $counted;
            const WORKERS: usize = $workers;

            fn open($url: &str) -> anyhow::Result<Pool<Self>> {
                Ok($open)
            }

            async fn run(
                connection: &mut Self::Connection,
                sql: String,
            ) -> Result<(), sqlx::Error> {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
            }

            async fn rows(
                connection: &mut Self::Connection,
                sql: &str,
            ) -> Result<Vec<Vec<i64>>, sqlx::Error> {
                let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
                let rows = query.fetch_all(connection).await?;
                let numbers = |row: &<Self as sqlx::Database>::Row| {
                    (0..row.len()).map(|column| row.try_get(column)).collect()
                };
                rows.iter().map(numbers).collect()
            }
        }
    };
}

base! {
    Postgres, counted: "bigserial primary key", workers: 16,
    open: url => PgPoolOptions::new().max_connections(17).acquire_timeout(PATIENCE).connect_lazy(url)?
}

base! {
    MySql, counted: "bigint auto_increment primary key", workers: 16,
    open: url => MySqlPoolOptions::new().max_connections(17).acquire_timeout(PATIENCE).connect_lazy(url)?
}

base! {
    Sqlite, counted: "integer primary key autoincrement", workers: 2,
    open: url => {
        let options: SqliteConnectOptions = url.parse()?;
        let options = options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        // A commit survives the death of processes, not of the machine; so it is with the servers of the rig.
        let options = options.busy_timeout(PATIENCE).synchronous(SqliteSynchronous::Normal);
        SqlitePoolOptions::new().max_connections(9).acquire_timeout(PATIENCE).connect_lazy_with(options)
    }
}

/// Does the same in whichever database an address leads to.
macro_rules! in_any_base {
    ($url:expr, $function:ident($($argument:expr),*)) => {
        match $url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres") => $function::<sqlx::Postgres>($($argument),*).await,
            Some("mysql") => $function::<sqlx::MySql>($($argument),*).await,
            Some("sqlite") => $function::<sqlx::Sqlite>($($argument),*).await,
            _ => anyhow::bail!("the address of a database must begin with postgres:, mysql: or sqlite:"),
        }
    };
}

pub(crate) use in_any_base;
