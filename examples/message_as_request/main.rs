//! A message becomes a request: an ordinary axum application, whose routes messages come to as well.
//!
//! `cargo run -p examples --bin message_as_request` with a broker on localhost, then in another terminal:
//! `posthouse publish --exchange events --key orders.eu.placed --content-type application/json '{"id":7}'`
#![expect(clippy::print_stdout, reason = "a program to look at")]

use std::time::Duration;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Extension, Json};
use posthouse_client::Principal;
use posthouse_client::prelude::{Backoff, Exchange, Router, http_consumer, serve};

#[derive(serde::Deserialize)]
struct OrderPlaced {
    id: u64,
}

// It knows nothing of messages: the status settles them. 2xx acknowledges, 422 gives up, 503 asks to come again.
async fn placed(
    Path(region): Path<String>,
    principal: Option<Extension<Principal>>,
    headers: HeaderMap,
    Json(order): Json<OrderPlaced>,
) -> StatusCode {
    let attempt = headers.get("posthouse-attempt").and_then(|value| value.to_str().ok());
    println!(
        "order {} from {region}, attempt {}, for {}",
        order.id,
        attempt.unwrap_or("?"),
        principal.map_or("nobody in particular".to_owned(), |Extension(who)| who.0),
    );
    match order.id {
        0 => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::NO_CONTENT,
    }
}

#[tokio::main]
async fn main() -> posthouse_client::Result<()> {
    let url = std::env::var("POSTHOUSE_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let web = axum::Router::new().route("/events/orders/{region}/placed", post(placed));

    let consumer = http_consumer(web.clone())
        .path("/events/{rk.0}/{rk.1}/{rk.2}") // from the routing key
        .principal(|message| message.properties().user_id.map(str::to_owned)) // the broker has checked it
        .deadline_from_ttl()
        .consumer()
        .bind("events", "orders.*.placed")
        .retry(Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)));
    let routes = Router::new().exchange(Exchange::topic("events")).queue("orders", consumer);

    // The same router could be served over TCP beside: axum::serve(listener, web).
    let ctrl_c = async { drop(tokio::signal::ctrl_c().await) };
    serve(url, routes).with_graceful_shutdown(ctrl_c).await
}
