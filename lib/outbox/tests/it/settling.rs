//! What a connection of a relay could not settle at once is settled soon, also when nothing else happens. And while the
//! first one can take nothing more, another finds what is new.
//!
//! Only the first connection looks from time to time; a further one sleeps when it has nothing to do. What it still had to
//! settle then would be leased until its lease is over, which is longer than a test waits.

use std::time::Duration;

use posthouse_outbox::{Message, Outbox, Settings};
use sqlx::{Connection as _, PgConnection, Postgres};

use crate::recorder::{Held, Recorder, Running, quick};
use crate::server::{PATIENCE, Server, eventually};

/// Two connections, of which the first takes four messages; the second would be made to look again after an hour.
fn two() -> Settings {
    let settings = Settings { batch: 4, lanes: 2, idle: Duration::from_secs(3600), ..quick() };
    assert!(settings.lease > PATIENCE);
    settings
}

/// Sends that take longer than a test.
fn patient(settings: Settings) -> Settings {
    let (send_timeout, lease) = (Duration::from_secs(600), Duration::from_secs(1200));
    Settings { send_timeout, lease, ..settings }
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
    // Another process's: its commits wake nobody here, as nothing else would.
    let other = Outbox::new(pool.clone());
    add(&other, 4, None).await;
    add(&other, 3, Some("key")).await;
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

#[tokio::test]
async fn what_is_committed_while_the_first_connection_has_no_room_is_sent_by_another() {
    let (outbox, _) = Postgres::outbox().await;
    add(&outbox, 3, None).await;
    let recorder = Recorder::new();
    let held = Held::new(recorder.clone());
    // It could have taken a fourth one, so it has called nobody.
    let relay = Running::start(&outbox, held.clone(), patient(two()));
    recorder.until(|recorder| recorder.tried().len() == 3).await;

    add(&outbox, 1, None).await;

    recorder.until(|recorder| recorder.tried().len() == 4).await;
    held.release();
    relay.stop().await;
}

#[tokio::test]
async fn what_nobody_tells_of_is_found_by_another_while_the_first_connection_has_no_room() {
    let (outbox, pool) = Postgres::outbox().await;
    add(&outbox, 3, None).await;
    let recorder = Recorder::new();
    let held = Held::new(recorder.clone());
    let settings = Settings { idle: Duration::from_millis(10), ..patient(two()) };
    let relay = Running::start(&outbox, held.clone(), settings);
    recorder.until(|recorder| recorder.tried().len() == 3).await;

    let mut connection = pool.acquire().await.unwrap();
    for tried in 4..=5 {
        let other = "insert into posthouse_outbox (topic, payload) values ('other', '')";
        Postgres::run(&mut connection, other).await.unwrap();
        recorder.until(|recorder| recorder.tried().len() == tried).await;
    }

    held.release();
    relay.stop().await;
}

/// Has the database refuse that messages end, and count how often it does.
const REFUSING: &str = "create sequence refusals;
    create function refuse() returns trigger language plpgsql as $$ begin
        perform nextval('refusals');
        raise exception 'not now' using errcode = 'CODE';
    end $$;
    create trigger refusing before update on posthouse_outbox
        for each row when (new.state > 0 and CONDITION) execute function refuse()";

async fn refuse(connection: &mut PgConnection, code: &str, condition: &str) {
    let refusing = REFUSING.replace("CODE", code).replace("CONDITION", condition);
    Postgres::run(connection, &refusing).await.unwrap();
}

const REFUSALS: &str = "select last_value from refusals";
const SETTLED: &str = "select count(*) from posthouse_outbox where state = 1";

#[tokio::test]
async fn what_was_sent_while_the_database_could_only_be_read_is_settled_afterwards() {
    // Read only; no space; a deadlock each time.
    for code in ["25006", "53100", "40P01"] {
        let (outbox, pool) = Postgres::outbox().await;
        let mut connection = pool.acquire().await.unwrap();
        refuse(&mut connection, code, "true").await;
        add(&outbox, 3, None).await;
        let recorder = Recorder::new();
        let relay = Running::start(&outbox, recorder.clone(), quick());
        recorder.until_sent(3).await;
        // More than it takes to have asked for each of them.
        eventually(async || Postgres::number(&mut connection, REFUSALS).await > 8).await;

        let drop = "drop trigger refusing on posthouse_outbox";
        Postgres::run(&mut connection, drop).await.unwrap();

        eventually(async || Postgres::number(&mut connection, SETTLED).await == 3).await;
        relay.stop().await;
        assert_eq!(recorder.tried().len(), 3, "{code}");
    }
}

#[tokio::test]
async fn what_the_database_refuses_of_one_message_does_not_keep_others_from_being_settled() {
    // A rule that its values break; what a trigger raises; and anything, as long as others are taken.
    for code in ["23514", "P0001", "25006"] {
        let (outbox, pool) = Postgres::outbox().await;
        let mut connection = pool.acquire().await.unwrap();
        refuse(&mut connection, code, "new.seq = 2").await;
        add(&outbox, 3, None).await;
        let recorder = Recorder::new();
        let held = Held::new(recorder.clone());
        let relay = Running::start(&outbox, held.clone(), Settings { lanes: 1, ..quick() });

        recorder.until(|recorder| recorder.tried().len() == 3).await;
        held.release();
        eventually(async || Postgres::number(&mut connection, SETTLED).await == 2).await;
        add(&outbox, 3, None).await;
        eventually(async || Postgres::number(&mut connection, SETTLED).await == 5).await;
        relay.stop().await;
        assert_eq!(recorder.tried().len(), 6, "{code}");
    }
}
