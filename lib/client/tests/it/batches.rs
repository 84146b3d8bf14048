//! Several messages at once.

use std::time::Duration;

use posthouse_client::Error;
use posthouse_client::prelude::*;
use tokio::sync::mpsc;

use crate::broker::{on_both, options, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_what_has_come_within_a_while_without_what_cannot_be_read() {
    on_both(|url, prefix| async move {
        let (seen, mut batches) = mpsc::unbounded_channel();
        let store = |State(seen): State<mpsc::UnboundedSender<Vec<u32>>>,
                     Batch(rows): Batch<Json<u32>>| async move {
            seen.send(rows.into_iter().map(|Json(row)| row).collect()).unwrap();
        };
        let (queue, dead) = (format!("{prefix}.audit"), format!("{prefix}.audit.dead"));
        let consumer = consume_batch(store).up_to(10).within(Duration::from_millis(100));
        let router = Router::new().queue(&queue, consumer).with_state(seen);
        let app = App::start(&url, router, options()).await.unwrap();

        for number in 0..25_u32 {
            let body = if number == 5 { "poison".to_owned() } else { number.to_string() };
            app.client().publish_to("", queue.clone(), body).await.unwrap();
        }

        let mut rows = Vec::new();
        while rows.len() < 24 {
            let batch = batches.recv().await.unwrap();
            assert!(batch.len() <= 10);
            rows.extend(batch);
        }
        assert_eq!(rows, (0..25).filter(|number| *number != 5).collect::<Vec<_>>());
        until("the poison is given up", || async {
            app.client().queue_length(&dead).await.unwrap().messages == 1
        })
        .await;
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_in_an_order_by_key_are_refused_before_anything_is_connected() {
    let store = |Batch(_): Batch<String>| async { Ack };
    let ordered = [
        consume_batch(store).ordered_by_routing_key(),
        consume_batch(store).ordered_by_header("customer").within(Duration::from_secs(1)),
    ];

    for consumer in ordered {
        let router = Router::new().queue("audit", consumer);
        let started = App::start("amqp://nobody.invalid", router, options()).await;

        let refused = started.map(drop).unwrap_err();
        assert!(matches!(&refused, Error::OrderedBatch { queue } if queue == "audit"), "{refused}");
    }
}
