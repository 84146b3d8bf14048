//! Many waiting rows of few keys: a look goes over a bounded number of them, and still everything is found.

use std::time::Duration;

use futures_util::future::BoxFuture;
use posthouse_outbox::{Letter, Message, Outbox, SendError, Settings, Transport};
use sqlx::{MySql, Postgres};

use crate::on_every_database;
use crate::recorder::{Recorder, Running, quick};
use crate::server::{Server, eventually};

on_every_database!(
    what_is_behind_many_rows_of_keys_that_do_not_move_is_found,
    what_is_committed_late_is_found_among_many_rows_of_keys_that_do_not_move,
    what_is_sent_later_does_not_wait_for_keys_that_do_not_move,
    a_key_with_many_rows_is_sent_to_its_end,
);

/// Answers for keys that begin with "stuck" never, and notes the others.
#[derive(Debug, Clone)]
struct Stuck(Recorder);

impl Transport for Stuck {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            if letter.key.as_deref().is_some_and(|key| key.starts_with("stuck")) {
                std::future::pending::<()>().await;
            }
            self.0.send(letter).await
        })
    }
}

/// Far more rows of two keys than a look goes over.
async fn clog<S: Server>(outbox: &Outbox<S>) {
    let mut transaction = outbox.begin().await.unwrap();
    for n in 0..400_u32 {
        let key = format!("stuck {}", n % 2);
        let message = Message::new(n.to_string(), "text/plain", "").key(key);
        transaction.send(&message).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

/// A look goes over twenty rows.
fn few() -> Settings {
    Settings { batch: 10, ..quick() }
}

async fn add<S: Server>(outbox: &Outbox<S>, topics: &[&str]) {
    let mut transaction = outbox.begin().await.unwrap();
    for topic in topics {
        let mut message = Message::new(*topic, "text/plain", "");
        if topic.starts_with("keyed") {
            message = message.key(*topic);
        }
        transaction.send(&message).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

async fn what_is_behind_many_rows_of_keys_that_do_not_move_is_found<S: Server>() {
    let (outbox, _) = S::outbox().await;
    clog(&outbox).await;
    add(&outbox, &["keyed", "free"]).await;
    let recorder = Recorder::new();

    let relay = Running::start(&outbox, Stuck(recorder.clone()), few());
    recorder.until_sent(2).await;
    relay.crash().await;
}

async fn what_is_committed_late_is_found_among_many_rows_of_keys_that_do_not_move<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    clog(&outbox).await;
    let recorder = Recorder::new();
    let relay = Running::start(&outbox, Stuck(recorder.clone()), few());
    add(&outbox, &["first"]).await;
    recorder.until_sent(1).await;

    // It was written before all others, by a transaction that is still open.
    add(&outbox, &["keyed late", "late"]).await;
    let mut connection = pool.acquire().await.unwrap();
    let first = "(select a from (select min(next_attempt) as a from posthouse_outbox) first)";
    let late =
        format!("update posthouse_outbox set next_attempt = {first} where topic like '%late'");
    S::run(&mut connection, &late).await.unwrap();
    recorder.until_sent(3).await;
    relay.crash().await;
}

async fn what_is_sent_later_does_not_wait_for_keys_that_do_not_move<S: Server>() {
    let (outbox, _) = S::outbox().await;
    clog(&outbox).await;
    let recorder = Recorder::new();
    let relay = Running::start(&outbox, Stuck(recorder.clone()), few());

    for n in 1..=5 {
        add(&outbox, &[&format!("keyed {n}"), &format!("free {n}")]).await;
        recorder.until_sent(2 * n).await;
    }
    relay.crash().await;
}

async fn a_key_with_many_rows_is_sent_to_its_end<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::new();
    let mut transaction = outbox.begin().await.unwrap();
    for n in 0..500_u32 {
        let key = format!("key {}", n % 3);
        let message = Message::new(n.to_string(), "text/plain", "").key(key);
        transaction.send(&message).await.unwrap();
    }
    transaction.commit().await.unwrap();

    // Were it not for what is known of keys, each of them would be found by looks that are an hour apart.
    let settings = Settings { idle: Duration::from_secs(3600), ..few() };
    let relay = Running::start(&outbox, recorder.clone(), settings);
    recorder.until_sent(500).await;
    relay.stop().await;

    for key in 0..3 {
        let sent = recorder.topics().into_iter().filter_map(|topic| topic.parse::<u32>().ok());
        let sent: Vec<u32> = sent.filter(|n| n % 3 == key).collect();
        assert!(sent.is_sorted(), "{sent:?}");
    }
}

/// Rows that a table's waiting rows were read for, per look of a relay that sends a part of many rows of few keys.
async fn read_per_look<S: Server>(
    outbox: &Outbox<S>,
    fill: &str,
    connection: &mut S::Connection,
    read: &str,
) -> i64 {
    S::run(connection, fill).await.unwrap();
    let before = S::number(connection, read).await;
    let recorder = Recorder::new();
    let relay = Running::start(outbox, recorder.clone(), quick());
    recorder.until_sent(2000).await;
    let counters = std::sync::Arc::clone(&relay.counters);
    relay.stop().await;
    // Connections that end say what they did.
    eventually(async || S::number(connection, read).await > before).await;
    let read = S::number(connection, read).await - before;
    read / i64::try_from(counters.looks()).unwrap()
}

/// Twice a batch of due rows, with some of their index again, and the rows that are leased, by their keys and ids.
const READ_MAX: i64 = 6000;

#[tokio::test]
async fn a_look_at_few_keys_with_many_rows_reads_few_of_them_in_postgresql() {
    let (outbox, pool) = Postgres::outbox().await;
    let mut connection = pool.acquire().await.unwrap();
    let fill = "insert into posthouse_outbox (topic, payload, key)
        select 'new', '', (n % 8)::text from generate_series(1, 30000) n; analyze posthouse_outbox";
    let read = "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes
        where indexrelname in ('posthouse_outbox_due', 'posthouse_outbox_key')";

    let read = read_per_look(&outbox, fill, &mut connection, read).await;

    assert!(read < READ_MAX, "{read} entries of the indexes of waiting rows were read per look");
}

#[tokio::test]
async fn a_look_at_few_keys_with_many_rows_reads_few_of_them_in_mariadb() {
    let (outbox, pool) = MySql::outbox().await;
    let mut connection = pool.acquire().await.unwrap();
    MySql::run(&mut connection, "set global userstat = 1").await.unwrap();
    let fill = "insert into posthouse_outbox (id, topic, headers, payload, `key`)
        select uuid(), 'new', '{}', '', seq % 8 from seq_1_to_30000";
    let read = "select cast(coalesce(sum(rows_read), 0) as signed) from information_schema.table_statistics
        where table_schema = database() and table_name = 'posthouse_outbox'";

    let read = read_per_look(&outbox, fill, &mut connection, read).await;

    assert!(read < READ_MAX, "{read} rows were read per look");
}
