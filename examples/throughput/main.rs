//! How fast: publishes and consumes 1 KiB persistent messages with confirms, by this library or by lapin.
//!
//! `cargo run --profile fast -p examples --bin throughput -- 200000` with a broker on localhost; `-- 200000 lapin` for
//! comparison. It shows, too, how to have many messages under way at once. What it prints is messages per second.
#![expect(clippy::print_stdout, reason = "a program to look at")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use posthouse_client::prelude::*;
use tokio::sync::Notify;

/// Messages that wait for their confirm.
const WINDOW: usize = 1000;

/// Messages that wait for their acknowledgement.
const PREFETCH: u16 = 1000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Counts what has arrived, and says when it is all.
#[derive(Debug, Default)]
struct Arrived {
    count: AtomicUsize,
    all: Notify,
}

impl Arrived {
    fn one(&self, of: usize) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == of {
            self.all.notify_one();
        }
    }
}

// One thread, so that two programs on one core are compared and not two schedulers.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let url = std::env::var("POSTHOUSE_URL").unwrap_or_else(|_| "amqp://localhost".to_owned());
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let took = match arguments.next().as_deref() {
        Some("lapin") => with_lapin(&url, count).await?,
        _ => with_posthouse(&url, count).await?,
    };
    println!("{:.0}", count as f64 / took.as_secs_f64());
    Ok(())
}

async fn with_posthouse(url: &str, count: usize) -> Result<Duration, Failure> {
    let arrived = Arc::new(Arrived::default());
    let take = move |State(arrived): State<Arc<Arrived>>| async move { arrived.one(count) };
    let router = Router::new()
        .queue("throughput", consume(take).prefetch(PREFETCH).workers(4))
        .with_state(Arc::clone(&arrived));
    let app = App::start(url, router, Options::default()).await?;
    let bus = Client::connect_with(url, Options::default().unconfirmed(WINDOW, 1 << 30)).await?;
    let body = bytes_of_a_message();

    let began = Instant::now();
    for _ in 0..count {
        // Waits while the window is full. What is not accepted is logged, as nobody keeps the confirm.
        drop(bus.publish_to("", "throughput", body.clone()).send().await?);
    }
    arrived.all.notified().await;
    let took = began.elapsed();

    app.stop().await;
    bus.delete_queue("throughput").await?;
    bus.close().await;
    Ok(took)
}

async fn with_lapin(url: &str, count: usize) -> Result<Duration, Failure> {
    let name = || ShortString::from("throughput");
    let consuming = Connection::connect(url, ConnectionProperties::default()).await?;
    let publishing = Connection::connect(url, ConnectionProperties::default()).await?;
    let (taker, giver) = (consuming.create_channel().await?, publishing.create_channel().await?);
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    taker.queue_declare(name(), durable, FieldTable::default()).await?;
    taker.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    giver.confirm_select(ConfirmSelectOptions::default()).await?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = taker.basic_consume(name(), "c".into(), options, table).await?;
    let taking = tokio::spawn(async move {
        let mut taken = 0;
        while taken < count
            && let Some(Ok(delivery)) = consumer.next().await
        {
            delivery.ack(BasicAckOptions::default()).await.ok();
            taken += 1;
        }
    });
    let body = bytes_of_a_message();

    let began = Instant::now();
    let mut confirms = std::collections::VecDeque::with_capacity(WINDOW);
    for _ in 0..count {
        if confirms.len() == WINDOW
            && let Some(oldest) = confirms.pop_front()
        {
            oldest.await?;
        }
        let (options, properties) =
            (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
        let publish = giver.basic_publish("".into(), name(), options, &body, properties);
        confirms.push_back(publish.await?);
    }
    taking.await?;
    let took = began.elapsed();

    taker.queue_delete(name(), QueueDeleteOptions::default()).await?;
    Ok(took)
}

fn bytes_of_a_message() -> Bytes {
    vec![b'x'; 1024].into()
}
