//! The traps that outboxes fall into, one test each.

use std::time::Duration;

use posthouse_outbox::{Message, Outbox, SendError, Sent, State, Which};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{Connection as _, Postgres, Sqlite, SqliteConnection, SqlitePool};

use crate::broken_commit::{Lost, loses_first_commit};
use crate::on_every_database;
use crate::recorder::{Recorder, Running, quick};
use crate::server::{Server, eventually};

on_every_database!(
    a_transaction_that_commits_late_loses_no_message,
    a_transaction_that_commits_late_loses_no_message_of_a_key,
    the_relay_does_not_wait_for_transactions_that_are_open,
    a_message_has_one_id_in_every_attempt_and_after_it_was_given_up,
);

fn message(topic: &str) -> Message {
    Message::new(topic, "text/plain", "")
}

/// A serial number is not the order of commits: who reads on from the last number misses what commits later.
async fn a_transaction_that_commits_late_loses_no_message<S: Server>() {
    if !S::WRITES_AT_ONCE {
        return;
    }
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::new();
    let relay = Running::start(&outbox, recorder.clone(), quick());
    let mut early = outbox.begin().await.unwrap();
    early.send(&message("lower number, commits later")).await.unwrap();
    let mut late = outbox.begin().await.unwrap();
    late.send(&message("higher number, commits first")).await.unwrap();

    late.commit().await.unwrap();
    recorder.until_sent(1).await;
    early.commit().await.unwrap();
    recorder.until_sent(2).await;
    relay.stop().await;

    assert_eq!(recorder.topics(), ["higher number, commits first", "lower number, commits later"]);
}

/// Two transactions that overlap have no order, so the one that is there may be sent. But nothing is lost or stuck.
async fn a_transaction_that_commits_late_loses_no_message_of_a_key<S: Server>() {
    if !S::WRITES_AT_ONCE {
        return;
    }
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::new();
    let relay = Running::start(&outbox, recorder.clone(), quick());
    let mut early = outbox.begin().await.unwrap();
    early.send(&message("1").key("k")).await.unwrap();
    let mut late = outbox.begin().await.unwrap();
    late.send(&message("2").key("k")).await.unwrap();
    late.send(&message("3").key("k")).await.unwrap();

    late.commit().await.unwrap();
    recorder.until_sent(2).await;
    early.commit().await.unwrap();
    recorder.until_sent(3).await;
    relay.stop().await;

    assert_eq!(recorder.topics(), ["2", "3", "1"]);
}

/// A transaction that is open for long must hold nobody up, and its own rows must not be waited for.
async fn the_relay_does_not_wait_for_transactions_that_are_open<S: Server>() {
    if !S::WRITES_AT_ONCE {
        return;
    }
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::new();
    let mut before = outbox.begin().await.unwrap();
    before.send(&message("locked").cancel_key("c")).await.unwrap();
    before.commit().await.unwrap();
    let mut open = pool.begin().await.unwrap();
    outbox.send(&mut open, &message("uncommitted")).await.unwrap();
    // The application withdraws a message and takes its time: the row is locked.
    outbox.cancel(&mut open, "c").await.unwrap();

    let relay = Running::start(&outbox, recorder.clone(), quick());
    for topic in ["a", "b"] {
        let mut transaction = outbox.begin().await.unwrap();
        transaction.send(&message(topic)).await.unwrap();
        transaction.commit().await.unwrap();
    }
    tokio::time::timeout(Duration::from_secs(30), recorder.until_sent(2)).await.unwrap();
    open.rollback().await.unwrap();
    recorder.until_sent(3).await;
    relay.stop().await;

    assert_eq!(recorder.topics()[2], "locked");
}

/// Who receives knows duplicates by the id of the message, so no attempt may have one of its own.
async fn a_message_has_one_id_in_every_attempt_and_after_it_was_given_up<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::with(|_| Err(SendError::Retry("not now".to_owned())));
    let order = message("orders.placed");
    let mut transaction = outbox.begin().await.unwrap();
    transaction.send(&order).await.unwrap();
    transaction.commit().await.unwrap();
    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until(|recorder| recorder.tried().len() == 3).await;
    eventually(async || outbox.count().await.unwrap().dead == 1).await;

    assert_eq!(outbox.retry_dead_letters(&Which::Id(order.id)).await.unwrap(), 1);
    recorder.until(|recorder| recorder.tried().len() == 6).await;
    relay.stop().await;

    assert!(recorder.tried().iter().all(|letter| letter.id == order.id));
}

#[tokio::test]
async fn a_commit_of_which_nobody_knows_is_looked_up_and_repeated_without_a_second_message() {
    for lost in [Lost::Request, Lost::Answer] {
        let (direct, pool) = Postgres::outbox().await;
        let outbox = Outbox::new(loses_first_commit(&pool, lost).await);
        let order = message("orders.placed").dedupe("order-7");

        let mut transaction = outbox.begin().await.unwrap();
        transaction.send(&order).await.unwrap();
        let error = transaction.commit().await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");

        // The row says whether it took place.
        let wanted = (lost == Lost::Answer).then_some(State::Waiting);
        assert_eq!(direct.state(order.id).await.unwrap(), wanted, "{lost:?}");
        // And who does not look but repeats it, adds nothing that is there.
        let again = message("orders.placed").dedupe("order-7");
        let mut transaction = outbox.begin().await.unwrap();
        let sent = transaction.send(&again).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(sent == Sent::Duplicate, lost == Lost::Answer);
        assert_eq!(direct.count().await.unwrap().waiting, 1);
    }
}

/// Lets the database of this pool's one connection have 256 KiB.
async fn leave_little_space(pool: &SqlitePool) {
    let small = "create table orders (body blob); pragma max_page_count = 64";
    sqlx::raw_sql(small).execute(pool).await.unwrap();
}

async fn find_no_space(connection: &mut SqliteConnection) {
    let large = sqlx::raw_sql("insert into orders values (zeroblob(1000000))");
    assert!(large.execute(connection).await.is_err());
}

/// What somebody else sees of it.
async fn messages_in(at: &SqliteConnectOptions) -> i64 {
    let mut other = SqliteConnection::connect_with(at).await.unwrap();
    let count = sqlx::query_scalar("select count(*) from posthouse_outbox");
    count.fetch_one(&mut other).await.unwrap()
}

/// SQLite undoes a transaction by itself when it finds no space. What comes after it on the same connection is as durable
/// as ever, and nothing keeps the lock of all writers.
#[tokio::test]
async fn a_transaction_that_found_no_space_leaves_nothing_behind_in_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let at = SqliteConnectOptions::new().filename(folder.path().join("app.db"));
    let at = at.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(at.clone()).await.unwrap();
    let outbox = Outbox::<Sqlite>::new(pool.clone());
    outbox.migrate().await.unwrap();
    leave_little_space(&pool).await;
    let mut full = outbox.begin().await.unwrap();
    find_no_space(&mut full).await;
    drop(full.rollback().await);

    outbox.begin().await.unwrap().rollback().await.unwrap();
    let mut after = outbox.begin().await.unwrap();
    after.send(&message("after")).await.unwrap();
    after.commit().await.unwrap();

    assert_eq!(messages_in(&at).await, 1);
}

/// The same for transactions that an application begins itself, with a pool as docs/outbox.md has it.
#[tokio::test]
async fn a_pool_that_asks_its_connections_is_safe_after_no_space() {
    let folder = tempfile::tempdir().unwrap();
    let at = SqliteConnectOptions::new().filename(folder.path().join("app.db"));
    let at = at.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let pool = SqlitePoolOptions::new().max_connections(1).before_acquire(|connection, _| {
        let is_clean = !connection.is_in_transaction();
        Box::pin(async move { Ok(is_clean) })
    });
    let pool = pool.connect_with(at.clone()).await.unwrap();
    let outbox = Outbox::<Sqlite>::new(pool.clone());
    outbox.migrate().await.unwrap();
    leave_little_space(&pool).await;
    let mut full = pool.begin().await.unwrap();
    find_no_space(&mut full).await;
    drop(full.rollback().await);

    pool.begin().await.unwrap().rollback().await.unwrap();
    let mut after = pool.begin().await.unwrap();
    outbox.send(&mut after, &message("after")).await.unwrap();
    after.commit().await.unwrap();

    assert_eq!(messages_in(&at).await, 1);
}
