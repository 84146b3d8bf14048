//! Debian's `wrk` as the load: eight keep-alive connections on one queue, requests from the scripts in `xtask/wrk`.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::services::{Running, Services, messages, some};
use crate::install;

/// Connections of a row that is measured at its greatest rate.
const CONNECTIONS: u64 = 8;

/// Milliseconds that a connection waits on average where the rate is given: `wrk` counts in whole ones.
const DELAY_MS: f64 = 10.0;

/// Most connections where the rate is given.
const CONNECTIONS_MAX: u64 = 2_000;

/// The queue of all requests.
const QUEUE: &str = "/v2/queues/bench";

/// What is asked over and over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// For `--rows`.
    pub(super) name: &'static str,
    /// For people.
    pub(super) what: &'static str,
    /// What the rate counts.
    pub(super) unit: &'static str,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Posts of so many messages.
    Post(usize),
    /// A page of ten.
    List,
    /// Ten claimed, then deleted in bulk.
    Claim,
}

/// All rows with both services.
pub(super) const LOADS: [Load; 4] = [
    Load { name: "post-1", what: "post one message of 1 KiB", unit: "/s", kind: Kind::Post(1) },
    Load { name: "post-10", what: "post ten messages of 1 KiB", unit: "/s", kind: Kind::Post(10) },
    Load { name: "list-10", what: "list ten messages of 1 KiB", unit: "/s", kind: Kind::List },
    Load {
        name: "claim-10",
        what: "claim ten messages of 1 KiB and delete them in bulk",
        unit: "cycles/s",
        kind: Kind::Claim,
    },
];

/// What `wrk` measured.
#[derive(Debug)]
pub(super) struct Figures {
    /// Of the row's unit each second.
    pub(super) rate: f64,
    /// 99 of 100 requests took at most this; at the greatest rate it says nothing.
    pub(super) p99_ms: f64,
}

/// Runs the load at its greatest rate, or at the rate given.
///
/// # Errors
///
/// If `wrk` fails, a request is refused, or the queue runs dry.
pub(super) fn run(
    services: &Services,
    running: &Running,
    load: Load,
    quick: bool,
    rate: Option<f64>,
) -> anyhow::Result<Figures> {
    prepare(running, load.kind, quick)?;
    let seconds = if quick { 1 } else { 4 };
    let (connections, delay_ms) = pace(load.kind, rate);
    let scripts = install::root().join("xtask/wrk");
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--timeout", "30s", "--duration", &format!("{seconds}s")]);
    wrk.args(["--connections", &connections.to_string(), "--script"]);
    match load.kind {
        Kind::Post(count) => {
            let body = services.work.join(format!("post-{count}.json"));
            std::fs::write(&body, serde_json::to_vec(&messages(count))?)?;
            wrk.arg(scripts.join("request.lua")).arg(format!("http://{}", running.address));
            wrk.args(["--", "POST", &format!("{QUEUE}/messages")]).arg(body);
        }
        Kind::List => {
            wrk.arg(scripts.join("request.lua")).arg(format!("http://{}", running.address));
            wrk.args(["--", "GET", &format!("{QUEUE}/messages?limit=10&echo=true"), "-"]);
        }
        Kind::Claim => {
            wrk.arg(scripts.join("claim.lua")).arg(format!("http://{}", running.address));
            wrk.args(["--", QUEUE]);
        }
    }
    let output = wrk.arg(delay_ms.to_string()).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "wrk: {} {} {}", output.status, text.trim(), error.trim());
    let answer = text.lines().find_map(|line| line.strip_prefix("ANSWER "));
    let answer: Value = serde_json::from_str(answer.context("wrk gave no answer")?)?;
    let figure = |name: &str| answer.get(name).and_then(Value::as_f64).context(name.to_owned());
    let (refused, failed) = (figure("refused")?, figure("failed")?);
    ensure!(refused + failed == 0.0, "{refused} requests were refused, {failed} failed");
    if matches!(load.kind, Kind::Claim) {
        ensure!(running.total(QUEUE)? > 0, "the queue ran dry: the rate is higher than this shows");
    }
    Ok(Figures {
        rate: some(figure("requests")? / (figure("duration_us")? / 1e6), "the rate")?,
        p99_ms: figure("p99_us")? / 1e3,
    })
}

/// Connections and the average delay of each, in milliseconds.
fn pace(kind: Kind, rate: Option<f64>) -> (u64, u64) {
    let Some(rate) = rate else { return (CONNECTIONS, 0) };
    // A cycle is two requests.
    let requests = if matches!(kind, Kind::Claim) { 2.0 * rate } else { rate };
    let mut connections = CONNECTIONS;
    while connections < CONNECTIONS_MAX && whole(connections) * 1e3 / requests < DELAY_MS {
        connections += 1;
    }
    let wanted = whole(connections) * 1e3 / requests;
    let mut delay = 1;
    while whole(delay) + 0.5 < wanted {
        delay += 1;
    }
    (connections, delay)
}

/// A small count as a figure.
fn whole(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}

/// Puts into the queue what the load takes out or looks at.
fn prepare(running: &Running, kind: Kind, quick: bool) -> anyhow::Result<()> {
    running.connect().request("PUT", QUEUE, b"")?;
    match kind {
        Kind::Post(_) => Ok(()),
        Kind::List => running.fill(QUEUE, 1_000),
        Kind::Claim => running.fill(
            QUEUE,
            match (running.is_ours(), quick) {
                (true, true) => 400_000,
                (true, false) => 1_500_000,
                (false, true) => 8_000,
                (false, false) => 30_000,
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_rate_is_kept_by_enough_connections_that_wait() {
        assert_eq!(pace(Kind::List, None), (8, 0));
        assert_eq!(pace(Kind::List, Some(400.0)), (8, 20));
        assert_eq!(pace(Kind::List, Some(10_000.0)), (100, 10));
        assert_eq!(pace(Kind::Claim, Some(5_000.0)), (100, 10));
    }
}
