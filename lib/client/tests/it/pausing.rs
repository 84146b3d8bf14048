//! Consumers that are told to take nothing for a while.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use posthouse_client::QueueLabel;
use posthouse_client::prelude::{
    App, Backoff, Client, Fail, Router, State, consume, http_consumer,
};
use tokio::sync::mpsc;

use crate::broker::{client, on_both, options, until};

const HOUR: Duration = Duration::from_hours(1);

fn busy(seconds: u64) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", seconds.to_string())]).into_response()
}

async fn ready_and_consumers(client: &Client, queue: &str) -> (u32, u32) {
    let length = client.queue_length(queue).await.unwrap();
    (length.messages, length.consumers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_holds_up_the_whole_queue_and_no_other() {
    on_both(|url, prefix| async move {
        let (seen, mut requests) = mpsc::unbounded_channel();
        let web = axum::Router::new().route(
            "/",
            post(move || async move {
                seen.send(()).unwrap();
                busy(3600)
            }),
        );
        let (told, mut others) = mpsc::unbounded_channel();
        let take = |State(told): State<mpsc::UnboundedSender<_>>, body: String| async move {
            told.send(body).unwrap();
        };
        let (asked, other) = (format!("{prefix}.asked"), format!("{prefix}.other"));
        let consumer = http_consumer(web).consumer().workers(1).retry(Backoff::constant(HOUR));
        let router = Router::new().queue(&asked, consumer).queue(&other, consume(take));
        let app = App::start(&url, router.with_state(told), options()).await.unwrap();
        let setup = client(&url).await;
        let publish = |queue: &str, body| setup.publish_to("", queue.to_owned(), body);

        for body in ["1", "2", "3"] {
            publish(&asked, body).await.unwrap();
        }
        requests.recv().await.unwrap();

        // The first waits beside its queue, the others are there for somebody else.
        until("the others went back", || async {
            ready_and_consumers(&setup, &asked).await == (2, 0)
        })
        .await;
        publish(&other, "goes on").await.unwrap();
        assert_eq!(others.recv().await.as_deref(), Some("goes on"));
        publish(&asked, "4").await.unwrap();
        until("and what comes later", || async {
            ready_and_consumers(&setup, &asked).await == (3, 0)
        })
        .await;
        assert!(requests.try_recv().is_err(), "one request, then a pause");
        let label = QueueLabel { queue: asked.clone() };
        assert_eq!(app.metrics().paused.get_or_create(&label).get(), 1);
        app.stop().await;
        assert_eq!(ready_and_consumers(&setup, &asked).await, (3, 0));
        setup.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_goes_on_after_short_and_long_pauses() {
    on_both(|url, prefix| async move {
        // Over a short one it keeps what it has, over a longer one it gives that back.
        let pauses = [1, 6];
        let times = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&times);
        let web = axum::Router::new().route(
            "/",
            post(move || async move {
                let mut seen = seen.lock().unwrap();
                seen.push(Instant::now());
                let pause = pauses.get(seen.len() - 1);
                pause.map_or(StatusCode::NO_CONTENT.into_response(), |pause| busy(*pause))
            }),
        );
        let queue = format!("{prefix}.goes-on");
        let consumer = http_consumer(web)
            .consumer()
            .workers(1)
            .retry(Backoff::constant(Duration::from_millis(20)));
        let app = App::start(&url, Router::new().queue(&queue, consumer), options()).await.unwrap();

        for body in ["1", "2", "3"] {
            app.client().publish_to("", queue.clone(), body).await.unwrap();
        }

        until("all are handled", || async { times.lock().unwrap().len() == 5 }).await;
        for (between, pause) in times.lock().unwrap().windows(2).zip(pauses) {
            assert!(between[1] - between[0] >= Duration::from_secs(pause), "{pause} s");
        }
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_pauses_its_queue_and_the_order_of_keys_stays() {
    on_both(|url, prefix| async move {
        let (seen, mut arrived) = mpsc::unbounded_channel();
        let handle = |State(seen): State<mpsc::UnboundedSender<(String, Instant)>>,
                      body: String| async move {
            seen.send((body.clone(), Instant::now())).unwrap();
            match body.as_str() {
                "a1" => Err(Fail::pause(Duration::from_secs(2), "the stock is counted")),
                _ => Ok(()),
            }
        };
        let queue = format!("{prefix}.counted");
        let consumer = consume(handle)
            .ordered_by_header("key")
            .workers(1)
            .retry(Backoff::constant(Duration::from_millis(1)).attempts(2));
        let router = Router::new().queue(&queue, consumer).with_state(seen);
        let app = App::start(&url, router, options()).await.unwrap();

        for body in ["a1", "a2", "b1"] {
            let publish = app.client().publish_to("", queue.clone(), body);
            publish.text_header("key", body.split_at(1).0).await.unwrap();
        }

        let mut order = Vec::new();
        let mut times = Vec::new();
        for _ in 0..4 {
            let (body, at) = arrived.recv().await.unwrap();
            order.push(body);
            times.push(at);
        }
        // Its last attempt is over before what is behind it begins.
        let place = |body: &str| order.iter().rposition(|found| found == body);
        assert!(place("a1") < place("a2"), "{order:?}");
        assert!(times[1] - times[0] >= Duration::from_secs(2));
        app.stop().await;
    })
    .await;
}
