//! A broker that takes no messages for a while, because its disk is nearly full or its memory.

use std::time::{Duration, Instant};

use it::rabbitmq::Rabbit;
use it::{Program, SmallDisk};
use posthouse_client::prelude::{Queue, Topology};
use posthouse_client::{Client, PublishError};
use tokio::task::{JoinHandle, block_in_place};

use crate::broker::{PATIENCE, client, until};

const SHORT: Duration = Duration::from_millis(200);

/// For a message that waits while a tool for operators starts, on a machine that has other things to do.
const AMPLE: Duration = Duration::from_secs(600);

/// A client of a broker that takes messages still; its queue `q` has the message `before`.
async fn publisher(url: &str) -> Client {
    let client = client(url).await;
    client.apply(&Topology::new().queue(Queue::new("q"))).await.unwrap();
    publish(&client, "before", PATIENCE).await.unwrap();
    assert_eq!(client.metrics().blocked.get(), 0);
    client
}

async fn publish(
    client: &Client,
    body: &'static str,
    within: Duration,
) -> Result<(), PublishError> {
    client.publish_to("", "q", body).confirm(within).await.map(drop)
}

/// Publishes until the broker says that it takes nothing; the error of that. It says so to who publishes only.
async fn blocked(client: &Client) -> PublishError {
    let error = loop {
        match publish(client, "early", SHORT).await {
            Ok(()) | Err(PublishError::Timeout { .. }) => {}
            Err(error) => break error,
        }
    };
    assert!(error.is_retryable(), "{error}");
    assert_eq!(client.metrics().blocked.get(), 1);
    error
}

/// While it takes nothing: one message is withdrawn, one waits, at most so long.
async fn waiting(client: &Client, within: Duration) -> JoinHandle<Result<(), PublishError>> {
    let later = publish(client, "withdrawn", SHORT).await.unwrap_err();
    assert!(matches!(later, PublishError::Blocked { sent: false, .. }), "{later}");
    let client = client.clone();
    tokio::spawn(async move { publish(&client, "waits", within).await })
}

/// After it: what waited is there, what was withdrawn is not.
async fn goes_on(
    client: Client,
    waiting: JoinHandle<Result<(), PublishError>>,
    address: std::net::SocketAddr,
) {
    waiting.await.unwrap().unwrap();

    until("unblocked", || async { client.metrics().blocked.get() == 0 }).await;
    client.close().await;
    let bodies = it::Broker::Foreign(address).connect().channel().take_all("q");
    assert_eq!(bodies.first().map(String::as_str), Some("before"));
    assert_eq!(bodies.last().map(String::as_str), Some("waits"));
    assert!(!bodies.contains(&"withdrawn".to_owned()), "{bodies:?}");
}

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
    let client = publisher(&format!("amqp://guest:guest@{}", server.address)).await;

    let began = Instant::now();
    let error = loop {
        disk.fill();
        let error = blocked(&client).await;
        if matches!(error, PublishError::Blocked { sent: true, .. }) {
            break error;
        }
        // On a busy machine it may be said between two messages, when none is on its way.
        assert!(began.elapsed() < PATIENCE, "{error}");
        disk.make_room();
        until("unblocked", || async { client.metrics().blocked.get() == 0 }).await;
    };
    let PublishError::Blocked { reason, sent, .. } = &error else { panic!("{error}") };
    assert!(reason.contains("disk") && *sent, "{error}");
    assert!(error.to_string().contains("low on disk"), "{error}");
    let waiting = waiting(&client, PATIENCE).await;
    disk.make_room();

    goes_on(client, waiting, server.address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_wait_while_rabbitmq_is_low_on_memory_or_disk_and_go_on_after_that() {
    // Its own: an alarm stops everybody who publishes.
    let Some(rabbit) = block_in_place(Rabbit::start) else { return };
    let alarms = [
        ("memory", "set_vm_memory_high_watermark", "0", "0.9"),
        ("disk", "set_disk_free_limit", "1000000GB", "1MB"),
    ];

    for (scarce, limit, low, ample) in alarms {
        let client = publisher(&format!("amqp://guest:guest@{}", rabbit.address)).await;

        block_in_place(|| rabbit.control(&[limit, low]));
        // It says so at the next message's header, whose body it reads when the alarm ends. That one was sent, but by then it
        // may have timed out, so that the error is the one of a message after it.
        let error = blocked(&client).await;
        let PublishError::Blocked { reason, .. } = &error else { panic!("{error}") };
        assert_eq!(&**reason, format!("low on {scarce}"));
        let waiting = waiting(&client, AMPLE).await;
        block_in_place(|| rabbit.control(&[limit, ample]));

        goes_on(client, waiting, rabbit.address).await;
    }
}
