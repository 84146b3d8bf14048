//! What is under way goes on while the relay's connection waits for the database, and while there is none.
//!
//! The time of a message that is being sent runs whatever the database does, and what it has may be what others wait for.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use posthouse_outbox::{Letter, Message, Outbox, SendError, Settings, Transport};
use sqlx::{Connection as _, PgConnection, PgPool, Postgres};
use tokio::sync::Semaphore;

use crate::recorder::{Recorder, Running, quick};
use crate::server::{Server, eventually};

/// Steps of a send, as connecting, writing and reading are: more than pauses fit into a test's patience.
const STEPS: u32 = 60;

const WAITING: &str = "select count(*) from posthouse_outbox where state = 0";
const LEASED: &str = "select count(*) from posthouse_outbox where lease > 0";

/// Sends a message when its topic is let, in many steps.
#[derive(Debug, Clone)]
struct Steps {
    recorder: Recorder,
    first: Arc<Semaphore>,
    second: Arc<Semaphore>,
}

impl Transport for Steps {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            let gate = if letter.topic == "first" { &self.first } else { &self.second };
            drop(gate.acquire().await);
            for _ in 0..STEPS {
                tokio::task::yield_now().await;
            }
            self.recorder.send(letter).await
        })
    }
}

fn steps() -> Steps {
    let (first, second) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    Steps { recorder: Recorder::new(), first, second }
}

/// A relay that has leased a message of each topic.
async fn relaying(outbox: &Outbox<Postgres>, pool: &PgPool, steps: &Steps) -> Running {
    let mut transaction = outbox.begin().await.unwrap();
    for topic in ["first", "second"] {
        transaction.send(&Message::new(topic, "text/plain", "")).await.unwrap();
    }
    transaction.commit().await.unwrap();
    let settings = Settings { lanes: 1, idle: Duration::from_millis(10), ..quick() };
    let (send_timeout, lease) = (Duration::from_secs(600), Duration::from_secs(1200));
    let relay = Running::start(outbox, steps.clone(), Settings { send_timeout, lease, ..settings });
    let mut connection = pool.acquire().await.unwrap();
    eventually(async || Postgres::number(&mut connection, LEASED).await == 2).await;
    relay
}

async fn ends(relay: Running, connection: &mut PgConnection) {
    eventually(async || Postgres::number(connection, WAITING).await == 0).await;
    assert_eq!(relay.counters.delivered(), 2);
    relay.stop().await;
}

#[tokio::test]
async fn sends_go_on_while_a_statement_waits() {
    let (outbox, pool) = Postgres::outbox().await;
    let steps = steps();
    let relay = relaying(&outbox, &pool, &steps).await;
    let mut connection = pool.acquire().await.unwrap();
    let mut somebody = pool.acquire().await.unwrap();
    let mut lock = somebody.begin().await.unwrap();
    let table = "lock table posthouse_outbox in access exclusive mode";
    Postgres::run(&mut lock, table).await.unwrap();
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
        and application_name = 'posthouse relay' and datname = current_database()";
    steps.first.add_permits(1);
    eventually(async || Postgres::number(&mut connection, waits).await == 1).await;

    steps.second.add_permits(1);

    steps.recorder.until_sent(2).await;
    lock.rollback().await.unwrap();
    ends(relay, &mut connection).await;
}

#[tokio::test]
async fn sends_go_on_while_the_database_is_away() {
    let (outbox, pool) = Postgres::outbox().await;
    let steps = steps();
    let relay = relaying(&outbox, &pool, &steps).await;
    let mut connection = pool.acquire().await.unwrap();
    let (options, beside) = (pool.connect_options(), pool.connect_options());
    let name = options.get_database().unwrap();
    let beside = (*beside).clone().database("postgres");
    let mut beside = PgConnection::connect_with(&beside).await.unwrap();
    let away = format!("alter database {name} allow_connections false");
    Postgres::run(&mut beside, &away).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'posthouse relay' and datname = current_database()";
    Postgres::run(&mut connection, cut).await.unwrap();

    steps.first.add_permits(1);
    steps.second.add_permits(1);

    steps.recorder.until_sent(2).await;
    let back = format!("alter database {name} allow_connections true");
    Postgres::run(&mut beside, &back).await.unwrap();
    ends(relay, &mut connection).await;
}
