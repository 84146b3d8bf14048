//! What a claim costs with few and with very many messages waiting.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::Own;
use super::services::{Service, Services};
use crate::bench::tool::median;

/// Claims whose median counts.
const CLAIMS: usize = 1_000;

/// A claim with the most messages waiting may cost so many times one with the fewest.
const RATIO_MAX: f64 = 1.5;

/// Claims ten messages and releases them, with each number waiting.
///
/// # Errors
///
/// If a request fails.
pub(super) fn measure(services: &Services, quick: bool) -> anyhow::Result<Vec<Own>> {
    let backlogs: &[usize] =
        if quick { &[100, 10_000, 100_000] } else { &[100, 10_000, 1_000_000] };
    let running = services.start(Service::Ours)?;
    let mut rows = Vec::new();
    let mut figures = Vec::new();
    for backlog in backlogs {
        let queue = format!("/v2/queues/waiting-{backlog}");
        running.fill(&queue, *backlog)?;
        ensure!(running.total(&queue)? >= u64::try_from(*backlog)?, "{queue} was not filled");
        // Not before: the server closes one that was silent for as long as filling may take.
        let mut connection = running.connect();
        let mut took = Vec::with_capacity(CLAIMS);
        for _ in 0..CLAIMS {
            let began = Instant::now();
            let path = format!("{queue}/claims?limit=10");
            let body = serde_json::to_vec(&json!({ "ttl": 60, "grace": 60 }))?;
            let answer = connection.request("POST", &path, &body)?;
            took.push(micros(began.elapsed()));
            ensure!(answer.status == 201, "{path}: {}", answer.status);
            let claim = answer.location.context("a claim without a location")?;
            connection.expect(204, "DELETE", &claim, &Value::Null)?;
        }
        let middle = median(&took).context("no claim")?;
        println!("  {backlog:>8} waiting: {middle:>8.1} µs");
        figures.push(middle);
        let what = format!("a claim of ten with {backlog} waiting, p50");
        rows.push(Own { what, value: middle, unit: "µs", limit: f64::INFINITY });
    }
    let (low, high) = (figures.first().context("no figure")?, figures.last().context("no figure")?);
    let what = "a claim with the most waiting / with the fewest".to_owned();
    rows.push(Own { what, value: high / low, unit: "×", limit: RATIO_MAX });
    Ok(rows)
}

fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}
