//! Messages that are settled after their handler has returned.

use std::time::Duration;

use axum::extract::Extension;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use posthouse_client::prelude::{App, Backoff, Client, Router, State, consume, http_consumer};
use posthouse_client::{Answer, Consumer, Held, Later, TooLate};
use tokio::sync::mpsc;

use crate::broker::{client, on_both, options, until};

/// A request: its body, its attempt, and what settles it.
type Request = (String, String, Held);

/// An application whose service takes every message and says 202.
fn holding() -> (Consumer<()>, mpsc::UnboundedReceiver<Request>) {
    let (seen, requests) = mpsc::unbounded_channel();
    let web = axum::Router::new().route(
        "/",
        post(
            move |Extension(later): Extension<Later>, headers: HeaderMap, body: String| async move {
                let attempt = headers["posthouse-attempt"].to_str().unwrap().to_owned();
                seen.send((body, attempt, later.take().unwrap())).unwrap();
                StatusCode::ACCEPTED
            },
        ),
    );
    let quick = Backoff::constant(Duration::from_millis(20)).attempts(3);
    (http_consumer(web).consumer().retry(quick), requests)
}

async fn publish<const N: usize>(client: &Client, queue: &str, bodies: [&'static str; N]) {
    for body in bodies {
        let publish = client.publish_to("", queue.to_owned(), body);
        publish.text_header("key", body.split_at(1).0).await.unwrap();
    }
}

async fn ready(client: &Client, queue: &str) -> u32 {
    client.queue_length(queue).await.unwrap().messages
}

/// The next request, which must be for this message.
async fn next(requests: &mut mpsc::UnboundedReceiver<Request>, body: &str, attempt: &str) -> Held {
    let (found, number, held) = requests.recv().await.unwrap();
    assert_eq!((found.as_str(), number.as_str()), (body, attempt));
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_settled_later_by_whoever_took_it() {
    on_both(|url, prefix| async move {
        let (consumer, mut requests) = holding();
        let queue = format!("{prefix}.later");
        let router = Router::new().queue(&queue, consumer.workers(1).prefetch(3));
        let app = App::start(&url, router, options()).await.unwrap();
        let setup = client(&url).await;
        publish(&setup, &queue, ["1", "2", "3", "4"]).await;

        // One worker is enough for three, and each has its place of the prefetch.
        let first = next(&mut requests, "1", "1").await;
        let second = next(&mut requests, "2", "1").await;
        let third = next(&mut requests, "3", "1").await;
        until("the fourth has no place", || async { ready(&setup, &queue).await == 1 }).await;
        assert!(requests.try_recv().is_err());
        first.ack().await.unwrap();
        let fourth = next(&mut requests, "4", "1").await;
        second.retry("not yet").await.unwrap();
        next(&mut requests, "2", "2").await.drop("nobody wants it").await.unwrap();
        third.dead("never").await.unwrap();
        fourth.ack().await.unwrap();

        assert_eq!(ready(&setup, &format!("{queue}.dead")).await, 1);
        app.stop().await;
        assert_eq!(ready(&setup, &queue).await, 0);
        setup.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lets_a_held_message_go_has_it_tried_again() {
    on_both(|url, prefix| async move {
        let (consumer, mut requests) = holding();
        let queue = format!("{prefix}.let-go");
        let router = Router::new().queue(&queue, consumer);
        let app = App::start(&url, router, options()).await.unwrap();
        publish(app.client(), &queue, ["1"]).await;

        drop(next(&mut requests, "1", "1").await);

        next(&mut requests, "1", "2").await.ack().await.unwrap();
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_202_is_an_acknowledgement_if_nobody_has_taken_what_settles_later() {
    on_both(|url, prefix| async move {
        let web = axum::Router::new().route("/", post(|| async { StatusCode::ACCEPTED }));
        let queue = format!("{prefix}.accepted");
        let router = Router::new().queue(&queue, http_consumer(web).consumer());
        let app = App::start(&url, router, options()).await.unwrap();
        let setup = client(&url).await;

        publish(&setup, &queue, ["1"]).await;

        let label = posthouse_client::QueueLabel { queue: queue.clone() };
        until("it is acknowledged", || async {
            app.metrics().acked.get_or_create(&label).get() == 1
        })
        .await;
        app.stop().await;
        assert_eq!(ready(&setup, &queue).await, 0);
        setup.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_answer_than_202_settles_although_somebody_has_taken_it() {
    on_both(|url, prefix| async move {
        let (seen, mut taken) = mpsc::unbounded_channel();
        let web = axum::Router::new().route(
            "/",
            post(move |Extension(later): Extension<Later>| async move {
                seen.send(later.take().unwrap()).unwrap();
                StatusCode::GONE
            }),
        );
        let queue = format!("{prefix}.gone");
        let router = Router::new().queue(&queue, http_consumer(web).consumer());
        let app = App::start(&url, router, options()).await.unwrap();

        publish(app.client(), &queue, ["1"]).await;

        let held = taken.recv().await.unwrap();
        let dead = format!("{queue}.dead");
        until("it is a dead letter", || async { ready(app.client(), &dead).await == 1 }).await;
        assert_eq!(held.ack().await, Err(TooLate));
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_settled_within_its_time_is_tried_again() {
    on_both(|url, prefix| async move {
        let (consumer, mut requests) = holding();
        let queue = format!("{prefix}.too-late");
        let consumer = consumer.settle_within(Duration::from_millis(50));
        let app = App::start(&url, Router::new().queue(&queue, consumer), options()).await.unwrap();
        publish(app.client(), &queue, ["1"]).await;

        let mut all = Vec::new();
        for attempt in ["1", "2", "3"] {
            all.push(next(&mut requests, "1", attempt).await);
        }

        let dead = format!("{queue}.dead");
        until("it is given up", || async { ready(app.client(), &dead).await == 1 }).await;
        for held in all {
            assert_eq!(held.ack().await, Err(TooLate));
        }
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_of_its_key_wait_behind_a_message_that_is_settled_later() {
    on_both(|url, prefix| async move {
        let (consumer, mut requests) = holding();
        let queue = format!("{prefix}.keys");
        let router = Router::new().queue(&queue, consumer.ordered_by_header("key").workers(1));
        let app = App::start(&url, router, options()).await.unwrap();
        publish(app.client(), &queue, ["a1", "a2", "b1", "b2"]).await;

        let first = next(&mut requests, "a1", "1").await;
        next(&mut requests, "b1", "1").await.ack().await.unwrap();
        next(&mut requests, "b2", "1").await.ack().await.unwrap();
        assert!(requests.try_recv().is_err(), "a1 is not settled");
        first.retry("once more").await.unwrap();
        // Tried again in its place: still nothing overtakes it.
        let first = next(&mut requests, "a1", "1").await;
        publish(app.client(), &queue, ["c1"]).await;
        next(&mut requests, "c1", "1").await.ack().await.unwrap();
        first.ack().await.unwrap();

        next(&mut requests, "a2", "1").await.ack().await.unwrap();
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_stop_waits_for_what_is_settled_later_and_then_gives_it_back() {
    on_both(|url, prefix| async move {
        let setup = client(&url).await;
        let queue = format!("{prefix}.stops");
        let started = |options| {
            let (consumer, requests) = holding();
            let router = Router::new().queue(&queue, consumer);
            let url = url.clone();
            async move { (App::start(&url, router, options).await.unwrap(), requests) }
        };
        let (app, mut requests) = started(options()).await;
        publish(&setup, &queue, ["1"]).await;
        let held = next(&mut requests, "1", "1").await;
        let mut stopping = Box::pin(app.stop());
        // It has stopped taking messages, and waits.
        let wait = tokio::time::timeout(Duration::from_millis(300), stopping.as_mut());
        assert!(wait.await.is_err());
        held.ack().await.unwrap();
        stopping.await;
        assert_eq!(ready(&setup, &queue).await, 0);

        let (app, mut requests) = started(options().drain_within(Duration::from_millis(200))).await;
        publish(&setup, &queue, ["2"]).await;
        let held = next(&mut requests, "2", "1").await;
        app.stop().await;

        until("it is back", || async { ready(&setup, &queue).await == 1 }).await;
        assert_eq!(held.ack().await, Err(TooLate));
        setup.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_promises_as_well_and_answers_later() {
    on_both(|url, prefix| async move {
        let (seen, mut arrived) = mpsc::unbounded_channel();
        let handle = |State(seen): State<mpsc::UnboundedSender<_>>, body: String| async move {
            let later = Later::new();
            seen.send((body, later.take().unwrap())).unwrap();
            later
        };
        let queue = format!("{prefix}.promises");
        let router = Router::new().queue(&queue, consume(handle)).with_state(seen);
        let app = App::start(&url, router, options()).await.unwrap();
        let asking = tokio::spawn(app.client().call_to("", queue, "how much?").into_future());

        let (body, held) = arrived.recv().await.unwrap();
        assert_eq!(body, "how much?");
        held.reply(Answer::new("12", "text/plain")).await.unwrap();

        assert_eq!(asking.await.unwrap().unwrap().body_bytes(), b"12");
        app.stop().await;
    })
    .await;
}
