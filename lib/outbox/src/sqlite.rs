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
    Ask, Batch, CHAIN_MAX, Counts, Cut, DeadLetter, Dialect, Keep, Leased, Letter, Outcome, Place,
    Settlement, State, Which, headers, headers_json,
};
use crate::error::Error;
use crate::message::{Message, micros};
use crate::plan::{Plan, Reachable, Standing};
use crate::schema::{self, Migration};
use crate::steps::{PURGE_AT_ONCE, by_lease, implement_in_steps, literals, marks, padded};

implement_in_steps! {
    database: Sqlite, connection: SqliteConnection, row: SqliteRow,
    now: "cast(unixepoch('subsec') * 1000000 as integer)",
    lock: "",
    begin: "begin immediate",
    by_id: "",
    by_due: " indexed by posthouse_outbox_due",
    delete: "delete from posthouse_outbox",
    migrations: &[Migration { version: 1, sql: include_str!("schema/sqlite/0001.sql") }]
}

/// The first rows of keys, of each at most so many, and how many those are.
async fn lines(
    connection: &mut SqliteConnection,
    keys: &[String],
    most: i64,
) -> Result<(i64, Vec<Standing>), Error> {
    const NOW: &str = "cast(unixepoch('subsec') * 1000000 as integer)";
    let (count, _) = marks(keys.len());
    let wanted = vec!["(?)"; count].join(", ");
    // What was not delayed stands in line even if its time has not come: then the clock was set back.
    let sql = format!(
        "with wanted(k) as (values {wanted}) \
         select id, \"key\", seq, case when next_attempt <= {NOW} and lease_until <= {NOW} then 1 else 0 end as free \
         from wanted cross join posthouse_outbox where seq in ( \
             select seq from posthouse_outbox row indexed by posthouse_outbox_key \
             where row.state = 0 and row.\"key\" = wanted.k \
                 and (row.not_before <= row.created_at + 1000 or row.not_before <= {NOW}) \
             order by row.seq limit ?)"
    );
    let mut lines = sqlx::query(AssertSqlSafe(sql));
    for key in padded(keys, count) {
        lines = lines.bind(key);
    }
    let rows = lines.bind(most).fetch_all(connection).await?;
    Ok((most, rows.iter().map(standing).collect::<Result<_, _>>()?))
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
