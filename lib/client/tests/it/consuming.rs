//! Handlers: what they take, what their return value does, and connections that break meanwhile.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse_client::prelude::*;
use posthouse_client::{REASON_HEADER, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::broker::{client, on_both, options, until};
use crate::cutter::Cutter;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct OrderPlaced {
    id: u32,
}

impl Message for OrderPlaced {
    const EXCHANGE: &'static str = "amq.topic";
    const TOPIC: &'static str = "orders.placed";
}

/// Waits that a test can wait for.
fn quick() -> Backoff {
    Backoff::exponential(Duration::from_millis(30), Duration::from_millis(60)).attempts(3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_takes_state_meta_and_body() {
    on_both(|url, prefix| async move {
        let (seen, mut arrived) = mpsc::unbounded_channel();
        let take = |State(seen): State<mpsc::UnboundedSender<_>>,
                    meta: Meta,
                    Typed(order): Typed<OrderPlaced>| async move {
            seen.send((meta, order)).unwrap();
            Ack
        };
        let queue = format!("{prefix}.shipping");
        let router = Router::new()
            .queue(&queue, consume(take).bind("amq.topic", "orders.#"))
            .with_state(seen);
        let app = App::start(&url, router, options()).await.unwrap();

        for format in [Format::Json, Format::MessagePack, Format::Cbor] {
            let order = OrderPlaced { id: 7 };
            let publish = app.client().publish_as("amq.topic", "orders.placed", format, &order);
            let published = publish.header("customer", 9_i64).await.unwrap();

            let (meta, taken): (Meta, OrderPlaced) = arrived.recv().await.unwrap();
            assert_eq!(taken, order);
            assert_eq!((meta.attempt, meta.redelivered), (1, false));
            assert_eq!((meta.queue, meta.routing_key.as_str()), (queue.clone(), "orders.placed"));
            assert_eq!(meta.id, Some(published.message_id));
            assert_eq!(meta.headers.get("customer").and_then(Value::as_i64), Some(9));
        }
        app.stop().await;
        let rest = client(&url).await;
        assert_eq!(rest.queue_length(&queue).await.unwrap().messages, 0, "all are acknowledged");
        rest.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_tried_again_with_its_message_unchanged_and_then_given_up() {
    on_both(|url, prefix| async move {
        let (seen, mut arrived) = mpsc::unbounded_channel();
        let fail = |State(seen): State<mpsc::UnboundedSender<Meta>>, meta: Meta, _: String| async move {
            seen.send(meta).unwrap();
            Err::<Ack, _>(Fail::retry("stock down"))
        };
        let (queue, dead) = (format!("{prefix}.retried"), format!("{prefix}.retried.dead"));
        let consumer = consume(fail).bind("amq.topic", "retried.#").retry(quick());
        let router = Router::new().queue(&queue, consumer).with_state(seen);
        let app = App::start(&url, router, options()).await.unwrap();

        let publish = app.client().publish_to("amq.topic", "retried.once", "body");
        let id = publish.text_header("customer", "x").await.unwrap().message_id;

        for attempt in 1..=3 {
            let meta = arrived.recv().await.unwrap();
            assert_eq!((meta.attempt, meta.id.as_ref()), (attempt, Some(&id)));
            assert_eq!((meta.exchange.as_str(), meta.routing_key.as_str()), ("amq.topic", "retried.once"));
            assert_eq!(meta.headers.get("customer").and_then(Value::as_str), Some("x"));
        }
        let (gone, mut given_up) = mpsc::unbounded_channel();
        let look = |State(gone): State<mpsc::UnboundedSender<(Meta, String)>>, meta: Meta, body: String| async move {
            gone.send((meta, body)).unwrap();
        };
        let router = Router::new().queue(&dead, consume(look)).with_state(gone);
        let morgue = App::start(&url, router, options()).await.unwrap();
        let (meta, body) = given_up.recv().await.unwrap();
        assert_eq!((meta.id, body.as_str()), (Some(id), "body"));
        assert_eq!(meta.headers.get(REASON_HEADER).and_then(Value::as_str), Some("stock down"));
        app.stop().await;
        morgue.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_panics_and_dropped_messages_end_where_they_should() {
    on_both(|url, prefix| async move {
        let handle = |Typed(order): Typed<OrderPlaced>| async move {
            match order.id {
                0 => panic!("no such order"),
                1 => Err(Fail::drop("nobody cares")),
                2 => Err(Fail::dead("out of stock")),
                _ => Ok(Ack),
            }
        };
        let (queue, dead) = (format!("{prefix}.mixed"), format!("{prefix}.mixed.dead"));
        let router = Router::new().queue(&queue, consume(handle).retry(quick()));
        let app = App::start(&url, router, options()).await.unwrap();

        for body in ["{\"id\":0}", "{\"id\":1}", "{\"id\":2}", "{\"id\":3}", "no json"] {
            app.client().publish_to("", queue.clone(), body).await.unwrap();
        }

        let client = app.client();
        // The panic after three attempts, the dead one, and what is no JSON.
        until("three are given up", || async {
            client.queue_length(&dead).await.unwrap().messages == 3
        })
        .await;
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_handled_although_connections_break() {
    on_both(|url, prefix| async move {
        let wire = Cutter::before(&url).await;
        let handled = Arc::new(Mutex::new(BTreeSet::new()));
        let note = |State(handled): State<Arc<Mutex<BTreeSet<String>>>>, body: String| async move {
            handled.lock().unwrap().insert(body);
        };
        let queue = format!("{prefix}.broken");
        let router = || {
            let consumer = consume(note).prefetch(50);
            Router::new().queue(&queue, consumer).with_state(Arc::clone(&handled))
        };
        let app = App::start(&wire.url(), router(), options()).await.unwrap();
        let publisher = client(&url).await;

        let mut confirms = Vec::new();
        for number in 0..2_000 {
            if number % 500 == 250 {
                wire.cut();
            }
            confirms.push(
                publisher.publish_to("", queue.clone(), number.to_string()).send().await.unwrap(),
            );
        }
        for confirm in confirms {
            confirm.await.unwrap();
        }

        until("all are handled", || async { handled.lock().unwrap().len() == 2_000 }).await;
        app.stop().await;
        // What a connection held that broke may come back late: it is served once more.
        let mut left = publisher.queue_length(&queue).await.unwrap().messages;
        if left > 0 {
            let app = App::start(&url, router(), options()).await.unwrap();
            until("the rest is taken", || async {
                publisher.queue_length(&queue).await.unwrap().messages == 0
            })
            .await;
            app.stop().await;
            left = publisher.queue_length(&queue).await.unwrap().messages;
        }
        assert_eq!(left, 0, "all are acknowledged");
        publisher.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_comes_back_with_its_consumer() {
    on_both(|url, prefix| async move {
        let count = Arc::new(AtomicU32::new(0));
        let handle = |State(count): State<Arc<AtomicU32>>| async move {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let queue = format!("{prefix}.deleted");
        let router = Router::new().queue(&queue, consume(handle)).with_state(Arc::clone(&count));
        let app = App::start(&url, router, options()).await.unwrap();
        app.client().publish_to("", queue.clone(), "1").await.unwrap();
        until("the first", || async { count.load(Ordering::SeqCst) == 1 }).await;

        app.client().delete_queue(&queue).await.unwrap();
        until("it is back", || async {
            app.client().publish_to("", queue.clone(), "2").await.is_ok()
        })
        .await;

        until("the second", || async { count.load(Ordering::SeqCst) == 2 }).await;
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_works_off_what_it_has_and_leaves_the_rest() {
    on_both(|url, prefix| async move {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let done = Arc::new(AtomicU32::new(0));
        let handle = |State((gate, done)): State<(Arc<tokio::sync::Semaphore>, Arc<AtomicU32>)>| async move {
            gate.acquire().await.unwrap().forget();
            done.fetch_add(1, Ordering::SeqCst);
        };
        let queue = format!("{prefix}.drained");
        let consumer = consume(handle).prefetch(5).workers(5);
        let state = (Arc::clone(&gate), Arc::clone(&done));
        let router = Router::new().queue(&queue, consumer).with_state(state);
        let app = App::start(&url, router, options()).await.unwrap();
        let publisher = client(&url).await;
        for number in 0..20 {
            publisher.publish_to("", queue.clone(), number.to_string()).await.unwrap();
        }
        until("five are in hand", || async {
            publisher.queue_length(&queue).await.unwrap().messages == 15
        })
        .await;

        let stopping = tokio::spawn(app.stop());
        until("the consumer has ended", || async {
            publisher.queue_length(&queue).await.unwrap().consumers == 0
        })
        .await;
        gate.add_permits(20);
        stopping.await.unwrap();

        assert_eq!(done.load(Ordering::SeqCst), 5);
        until("the rest is ready", || async {
            publisher.queue_length(&queue).await.unwrap().messages == 15
        })
        .await;
        publisher.close().await;
    })
    .await;
}
