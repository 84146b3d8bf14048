//! A graceful end within its time.

use std::time::Duration;

use it::quickest;
use posthouse_client::PublishError;
use posthouse_client::prelude::*;
use posthouse_testing::TestBus;
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::broker::options;
use crate::cutter::Cutter;

/// Stops two consumers and a publisher whose broker says nothing any more.
async fn stop_while_the_broker_hangs(time: Duration) {
    let bus = TestBus::start().await;
    let wire = Cutter::before(&bus.url()).await;
    let idle = || consume(|_: String| async {});
    let router = Router::new().queue("first", idle()).queue("second", idle());
    let app = App::start(&wire.url(), router, options().drain_within(time)).await.unwrap();
    wire.hang();
    let outstanding = app.client().publish_to("", "first", "x").send().await.unwrap();

    app.stop().await;

    assert_eq!(outstanding.await, Err(PublishError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_in_its_time_although_the_broker_hangs() {
    let time = Duration::from_secs(12);
    // The consumers, the confirm and the ends of two connections had this time once each: four times as much.
    let bound = time + Duration::from_secs(30);

    let took = block_in_place(|| {
        quickest(bound, || Handle::current().block_on(stop_while_the_broker_hangs(time)))
    });

    assert!(took < bound, "{took:?}");
}
