//! The inbox's part of the contract: a claim counts once, if its transaction commits.

use anyhow::ensure;
use sqlx::{Connection as _, MySqlConnection, PgConnection, SqliteConnection};

use super::tables::Tables;

/// Claims for `consumer` and looks at the answers.
pub(super) async fn check(tables: &mut Tables, consumer: &str) -> anyhow::Result<()> {
    let other = format!("{consumer}.other");

    let rolled_back = claim(tables, &[(consumer, "1")], false).await?;
    ensure!(rolled_back == [true], "a first claim must be answered with true");
    let first = claim(tables, &[(consumer, "1")], true).await?;
    ensure!(first == [true], "a claim that was rolled back must not count");
    let again = claim(tables, &[(consumer, "1"), (consumer, "2"), (&other, "1")], true).await?;
    ensure!(again.first() == Some(&false), "a second claim must be answered with false");
    ensure!(again.get(1) == Some(&true), "a duplicate must not spoil its transaction");
    ensure!(again.get(2) == Some(&true), "the same id is another message for another consumer");
    Ok(())
}

/// Claims in one transaction, and whether each was the first.
async fn claim(
    tables: &mut Tables,
    claims: &[(&str, &str)],
    commit: bool,
) -> Result<Vec<bool>, sqlx::Error> {
    match tables {
        Tables::Postgres(connection) => in_postgres(connection, claims, commit).await,
        Tables::MySql(connection) => in_mysql(connection, claims, commit).await,
        Tables::Sqlite(connection) => in_sqlite(connection, claims, commit).await,
    }
}

/// The same for each connection.
macro_rules! claims {
    ($name:ident, $connection:ty, $claim:ident) => {
        async fn $name(
            connection: &mut $connection,
            claims: &[(&str, &str)],
            commit: bool,
        ) -> Result<Vec<bool>, sqlx::Error> {
            let mut transaction = connection.begin().await?;
            let mut firsts = Vec::with_capacity(claims.len());
            for (consumer, id) in claims {
                firsts.push($claim(&mut transaction, consumer, id).await?);
            }
            match commit {
                true => transaction.commit().await?,
                false => transaction.rollback().await?,
            }
            Ok(firsts)
        }
    };
}

claims!(in_postgres, PgConnection, postgres_claim);
claims!(in_mysql, MySqlConnection, mysql_claim);
claims!(in_sqlite, SqliteConnection, sqlite_claim);

async fn postgres_claim(
    connection: &mut PgConnection,
    consumer: &str,
    id: &str,
) -> Result<bool, sqlx::Error> {
    let call = sqlx::query_scalar("select posthouse_claim_once($1, $2)");
    call.bind(consumer).bind(id).fetch_one(connection).await
}

async fn mysql_claim(
    connection: &mut MySqlConnection,
    consumer: &str,
    id: &str,
) -> Result<bool, sqlx::Error> {
    let call = sqlx::query("call posthouse_claim_once(?, ?, @posthouse_first)");
    call.bind(consumer).bind(id).execute(&mut *connection).await?;
    let first: i64 =
        sqlx::query_scalar("select cast(@posthouse_first as signed)").fetch_one(connection).await?;
    Ok(first == 1)
}

/// There are no functions: to claim is to insert.
async fn sqlite_claim(
    connection: &mut SqliteConnection,
    consumer: &str,
    id: &str,
) -> Result<bool, sqlx::Error> {
    // With the columns named: without, SQLite takes any broken rule for a conflict.
    let insert = "insert into posthouse_inbox (consumer, id) values (?, ?) \
         on conflict (consumer, id) do nothing";
    let done = sqlx::query(insert).bind(consumer).bind(id).execute(connection).await?;
    Ok(done.rows_affected() > 0)
}
