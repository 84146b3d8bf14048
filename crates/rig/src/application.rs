//! The application that sends: orders and their messages, in the same transactions.
//!
//! Some transactions are rolled back; their messages say so and must never arrive. The database says how far each customer
//! has come, also after a commit of which nobody knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use posthouse_outbox::{Message, Outbox};
use serde::{Deserialize, Serialize};
use sqlx::Pool;
use uuid::Uuid;

use crate::base::{Base, in_any_base};

/// Topic of the orders, and so the queue that they go to.
pub(crate) const TOPIC: &str = "orders";

/// Header of the messages that says whose order it is; orders of one customer are an order.
pub(crate) const CUSTOMER: &str = "customer";

/// Customers.
const CUSTOMERS: i64 = 512;

/// Tasks; each has customers of its own, because who writes to one key at a time knows its order.
const WRITERS: i64 = 8;

/// Orders of a transaction at most.
const ORDERS_MAX: i64 = 8;

/// Of so many transactions one is rolled back.
const ROLLED_BACK: u64 = 16;

/// Orders that may be ahead of their effects: faults are to meet work, not a backlog.
const AHEAD_MAX: i64 = 4_000;

/// Between two looks at how far the others are.
const LOOK: Duration = Duration::from_millis(200);

/// After something failed.
const PAUSE: Duration = Duration::from_millis(50);

/// What can be asked of `rig application`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its database.
    #[arg(long)]
    app: String,
    /// Database of the application that receives, to see how far it is.
    #[arg(long)]
    shop: String,
    /// At least so many orders.
    #[arg(long)]
    messages: i64,
    /// It goes on until this file is there as well.
    #[arg(long)]
    until: PathBuf,
}

/// The body of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) customer: i64,
    pub(crate) seq: i64,
    /// Of a transaction that was rolled back.
    pub(crate) phantom: bool,
}

/// What the tasks share.
struct Work<D: Base> {
    pool: Pool<D>,
    outbox: Outbox<D>,
    /// Orders that are in the database.
    committed: AtomicI64,
    /// Orders and no more: the others are behind.
    limit: AtomicI64,
    ends: AtomicBool,
}

/// Commits orders until there are enough; prints `committed N` as it goes.
///
/// # Errors
///
/// If an address is wrong. Databases that are away are waited for.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    in_any_base!(args.app, place(&args))
}

async fn place<D: Base>(args: &Args) -> anyhow::Result<()> {
    let (pool, shop) = (D::open(&args.app)?, D::open(&args.shop)?);
    let outbox = Outbox::new(pool.clone());
    let work = Arc::new(Work {
        pool,
        outbox,
        committed: AtomicI64::new(0),
        limit: AtomicI64::new(0),
        ends: AtomicBool::new(false),
    });
    let first = ask_until_answered(&work.pool, "select count(*) from orders").await;
    let first = first.iter().flatten().sum();
    work.committed.store(first, Ordering::SeqCst);
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let work = Arc::clone(&work);
            tokio::spawn(async move { write(&work, writer).await })
        })
        .collect();
    while !work.ends.load(Ordering::SeqCst) {
        let committed = work.committed.load(Ordering::SeqCst);
        println!("committed {committed}");
        if committed >= args.messages && Path::exists(&args.until) {
            work.ends.store(true, Ordering::SeqCst);
        }
        if let Ok(effects) = effects::<D>(&shop).await {
            work.limit.store(effects + AHEAD_MAX, Ordering::SeqCst);
        }
        tokio::time::sleep(LOOK).await;
    }
    for task in tasks {
        task.await?;
    }
    println!("committed {}", work.committed.load(Ordering::SeqCst));
    println!("done");
    Ok(())
}

/// How many effects there are; each counts twice in the totals.
pub(crate) async fn effects<D: Base>(shop: &Pool<D>) -> anyhow::Result<i64> {
    let totals = D::rows(&mut *shop.acquire().await?, "select n from totals").await?;
    Ok(totals.iter().flatten().sum::<i64>() / 2)
}

async fn ask<D: Base>(pool: &Pool<D>, sql: &str) -> anyhow::Result<Vec<Vec<i64>>> {
    Ok(D::rows(&mut *pool.acquire().await?, sql).await?)
}

/// Asks until the database answers.
async fn ask_until_answered<D: Base>(pool: &Pool<D>, sql: &str) -> Vec<Vec<i64>> {
    loop {
        match ask(pool, sql).await {
            Ok(rows) => return rows,
            Err(error) => tracing::info!("the database does not answer: {error:#}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One task: transactions for its customers, one after the other.
async fn write<D: Base>(work: &Work<D>, writer: i64) {
    let mut next = known(work, writer).await;
    while !work.ends.load(Ordering::SeqCst) {
        if work.committed.load(Ordering::SeqCst) >= work.limit.load(Ordering::SeqCst) {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let random = Uuid::new_v4().as_u128();
        match transaction(work, &mut next.clone(), writer, random).await {
            Ok(None) => {}
            Ok(Some((count, after))) => {
                work.committed.fetch_add(count, Ordering::SeqCst);
                next = after;
            }
            Err(error) => {
                tracing::info!("a transaction failed: {error:#}");
                tokio::time::sleep(PAUSE).await;
                // It took place or not: the database knows.
                let found = known(work, writer).await;
                let more: i64 = found.values().sum::<i64>() - next.values().sum::<i64>();
                work.committed.fetch_add(more, Ordering::SeqCst);
                next = found;
            }
        }
    }
}

/// The next number of each of the writer's customers.
async fn known<D: Base>(work: &Work<D>, writer: i64) -> BTreeMap<i64, i64> {
    let sql = format!(
        "select customer, max(seq) from orders where customer % {WRITERS} = {writer} group by customer"
    );
    let found = ask_until_answered(&work.pool, &sql).await;
    let mut next: BTreeMap<i64, i64> =
        (0..CUSTOMERS).filter(|customer| customer % WRITERS == writer).map(|c| (c, 1)).collect();
    for row in found {
        if let [customer, last] = row[..] {
            next.insert(customer, last + 1);
        }
    }
    next
}

type Next = BTreeMap<i64, i64>;

/// Some orders with their messages; `None` if it was rolled back.
async fn transaction<D: Base>(
    work: &Work<D>,
    next: &mut Next,
    writer: i64,
    mut random: u128,
) -> anyhow::Result<Option<(i64, Next)>> {
    let mut draw = |bound: u128| {
        let drawn = random % bound;
        random /= bound;
        i64::try_from(drawn).unwrap_or_default()
    };
    let phantom = draw(ROLLED_BACK.into()) == 0;
    let count = 1 + draw(ORDERS_MAX.unsigned_abs().into());
    let mut transaction = work.outbox.begin().await?;
    for _ in 0..count {
        let customer = writer + WRITERS * draw((CUSTOMERS / WRITERS).unsigned_abs().into());
        let seq = next.entry(customer).or_insert(1);
        let placed = Placed { customer, seq: *seq, phantom };
        *seq += 1;
        let order = format!("insert into orders values ({customer}, {})", placed.seq);
        D::run(&mut transaction, order).await?;
        let message = Message::json(TOPIC, &placed)?.key(customer);
        transaction.send(&message.header(CUSTOMER, customer.to_string())).await?;
    }
    if phantom {
        transaction.rollback().await?;
        return Ok(None);
    }
    transaction.commit().await?;
    Ok(Some((count, next.clone())))
}
