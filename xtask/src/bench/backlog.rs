//! A million messages waiting: fill, memory, kill -9, first delivery, drain.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use super::broker::{Peer, Programs};
use super::tool;
use crate::crash::client::{Client, Event};

/// Runs the whole play with one broker; the answer has one member per figure.
///
/// # Errors
///
/// If broker or load tool fail.
pub(crate) fn play(
    programs: &Programs,
    peer: Peer,
    folder: &Path,
    count: u64,
) -> anyhow::Result<Value> {
    let words = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let broker = programs.start(peer, folder, &[])?;
    let fill = words(format!("fill --count {count} --persistent --durable --confirm 1000"));
    let filled = tool::load(&programs.tool, &broker, &fill).context("fill")?;
    let rss_mb = filled.pointer("/broker_settled/rss_mb").cloned().unwrap_or_default();
    broker.kill()?;
    let broker = programs.start(peer, folder, &[])?;
    let accepted_ms = broker.accepted_after.as_secs_f64() * 1e3;
    let first_ms = first_delivery(&broker).context("first delivery")?;
    let ready = words(format!("ready --number {count}"));
    tool::load(&programs.tool, &broker, &ready).context("ready")?;
    let all_ms = broker.began.elapsed().as_secs_f64() * 1e3;
    let drain = words("drain --durable --prefetch 1000 --ack 100".to_owned());
    let drained = tool::load(&programs.tool, &broker, &drain).context("drain")?;
    broker.kill()?;
    Ok(json!({
        "fill_s": filled.pointer("/confirmed_s").cloned().unwrap_or_default(),
        "fill_cpu_us": filled.pointer("/broker_cpu_us_per_msg").cloned().unwrap_or_default(),
        "rss_mb": rss_mb,
        "accepted_ms": accepted_ms,
        "first_ms": first_ms,
        "all_ms": all_ms,
        "drain_s": drained.pointer("/consumed_s").cloned().unwrap_or_default(),
        "drain_cpu_us": drained.pointer("/broker_cpu_us_per_msg").cloned().unwrap_or_default(),
        "drained": drained.pointer("/consumed").cloned().unwrap_or_default(),
    }))
}

/// Milliseconds from the start of the process until a consumer holds a message. The message goes back.
fn first_delivery(broker: &super::broker::Broker) -> anyhow::Result<f64> {
    loop {
        // RabbitMQ accepts before its queues are there, and refuses.
        let mut client = Client::connect(broker.address())?;
        if client.consume("load.0", 1).is_ok() {
            while let Some(event) = client.event(Duration::from_secs(60))? {
                if let Event::Delivered(_) = event {
                    let took = broker.began.elapsed().as_secs_f64() * 1e3;
                    client.close()?;
                    return Ok(took);
                }
            }
        }
        anyhow::ensure!(broker.began.elapsed() < Duration::from_secs(120), "nothing is delivered");
        std::thread::sleep(Duration::from_millis(5));
    }
}
