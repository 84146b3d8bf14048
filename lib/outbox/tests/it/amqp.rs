//! From the outbox to a real broker.

use std::sync::Arc;
use std::time::Duration;

use it::Value;
use posthouse_outbox::transport::amqp::Amqp;
use posthouse_outbox::{Message, Settings};
use sqlx::Postgres;

use crate::recorder::{Running, quick};
use crate::server::{Server, eventually};

fn amqp(broker: &it::Program, rest: &str) -> String {
    format!("amqp://guest:guest@{}/{rest}", broker.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_arrives_at_a_broker_with_everything_that_was_said() {
    let (outbox, pool) = Postgres::outbox().await;
    let broker = it::Program::start();
    let connection = it::Broker::Foreign(broker.address).connect();
    let channel = connection.channel();
    channel.exchange("events", "topic").unwrap();
    channel.declare_durable("all", &[]).unwrap();
    channel.bind("all", "events", "orders.#", &[]).unwrap();
    let message = Message::json("orders.placed", &serde_json::json!({ "id": 7 }))
        .unwrap()
        .source("shop")
        .header("trace", "abc")
        .expires(Duration::from_secs(3600));

    outbox.send(&mut pool.acquire().await.unwrap(), &message).await.unwrap();
    let transport = Amqp::new(&amqp(&broker, "?exchange=events")).unwrap();
    let relay = Running::start(&outbox, transport, quick());
    let got = channel.take_soon("all");
    relay.stop().await;

    assert_eq!(got.body, br#"{"id":7}"#);
    let properties = got.properties;
    assert_eq!(properties.message_id, Some(message.id.to_string()));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties.app_id.as_deref(), Some("shop"));
    assert_eq!(properties.delivery_mode, Some(2));
    assert_eq!(properties.header("trace"), Some(&Value::Text("abc".into())));
    assert_eq!(properties.header("x-dedup-id"), Some(&Value::Text(message.id.to_string())));
    let left: u64 = properties.expiration.unwrap().parse().unwrap();
    assert!(left <= 3_600_000 && left > 3_000_000, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_queue_takes_waits_until_one_does() {
    let (outbox, pool) = Postgres::outbox().await;
    let broker = it::Program::start();
    let connection = it::Broker::Foreign(broker.address).connect();
    let channel = connection.channel();
    let message = Message::new("later", "text/plain", "x");
    outbox.send(&mut pool.acquire().await.unwrap(), &message).await.unwrap();
    let mut settings = quick();
    settings.schedule.attempts = 1_000_000;

    let relay = Running::start(&outbox, Amqp::new(&amqp(&broker, "")).unwrap(), settings);
    let counters = Arc::clone(&relay.counters);
    eventually(async || counters.failed() > 0).await;
    channel.declare_durable("later", &[]).unwrap();
    let got = channel.take_soon("later");
    relay.stop().await;

    assert_eq!(got.body, b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_gets_everything_once() {
    let (outbox, _) = Postgres::outbox().await;
    let mut broker = it::Program::start();
    let address = broker.address;
    let connection = it::Broker::Foreign(address).connect();
    connection.channel().declare_durable("q", &[]).unwrap();
    let relay = Running::start(
        &outbox,
        Amqp::new(&amqp(&broker, "")).unwrap(),
        Settings { batch: 50, ..quick_and_patient() },
    );

    for round in 0..20 {
        let mut transaction = outbox.begin().await.unwrap();
        for n in 0..50 {
            let message = Message::new("q", "text/plain", format!("{round}-{n}"));
            transaction.send(&message).await.unwrap();
        }
        transaction.commit().await.unwrap();
        if round % 7 == 3 {
            broker.restart();
        }
    }
    eventually(async || outbox.count().await.unwrap().waiting == 0).await;
    relay.stop().await;

    let connection = it::Broker::Foreign(address).connect();
    let bodies = connection.channel().take_all("q");
    let distinct: std::collections::HashSet<_> = bodies.iter().collect();
    // Those that were under way at a restart were published twice; the broker knows them by their ids.
    assert_eq!((bodies.len(), distinct.len()), (1000, 1000));
}

fn quick_and_patient() -> Settings {
    let mut settings = quick();
    settings.schedule.attempts = 1_000_000;
    settings
}
