//! What needs Posthouse, on RabbitMQ: refused in words, before anything goes wrong silently.

use std::time::Duration;

use posthouse_client::prelude::*;
use posthouse_client::{AskError, Error, PublishError, TopologyError};
use posthouse_testing::TestBus;

use crate::broker::{client, options, rabbitmq, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_says_which_broker_it_has() {
    let bus = TestBus::start().await;
    assert_eq!(bus.client().broker().product, "Posthouse");

    let Some(url) = rabbitmq().await else { return };
    let client = client(&url).await;
    let broker = client.broker();
    client.close().await;

    assert_eq!(broker.product, "RabbitMQ");
    assert_eq!(broker.to_string(), format!("RabbitMQ {}", broker.version));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_messages_would_not_wait_in_their_queue_is_not_started() {
    let Some(url) = rabbitmq().await else { return };
    let second = Duration::from_secs(1);
    let consumer = consume(|| async {}).retry_in_queue(second, second, 3);
    let router = Router::new().queue("in-queue", consumer);

    let refused = App::start(&url, router, options()).await.unwrap_err();

    let text = refused.to_string();
    assert!(matches!(refused, Error::Unsupported(_)), "{text}");
    assert!(
        text.starts_with(
            "`retry_in_queue` needs Posthouse, or RabbitMQ from 4.3; this broker is RabbitMQ 3."
        ),
        "{text}"
    );
    let client = client(&url).await;
    let missing = client.queue_length("in-queue").await.unwrap_err();
    assert!(matches!(missing, AskError::Refused { code: 404, .. }), "nothing is declared");
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_would_not_be_recognised_is_not_sent() {
    let Some(url) = rabbitmq().await else { return };
    let client = client(&url).await;
    client.apply(&Topology::new().queue(Queue::new("recognised"))).await.unwrap();

    let refused = client.publish_to("", "recognised", "x").dedupe("7").priority(1).await;

    let refused = refused.unwrap_err();
    assert!(matches!(refused, PublishError::Unsupported(_)), "{refused}");
    assert!(!refused.is_retryable());
    client.publish_to("", "recognised", "y").await.unwrap();
    until("only the other is there", || async {
        client.queue_length("recognised").await.unwrap().messages == 1
    })
    .await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_of_a_type_that_is_missing_is_refused_in_the_brokers_words() {
    let Some(url) = rabbitmq().await else { return };
    let client = client(&url).await;
    let later = Topology::new().exchange(Exchange::delayed("later", "topic"));

    // RabbitMQ closes the whole connection for this.
    let refused = client.apply(&later).await.unwrap_err();

    let TopologyError::Refused(AskError::Refused { question, code, text }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!((question.as_str(), code), ("exchange `later`", 503));
    assert!(text.contains("x-delayed-message"), "{text}");
    let plain = Topology::new().queue(Queue::new("after-a-refusal"));
    until("the connection is back", || async { client.apply(&plain).await.is_ok() }).await;
    client.publish_to("", "after-a-refusal", "x").await.unwrap();
    client.close().await;
}
