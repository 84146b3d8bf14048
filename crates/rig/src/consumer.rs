//! The application that receives: an effect for each message, in a transaction per message.

use std::time::Duration;

use posthouse_client::prelude::*;
use posthouse_outbox::{Message as Sent, Outbox};
use uuid::Uuid;

use crate::application::{CUSTOMER, Placed, TOPIC};
use crate::base::{Base, in_any_base};

/// Rows of totals: each effect adds two to them, sometimes to two rows in any order, so that transactions meet.
pub(crate) const BUCKETS: i64 = 64;

/// One effect of so many adds to two rows.
const IN_TWO_ROWS: u128 = 16;

/// One message of so many fails the first time.
const FAILS: u128 = 512;

/// Every so manieth order of a customer is announced.
pub(crate) const ANNOUNCED: i64 = 10;

/// What can be asked of `rig consumer`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Its database.
    #[arg(long)]
    shop: String,
    /// The broker.
    #[arg(long)]
    broker: String,
    /// Do something wrong, to see the checker find what comes of it.
    #[arg(long)]
    without: Option<Without>,
}

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Without {
    /// The inbox row: whoever believes that messages come once.
    Claim,
    /// The order of each customer: whoever believes that workers do not overtake each other.
    Order,
    /// Another attempt: whoever acknowledges what has failed.
    Retry,
}

/// Consumes until it is killed; prints `ready` when it does.
///
/// # Errors
///
/// If the broker is away at the start.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    in_any_base!(args.shop, consume_orders(&args))
}

async fn consume_orders<D: Base>(args: &Args) -> anyhow::Result<()> {
    let outbox = Outbox::new(D::open(&args.shop)?);
    let consumer = match args.without {
        None | Some(Without::Order) => consume(handle::<D>),
        Some(Without::Claim) => consume(handle_without_claim::<D>),
        Some(Without::Retry) => consume(handle_without_retry::<D>),
    };
    let (first, longest) = (Duration::from_millis(5), Duration::from_millis(500));
    let consumer = match args.without {
        Some(Without::Order) => consumer,
        None | Some(Without::Claim | Without::Retry) => consumer.ordered_by_header(CUSTOMER),
    };
    let consumer = consumer
        // A process that hangs and the one that follows it must not consume at the same time.
        .declared_as(Queue::new(TOPIC).argument("x-single-active-consumer", true))
        .retry(Backoff::exponential(first, longest).attempts(u32::MAX))
        .prefetch(512)
        .workers(D::WORKERS);
    let router = Router::new().queue(TOPIC, consumer).with_state(outbox);
    let options = Options::default()
        .reconnect(Duration::from_millis(20), Duration::from_millis(500))
        .named("rig consumer");
    let app = App::start(&args.broker, router, options).await?;
    println!("ready");
    std::future::pending::<()>().await;
    app.stop().await;
    Ok(())
}

async fn handle<D: Base>(mut tx: Tx<D>, Json(order): Json<Placed>) -> Result<Ack, Fail> {
    take_effect::<D>(&mut tx, order).await?;
    if order.seq % ANNOUNCED == 0 {
        tx.send(&Sent::json("announced", &order)?).await?;
    }
    Ok(Ack)
}

async fn handle_without_retry<D: Base>(
    State(outbox): State<Outbox<D>>,
    order: Json<Placed>,
) -> Result<Ack, Fail> {
    handle_without_claim(State(outbox), order).await.or(Ok(Ack))
}

async fn handle_without_claim<D: Base>(
    State(outbox): State<Outbox<D>>,
    Json(order): Json<Placed>,
) -> Result<Ack, Fail> {
    let mut transaction = outbox.begin().await?;
    take_effect::<D>(&mut transaction, order).await?;
    if order.seq % ANNOUNCED == 0 {
        transaction.send(&Sent::json("announced", &order)?).await?;
    }
    transaction.commit().await?;
    Ok(Ack)
}

async fn take_effect<D: Base>(connection: &mut D::Connection, order: Placed) -> Result<(), Fail> {
    let Placed { customer, seq, phantom } = order;
    let phantom = i64::from(phantom);
    let effect = format!(
        "insert into effects (customer, seq, phantom) values ({customer}, {seq}, {phantom})"
    );
    D::run(connection, effect).await?;
    let random = Uuid::new_v4().as_u128();
    let add =
        |n: i64, bucket: i64| format!("update totals set n = n + {n} where bucket = {bucket}");
    let home = customer % BUCKETS;
    if random.is_multiple_of(IN_TWO_ROWS) {
        let away =
            i64::try_from((random >> 8) % BUCKETS.unsigned_abs() as u128).unwrap_or_default();
        D::run(connection, add(1, home)).await?;
        D::run(connection, add(1, away)).await?;
    } else {
        D::run(connection, add(2, home)).await?;
    }
    // After its writes, so that they have to be undone.
    if (random >> 32).is_multiple_of(FAILS) {
        return Err(Fail::retry("now and then"));
    }
    Ok(())
}
