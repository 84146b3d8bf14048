//! What a connection of a relay could not settle at once is settled soon, also when nothing else happens.
//!
//! Only the first connection looks from time to time; a further one sleeps when it has nothing to do. What it still had to
//! settle then would be leased until its lease is over, which is longer than a test waits.

use std::time::Duration;

use posthouse_outbox::{Message, Outbox, Settings};
use sqlx::{Connection as _, Postgres};

use crate::recorder::{Held, Recorder, Running, quick};
use crate::server::{PATIENCE, Server, eventually};

/// Two connections, of which the first takes four messages.
fn two() -> Settings {
    let settings = Settings { batch: 4, lanes: 2, idle: Duration::from_millis(10), ..quick() };
    assert!(settings.lease > PATIENCE);
    settings
}

async fn add(outbox: &Outbox<Postgres>, count: usize, key: Option<&str>) {
    let mut transaction = outbox.begin().await.unwrap();
    for _ in 0..count {
        let message = Message::new("topic", "text/plain", "");
        let message = match key {
            Some(key) => message.key(key),
            None => message,
        };
        transaction.send(&message).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn what_a_look_gives_back_is_sent_although_nothing_else_happens() {
    let (outbox, pool) = Postgres::outbox().await;
    add(&outbox, 4, None).await;
    add(&outbox, 3, Some("key")).await;
    let mut somebody = pool.acquire().await.unwrap();
    let mut lock = somebody.begin().await.unwrap();
    let first = "select from posthouse_outbox where key = 'key' order by seq limit 1 for update";
    Postgres::run(&mut lock, first).await.unwrap();
    let recorder = Recorder::new();
    let held = Held::new(recorder.clone());

    // The second connection gets what is behind the first message of the key, and not that one.
    let relay = Running::start(&outbox, held.clone(), two());
    let mut connection = pool.acquire().await.unwrap();
    let behind = "select count(*) from posthouse_outbox where key = 'key' and lease > 0";
    eventually(async || Postgres::number(&mut connection, behind).await == 2).await;
    lock.rollback().await.unwrap();
    held.release();

    recorder.until_sent(7).await;
    relay.stop().await;
}

#[tokio::test]
async fn what_could_not_be_settled_is_settled_although_nothing_else_happens() {
    let (outbox, pool) = Postgres::outbox().await;
    add(&outbox, 6, None).await;
    let recorder = Recorder::new();
    let held = Held::new(recorder.clone());
    let relay = Running::start(&outbox, held.clone(), two());
    recorder.until(|recorder| recorder.tried().len() == 6).await;
    // The first has no room for more, and the second found that there is nothing more.
    let mut connection = pool.acquire().await.unwrap();
    let idle = "select count(*) from pg_stat_activity where state = 'idle'
        and application_name = 'posthouse relay' and datname = current_database()";
    eventually(async || {
        relay.counters.looks() == 3 && Postgres::number(&mut connection, idle).await == 2
    })
    .await;

    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'posthouse relay' and datname = current_database()";
    Postgres::run(&mut connection, cut).await.unwrap();
    held.release();

    let settled = "select count(*) from posthouse_outbox where state = 1";
    eventually(async || Postgres::number(&mut connection, settled).await == 6).await;
    relay.stop().await;
}
