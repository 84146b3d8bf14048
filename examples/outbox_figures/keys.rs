//! How fast a relay is by the number of keys and of waiting rows, on each kind of database.

use std::fmt::Display;
use std::time::{Duration, Instant};

use posthouse_outbox::transport::amqp::Amqp;
use posthouse_outbox::{Dialect, Outbox, Routes, Settings};
use sqlx::{AssertSqlSafe, Executor, IntoArguments, MySql, Pool, Postgres, Sqlite};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::{Failure, QUEUE};

/// Rows that a statement adds.
const AT_ONCE: u64 = 1000;

/// The longest that one number of keys is measured; what is slow need not end.
const LONGEST: Duration = Duration::from_secs(15);

/// A kind of database: how rows are added to it.
trait Kind: Dialect {
    /// An id of its own for each row, and 256 bytes.
    const VALUES: &str;

    /// What brings statistics up to date.
    const SETTLE: &str;
}

impl Kind for Postgres {
    const VALUES: &str = "gen_random_uuid(), convert_to(repeat('x', 256), 'UTF8')";
    const SETTLE: &str = "vacuum analyze posthouse_outbox";
}

impl Kind for MySql {
    const VALUES: &str = "uuid(), repeat('x', 256)";
    const SETTLE: &str = "analyze table posthouse_outbox";
}

impl Kind for Sqlite {
    const VALUES: &str = "printf('%08x-0000-4000-8000-%012x', abs(random()) >> 31, abs(random()) >> 15), zeroblob(256)";
    const SETTLE: &str = "pragma optimize";
}

/// Measures on the database of `url`.
pub(crate) async fn measure(url: &str, broker: &str) -> Result<(), Failure> {
    match url.split(':').next() {
        Some("mysql" | "mariadb") => all::<MySql>(url, broker).await,
        Some("sqlite") => all::<Sqlite>(url, broker).await,
        _ => all::<Postgres>(url, broker).await,
    }
}

async fn all<D: Kind>(url: &str, broker: &str) -> Result<(), Failure>
where
    for<'c> &'c mut D::Connection: Executor<'c, Database = D>,
    for<'c> &'c Pool<D>: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
{
    let pool = Pool::<D>::connect(url).await?;
    Outbox::new(pool.clone()).migrate().await?;
    for waiting in [20_000, 200_000] {
        for keys in [Some(1), Some(8), Some(64), Some(1000), None] {
            fill(&pool, waiting, keys).await?;
            let rate = rate(&pool, broker, waiting).await?;
            let keys = keys.map_or("all different".to_owned(), |keys: u64| keys.to_string());
            println!("{} {waiting} waiting, keys {keys}: {rate:.0} messages/s", D::NAME);
        }
    }
    run(&pool, "delete from posthouse_outbox").await
}

async fn run<D: Kind>(pool: &Pool<D>, sql: impl Display) -> Result<(), Failure>
where
    for<'c> &'c Pool<D>: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
{
    sqlx::query(AssertSqlSafe(sql.to_string())).execute(pool).await?;
    Ok(())
}

/// Waiting rows, their keys one after the other.
async fn fill<D: Kind>(pool: &Pool<D>, waiting: u64, keys: Option<u64>) -> Result<(), Failure>
where
    for<'c> &'c Pool<D>: Executor<'c, Database = D>,
    D::Arguments: IntoArguments<D>,
{
    run(pool, "delete from posthouse_outbox").await?;
    let digits = (0..10).map(|digit| format!("select {digit} as n")).collect::<Vec<_>>();
    let digits = digits.join(" union all ");
    let key = if D::NAME == "MySQL" { "`key`" } else { "\"key\"" };
    for begin in (0..waiting).step_by(usize::try_from(AT_ONCE)?) {
        let number = format!("({begin} + a.n + 10 * b.n + 100 * c.n)");
        let place = keys.map_or(number.clone(), |keys| format!("{number} % {keys}"));
        run(
            pool,
            format!(
                "insert into posthouse_outbox (topic, {key}, content_type, headers, id, payload) \
                 select '{QUEUE}', cast({place} as char(9)), 'text/plain', '{{}}', {} \
                 from ({digits}) c cross join ({digits}) b cross join ({digits}) a",
                D::VALUES
            ),
        )
        .await?;
    }
    run(pool, D::SETTLE).await
}

/// Messages per second of one relay.
async fn rate<D: Kind>(pool: &Pool<D>, broker: &str, waiting: u64) -> Result<f64, Failure> {
    let relay = Outbox::new(pool.clone());
    let relay = relay.relay(Routes::all(Amqp::new(broker)?), Settings::default());
    let counters = relay.counters();
    let stop = watch::Sender::new(false);
    let mut stopped = stop.subscribe();
    let began = Instant::now();
    let running =
        tokio::spawn(relay.run(async move { drop(stopped.wait_for(|stop| *stop).await) }));
    while counters.delivered() < waiting && began.elapsed() < LONGEST {
        sleep(Duration::from_millis(1)).await;
    }
    let rate = counters.delivered() as f64 / began.elapsed().as_secs_f64();
    stop.send_replace(true);
    running.await?;
    Ok(rate)
}
