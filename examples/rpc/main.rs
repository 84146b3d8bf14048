//! Calls: a server of exchange rates, and a client that asks it.
//!
//! `cargo run -p examples --bin rpc` with a broker on localhost, Posthouse or RabbitMQ.
#![expect(clippy::print_stdout, reason = "a program to look at")]

use std::time::Duration;

use posthouse_client::CallError;
use posthouse_client::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct GetQuote {
    from: String,
    to: String,
}

impl Message for GetQuote {
    const TOPIC: &'static str = "rates"; // the default exchange: the name of a queue
}

impl Request for GetQuote {
    type Reply = Quote;
}

#[derive(Serialize, Deserialize)]
struct Quote {
    rate: f64,
}

async fn quote(Typed(asked): Typed<GetQuote>) -> Result<Reply<Quote>, RpcError> {
    match (asked.from.as_str(), asked.to.as_str()) {
        ("EUR", "USD") => Ok(Reply(Quote { rate: 1.08 })),
        _ => Err(RpcError::not_found("no such pair")),
    }
}

#[tokio::main]
async fn main() -> posthouse_client::Result<()> {
    let url = std::env::var("POSTHOUSE_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());

    // The server.
    let app =
        App::start(&url, Router::new().queue("rates", rpc(quote)), Options::default()).await?;

    // The client. The timeout is the request's lifetime, too: nobody works for a caller who is gone.
    let bus = Client::connect(&url).await?;
    for (from, to) in [("EUR", "USD"), ("EUR", "XXX")] {
        let asked = GetQuote { from: from.to_owned(), to: to.to_owned() };
        match bus.call(&asked).timeout(Duration::from_secs(10)).await {
            Ok(quote) => println!("{from} {to}: {}", quote.rate),
            Err(CallError::Remote(error)) => println!("{from} {to}: {error}"),
            Err(error) => println!("{from} {to}: no answer: {error}"),
        }
    }

    bus.close().await;
    app.stop().await;
    Ok(())
}
