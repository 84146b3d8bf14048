//! A broker that crashes, and time that passes: with the test kit.

use std::time::Duration;

use posthouse_client::prelude::*;
use posthouse_testing::TestBus;

async fn fails() -> Result<Ack, Fail> {
    Err(Fail::retry("stock down"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_that_would_take_an_hour_end_in_the_dead_letters_and_survive_a_crash() {
    let bus = TestBus::start().await;
    let app = bus.serve(Router::new().queue("shipping", consume(fails))).await;
    bus.client().publish_to("", "shipping", "order 7").await.unwrap();

    bus.advance(Duration::from_secs(3600)).await;

    bus.assert_attempts(&app, "shipping", 8);
    bus.queue("shipping.dead").assert_one().assert_reason("stock down");
    bus.crash_and_restart().await;
    assert_eq!(bus.queue("shipping.dead").assert_one().text(), "order 7");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_waits_as_long_as_its_backoff_says_and_no_longer() {
    let bus = TestBus::start().await;
    let backoff = Backoff::exponential(Duration::from_secs(60), Duration::from_secs(600));
    let app = bus.serve(Router::new().queue("q", consume(fails).retry(backoff))).await;
    bus.client().publish_to("", "q", "x").await.unwrap();

    bus.advance(Duration::from_secs(50)).await;
    bus.assert_attempts(&app, "q", 1);
    bus.advance(Duration::from_secs(20)).await;
    bus.assert_attempts(&app, "q", 2);
    bus.advance(Duration::from_secs(130)).await;
    bus.assert_attempts(&app, "q", 3);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_in_the_queue_itself_are_counted_by_the_broker() {
    let bus = TestBus::start().await;
    let (min, max) = (Duration::from_secs(10), Duration::from_secs(60));
    let consumer = consume(fails).retry_in_queue(min, max, 3);
    let app = bus.serve(Router::new().queue("kept", consumer)).await;
    bus.client().publish_to("", "kept", "x").await.unwrap();

    bus.advance(Duration::from_secs(300)).await;

    bus.assert_attempts(&app, "kept", 3);
    bus.queue("kept.dead").assert_one().assert_reason("stock down");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_and_publishers_go_on_after_a_crash_and_nothing_confirmed_is_lost() {
    let bus = TestBus::start().await;
    let client = bus.client();
    client.apply(&Topology::new().queue(Queue::new("kept"))).await.unwrap();
    let recorded = bus.record("amq.topic", "#").await;

    let mut confirms = Vec::new();
    for number in 0..500 {
        if number == 250 {
            bus.crash_and_restart().await;
        }
        let publish = client.publish_to("amq.topic", "n", number.to_string());
        confirms.push(publish.message_id(number.to_string()).send().await.unwrap());
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
    bus.crash_and_restart().await;

    let mut ids: Vec<u32> =
        recorded.messages().iter().map(|message| message.text().parse().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..500).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_confirmed_before_a_gentle_stop_is_confirmed_after_it() {
    let bus = TestBus::start().await;
    bus.client().apply(&Topology::new().queue(Queue::new("q"))).await.unwrap();
    bus.client().publish_to("", "q", "before").await.unwrap();

    bus.stop_and_restart().await;
    bus.client().publish_to("", "q", "after").await.unwrap();

    bus.queue("q").assert_len(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waits_for_its_retry_is_tried_again_after_a_crash() {
    let bus = TestBus::start().await;
    let app = bus.serve(Router::new().queue("shipping", consume(fails))).await;
    bus.client().publish_to("", "shipping", "order 7").await.unwrap();
    bus.quiet().await;
    bus.assert_attempts(&app, "shipping", 1);

    bus.crash_and_restart().await;
    bus.advance(Duration::from_secs(3600)).await;

    bus.assert_attempts(&app, "shipping", 8);
    bus.queue("shipping.dead").assert_one().assert_reason("stock down");
    app.stop().await;
}
