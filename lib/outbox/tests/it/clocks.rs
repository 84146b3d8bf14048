//! Clocks: only the database's counts, it may differ from everybody's, and it may jump.

use std::time::Duration;

use futures_util::future::BoxFuture;
use posthouse_outbox::{Letter, Message, Outbox, SendError, State, Transport};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres};

use crate::on_every_database;
use crate::recorder::{Recorder, Running, quick};
use crate::server::{Server, eventually};

on_every_database!(a_clock_that_is_set_back_keeps_the_order_of_a_key_and_holds_up_nothing_new);

const HOUR: Duration = Duration::from_secs(3600);

/// A clock in front of the server's own, which everything in the database reads: the defaults of the tables, functions, the
/// relay's statements.
const CLOCK: &str = "
create schema faked;
create table faked.clock (ahead interval not null);
insert into faked.clock values ('0');
create function faked.clock_timestamp() returns timestamptz language sql volatile as
    'select pg_catalog.clock_timestamp() + ahead from faked.clock';
create function faked.statement_timestamp() returns timestamptz language sql stable as
    'select pg_catalog.statement_timestamp() + ahead from faked.clock';
do $$ begin
    execute format('alter database %I set search_path = faked, pg_catalog, public', current_database());
end $$";

/// An outbox in a database whose clock the test sets.
async fn with_clock() -> (Outbox<Postgres>, PgPool) {
    let pool = Postgres::empty().await;
    Postgres::run(&mut pool.acquire().await.unwrap(), CLOCK).await.unwrap();
    // The path is that of connections which are made from now on.
    let options = (*pool.connect_options()).clone();
    let pool = PgPoolOptions::new().max_connections(16).connect_with(options).await.unwrap();
    let outbox = Outbox::new(pool.clone());
    outbox.migrate().await.unwrap();
    (outbox, pool)
}

/// Sets the database's clock this far ahead of ours, or behind.
async fn set_clock(pool: &PgPool, ahead: &str) {
    let set = format!("update faked.clock set ahead = '{ahead}'");
    Postgres::run(&mut pool.acquire().await.unwrap(), &set).await.unwrap();
}

fn message(topic: &str) -> Message {
    Message::new(topic, "text/plain", "")
}

#[tokio::test]
async fn the_clocks_of_application_and_database_may_be_years_apart() {
    for ahead in ["-3 years", "3 years"] {
        let (outbox, pool) = with_clock().await;
        set_clock(&pool, ahead).await;
        let recorder = Recorder::new();
        let mut transaction = outbox.begin().await.unwrap();
        for message in [
            message("later").delay(HOUR),
            message("stale").expires(Duration::from_micros(1)),
            message("now").expires(HOUR),
        ] {
            transaction.send(&message).await.unwrap();
        }
        transaction.commit().await.unwrap();

        let relay = Running::start(&outbox, recorder.clone(), quick());
        recorder.until_sent(1).await;
        // A clock that jumps ends leases, also of what was sent and is not settled yet.
        eventually(async || outbox.count().await.unwrap().waiting == 1).await;
        set_clock(&pool, &format!("{ahead} 1 hour")).await;
        recorder.until_sent(2).await;
        let counters = std::sync::Arc::clone(&relay.counters);
        relay.stop().await;

        assert_eq!(recorder.topics(), ["now", "later"], "{ahead}");
        assert_eq!(counters.expired(), 1, "{ahead}");
        let left = recorder.sent()[0].expires_in.unwrap();
        assert!(left <= HOUR && left > HOUR / 2, "{ahead}: {left:?}");
        // Nothing of the tables was written by the server's own clock.
        let ours = "select count(*) from posthouse_outbox where \
             abs(extract(epoch from created_at - pg_catalog.clock_timestamp())) < 86400";
        assert_eq!(Postgres::number(&mut pool.acquire().await.unwrap(), ours).await, 0, "{ahead}");
    }
}

/// A far end that never answers.
#[derive(Debug)]
struct Silent;

impl Transport for Silent {
    fn send<'a>(&'a self, _: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_clock_that_jumps_forward_ends_leases_and_loses_nothing() {
    let (outbox, pool) = with_clock().await;
    let mut transaction = outbox.begin().await.unwrap();
    let sent: Vec<Message> = (0..20).map(|n| message(&format!("{n:02}")).key("k")).collect();
    for message in &sent {
        transaction.send(message).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let paused = Running::start(&outbox, Silent, quick());
    let leased = "select count(*) from posthouse_outbox where lease > 0";
    let mut connection = pool.acquire().await.unwrap();
    eventually(async || Postgres::number(&mut connection, leased).await > 0).await;

    set_clock(&pool, "1 day").await;
    let recorder = Recorder::new();
    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(sent.len()).await;
    relay.stop().await;
    paused.crash().await;

    let wanted: Vec<&String> = sent.iter().map(|message| &message.topic).collect();
    assert_eq!(recorder.topics().iter().collect::<Vec<_>>(), wanted);
    for message in &sent {
        assert_eq!(outbox.state(message.id).await.unwrap(), Some(State::Delivered));
    }
}

/// A clock that is set back makes rows that were due a thing of the future, which is what this test makes of them.
async fn a_clock_that_is_set_back_keeps_the_order_of_a_key_and_holds_up_nothing_new<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::new();
    let mut connection = pool.acquire().await.unwrap();
    outbox.send(&mut connection, &message("1").key("k")).await.unwrap();
    S::run(&mut connection, &moved::<S>("+")).await.unwrap();
    for topic in ["2", "3"] {
        outbox.send(&mut connection, &message(topic).key("k")).await.unwrap();
    }
    outbox.send(&mut connection, &message("free")).await.unwrap();

    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(1).await;
    // A message that came after them all: whatever could have gone before it has gone.
    outbox.send(&mut connection, &message("last")).await.unwrap();
    recorder.until(|recorder| recorder.topics().contains(&"last".to_owned())).await;
    assert_eq!(recorder.topics(), ["free", "last"]);
    S::run(&mut connection, &moved::<S>("-")).await.unwrap();
    recorder.until_sent(5).await;
    relay.stop().await;

    assert_eq!(recorder.topics()[2..], ["1", "2", "3"]);
}

/// A statement that moves the times of the message `1` by an hour.
fn moved<S: Server>(sign: &str) -> String {
    let hour = match S::NAME {
        "PostgreSQL" => format!("{sign} interval '1 hour'"),
        _ => format!("{sign} {}", HOUR.as_micros()),
    };
    let times = ["created_at", "not_before", "next_attempt"];
    let times = times.map(|time| format!("{time} = {time} {hour}"));
    format!("update posthouse_outbox set {} where topic = '1'", times.join(", "))
}
