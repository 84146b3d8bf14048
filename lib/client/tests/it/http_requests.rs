//! An axum router as a consumer.

use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, Path};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use posthouse_client::Principal;
use posthouse_client::prelude::{
    App, Backoff, Delivery, Queue, Router, State, Topology, consume, http_consumer,
};
use tokio::sync::mpsc;

use crate::broker::{client, on_both, options, until};

#[derive(serde::Deserialize)]
struct OrderPlaced {
    id: u32,
}

type Seen = mpsc::UnboundedSender<(String, HeaderMap, Option<String>)>;

async fn placed(
    axum::extract::State(seen): axum::extract::State<Seen>,
    Path(region): Path<String>,
    principal: Option<Extension<Principal>>,
    headers: HeaderMap,
    Json(order): Json<OrderPlaced>,
) -> Response {
    seen.send((region, headers, principal.map(|Extension(Principal(name))| name))).unwrap();
    match order.id {
        1 => StatusCode::NO_CONTENT.into_response(),
        2 => "the answer".into_response(),
        3 => (StatusCode::GONE, "too late").into_response(),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_becomes_a_request_and_the_status_settles_it() {
    on_both(|url, prefix| async move {
        let (seen, mut requests) = mpsc::unbounded_channel();
        let web = axum::Router::new()
            .route("/events/orders/{region}/placed", post(placed))
            .with_state(seen);
        let queue = format!("{prefix}.orders");
        let consumer = http_consumer(web)
            .path("/events/{rk.0}/{rk.1}/{rk.2}")
            .principal(|message| message.properties().user_id.map(str::to_owned))
            .consumer()
            .bind("amq.topic", "orders.*.placed")
            .retry(Backoff::constant(Duration::from_millis(20)).attempts(2));
        let app = App::start(&url, Router::new().queue(&queue, consumer), options()).await.unwrap();
        let publish = |body: &'static str| {
            let publish = app.client().publish_to("amq.topic", "orders.eu.placed", body);
            publish.content_type("application/json").text_header("customer", "x")
        };

        publish("{\"id\":1}").message_id("m-1").await.unwrap();
        let (region, headers, principal) = requests.recv().await.unwrap();
        assert_eq!((region.as_str(), principal), ("eu", None));
        for (name, value) in [
            ("idempotency-key", "m-1"),
            ("posthouse-attempt", "1"),
            ("posthouse-queue", queue.as_str()),
            ("posthouse-h-customer", "x"),
            ("content-type", "application/json"),
        ] {
            assert_eq!(
                headers.get(name).map(|value| value.to_str().unwrap()),
                Some(value),
                "{name}"
            );
        }

        let answer = app.client().call_to("amq.topic", "orders.eu.placed", "{\"id\":2}");
        let answer = answer.content_type("application/json").await.unwrap();
        assert_eq!(answer.body_bytes(), b"the answer");

        publish("{\"id\":3}").await.unwrap();
        publish("{\"id\":4}").await.unwrap();
        let dead = format!("{queue}.dead");
        until("one at once and one after two attempts", || async {
            app.client().queue_length(&dead).await.unwrap().messages == 2
        })
        .await;
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_to_the_queue_that_its_message_names_and_says_what_it_belongs_to() {
    on_both(|url, prefix| async move {
        let (seen, mut answers) = mpsc::unbounded_channel();
        let take = |State(seen): State<mpsc::UnboundedSender<_>>, answer: Delivery| async move {
            seen.send(answer).unwrap();
        };
        let squeeze = |body: String| async move {
            let (kind, encoding) = ("text/x-shouted", "x-shouting");
            ([("content-type", kind), ("content-encoding", encoding)], body.to_uppercase())
        };
        let (asked, answered) = (format!("{prefix}.asked"), format!("{prefix}.answered"));
        let consumer = http_consumer(axum::Router::new().route("/", post(squeeze))).consumer();
        let router = Router::new().queue(&asked, consumer).queue(&answered, consume(take));
        let app = App::start(&url, router.with_state(seen), options()).await.unwrap();

        let publish = app.client().publish_to("", asked, "quietly").reply_to(answered);
        publish.correlation_id("question 7").await.unwrap();

        let answer: Delivery = answers.recv().await.unwrap();
        let properties = answer.properties();
        assert_eq!(answer.body_bytes(), b"QUIETLY");
        assert_eq!(properties.correlation_id, Some("question 7"));
        assert_eq!(properties.content_type, Some("text/x-shouted"));
        assert_eq!(properties.content_encoding, Some("x-shouting"));
        app.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_as_long_as_its_message() {
    on_both(|url, prefix| async move {
        let (call, mut calls) = mpsc::unbounded_channel();
        let never = async move || {
            call.send(()).unwrap();
            std::future::pending::<()>().await;
        };
        let web = axum::Router::new().route("/", post(never));
        let queue = format!("{prefix}.deadline");
        let consumer = http_consumer(web).deadline_from_ttl().consumer().retry(Backoff::never());
        let setup = client(&url).await;
        setup.apply(&Topology::new().queue(Queue::new(&queue))).await.unwrap();
        let app = App::start(&url, Router::new().queue(&queue, consumer), options()).await.unwrap();

        // On a slow machine one expires before it is taken, and is gone.
        let is_taken = loop {
            let publish = setup.publish_to("", queue.clone(), "x");
            publish.expires(Duration::from_secs(2)).await.unwrap();
            if let Ok(call) = tokio::time::timeout(Duration::from_secs(3), calls.recv()).await {
                break call.is_some();
            }
        };
        assert!(is_taken, "the application is gone");

        let dead = format!("{queue}.dead");
        until("it is given up", || async {
            setup.queue_length(&dead).await.unwrap().messages >= 1
        })
        .await;
        app.stop().await;
        setup.close().await;
    })
    .await;
}
