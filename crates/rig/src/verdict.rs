//! Waits until everything has been handled, reads both databases, and prints what is wrong.

use std::time::Duration;

use anyhow::bail;
use posthouse_outbox::Outbox;
use sqlx::Pool;

use crate::application::effects;
use crate::base::{Base, in_any_base};
use crate::consumer::ANNOUNCED;
use crate::ledger::{Effect, Ledger, Order};

/// How many looks may find that nothing was handled. Looks and not time, because the whole rig may be stopped for a while.
const STUCK_LOOKS: u32 = 600;

/// How often a database may be asked for a connection: it may still be recovering.
const CONNECTS: u32 = 30;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// How long to wait for what should not come: second deliveries.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// What can be asked of `rig verdict`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Database of the application that has sent.
    #[arg(long)]
    app: String,
    /// Database of the one that has received.
    #[arg(long)]
    shop: String,
}

/// Prints one line of figures and one for each complaint.
///
/// # Errors
///
/// If anything is wrong, or a database cannot be read.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    in_any_base!(args.app, judge(args))
}

async fn judge<D: Base>(args: &Args) -> anyhow::Result<()> {
    let (app, shop) = (D::open(&args.app)?, D::open(&args.shop)?);
    until_connected(&app).await?;
    until_connected(&shop).await?;
    let stuck = until_handled(&app, &shop).await?;
    tokio::time::sleep(AFTERWARDS).await;
    let ledger = read(&app, &shop).await?;
    let verdict = ledger.verdict(ANNOUNCED);
    println!(
        "verdict: {} committed, {} effects, {} lost, {} duplicate, {} out of order, {} phantom, {} torn",
        ledger.orders.len(),
        ledger.effects.len(),
        verdict.lost,
        verdict.duplicates,
        verdict.disorders,
        verdict.phantoms,
        verdict.torn
    );
    for complaint in verdict.complaints.iter().chain(&stuck) {
        println!("{complaint}");
    }
    if !verdict.is_good() || stuck.is_some() {
        bail!("something is wrong");
    }
    Ok(())
}

async fn until_connected<D: Base>(pool: &Pool<D>) -> anyhow::Result<()> {
    for _ in 0..CONNECTS {
        match pool.acquire().await {
            Ok(_) => return Ok(()),
            Err(error) => tracing::info!("the database is away: {error}"),
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("the database does not come back")
}

/// Waits until the outbox is empty and each order has its effect; a complaint if that does not come to pass.
async fn until_handled<D: Base>(app: &Pool<D>, shop: &Pool<D>) -> anyhow::Result<Option<String>> {
    let outbox = Outbox::new(app.clone());
    let orders = D::rows(&mut *app.acquire().await?, "select count(*) from orders").await?;
    let orders: i64 = orders.iter().flatten().sum();
    let (mut before, mut idle_looks) = ((0, 0, 0), 0);
    loop {
        let counts = outbox.count().await?;
        let now = (effects(shop).await?, counts.waiting, counts.dead);
        if now.0 >= orders && now.1 == 0 {
            return Ok(None);
        }
        idle_looks += 1;
        if now != before {
            (before, idle_looks) = (now, 0);
        }
        if idle_looks > STUCK_LOOKS {
            let (effects, waiting, dead) = now;
            return Ok(Some(format!(
                "STUCK: {orders} orders, {effects} effects, {waiting} messages in the outbox, {dead} dead"
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn read<D: Base>(app: &Pool<D>, shop: &Pool<D>) -> anyhow::Result<Ledger> {
    let mut connection = app.acquire().await?;
    let orders = D::rows(&mut connection, "select customer, seq from orders").await?;
    let mut connection = shop.acquire().await?;
    let rows = "select customer, seq, phantom from effects order by id";
    let rows = D::rows(&mut connection, rows).await?;
    let number = |rows: Vec<Vec<i64>>| rows.iter().flatten().sum::<i64>();
    let announced = D::rows(&mut connection, "select count(*) from posthouse_outbox").await?;
    let claims = D::rows(&mut connection, "select count(*) from posthouse_inbox").await?;
    let total = D::rows(&mut connection, "select n from totals").await?;
    let order = |row: &[i64]| match *row {
        [customer, seq, ..] => Order { customer, seq },
        _ => Order { customer: -1, seq: -1 },
    };
    let effect = |row: &Vec<i64>| Effect { order: order(row), phantom: row.last() == Some(&1) };
    Ok(Ledger {
        orders: orders.iter().map(|row| order(row)).collect(),
        effects: rows.iter().map(effect).collect(),
        total: number(total),
        announced: usize::try_from(number(announced))?,
        claims: usize::try_from(number(claims))?,
    })
}
