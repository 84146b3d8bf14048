//! What a relay does with failures, with other relays, and with nothing to do.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use posthouse_outbox::{Message, Outbox, SendError, Settings, State, Which};

use sqlx::Postgres;

use crate::on_every_database;
use crate::recorder::{Held, Recorder, Running, quick};
use crate::server::{Server, eventually};

on_every_database!(
    a_poisonous_message_is_given_up_and_does_not_stop_the_others,
    dead_letters_are_listed_retried_and_purged,
    what_the_far_end_refuses_is_given_up_at_once,
    an_outage_costs_no_attempts,
    several_relays_share_the_work_and_send_nothing_twice,
    what_a_dead_relay_had_is_sent_by_another,
    a_relay_that_lost_its_lease_settles_nothing,
    finished_rows_go_after_their_retention,
    delivered_rows_can_be_removed_at_once,
    a_transport_that_panics_at_a_message_fails_that_one_only,
    an_idle_relay_asks_at_most_once_a_second,
    a_commit_wakes_an_idle_relay,
);

async fn fill<S: Server>(outbox: &Outbox<S>, topics: impl IntoIterator<Item = String>) {
    let mut transaction = outbox.begin().await.unwrap();
    for topic in topics {
        transaction.send(&Message::new(topic, "text/plain", "x")).await.unwrap();
    }
    transaction.commit().await.unwrap();
}

async fn a_poisonous_message_is_given_up_and_does_not_stop_the_others<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::with(|letter| match letter.topic.as_str() {
        "poison" => Err(SendError::Retry("it \0 hurts".to_owned())),
        _ => Ok(()),
    });
    fill(&outbox, ["poison".to_owned()].into_iter().chain((0..20).map(|n| n.to_string()))).await;

    let relay = Running::start(&outbox, recorder.clone(), Settings { batch: 4, ..quick() });
    recorder.until_sent(20).await;
    recorder.until(|recorder| recorder.tried().len() == 23).await;
    relay.stop().await;

    let dead = outbox.dead_letters(10).await.unwrap();
    let [dead] = dead.as_slice() else { panic!("{dead:?}") };
    assert_eq!((dead.topic.as_str(), dead.attempts), ("poison", 3));
    assert!(dead.error.contains("hurts"), "{}", dead.error);
    let attempts: Vec<u32> = recorder
        .tried()
        .iter()
        .filter(|letter| letter.topic == "poison")
        .map(|letter| letter.attempt)
        .collect();
    assert_eq!(attempts, [1, 2, 3]);
}

async fn dead_letters_are_listed_retried_and_purged<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let is_well = Arc::new(AtomicBool::new(false));
    let health = Arc::clone(&is_well);
    let recorder = Recorder::with(move |_| match health.load(Ordering::SeqCst) {
        true => Ok(()),
        false => Err(SendError::Refused("no".to_owned())),
    });
    fill(&outbox, ["a", "b", "c"].map(str::to_owned)).await;
    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until(|recorder| recorder.tried().len() == 3).await;
    relay.stop().await;

    let dead = outbox.dead_letters(10).await.unwrap();
    assert_eq!(dead.len(), 3);
    assert_eq!(outbox.dead_letters(2).await.unwrap().len(), 2);
    assert_eq!(outbox.count().await.unwrap().dead, 3);
    assert_eq!(outbox.purge_dead_letters(&Which::Topic("b".to_owned())).await.unwrap(), 1);
    let a = dead.iter().find(|dead| dead.topic == "a").unwrap().id;
    assert_eq!(outbox.retry_dead_letters(&Which::Id(a)).await.unwrap(), 1);
    is_well.store(true, Ordering::SeqCst);
    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(1).await;
    assert_eq!(outbox.retry_dead_letters(&Which::All).await.unwrap(), 1);
    recorder.until_sent(2).await;
    relay.stop().await;

    assert_eq!(recorder.topics(), ["a", "c"]);
    assert!(outbox.dead_letters(10).await.unwrap().is_empty());
    assert_eq!(recorder.sent()[0].attempt, 1, "with all its attempts");
}

async fn what_the_far_end_refuses_is_given_up_at_once<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::with(|_| Err(SendError::Refused("malformed".to_owned())));
    fill(&outbox, ["a".to_owned()]).await;

    let relay = Running::start(&outbox, recorder.clone(), Settings::default());
    recorder.until(|recorder| recorder.tried().len() == 1).await;
    relay.stop().await;

    let dead = outbox.dead_letters(10).await.unwrap();
    assert_eq!((dead[0].attempts, dead[0].error.as_str()), (1, "malformed"));
}

async fn an_outage_costs_no_attempts<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let is_up = Arc::new(AtomicBool::new(false));
    let line = Arc::clone(&is_up);
    let recorder = Recorder::with(move |_| match line.load(Ordering::SeqCst) {
        true => Ok(()),
        false => Err(SendError::Unavailable("connection refused".to_owned())),
    });
    fill(&outbox, (0..50).map(|n| n.to_string())).await;

    let relay = Running::start(&outbox, recorder.clone(), quick());
    // Far more often than a message may be tried.
    recorder.until(|recorder| recorder.tried().len() >= 60).await;
    is_up.store(true, Ordering::SeqCst);
    recorder.until_sent(50).await;
    let counters = Arc::clone(&relay.counters);
    relay.stop().await;

    assert!(recorder.sent().iter().all(|letter| letter.attempt == 1));
    assert_eq!((counters.dead(), counters.failed(), counters.delivered()), (0, 0, 50));
    assert!(outbox.dead_letters(10).await.unwrap().is_empty());
}

async fn several_relays_share_the_work_and_send_nothing_twice<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::new();
    let settings = Settings { batch: 20, ..quick() };
    let relays: Vec<Running> =
        (0..3).map(|_| Running::start(&outbox, recorder.clone(), settings.clone())).collect();

    for round in 0..10 {
        fill(&outbox, (0..100).map(|n| format!("{round}-{n}"))).await;
    }
    recorder.until_sent(1000).await;
    for relay in relays {
        relay.stop().await;
    }

    let distinct: HashSet<_> = recorder.tried().into_iter().map(|letter| letter.id).collect();
    assert_eq!((distinct.len(), recorder.tried().len()), (1000, 1000));
}

async fn what_a_dead_relay_had_is_sent_by_another<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let stuck = Recorder::new();
    fill(&outbox, ["a", "b"].map(str::to_owned)).await;
    let settings = Settings {
        send_timeout: Duration::from_millis(200),
        lease: Duration::from_millis(400),
        ..quick()
    };
    // It leases, and is gone before it settles.
    let relay = Running::start(&outbox, Slow(stuck.clone()), settings.clone());
    stuck.until(|recorder| recorder.tried().len() == 2).await;
    relay.crash().await;
    let mut connection = pool.acquire().await.unwrap();
    let leased = "select count(*) from posthouse_outbox where state = 0 and lease > 0";
    assert_eq!(S::number(&mut connection, leased).await, 2);

    let recorder = Recorder::new();
    let relay = Running::start(&outbox, recorder.clone(), settings);
    recorder.until_sent(2).await;
    relay.stop().await;

    assert!(recorder.sent().iter().all(|letter| letter.attempt == 2), "attempts are counted");
}

async fn a_relay_that_lost_its_lease_settles_nothing<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::with(|_| Err(SendError::Refused("said too late".to_owned())));
    fill(&outbox, ["a".to_owned()]).await;
    let held = Held::new(recorder.clone());
    let relay = Running::start(&outbox, held.clone(), quick());
    recorder.until(|recorder| recorder.tried().len() == 1).await;

    // Somebody else leases it meanwhile, as after a pause that was longer than the lease.
    let mut connection = pool.acquire().await.unwrap();
    S::run(&mut connection, "update posthouse_outbox set lease = lease + 1").await.unwrap();
    held.release();
    relay.stop().await;

    assert_eq!(outbox.count().await.unwrap().waiting, 1);
    assert!(outbox.dead_letters(10).await.unwrap().is_empty());
}

async fn finished_rows_go_after_their_retention<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::new();
    fill(&outbox, (0..10).map(|n| n.to_string())).await;
    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(10).await;
    relay.stop().await;
    let mut connection = pool.acquire().await.unwrap();
    let rows = "select count(*) from posthouse_outbox";
    assert_eq!(S::number(&mut connection, rows).await, 10, "kept, with their dedupe ids");

    let settings = Settings { retention: Duration::from_micros(1), ..quick() };
    let relay = Running::start(&outbox, recorder.clone(), settings);
    eventually(async || S::number(&mut connection, rows).await == 0).await;
    relay.stop().await;
}

async fn delivered_rows_can_be_removed_at_once<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let recorder = Recorder::new();
    fill(&outbox, (0..10).map(|n| n.to_string())).await;

    let settings = Settings { retention: Duration::ZERO, ..quick() };
    let relay = Running::start(&outbox, recorder.clone(), settings);
    recorder.until_sent(10).await;
    relay.stop().await;

    let mut connection = pool.acquire().await.unwrap();
    assert_eq!(S::number(&mut connection, "select count(*) from posthouse_outbox").await, 0);
}

async fn a_transport_that_panics_at_a_message_fails_that_one_only<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::with(|letter| match letter.topic.as_str() {
        "bad" => panic!("a bug at {}", letter.topic),
        _ => Ok(()),
    });
    let relay = Running::start(&outbox, recorder.clone(), Settings { lanes: 1, ..quick() });

    fill(&outbox, ["bad".to_owned()]).await;
    eventually(async || outbox.count().await.unwrap().dead == 1).await;
    fill(&outbox, ["good".to_owned()]).await;
    recorder.until_sent(1).await;
    relay.stop().await;

    assert_eq!(recorder.topics(), ["good"]);
    let dead = outbox.dead_letters(10).await.unwrap();
    let error = "the transport panicked: a bug at bad";
    assert_eq!((dead[0].attempts, dead[0].error.as_str()), (3, error));
}

async fn an_idle_relay_asks_at_most_once_a_second<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let relay = Running::start(&outbox, Recorder::new(), Settings::default());
    // From 2 ms it doubles its pace to the idle one: the time until then is less than 3 s.
    let counters = Arc::clone(&relay.counters);
    // Whoever looks at the counter looks a little late, and much too late where the machine stands still: so this is the
    // last moment before the first of the looks, and `last` one after the last.
    let mut first = Instant::now();
    eventually(async || {
        let now = Instant::now();
        let is_idle = counters.looks() >= 11;
        if !is_idle {
            first = now;
        }
        is_idle
    })
    .await;
    eventually(async || counters.looks() >= 14).await;
    let last = Instant::now();
    relay.stop().await;

    assert!(last - first >= Duration::from_millis(3500), "three looks in {:?}", last - first);
}

async fn a_commit_wakes_an_idle_relay<S: Server>() {
    let (outbox, _) = S::outbox().await;
    let recorder = Recorder::new();
    // It would look again after an hour.
    let settings = Settings { idle: Duration::from_secs(3600), ..quick() };
    let relay = Running::start(&outbox, recorder.clone(), settings);
    for n in 0..20_usize {
        fill(&outbox, [n.to_string()]).await;
        recorder.until_sent(n + 1).await;
    }
    relay.stop().await;
    assert_eq!(outbox.state(recorder.sent()[19].id).await.unwrap(), Some(State::Delivered));
}

/// Notes and never answers.
#[derive(Debug)]
struct Slow(Recorder);

impl posthouse_outbox::Transport for Slow {
    fn send<'a>(
        &'a self,
        letter: &'a posthouse_outbox::Letter,
    ) -> futures_util::future::BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            self.0.send(letter).await?;
            std::future::pending().await
        })
    }
}

/// Statistics say what a table was. They must not have the relay look at all that is due for each row that it sends.
#[tokio::test]
async fn statistics_of_an_empty_table_do_not_make_a_full_one_slow() {
    let (outbox, pool) = Postgres::outbox().await;
    let mut connection = pool.acquire().await.unwrap();
    let finished = "insert into posthouse_outbox (topic, payload, state, finished_at)
        select 'old', '', 1, now() from generate_series(1, 20000); analyze posthouse_outbox";
    Postgres::run(&mut connection, finished).await.unwrap();
    let due = "insert into posthouse_outbox (topic, payload, key)
        select 'new', '', nullif(n % 20, 0)::text from generate_series(1, 4000) n";
    Postgres::run(&mut connection, due).await.unwrap();
    let recorder = Recorder::new();

    let relay = Running::start(&outbox, recorder.clone(), quick());
    recorder.until_sent(4000).await;
    relay.stop().await;

    // Connections that end say what they did.
    let read = "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes
        where indexrelname in ('posthouse_outbox_due', 'posthouse_outbox_key')";
    eventually(async || Postgres::number(&mut connection, read).await > 0).await;
    let read = Postgres::number(&mut connection, read).await;
    assert!(read < 4000 * 200, "{read} entries of the indexes of waiting rows were read");
}

#[tokio::test]
async fn old_rows_that_cannot_be_removed_do_not_disturb_what_is_sent() {
    let (outbox, pool) = Postgres::outbox().await;
    let mut connection = pool.acquire().await.unwrap();
    let used = "create table used (id uuid references posthouse_outbox);
        with old as (insert into posthouse_outbox (topic, payload, state, finished_at)
            values ('old', '', 1, now() - interval '1 hour') returning id)
        insert into used select id from old";
    Postgres::run(&mut connection, used).await.unwrap();
    let recorder = Recorder::new();
    let (lanes, retention) = (1, Duration::from_millis(1));
    let relay = Running::start(&outbox, recorder.clone(), Settings { lanes, retention, ..quick() });

    let mut process = async |sent: usize| {
        fill(&outbox, [sent.to_string()]).await;
        recorder.until_sent(sent).await;
        let waiting = "select count(*) from posthouse_outbox where state = 0";
        eventually(async || Postgres::number(&mut connection, waiting).await == 0).await;
        let process = "select pid::bigint from pg_stat_activity
            where application_name = 'posthouse relay' and datname = current_database()";
        Postgres::number(&mut connection, process).await
    };
    let first = process(1).await;

    for sent in 2..=5 {
        assert_eq!(process(sent).await, first, "the connection was given up");
    }
    relay.stop().await;
}
