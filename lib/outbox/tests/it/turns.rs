//! A transport that sends few messages at once: the others wait for their turn, and that costs them no attempt.

use std::time::Duration;

use axum::http::StatusCode;
use axum::routing::post;
use futures_util::future::BoxFuture;
use posthouse_outbox::transport::http::Inbox;
use posthouse_outbox::{Letter, Message, Outbox, Schedule, SendError, Settings, Transport};
use sqlx::Postgres;

use crate::recorder::{Held, Recorder, Running, quick};
use crate::server::{Server, eventually};

/// One failure is the end of a message.
fn strict() -> Settings {
    let schedule = Schedule { attempts: 1, ..quick().schedule };
    Settings { schedule, lanes: 1, ..quick() }
}

async fn add(outbox: &Outbox<Postgres>, topic: &str, count: usize) {
    let mut transaction = outbox.begin().await.unwrap();
    for _ in 0..count {
        let message = Message::new(topic, "application/json", "{}");
        transaction.send(&message).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

/// Sends one message at a time.
#[derive(Debug)]
struct Single<T>(T);

impl<T: Transport> Transport for Single<T> {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        self.0.send(letter)
    }

    fn at_once(&self) -> Option<usize> {
        Some(1)
    }
}

/// Answers slow ones never.
#[derive(Debug)]
struct Slow(Recorder);

impl Transport for Slow {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            if letter.topic == "slow" {
                std::future::pending::<()>().await;
            }
            self.0.send(letter).await
        })
    }
}

/// Sixteen at once and a second for each: the last ones' turn comes later than a message may take to be sent.
#[tokio::test]
async fn a_queue_for_an_inbox_costs_no_attempts() {
    let answer = async || {
        let work = std::future::pending::<()>();
        drop(tokio::time::timeout(Duration::from_secs(1), work).await);
        StatusCode::CREATED
    };
    let router = axum::Router::new().route("/inbox/", post(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let inbox = Inbox::new(&format!("http://{}/inbox/", listener.local_addr().unwrap())).unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let (outbox, pool) = Postgres::outbox().await;
    add(&outbox, "topic", 112).await;

    let settings = Settings { send_timeout: Duration::from_secs(5), batch: 200, ..strict() };
    let relay = Running::start(&outbox, inbox, settings);
    let mut connection = pool.acquire().await.unwrap();
    let waiting = "select count(*) from posthouse_outbox where state = 0";
    eventually(async || Postgres::number(&mut connection, waiting).await == 0).await;
    let counters = std::sync::Arc::clone(&relay.counters);
    relay.stop().await;
    server.abort();

    assert_eq!((counters.delivered(), counters.dead(), counters.failed()), (112, 0, 0));
}

#[tokio::test]
async fn a_message_whose_turn_comes_too_late_is_given_back_untried() {
    let (outbox, _) = Postgres::outbox().await;
    let recorder = Recorder::new();
    add(&outbox, "slow", 3).await;
    add(&outbox, "quick", 3).await;

    let (send_timeout, lease) = (Duration::from_secs(1), Duration::from_secs(2));
    let settings = Settings { send_timeout, lease, ..strict() };
    let relay = Running::start(&outbox, Single(Slow(recorder.clone())), settings);
    recorder.until_sent(3).await;
    let counters = std::sync::Arc::clone(&relay.counters);
    relay.stop().await;

    assert!(counters.released() > 0);
    assert_eq!((counters.delivered(), counters.dead()), (3, 3));
    assert!(recorder.sent().iter().all(|letter| letter.attempt == 1));
}

#[tokio::test]
async fn what_waits_for_its_turn_is_given_back_when_the_relay_stops() {
    let (outbox, pool) = Postgres::outbox().await;
    let recorder = Recorder::new();
    let held = Held::new(recorder.clone());
    add(&outbox, "topic", 3).await;
    let relay = Running::start(&outbox, Single(held.clone()), strict());
    recorder.until(|recorder| recorder.tried().len() == 1).await;

    let counters = std::sync::Arc::clone(&relay.counters);
    let release = async {
        eventually(async || counters.released() == 2).await;
        held.release();
    };
    tokio::join!(relay.stop(), release);

    let mut connection = pool.acquire().await.unwrap();
    let free = "select count(*) from posthouse_outbox
        where state = 0 and lease_until is null and attempts = 0";
    assert_eq!(Postgres::number(&mut connection, free).await, 2);
    assert_eq!(recorder.sent().len(), 1);
}
