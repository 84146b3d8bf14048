//! Outbox and inbox in MySQL 8.0.21 and MariaDB 10.6 and later, with InnoDB.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::mysql::{MySqlQueryResult, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySql, MySqlConnection, Row as _};
use uuid::Uuid;

use crate::chain::chains;
use crate::dialect::{
    Ask, Batch, Counts, DeadLetter, Dialect, Keep, Leased, Letter, Outcome, Settlement, State,
    Which, headers, headers_json,
};
use crate::error::Error;
use crate::message::{Message, micros};
use crate::schema::{self, Migration};
use crate::steps::{KEYS_MAX, PURGE_AT_ONCE, Plan, by_lease, implement_in_steps, literals, padded};

/// Names the lock that migrations hold, in all databases of the server.
const MIGRATION_LOCK: &str = "posthouse_outbox migrations";

/// Seconds that a migration waits for another.
const MIGRATION_WAIT: i32 = 60;

implement_in_steps! {
    database: MySql, connection: MySqlConnection, row: MySqlRow,
    now: "timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))",
    lock: "for update skip locked",
    begin: "start transaction",
    by_id: " force index (posthouse_outbox_id)",
    delete: "delete one from posthouse_outbox one force index (posthouse_outbox_id)",
    migrations: &[Migration { version: 1, sql: include_str!("schema/mysql/0001.sql") }]
}

/// Definitions are not part of transactions here, so a lock keeps programs apart, and a migration that was cut off is
/// to be finished by hand: the error says what was there.
async fn migrate(connection: &mut MySqlConnection) -> Result<(), Error> {
    let locked: Option<i64> = sqlx::query_scalar("select get_lock(?, ?)")
        .bind(MIGRATION_LOCK)
        .bind(MIGRATION_WAIT)
        .fetch_one(&mut *connection)
        .await?;
    if locked != Some(1) {
        return Err(sqlx::Error::PoolTimedOut.into());
    }
    let migrated = migrate_alone(connection).await;
    let released = sqlx::query("select release_lock(?)").bind(MIGRATION_LOCK);
    released.execute(&mut *connection).await?;
    migrated
}

async fn migrate_alone(connection: &mut MySqlConnection) -> Result<(), Error> {
    connection.execute(schema::HISTORY).await?;
    let found: i32 = sqlx::query_scalar("select coalesce(max(version), 0) from posthouse_schema")
        .fetch_one(&mut *connection)
        .await?;
    for migration in schema::missing::<MySql>(found)? {
        for statement in schema::statements(migration.sql) {
            sqlx::raw_sql(statement).execute(&mut *connection).await?;
        }
        sqlx::query("insert into posthouse_schema (version) values (?)")
            .bind(migration.version)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Without it InnoDB would lock gaps between rows and hold up the application's inserts.
async fn prepare(connection: &mut MySqlConnection) -> Result<(), Error> {
    connection.execute("set session transaction isolation level read committed").await?;
    Ok(())
}

/// Whether a row was added, or was there.
fn added(done: Result<MySqlQueryResult, sqlx::Error>) -> Result<bool, Error> {
    match done {
        Ok(_) => Ok(true),
        // The statement is undone, the transaction goes on.
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
