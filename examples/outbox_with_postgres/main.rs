//! An axum service with an outbox: an order and the message that tells of it are one transaction in PostgreSQL.
//!
//! `DATABASE_URL=postgres://localhost/shop cargo run -p examples --bin outbox_with_postgres` with a broker on localhost (any
//! that speaks AMQP 0-9-1), and with the port that it prints:
//! `curl --json '{"customer":"ada","cents":700}' http://127.0.0.1:PORT/orders`
#![expect(clippy::print_stdout, reason = "a program to look at")]

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use posthouse_outbox::transport::amqp::Amqp;
use posthouse_outbox::{Message, Outbox, Routes, Settings};
use sqlx::{Executor as _, PgPool, Postgres};

const TABLES: &str = "
create table if not exists customers (name text primary key, credit_cents bigint not null);
create table if not exists orders (
    id bigint generated always as identity primary key, customer text not null, cents bigint not null);
insert into customers values ('ada', 1000) on conflict do nothing";

#[derive(serde::Deserialize)]
struct Wish {
    customer: String,
    cents: i64,
}

#[derive(serde::Serialize)]
struct OrderPlaced {
    id: i64,
    customer: String,
}

async fn place(
    State(outbox): State<Outbox<Postgres>>,
    Json(wish): Json<Wish>,
) -> Result<(StatusCode, Json<OrderPlaced>), Failure> {
    let mut transaction = outbox.begin().await?;
    let insert = "insert into orders (customer, cents) values ($1, $2) returning id";
    let insert = sqlx::query_scalar(insert).bind(&wish.customer).bind(wish.cents);
    let id: i64 = insert.fetch_one(&mut *transaction).await?;

    // In order with the other orders of this customer, and once, however often this code runs for the order.
    let placed = OrderPlaced { id, customer: wish.customer };
    let message = Message::json("orders.placed", &placed)?.source("shop");
    transaction.send(&message.key(&placed.customer).dedupe(id)).await?;

    let pay = "update customers set credit_cents = credit_cents - $2 where name = $1 returning credit_cents";
    let pay = sqlx::query_scalar(pay).bind(&placed.customer).bind(wish.cents);
    let credit: Option<i64> = pay.fetch_optional(&mut *transaction).await?;
    if credit.is_none_or(|left| left < 0) {
        return Err(Failure::NoCredit); // dropped without a commit: neither order nor message were there
    }
    transaction.commit().await?; // and the relay sends at once
    Ok((StatusCode::CREATED, Json(placed)))
}

enum Failure {
    NoCredit,
    Internal(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Internal(error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::NoCredit => (StatusCode::PAYMENT_REQUIRED, "no credit").into_response(),
            Self::Internal(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    pool.execute(TABLES).await?;
    let outbox = Outbox::new(pool);
    outbox.migrate().await?;

    // The relay runs in this process; `posthouse relay` or a hundred of these on the same database do as well.
    let broker = std::env::var("POSTHOUSE_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let events = Amqp::new(&format!("{}/?exchange=amq.topic", broker.trim_end_matches('/')))?;
    let relay = outbox.relay(Routes::all(events), Settings::default());
    let ended = async { drop(tokio::signal::ctrl_c().await) };
    let relay = tokio::spawn(relay.run(ended));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening {}", listener.local_addr()?);
    let shop = Router::new().route("/orders", post(place)).with_state(outbox);
    let ended = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, shop).with_graceful_shutdown(ended).await?;
    relay.await?; // what is under way is still sent
    Ok(())
}
