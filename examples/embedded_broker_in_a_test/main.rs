//! A test with a broker inside: retries that take an hour, a crash, and no waiting.
//!
//! `cargo test -p examples --test embedded_broker_in_a_test`

use std::time::Duration;

use posthouse_client::prelude::*;
use posthouse_testing::TestBus;

/// What is tested: an application's routes.
fn routes() -> Router {
    async fn ship(Typed(order): Typed<u64>) -> Result<Ack, Fail> {
        match order {
            0 => Err(Fail::retry("stock down")),
            _ => Ok(Ack),
        }
    }
    Router::new().queue("shipping", consume(ship).bind("amq.topic", "orders.#"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_shipped_is_tried_eight_times_and_kept() {
    let bus = TestBus::start().await; // a real Posthouse on a free port
    let app = bus.serve(routes()).await;
    let published = bus.record("amq.topic", "#").await;

    bus.client().publish_as("amq.topic", "orders.placed", Format::Json, &0_u64).await.unwrap();
    bus.advance(Duration::from_secs(3600)).await; // waits of 1, 2, 4 ... 64 seconds

    bus.assert_attempts(&app, "shipping", 8);
    bus.queue("shipping.dead").assert_one().assert_reason("stock down");
    published.assert_texts(&["0"]);

    bus.crash_and_restart().await; // what kill -9 leaves
    bus.queue("shipping.dead").assert_len(1);

    app.stop().await;
}
