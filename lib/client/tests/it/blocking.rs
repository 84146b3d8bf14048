//! A broker that takes no messages for a while, because its disk is nearly full.

use std::time::Duration;

use it::{Program, SmallDisk};
use posthouse_client::PublishError;
use posthouse_client::prelude::{Queue, Topology};

use crate::broker::{PATIENCE, client, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_wait_within_their_time_while_the_broker_takes_nothing_and_go_on_after_that() {
    let Some(disk) = SmallDisk::mount(64) else { return };
    let settings = [
        "store.segment_bytes=4MiB",
        "store.reserve_segments=2",
        "alarms.disk_free_min=16MiB",
        "alarms.interval=20ms",
    ];
    let server = Program::start_on(&disk, &settings);
    let client = client(&format!("amqp://guest:guest@{}", server.address)).await;
    client.apply(&Topology::new().queue(Queue::new("q"))).await.unwrap();
    let publish = |body: &'static str, within| client.publish_to("", "q", body).confirm(within);
    let short = Duration::from_millis(200);
    publish("before", PATIENCE).await.unwrap();
    assert_eq!(client.metrics().blocked.get(), 0);

    disk.fill();
    // The broker says it to who publishes.
    let error = loop {
        match publish("early", short).await {
            Ok(_) | Err(PublishError::Timeout { .. }) => {}
            Err(error) => break error,
        }
    };
    let PublishError::Blocked { reason, sent, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("disk") && *sent, "{error}");
    assert!(error.is_retryable() && error.to_string().contains("low on disk"), "{error}");
    assert_eq!(client.metrics().blocked.get(), 1);
    let later = publish("withdrawn", short).await.unwrap_err();
    assert!(matches!(later, PublishError::Blocked { sent: false, .. }), "{later}");
    let waiting = tokio::spawn(publish("waits", PATIENCE).into_future());
    disk.make_room();

    waiting.await.unwrap().unwrap();

    until("unblocked", || async { client.metrics().blocked.get() == 0 }).await;
    client.close().await;
    let bodies = it::Broker::Foreign(server.address).connect().channel().take_all("q");
    assert_eq!(bodies.first().map(String::as_str), Some("before"));
    assert_eq!(bodies.last().map(String::as_str), Some("waits"));
    assert!(!bodies.contains(&"withdrawn".to_owned()), "{bodies:?}");
}
