//! One message of a key at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthouse_client::prelude::*;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::broker::{PATIENCE, on_both, options, until};

#[derive(Default)]
struct Log {
    running: Vec<String>,
    done: HashMap<String, Vec<u32>>,
    total: usize,
}

async fn handle(State(log): State<Arc<Mutex<Log>>>, meta: Meta, body: String) -> Result<Ack, Fail> {
    let key = meta.headers.get("customer").unwrap().as_str().unwrap().to_owned();
    {
        let mut log = log.lock().unwrap();
        assert!(!log.running.contains(&key), "two of {key} at a time");
        log.running.push(key.clone());
    }
    tokio::task::yield_now().await;
    let mut log = log.lock().unwrap();
    log.running.retain(|running| *running != key);
    let number: u32 = body.parse().unwrap();
    let fails_first = number % 7 == 3 && !log.done.contains_key(&format!("{key}/{number}"));
    if fails_first {
        log.done.insert(format!("{key}/{number}"), Vec::new());
        return Err(match number % 3 {
            0 => Fail::retry("once"),
            1 => Fail::conflict("once"),
            _ => Fail::release(),
        });
    }
    log.done.entry(key).or_default().push(number);
    log.total += 1;
    Ok(Ack)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_key_are_handled_in_their_order_even_if_one_is_tried_again() {
    on_both(|url, prefix| async move {
        let log = Arc::new(Mutex::new(Log::default()));
        let queue = format!("{prefix}.ordered");
        let consumer = consume(handle)
            .ordered_by_header("customer")
            .workers(8)
            .retry(Backoff::constant(Duration::from_millis(1)));
        let router = Router::new().queue(&queue, consumer).with_state(Arc::clone(&log));
        let app = App::start(&url, router, options()).await.unwrap();

        for number in 0..40_u32 {
            for key in ["a", "b", "c"] {
                let publish = app.client().publish_to("", queue.clone(), number.to_string());
                drop(publish.text_header("customer", key).send().await.unwrap());
            }
        }

        until("all are handled", || async { log.lock().unwrap().total == 120 }).await;
        let expected: Vec<u32> = (0..40).collect();
        for key in ["a", "b", "c"] {
            assert_eq!(log.lock().unwrap().done.get(key), Some(&expected), "{key}");
        }
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_does_not_wait_for_what_waits_in_its_order_to_be_tried_again() {
    on_both(|url, prefix| async move {
        let (seen, mut tried) = mpsc::unbounded_channel();
        let fails = |State(seen): State<mpsc::UnboundedSender<()>>, _: String| async move {
            seen.send(()).unwrap();
            Err::<Ack, _>(Fail::retry("not today"))
        };
        let queue = format!("{prefix}.waits");
        let consumer = consume(fails)
            .ordered_by_routing_key()
            .retry(Backoff::constant(Duration::from_mins(10)));
        let router = Router::new().queue(&queue, consumer).with_state(seen);
        let patient = options().drain_within(PATIENCE * 10);
        let app = App::start(&url, router, patient).await.unwrap();
        for body in ["1", "2"] {
            app.client().publish_to("", queue.clone(), body).await.unwrap();
        }
        tried.recv().await.unwrap();

        timeout(PATIENCE, app.stop()).await.expect("it does not wait");

        let watcher = Client::connect(&url).await.unwrap();
        until("both are back", || async {
            watcher.queue_length(&queue).await.unwrap().messages == 2
        })
        .await;
        watcher.close().await;
    })
    .await;
}
