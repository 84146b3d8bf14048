//! From the outbox to RabbitMQ: nothing of the relay needs Posthouse at the other end.

use std::net::SocketAddr;
use std::sync::Arc;

use it::Value;
use posthouse_outbox::transport::amqp::Amqp;
use posthouse_outbox::{Message, Settings};
use sqlx::Postgres;

use crate::recorder::{Running, quick};
use crate::server::{Server, eventually};

/// Starting it takes longer than a test's other threads should wait.
async fn rabbitmq() -> Option<SocketAddr> {
    tokio::task::spawn_blocking(it::rabbitmq::rabbitmq).await.unwrap()
}

fn patient() -> Settings {
    let mut settings = quick();
    settings.schedule.attempts = 1_000_000;
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_gets_every_message_with_what_was_said_and_in_the_order_of_its_key() {
    let Some(address) = rabbitmq().await else { return };
    let (outbox, _) = Postgres::outbox().await;
    let connection = it::Broker::Foreign(address).connect();
    let channel = connection.channel();
    channel.exchange("outbox-events", "topic").unwrap();
    channel.declare_durable("outbox-orders", &[]).unwrap();
    channel.bind("outbox-orders", "outbox-events", "orders.#", &[]).unwrap();
    let mut transaction = outbox.begin().await.unwrap();
    for n in 0..300 {
        let message = Message::new("orders.placed", "text/plain", format!("{}-{n:03}", n % 3));
        transaction
            .send(&message.source("shop").key(n % 3).header("n", n.to_string()))
            .await
            .unwrap();
    }
    transaction.commit().await.unwrap();

    let to = format!("amqp://guest:guest@{address}/?exchange=outbox-events");
    let relay = Running::start(&outbox, Amqp::new(&to).unwrap(), patient());
    eventually(async || outbox.count().await.unwrap().waiting == 0).await;
    relay.stop().await;

    let first = channel.take_soon("outbox-orders");
    assert_eq!(first.properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(first.properties.app_id.as_deref(), Some("shop"));
    assert_eq!(first.properties.delivery_mode, Some(2));
    assert!(matches!(first.properties.header("n"), Some(Value::Text(_))));
    let mut bodies = vec![String::from_utf8(first.body).unwrap()];
    bodies.extend(channel.take_all("outbox-orders"));
    assert_eq!(bodies.len(), 300);
    for key in ["0-", "1-", "2-"] {
        let of_key: Vec<&String> = bodies.iter().filter(|body| body.starts_with(key)).collect();
        assert!(of_key.is_sorted() && of_key.len() == 100, "{of_key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rabbitmq_has_no_queue_for_waits_until_there_is_one() {
    let Some(address) = rabbitmq().await else { return };
    let (outbox, pool) = Postgres::outbox().await;
    let connection = it::Broker::Foreign(address).connect();
    let channel = connection.channel();
    let message = Message::new("outbox-later", "text/plain", "x");
    outbox.send(&mut pool.acquire().await.unwrap(), &message).await.unwrap();

    let to = format!("amqp://guest:guest@{address}/");
    let relay = Running::start(&outbox, Amqp::new(&to).unwrap(), patient());
    let counters = Arc::clone(&relay.counters);
    eventually(async || counters.failed() > 0).await;
    channel.declare_durable("outbox-later", &[]).unwrap();
    eventually(async || outbox.count().await.unwrap().waiting == 0).await;
    relay.stop().await;

    assert_eq!(channel.take_soon("outbox-later").body, b"x");
}
