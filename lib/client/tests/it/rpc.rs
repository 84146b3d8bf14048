//! Calls, their failures, and many answers.

use std::future::IntoFuture;
use std::time::Duration;

use posthouse_client::prelude::*;
use posthouse_client::{CallError, PublishError};
use posthouse_testing::TestBus;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::broker::{PATIENCE, client, on_both, options, until};
use crate::cutter::Cutter;

#[derive(Serialize, Deserialize)]
struct GetQuote {
    pair: String,
}

impl Message for GetQuote {
    const TOPIC: &'static str = "rates";
}

impl Request for GetQuote {
    type Reply = Quote;
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Quote {
    rate: u32,
}

async fn quote(Typed(asked): Typed<GetQuote>) -> Result<Reply<Quote>, RpcError> {
    match asked.pair.as_str() {
        "EURUSD" => Ok(Reply(Quote { rate: 108 })),
        "panic" => panic!("no rates today"),
        _ => Err(RpcError::not_found("no such pair")),
    }
}

fn asking(client: &Client, queue: &str, pair: &str) -> posthouse_client::Call<Quote> {
    let asked = GetQuote { pair: pair.to_owned() };
    client.call(&asked).to(queue.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_refused_or_fails_and_says_which() {
    on_both(|url, prefix| async move {
        let queue = format!("{prefix}.rates");
        let app =
            App::start(&url, Router::new().queue(&queue, rpc(quote)), options()).await.unwrap();
        let client = client(&url).await;

        let good = asking(&client, &queue, "EURUSD").await.unwrap();
        let missing = asking(&client, &queue, "XXXYYY").await.unwrap_err();
        let failed = asking(&client, &queue, "panic").await.unwrap_err();
        let nobody = asking(&client, "nobody's", "EURUSD").await.unwrap_err();

        assert_eq!(good, Quote { rate: 108 });
        assert!(matches!(missing, CallError::Remote(error) if error.code == "not-found"));
        assert!(matches!(failed, CallError::Remote(error) if error.code == "failed"));
        assert!(matches!(nobody, CallError::Publish(PublishError::Unroutable { .. })));
        app.stop().await;
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_nobody_serves_in_time_ends_and_leaves_no_request() {
    on_both(|url, prefix| async move {
        let queue = format!("{prefix}.slow");
        let client = client(&url).await;
        client.apply(&Topology::new().queue(Queue::new(&queue))).await.unwrap();

        let late = asking(&client, &queue, "EURUSD").timeout(Duration::from_millis(200)).await;

        assert!(matches!(late, Err(CallError::Timeout(_))));
        until("the request has expired", || async {
            client.queue_length(&queue).await.unwrap().messages == 0
        })
        .await;
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_outlives_its_connection() {
    on_both(|url, prefix| async move {
        let queue = format!("{prefix}.waiting");
        let wire = Cutter::before(&url).await;
        let caller = client(&wire.url()).await;
        caller.apply(&Topology::new().queue(Queue::new(&queue))).await.unwrap();
        let watcher = client(&url).await;

        let call = tokio::spawn(asking(&caller, &queue, "EURUSD").into_future());
        until("the request is there", || async {
            watcher.queue_length(&queue).await.unwrap().messages == 1
        })
        .await;
        wire.cut();
        until("it is there again, with a new address", || async {
            watcher.queue_length(&queue).await.unwrap().messages == 2
        })
        .await;
        let app =
            App::start(&url, Router::new().queue(&queue, rpc(quote)), options()).await.unwrap();

        assert_eq!(call.await.unwrap().unwrap(), Quote { rate: 108 });
        app.stop().await;
        caller.close().await;
        watcher.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_who_serves_a_request_is_heard() {
    on_both(|url, prefix| async move {
        let exchange = format!("{prefix}.everybody");
        let mut apps = Vec::new();
        for number in 0..3_u32 {
            let answer = move || async move { Reply(Quote { rate: number }) };
            let queue = format!("{prefix}.one.{number}");
            let consumer = rpc(answer).exchange(Exchange::fanout(&exchange)).bind(&exchange, "");
            let router = Router::new().queue(&queue, consumer);
            apps.push(App::start(&url, router, options()).await.unwrap());
        }
        let client = client(&url).await;

        let call = client.call(&GetQuote { pair: String::new() }).via(exchange, "");
        let mut replies = call.gather_for(Duration::from_secs(20)).await.unwrap();
        let mut rates = Vec::new();
        while rates.len() < 3 {
            rates.push(replies.next().await.unwrap().unwrap().rate);
        }

        rates.sort_unstable();
        assert_eq!(rates, [0, 1, 2]);
        for app in apps {
            app.stop().await;
        }
        client.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_many_is_given_up_in_its_time_although_nothing_is_confirmed() {
    let bus = TestBus::start().await;
    let wire = Cutter::before(&bus.url()).await;
    let one = options().unconfirmed(1, 1 << 20).drain_within(Duration::from_millis(100));
    let client = Client::connect_with(&wire.url(), one).await.unwrap();
    wire.hang();
    let outstanding = client.publish_to("", "q", "x").send().await.unwrap();

    let wait = Duration::from_secs(1);
    let gathered = asking(&client, "q", "EURUSD").gather_for(wait).into_future();
    let ended = timeout(PATIENCE, gathered).await.expect("it ends");

    assert!(matches!(ended, Err(CallError::Timeout(within)) if within == wait));
    client.close().await;
    assert_eq!(outstanding.await, Err(PublishError::Closed));
}
