//! A consumer: orders are shipped, one at a time per customer, failures are tried again, what cannot be shipped is kept.
//!
//! `cargo run -p examples --bin consumer` with a broker on localhost (Posthouse or RabbitMQ), then in another terminal:
//! `posthouse publish --exchange events --key orders.placed '{"id":7,"customer":"ada"}'`
#![expect(clippy::print_stdout, reason = "a program to look at")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posthouse_client::layers::{TimeoutLayer, TraceLayer};
use posthouse_client::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct OrderPlaced {
    id: u64,
    customer: String,
}

#[derive(Serialize)]
struct ParcelReady {
    order: u64,
}

// Where it goes stands next to the type.
impl Message for ParcelReady {
    const EXCHANGE: &'static str = "events";
    const TOPIC: &'static str = "parcels.ready";
}

#[derive(Clone)]
struct Shop {
    bus: Client,
    stock: Arc<Mutex<BTreeMap<u64, u32>>>,
}

async fn ship(
    State(shop): State<Shop>,
    meta: Meta,
    Typed(order): Typed<OrderPlaced>, // the body is last: JSON, MessagePack or CBOR by content type
) -> Result<Ack, Fail> {
    if order.id == 0 {
        return Err(Fail::dead("there is no order 0"));
    }
    *shop.stock.lock().unwrap_or_else(PoisonError::into_inner).entry(order.id).or_default() += 1;
    // Optional: fine if nobody wants to hear of it. Any other failure is one of this message, and is tried again.
    shop.bus.publish(&ParcelReady { order: order.id }).optional().await?;
    println!("shipped {} to {}, attempt {}", order.id, order.customer, meta.attempt);
    Ok(Ack)
}

#[tokio::main]
async fn main() -> posthouse_client::Result<()> {
    let url = std::env::var("POSTHOUSE_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let bus = Client::connect(&url).await?;
    let shop = Shop { bus: bus.clone(), stock: Arc::default() };

    let routes = Router::new()
        .exchange(Exchange::topic("events"))
        .queue(
            "shipping",
            consume(ship)
                .bind("events", "orders.placed.#")
                .prefetch(64)
                .workers(16)
                .retry(
                    Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60))
                        .attempts(5),
                )
                .dead_letter("shipping.dead"),
        )
        .layer(TimeoutLayer::new(Duration::from_secs(30)))
        .layer(TraceLayer::new())
        .with_state(shop);

    // Like a plan of Terraform: what serving is about to create, and what the broker has otherwise.
    print!("{}", bus.plan(&routes.topology()?).await?);

    // Works until it is told to end, then works off what it has in hand.
    let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
    serve(url, routes).with_graceful_shutdown(ctrl_c).await?;
    bus.close().await;
    Ok(())
}
