//! How fast the outbox is: rows of PostgreSQL to a broker, with confirms. docs/performance.md has its figures.
//!
//! `DATABASE_URL=postgres://localhost/empty cargo run --profile fast -p examples --bin outbox_figures -- rate` with a broker on
//! localhost; besides `rate` there are `shared`, `delay`, `apart` (where you start `posthouse relay`), `idle` and `history`,
//! and `keys`, which takes databases of MySQL and SQLite as well. The outbox of that database is emptied.
#![expect(clippy::print_stdout, reason = "a program to look at")]

mod keys;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use posthouse_client::prelude::*;
use posthouse_outbox::inbox::{Claim, claim_once};
use posthouse_outbox::transport::amqp::Amqp;
use posthouse_outbox::{Counters, Message, Outbox, Relay, Routes, Settings};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor as _, PgPool, Postgres};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

/// Queue that everything goes to.
const QUEUE: &str = "outbox_figures";

/// Commits per second while the delay is measured, and for how long.
const COMMITS_PER_SECOND: u64 = 500;
const DELAY_SECONDS: u64 = 20;

/// Messages that are claimed in one measurement of `history`.
const CLAIMED: u64 = 20_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What all measurements need.
struct Bench {
    pool: PgPool,
    broker: String,
    bus: Client,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let broker = std::env::var("POSTHOUSE_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let url = std::env::var("DATABASE_URL")?;
    let bus = Client::connect(&broker).await?;
    bus.apply(&Topology::new().queue(Queue::new(QUEUE))).await?;
    if std::env::args().nth(1).as_deref() == Some("keys") {
        keys::measure(&url, &broker).await?;
        bus.delete_queue(QUEUE).await?;
        bus.close().await;
        return Ok(());
    }
    let pool = PgPoolOptions::new().max_connections(16).connect(&url).await?;
    let bench = Bench { pool, broker, bus };
    Outbox::new(bench.pool.clone()).migrate().await?;
    bench.empty().await?;

    match std::env::args().nth(1).as_deref() {
        Some("rate") => bench.rate(200_000, 1).await?,
        Some("shared") => bench.rate(200_000, 3).await?,
        Some("delay") => bench.delay(true).await?,
        Some("apart") => bench.delay(false).await?,
        Some("idle") => bench.idle(Duration::from_secs(60)).await?,
        Some("history") => bench.history().await?,
        _ => return Err("say what: rate, shared, delay, apart, idle, history or keys".into()),
    }
    bench.empty().await?;
    bench.bus.delete_queue(QUEUE).await?;
    bench.bus.close().await;
    Ok(())
}

impl Bench {
    async fn empty(&self) -> Result<(), Failure> {
        self.pool.execute("truncate posthouse_outbox, posthouse_inbox").await?;
        self.bus.purge(QUEUE).await?;
        Ok(())
    }

    /// Waiting rows with 1 KiB each.
    async fn fill(&self, count: u64) -> Result<(), Failure> {
        let fill = "insert into posthouse_outbox (topic, content_type, payload)
            select $1, 'application/octet-stream', convert_to(repeat('x', 1024), 'UTF8') from generate_series(1, $2)";
        sqlx::query(fill).bind(QUEUE).bind(i64::try_from(count)?).execute(&self.pool).await?;
        self.pool.execute("vacuum analyze posthouse_outbox").await?;
        Ok(())
    }

    /// A relay that shares nothing with others but the database and the broker.
    fn relay(&self) -> Result<Relay<Postgres>, Failure> {
        let routes = Routes::all(Amqp::new(&self.broker)?);
        Ok(Outbox::new(self.pool.clone()).relay(routes, Settings::default()))
    }

    /// Has so many relays send all that waits; tells how long they took and what each did.
    async fn drained(&self, count: u64, relays: usize) -> Result<(Duration, Vec<u64>), Failure> {
        let relays = (0..relays).map(|_| self.relay()).collect::<Result<Vec<_>, _>>()?;
        let counters: Vec<Arc<Counters>> = relays.iter().map(Relay::counters).collect();
        let stop = watch::Sender::new(false);
        let began = Instant::now();
        let running = relays.into_iter().map(|relay| {
            let mut stopped = stop.subscribe();
            tokio::spawn(relay.run(async move { drop(stopped.wait_for(|stop| *stop).await) }))
        });
        let running: Vec<_> = running.collect();
        while counters.iter().map(|counters| counters.delivered()).sum::<u64>() < count {
            sleep(Duration::from_millis(1)).await;
        }
        let took = began.elapsed();
        stop.send_replace(true);
        for relay in running {
            relay.await?;
        }
        Ok((took, counters.iter().map(|counters| counters.delivered()).collect()))
    }

    async fn rate(&self, count: u64, relays: usize) -> Result<(), Failure> {
        self.fill(count).await?;
        let (took, shares) = self.drained(count, relays).await?;
        println!("{:.0} messages/s; each relay: {shares:?}", count as f64 / took.as_secs_f64());
        Ok(())
    }

    /// From the end of a commit until the handler of a consumer has the message.
    async fn delay(&self, with_relay: bool) -> Result<(), Failure> {
        let count = COMMITS_PER_SECOND * DELAY_SECONDS;
        let times = Arc::new(Times::new(count));
        let take = |State(times): State<Arc<Times>>, body: Bytes| async move {
            let number: usize =
                std::str::from_utf8(&body).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            times.delivered(number);
        };
        let router =
            Router::new().queue(QUEUE, consume(take).prefetch(1000)).with_state(Arc::clone(&times));
        let app = App::start(&self.broker, router, Options::default()).await?;
        let outbox = Outbox::new(self.pool.clone());
        let relay = outbox.relay(Routes::all(Amqp::new(&self.broker)?), Settings::default());
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let relay = with_relay.then(|| {
            tokio::spawn(relay.run(async move { drop(stopped.wait_for(|stop| *stop).await) }))
        });

        let mut commits = JoinSet::new();
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(COMMITS_PER_SECOND)?);
        for number in 0..usize::try_from(count)? {
            ticks.tick().await;
            commits.spawn(commit(outbox.clone(), number, Arc::clone(&times)));
        }
        while let Some(committed) = commits.join_next().await {
            committed??;
        }
        while times.missing() {
            sleep(Duration::from_millis(10)).await;
        }
        stop.send_replace(true);
        if let Some(relay) = relay {
            relay.await?;
        }
        app.stop().await;
        let delays = times.delays();
        let at =
            |percent: usize| delays.get(delays.len() * percent / 100).copied().unwrap_or_default();
        println!(
            "commit to delivery in ms: p50 {:.2}, p99 {:.2}, slowest {:.2}",
            at(50),
            at(99),
            delays.last().copied().unwrap_or_default()
        );
        Ok(())
    }

    /// What a relay asks the database for when nothing happens.
    async fn idle(&self, time: Duration) -> Result<(), Failure> {
        let statements = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()";
        let relay = self.relay()?;
        let counters = relay.counters();
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let running =
            tokio::spawn(relay.run(async move { drop(stopped.wait_for(|stop| *stop).await) }));
        sleep(Duration::from_secs(5)).await;
        let (looks, before): (u64, i64) =
            (counters.looks(), sqlx::query_scalar(statements).fetch_one(&self.pool).await?);
        sleep(time).await;
        let after: i64 = sqlx::query_scalar(statements).fetch_one(&self.pool).await?;
        let looks = counters.looks() - looks;
        stop.send_replace(true);
        running.await?;
        let per_second = |count: f64| count / time.as_secs_f64();
        println!(
            "{:.2} looks/s; {:.2} transactions/s in the database, the autovacuum's and this question included",
            per_second(looks as f64),
            per_second((after - before) as f64)
        );
        Ok(())
    }

    /// What it costs to lease and settle, and to claim in an inbox, with few and with many finished rows.
    async fn history(&self) -> Result<(), Failure> {
        for finished in [10_000, 10_000_000] {
            self.empty().await?;
            let outbox = "insert into posthouse_outbox (topic, payload, state, finished_at)
                select 'finished', '', 1, clock_timestamp() from generate_series(1, $1)";
            let inbox = "insert into posthouse_inbox (consumer, id)
                select 'figures', gen_random_uuid()::text from generate_series(1, $1)";
            for fill in [outbox, inbox] {
                sqlx::query(fill).bind(i64::from(finished)).execute(&self.pool).await?;
            }
            self.pool.execute("vacuum analyze posthouse_inbox").await?;
            let (mut relayed, mut claimed) = (Vec::new(), Vec::new());
            for run in 0..5 {
                self.fill(CLAIMED).await?;
                self.pool.execute("checkpoint").await?;
                let (took, _) = self.drained(CLAIMED, 1).await?;
                relayed.push(took.as_secs_f64() * 1e6 / CLAIMED as f64);
                claimed.push(self.claims(run).await?.as_secs_f64() * 1e6 / CLAIMED as f64);
            }
            println!(
                "{finished} finished rows: {:.1} µs per message relayed, {:.1} µs per message claimed in an inbox",
                median(&mut relayed),
                median(&mut claimed)
            );
        }
        Ok(())
    }

    /// Claims, in transactions of a hundred, so that it is not the commit that is measured.
    async fn claims(&self, run: u64) -> Result<Duration, Failure> {
        let began = Instant::now();
        for hundred in 0..CLAIMED / 100 {
            let mut transaction = self.pool.begin().await?;
            for number in 0..100 {
                let id = format!("{run}-{hundred}-{number}");
                let claim = claim_once(&mut *transaction, "figures", &id).await?;
                assert_eq!(claim, Claim::First, "no id comes twice");
            }
            transaction.commit().await?;
        }
        Ok(began.elapsed())
    }
}

/// A transaction of an application: one message, and a commit that wakes the relay.
async fn commit(
    outbox: Outbox<Postgres>,
    number: usize,
    times: Arc<Times>,
) -> Result<(), posthouse_outbox::Error> {
    let mut transaction = outbox.begin().await?;
    transaction.send(&Message::new(QUEUE, "text/plain", number.to_string())).await?;
    transaction.commit().await?;
    times.committed(number);
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// When each message was committed and delivered, in nanoseconds since the beginning; zero if not yet.
struct Times {
    began: Instant,
    committed: Vec<AtomicU64>,
    delivered: Vec<AtomicU64>,
}

impl Times {
    fn new(count: u64) -> Self {
        let zeros = || (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { began: Instant::now(), committed: zeros(), delivered: zeros() }
    }

    fn note(&self, times: &[AtomicU64], number: usize) {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Some(time) = times.get(number) {
            time.store(now, Ordering::Relaxed);
        }
    }

    fn committed(&self, number: usize) {
        self.note(&self.committed, number);
    }

    fn delivered(&self, number: usize) {
        self.note(&self.delivered, number);
    }

    fn missing(&self) -> bool {
        let mut times = self.committed.iter().chain(&self.delivered);
        times.any(|time| time.load(Ordering::Relaxed) == 0)
    }

    /// Milliseconds, sorted. A message may be delivered before its sender hears of the commit.
    fn delays(&self) -> Vec<f64> {
        let pairs = self.committed.iter().zip(&self.delivered);
        let delays = pairs.map(|(committed, delivered)| {
            let (from, to) = (committed.load(Ordering::Relaxed), delivered.load(Ordering::Relaxed));
            to.saturating_sub(from) as f64 / 1e6
        });
        let mut delays: Vec<f64> = delays.collect();
        delays.sort_by(f64::total_cmp);
        delays
    }
}
