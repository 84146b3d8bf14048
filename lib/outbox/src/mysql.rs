//! Outbox and inbox in MySQL 8.0.21 and MariaDB 10.6 and later, with InnoDB.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::mysql::{MySqlQueryResult, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, MySql, MySqlConnection, Row as _};
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
    by_due: " force index (posthouse_outbox_due)",
    delete: "delete one from posthouse_outbox one force index (posthouse_outbox_id)",
    migrations: &[Migration { version: 1, sql: include_str!("schema/mysql/0001.sql") }]
}

/// Keys whose lines are asked for one by one; of more keys the first two rows are.
const LINES_MAX: usize = 64;

/// The first rows of keys, and how many of each were asked for: `most`, or fewer if there are many keys.
///
/// A query that depends on another one's rows cannot have its own limit here (MariaDB has no `lateral`), but it can be a
/// scalar, which is one row. So few keys are a query each, and many are two scalars each.
async fn lines(
    connection: &mut MySqlConnection,
    keys: &[String],
    most: i64,
) -> Result<(i64, Vec<Standing>), Error> {
    const NOW: &str = "timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))";
    // What was not delayed stands in line even if its time has not come: then the clock was set back.
    let in_line = format!("(not_before <= created_at + 1000 or not_before <= {NOW})");
    let free = format!(
        "case when next_attempt <= {NOW} and lease_until <= {NOW} then 1 else 0 end as free"
    );
    let is_few = keys.len() <= LINES_MAX;
    let (count, _) = marks(keys.len());
    let sql = match is_few {
        true => {
            let line = format!(
                "(select id, `key`, seq, {free} from posthouse_outbox force index (posthouse_outbox_key) \
                 where state = 0 and `key` = ? and {in_line} order by seq limit ?)"
            );
            vec![line; count].join(" union all ")
        }
        false => {
            let keys =
                vec!["select cast(? as char) collate utf8mb4_bin as k"; count].join(" union all ");
            let place = |place: u8| {
                format!(
                    "select (select seq from posthouse_outbox one force index (posthouse_outbox_key) \
                     where one.state = 0 and one.`key` = wanted.k and {in_line} order by seq limit 1 offset {place}) \
                     as seq from wanted"
                )
            };
            let (first, second) = (place(0), place(1));
            format!(
                "with wanted as ({keys}), places as ({first} union all {second}) select id, `key`, line.seq, {free} \
                 from places straight_join posthouse_outbox line force index (primary) on line.seq = places.seq"
            )
        }
    };
    let mut lines = sqlx::query(AssertSqlSafe(sql));
    for key in padded(keys, count) {
        lines = match is_few {
            true => lines.bind(key).bind(most),
            false => lines.bind(key),
        };
    }
    let rows = lines.fetch_all(connection).await?;
    let lines = rows.iter().map(standing).collect::<Result<_, _>>()?;
    Ok((if is_few { most } else { 2 }, lines))
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
