//! Outbox and inbox in SQLite 3.42 and later.
//!
//! One transaction writes at a time, so there is nothing to skip: a lease is a short transaction that begins as a writer.
//! The relay's transactions wait for the application's, for as long as the pool's options say (`busy_timeout`).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::sqlite::{SqliteQueryResult, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _, Sqlite, SqliteConnection};
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

implement_in_steps! {
    database: Sqlite, connection: SqliteConnection, row: SqliteRow,
    now: "cast(unixepoch('subsec') * 1000000 as integer)",
    lock: "",
    begin: "begin immediate",
    by_id: "",
    delete: "delete from posthouse_outbox",
    migrations: &[Migration { version: 1, sql: include_str!("schema/sqlite/0001.sql") }]
}

async fn migrate(connection: &mut SqliteConnection) -> Result<(), Error> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    transaction.execute(schema::HISTORY).await?;
    let found: i32 = sqlx::query_scalar("select coalesce(max(version), 0) from posthouse_schema")
        .fetch_one(&mut *transaction)
        .await?;
    for migration in schema::missing::<Sqlite>(found)? {
        sqlx::raw_sql(migration.sql).execute(&mut *transaction).await?;
        sqlx::query("insert into posthouse_schema (version) values (?)")
            .bind(migration.version)
            .execute(&mut *transaction)
            .await?;
    }
    Ok(transaction.commit().await?)
}

async fn prepare(_: &mut SqliteConnection) -> Result<(), Error> {
    Ok(())
}

/// Whether a row was added, or was there.
fn added(done: Result<SqliteQueryResult, sqlx::Error>) -> Result<bool, Error> {
    match done {
        Ok(_) => Ok(true),
        // The statement is undone, the transaction goes on.
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error.into()),
    }
}
