//! Conflicts of transactions are told from other failures, whoever passes them on.

use std::error::Error as StdError;
use std::fmt;

use posthouse_outbox::is_conflict;
use sqlx::{MySql, Postgres, Sqlite};

use crate::server::Server;

/// An application's error that shows its cause and hides what it is.
#[derive(Debug)]
struct Passed(sqlx::Error);

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Passed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Two transactions want the same row, and one does not wait.
async fn collide<S: Server>(lock: &str, impatiently: &str) -> sqlx::Error {
    let pool = S::empty().await;
    let mut first = pool.acquire().await.unwrap();
    S::run(&mut first, "create table rows_of_ours (n int)").await.unwrap();
    S::run(&mut first, "insert into rows_of_ours values (1)").await.unwrap();
    let mut second = pool.acquire().await.unwrap();
    S::run(&mut first, lock).await.unwrap();
    let mut last = Ok(());
    for statement in impatiently.split(';') {
        last = S::run(&mut second, statement).await;
    }
    last.unwrap_err()
}

async fn other<S: Server>() -> sqlx::Error {
    let pool = S::empty().await;
    S::run(&mut pool.acquire().await.unwrap(), "select * from nowhere").await.unwrap_err()
}

fn assert_told_apart(conflict: sqlx::Error, other: sqlx::Error) {
    assert!(is_conflict(&conflict), "{conflict:?}");
    assert!(!is_conflict(&other), "{other:?}");
    assert!(posthouse_outbox::Error::from(other).to_string() == "database");
    let passed = Passed(conflict);
    assert!(is_conflict(&passed), "{passed:?}");
    let ours = posthouse_outbox::Error::from(passed.0);
    assert!(is_conflict(&ours) && ours.is_transient(), "{ours:?}");
}

#[tokio::test]
async fn a_row_that_postgresql_does_not_wait_for_is_a_conflict() {
    let lock = "begin; select * from rows_of_ours for update";
    let conflict = collide::<Postgres>(lock, "select * from rows_of_ours for update nowait");
    assert_told_apart(conflict.await, other::<Postgres>().await);
}

#[tokio::test]
async fn a_row_that_mariadb_waited_for_too_long_is_a_conflict() {
    let lock = "begin; select * from rows_of_ours for update";
    let wait = "set innodb_lock_wait_timeout = 1; begin; update rows_of_ours set n = 2";
    assert_told_apart(collide::<MySql>(lock, wait).await, other::<MySql>().await);
}

#[tokio::test]
async fn a_database_that_sqlite_finds_busy_is_a_conflict() {
    let wait = "pragma busy_timeout = 1; begin immediate";
    assert_told_apart(collide::<Sqlite>("begin immediate", wait).await, other::<Sqlite>().await);
}
