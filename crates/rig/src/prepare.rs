//! The tables of the two applications.

use posthouse_outbox::Outbox;

use crate::base::{Base, in_any_base};
use crate::consumer::BUCKETS;

/// What can be asked of `rig prepare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Database of the application that sends.
    #[arg(long)]
    app: String,
    /// Database of the one that receives.
    #[arg(long)]
    shop: String,
}

/// Makes them.
///
/// # Errors
///
/// If a database refuses.
pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    in_any_base!(args.app, prepare(args))
}

async fn prepare<D: Base>(args: &Args) -> anyhow::Result<()> {
    let app = D::open(&args.app)?;
    Outbox::new(app.clone()).migrate().await?;
    let orders = "create table orders (customer bigint, seq bigint, primary key (customer, seq))";
    D::run(&mut *app.acquire().await?, orders.to_owned()).await?;

    let shop = D::open(&args.shop)?;
    Outbox::new(shop.clone()).migrate().await?;
    let counted = D::COUNTED;
    // No constraint forbids an effect to be there twice: the checker is to see it.
    let effects =
        format!("create table effects (id {counted}, customer bigint, seq bigint, phantom bigint)");
    let mut connection = shop.acquire().await?;
    D::run(&mut connection, effects).await?;
    let totals = "create table totals (bucket bigint primary key, n bigint)";
    D::run(&mut connection, totals.to_owned()).await?;
    for bucket in 0..BUCKETS {
        D::run(&mut connection, format!("insert into totals values ({bucket}, 0)")).await?;
    }
    Ok(())
}
