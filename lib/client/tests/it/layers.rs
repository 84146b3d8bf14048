//! Layers around handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use posthouse_client::layers::{
    ConcurrencyLayer, DedupeLayer, RateLayer, RetryLayer, TimeoutLayer, TraceLayer,
};
use posthouse_client::prelude::*;
use posthouse_client::{REASON_HEADER, TraceContext};
use posthouse_testing::TestBus;
use tokio::sync::mpsc;

use crate::broker::{options, until};

type Count = Arc<AtomicU32>;

async fn count(State(count): State<Count>) {
    count.fetch_add(1, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_takes_too_long_has_failed() {
    let bus = TestBus::start().await;
    let never = || async { std::future::pending::<()>().await };
    let consumer =
        consume(never).layer(TimeoutLayer::new(Duration::from_millis(20))).retry(Backoff::never());
    let app = bus.serve(Router::new().queue("slow", consumer)).await;

    bus.client().publish_to("", "slow", "x").await.unwrap();
    bus.quiet().await;

    let dead = bus.queue("slow.dead");
    let reason = dead.assert_one().header(REASON_HEADER).unwrap();
    assert!(reason.contains("took longer than 20ms"), "{reason}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quick_retries_do_not_count_as_attempts() {
    let bus = TestBus::start().await;
    let tries = Count::default();
    let third = |State(tries): State<Count>| async move {
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Err(Fail::retry("not yet")),
            _ => Ok(Ack),
        }
    };
    let consumer = consume(third).layer(RetryLayer::new(2, Duration::from_millis(1)));
    let router = Router::new().queue("moody", consumer).with_state(Arc::clone(&tries));
    let app = bus.serve(router).await;

    bus.client().publish_to("", "moody", "x").await.unwrap();
    bus.quiet().await;

    assert_eq!(tries.load(Ordering::SeqCst), 3);
    bus.assert_attempts(&app, "moody", 1);
    bus.queue("moody.dead").assert_len(0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_was_handled_is_not_handled_again() {
    let bus = TestBus::start().await;
    let handled = Count::default();
    let layer = DedupeLayer::new(Duration::from_secs(60), 1000);
    let router =
        Router::new().queue("once", consume(count).layer(layer)).with_state(Arc::clone(&handled));
    let app = bus.serve(router).await;

    for id in ["a", "b", "a", "a"] {
        bus.client().publish_to("", "once", "x").message_id(id).await.unwrap();
        bus.quiet().await;
    }

    assert_eq!(handled.load(Ordering::SeqCst), 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_concurrency_holds_over_queues() {
    let bus = TestBus::start().await;
    let (running, most) = (Count::default(), Count::default());
    let busy = |State((running, most)): State<(Count, Count)>| async move {
        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        running.fetch_sub(1, Ordering::SeqCst);
    };
    let router = Router::new()
        .queue("one", consume(busy))
        .queue("two", consume(busy))
        .layer(ConcurrencyLayer::new(2))
        .with_state((running, Arc::clone(&most)));
    let app = bus.serve(router).await;

    for number in 0..200 {
        let queue = if number % 2 == 0 { "one" } else { "two" };
        drop(bus.client().publish_to("", queue, "x").send().await.unwrap());
    }
    bus.quiet().await;

    assert!(most.load(Ordering::SeqCst) <= 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_rate_spreads_handlers_over_time() {
    let bus = TestBus::start().await;
    let handled = Count::default();
    let router = Router::new()
        .queue("metered", consume(count))
        .layer(RateLayer::new(100, Duration::from_secs(1)))
        .with_state(Arc::clone(&handled));
    let app = App::start(&bus.url(), router, options()).await.unwrap();

    let began = Instant::now();
    for _ in 0..21 {
        drop(bus.client().publish_to("", "metered", "x").send().await.unwrap());
    }
    until("all are handled", || async { handled.load(Ordering::SeqCst) == 21 }).await;

    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_handler_publishes_belongs_to_the_trace_of_its_message() {
    let bus = TestBus::start().await;
    let (seen, mut traces) = mpsc::unbounded_channel();
    let pass_on = |State((client, seen)): State<(Client, mpsc::UnboundedSender<TraceContext>)>,
                   trace: Option<TraceContext>| async move {
        seen.send(trace.unwrap()).unwrap();
        client.publish_to("", "second", "x").await?;
        Ok::<_, Fail>(Ack)
    };
    let note = |State((_, seen)): State<(Client, mpsc::UnboundedSender<TraceContext>)>,
                trace: Option<TraceContext>| async move {
        seen.send(trace.unwrap()).unwrap();
    };
    let router = Router::new()
        .queue("first", consume(pass_on))
        .queue("second", consume(note))
        .layer(TraceLayer::new())
        .with_state((bus.client().clone(), seen));
    let app = bus.serve(router).await;

    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let publish = bus.client().publish_to("", "first", "x");
    publish.text_header("traceparent", parent).await.unwrap();

    let (first, second) = (traces.recv().await.unwrap(), traces.recv().await.unwrap());
    let parent: TraceContext = parent.parse().unwrap();
    assert_eq!((first.trace_id, second.trace_id), (parent.trace_id, parent.trace_id));
    assert!(first.span_id != parent.span_id && second.span_id != first.span_id);
    app.stop().await;
}
