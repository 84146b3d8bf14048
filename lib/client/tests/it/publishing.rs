//! Confirms, returns, and a broker that is away.

use std::time::Duration;

use posthouse_client::prelude::*;
use posthouse_client::{ConnectError, PublishError};
use posthouse_testing::TestBus;

use crate::broker::{client, on_both, options, until};
use crate::cutter::Cutter;

async fn queue(client: &Client, name: &str) {
    client.apply(&Topology::new().queue(Queue::new(name))).await.unwrap();
}

async fn length(client: &Client, name: &str) -> u32 {
    client.queue_length(name).await.unwrap().messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmed_message_is_in_its_queue() {
    on_both(|url, prefix| async move {
        let client = client(&url).await;
        let name = format!("{prefix}.confirmed");
        queue(&client, &name).await;

        let published = client.publish_to("", name.clone(), "hello").await.unwrap();

        assert!(!published.message_id.is_empty());
        until("the message is ready", || async { length(&client, &name).await == 1 }).await;
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_no_queue_takes_is_an_error_and_its_neighbours_are_not() {
    on_both(|url, prefix| async move {
        let client = client(&url).await;
        let name = format!("{prefix}.neighbour");
        queue(&client, &name).await;

        let good = client.publish_to("", name.clone(), "1").send().await.unwrap();
        let lost = client.publish_to("", "nobody's", "2").send().await.unwrap();
        let fine = client.publish_to("", "nobody's", "3").optional().send().await.unwrap();
        let also_good = client.publish_to("", name.clone(), "4").send().await.unwrap();

        assert_eq!(good.await, Ok(()));
        assert!(matches!(lost.await, Err(PublishError::Unroutable { .. })));
        assert_eq!((fine.await, also_good.await), (Ok(()), Ok(())));
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_missing_fails_its_messages_and_no_others() {
    on_both(|url, prefix| async move {
        let client = client(&url).await;
        let name = format!("{prefix}.beside");
        queue(&client, &name).await;

        let mut good = Vec::new();
        let bad = client.publish_to(format!("{prefix}.nowhere"), "k", "x").send().await.unwrap();
        for number in 0..20 {
            let body = number.to_string();
            good.push(client.publish_to("", name.clone(), body).send().await.unwrap());
        }

        let refused = bad.await.unwrap_err();
        assert!(matches!(refused, PublishError::Rejected { code: 404, .. }), "{refused}");
        for confirm in good {
            assert_eq!(confirm.await, Ok(()));
        }
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_while_the_broker_is_away_arrives_when_it_is_back() {
    on_both(|url, prefix| async move {
        let wire = Cutter::before(&url).await;
        let client = client(&wire.url()).await;
        let name = format!("{prefix}.away");
        queue(&client, &name).await;

        wire.part();
        until("the loss is noticed", || async { !client.is_connected() }).await;
        let mut confirms = Vec::new();
        for number in 0..100 {
            let body = number.to_string();
            confirms.push(client.publish_to("", name.clone(), body).send().await.unwrap());
        }
        wire.mend();

        for confirm in confirms {
            assert_eq!(confirm.await, Ok(()));
        }
        until("they are ready", || async { length(&client, &name).await == 100 }).await;
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_connections_break_under_load() {
    on_both(|url, prefix| async move {
        let wire = Cutter::before(&url).await;
        let client = client(&wire.url()).await;
        let name = format!("{prefix}.load");
        queue(&client, &name).await;

        let mut confirms = Vec::new();
        for number in 0..3_000_u32 {
            if number % 700 == 350 {
                wire.cut();
            }
            // Shorter than the buffer is long, so that a cut never fills it.
            let body = number.to_string();
            confirms.push(client.publish_to("", name.clone(), body).send().await.unwrap());
        }
        for confirm in confirms {
            assert_eq!(confirm.await, Ok(()));
        }

        // What was on its way when a connection broke may be there twice, and is never missing.
        until("all are ready", || async { length(&client, &name).await >= 3_000 }).await;
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buffer_that_is_full_refuses_while_the_broker_is_away() {
    on_both(|url, _| async move {
        let wire = Cutter::before(&url).await;
        let small = options().unconfirmed(3, 1 << 20).drain_within(Duration::from_millis(100));
        let client = Client::connect_with(&wire.url(), small).await.unwrap();
        wire.part();
        until("the loss is noticed", || async { !client.is_connected() }).await;

        let mut kept = Vec::new();
        for _ in 0..3 {
            kept.push(client.publish_to("", "q", "x").send().await.unwrap());
        }
        let refused = client.publish_to("", "q", "x").await.unwrap_err();

        assert!(matches!(refused, PublishError::BufferFull { messages: 3, .. }), "{refused}");
        let late = client.publish_to("", "q", "x").confirm(Duration::from_millis(1)).await;
        assert!(late.is_err());
        client.close().await;
        for confirm in kept {
            assert_eq!(confirm.await, Err(PublishError::Closed));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_dropped_has_no_connection_in_its_metrics() {
    let bus = TestBus::start().await;
    let client = client(&bus.url()).await;
    let metrics = client.metrics().clone();
    assert_eq!(metrics.connected.get(), 1);

    drop(client);

    until("it is counted as gone", || async { metrics.connected.get() == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_could_not_say_goodbye_is_not_connected() {
    let bus = TestBus::start().await;
    let wire = Cutter::before(&bus.url()).await;
    let hasty = options().drain_within(Duration::from_millis(100));
    let client = Client::connect_with(&wire.url(), hasty).await.unwrap();
    wire.hang();

    client.close().await;

    until("it is counted as gone", || async { client.metrics().connected.get() == 0 }).await;
    assert!(!client.is_connected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_message_arrives_whole() {
    on_both(|url, prefix| async move {
        let client = client(&url).await;
        let name = format!("{prefix}.large");
        queue(&client, &name).await;

        let body = vec![7_u8; 3_000_000];
        client.publish_to("", name.clone(), body).await.unwrap();

        until("it is ready", || async { length(&client, &name).await == 1 }).await;
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_said_at_once() {
    on_both(|url, _| async move {
        let place = url.rsplit('@').next().unwrap().to_owned();

        let refused = Client::connect(&format!("amqp://guest:wrong@{place}")).await.unwrap_err();

        assert!(matches!(refused, ConnectError::Refused { code: 403, .. }), "{refused}");
    })
    .await;
}
