//! A consumer with a transaction per message: an order becomes one parcel, however often it arrives, and the news of the
//! parcel leaves if, and only if, the parcel is there.
//!
//! `cargo run -p examples --bin consumer_with_tx` with a broker on localhost, then in another terminal, twice:
//! `posthouse publish --exchange events --key orders.placed --property message-id=order-7 '{"id":7,"customer":"ada"}'`
//!
//! The database is a file, so that nothing has to be set up; PostgreSQL, MySQL and MariaDB only need another pool.
#![expect(clippy::print_stdout, reason = "a program to look at")]

use posthouse_client::prelude::*;
use posthouse_outbox::transport::amqp::Amqp;
use posthouse_outbox::{Message, Outbox, Routes, Settings};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, Sqlite, SqlitePool};

#[derive(Deserialize)]
struct OrderPlaced {
    id: i64,
    customer: String,
}

#[derive(Serialize, Deserialize)]
struct ParcelReady {
    order: i64,
}

// The message's inbox row is in `tx` already, and what is written and sent here joins it.
async fn pack(mut tx: Tx<Sqlite>, Json(order): Json<OrderPlaced>) -> Result<Ack, Fail> {
    if order.id == 0 {
        return Err(Fail::dead("there is no order 0")); // rolled back
    }
    let parcel = sqlx::query("insert into parcels (order_id, customer) values (?, ?)");
    parcel.bind(order.id).bind(&order.customer).execute(&mut *tx).await?;
    // Messages of one customer arrive in the order in which they were sent.
    let news = Message::json("parcels.ready", &ParcelReady { order: order.id })?;
    tx.send(&news.key(&order.customer)).await?;
    Ok(Ack) // commit, then the acknowledgement
}

async fn announce(Json(parcel): Json<ParcelReady>) {
    println!("the parcel of order {} is ready", parcel.order);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("POSTHOUSE_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let file = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite:shop.db?mode=rwc".into());
    let database = SqlitePool::connect(&file).await?;
    database.execute("create table if not exists parcels (order_id int, customer text)").await?;
    let outbox = Outbox::new(database);
    outbox.migrate().await?;

    // What transactions have put into the outbox goes to the broker. This may as well be a process of its own:
    // `posthouse relay`.
    let relay = outbox
        .relay(Routes::all(Amqp::new(&format!("{url}?exchange=events"))?), Settings::default());
    let relaying = tokio::spawn(relay.run(ctrl_c()));

    let routes = Router::new()
        .exchange(Exchange::topic("events"))
        .queue("packing", consume(pack).bind("events", "orders.placed"))
        .queue("announcing", consume(announce).bind("events", "parcels.ready"))
        .with_state(outbox);
    serve(url, routes).with_graceful_shutdown(ctrl_c()).await?;
    relaying.await?;
    Ok(())
}

async fn ctrl_c() {
    drop(tokio::signal::ctrl_c().await);
}
