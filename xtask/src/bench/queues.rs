//! `cargo xtask bench --queues`: the queue service beside real Zaqar, with Debian's `wrk` as the load.
//!
//! Both run one after the other, unpinned, each run on a fresh folder: Zaqar as in `zaqar_peer.py` of the Python suites,
//! with two gunicorn workers, no authentication and a Redis that never writes; ours with a sync before every 201. What
//! Zaqar cannot do at all, or not at that size, is measured for ours alone and judged by a limit.

mod cost;
mod services;
mod sockets;
mod webhooks;
mod wrk;

use std::path::PathBuf;

use anyhow::ensure;
use serde_json::{Value, json};

use super::tool::median;
use services::{Service, Services};
use wrk::Load;

/// Our rate divided by Zaqar's must be at least this.
const RATIO_FLOOR: f64 = 30.0;

/// What it should be.
const RATIO_GOAL: f64 = 60.0;

/// 99 of 100 requests must be answered within so many milliseconds at half of the greatest rate.
const P99_MS_MAX: f64 = 5.0;

/// Rows of ours alone.
const OWN_ROWS: [&str; 4] = ["claim-cost", "sockets-idle", "sockets-reach", "webhooks"];

/// One figure of ours alone, and what it must not exceed.
#[derive(Debug)]
struct Own {
    what: String,
    value: f64,
    unit: &'static str,
    limit: f64,
}

/// A row with both services: the rates, and the 99th percentile at half of them.
#[derive(Debug)]
struct Compared {
    load: Load,
    rates: [Vec<f64>; 2],
    p99_ms: [Option<f64>; 2],
}

/// Runs the comparison and prints its tables.
///
/// # Errors
///
/// If something cannot be installed or started. A missed floor is said in the table and is no error.
pub(super) fn run(args: &super::Args) -> anyhow::Result<()> {
    let names: Vec<&str> = wrk::LOADS.iter().map(|load| load.name).chain(OWN_ROWS).collect();
    for name in &args.rows {
        ensure!(names.contains(&name.as_str()), "no row is called {name}; there are {names:?}");
    }
    let wanted = |name: &str| args.rows.is_empty() || args.rows.iter().any(|wanted| wanted == name);
    let work =
        args.work_dir.clone().unwrap_or_else(|| crate::install::target().join("bench-queues"));
    std::fs::create_dir_all(&work)?;
    let services = Services::prepare(args, std::path::absolute(&work)?)?;
    println!("load of the machine before: {}", super::said("cat", &["/proc/loadavg"]));
    let mut compared = Vec::new();
    for load in wrk::LOADS.into_iter().filter(|load| wanted(load.name)) {
        compared.push(compare(&services, load, args)?);
    }
    let mut own = Vec::new();
    for (name, measure) in OWN_ROWS.into_iter().zip([
        cost::measure as fn(&Services, bool) -> anyhow::Result<Vec<Own>>,
        sockets::idle,
        sockets::reach,
        webhooks::measure,
    ]) {
        if wanted(name) {
            println!("{name}");
            match measure(&services, args.quick) {
                Ok(rows) => own.extend(rows),
                Err(error) => println!("  FAILED: {error:#}"),
            }
        }
    }
    println!("\n{}\n{}", table(&compared), own_table(&own));
    let json_at: PathBuf = args.json.clone().unwrap_or_else(|| work.join("bench-queues.json"));
    std::fs::write(&json_at, serde_json::to_string_pretty(&answers(&compared, &own))?)?;
    println!("answers: {}", json_at.display());
    Ok(())
}

fn compare(services: &Services, load: Load, args: &super::Args) -> anyhow::Result<Compared> {
    println!("{}: {}", load.name, load.what);
    let mut row = Compared { load, rates: [Vec::new(), Vec::new()], p99_ms: [None, None] };
    for _ in 0..args.runs.max(1) {
        for (service, rates) in services.all().zip(&mut row.rates) {
            let running = services.start(service)?;
            match wrk::run(services, &running, load, args.quick, None) {
                Ok(answer) => {
                    println!("  {:10} {:>10.0} {}", service.name(), answer.rate, load.unit);
                    rates.push(answer.rate);
                }
                Err(error) => println!("  {:10} FAILED: {error:#}", service.name()),
            }
        }
    }
    for ((service, rates), p99_ms) in services.all().zip(&row.rates).zip(&mut row.p99_ms) {
        let Some(rate) = median(rates) else { continue };
        let running = services.start(service)?;
        match wrk::run(services, &running, load, args.quick, Some(rate / 2.0)) {
            Ok(answer) => {
                let (name, at, p99) = (service.name(), answer.rate, answer.p99_ms);
                println!("  {name:10} {p99:>10.2} ms p99 at {at:.0} {}", load.unit);
                *p99_ms = Some(p99);
            }
            Err(error) => println!("  {:10} FAILED: {error:#}", service.name()),
        }
    }
    Ok(row)
}

impl Compared {
    fn ratio(&self) -> Option<f64> {
        let [ours, zaqar] = &self.rates;
        median(ours).zip(median(zaqar)).map(|(ours, zaqar)| ours / zaqar)
    }

    fn verdict(&self) -> &'static str {
        let p99 = self.p99_ms.first().copied().flatten();
        match (self.ratio(), p99) {
            (Some(ratio), _) if ratio < RATIO_FLOOR => "**missed**",
            (_, Some(p99)) if p99 > P99_MS_MAX => "**missed** (p99)",
            (Some(ratio), Some(_)) if ratio >= RATIO_GOAL => "goal reached",
            (Some(_), Some(_)) => "reached",
            (None, _) | (_, None) => "not judged",
        }
    }
}

fn table(rows: &[Compared]) -> String {
    let mut text = String::from(
        "| row | posthouse [spread] | zaqar [spread] | ratio (floor 30, goal 60) | p99 at half the rate, ms: posthouse / \
         zaqar (≤ 5 / –) | verdict |\n|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let rate = |rates: &[f64]| {
            let mut sorted = rates.to_vec();
            sorted.sort_by(f64::total_cmp);
            match (median(&sorted), sorted.first(), sorted.last()) {
                (Some(middle), Some(low), Some(high)) => {
                    format!("{middle:.0} [{low:.0}–{high:.0}]")
                }
                _ => "–".to_owned(),
            }
        };
        let shown =
            |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
        let ([ours, zaqar], [our_p99, zaqar_p99]) = (&row.rates, row.p99_ms);
        text.push_str(&format!(
            "| {} | {} {} | {} | {} | {} / {} | {} |\n",
            row.load.what,
            rate(ours),
            row.load.unit,
            rate(zaqar),
            shown(row.ratio()),
            shown(our_p99),
            shown(zaqar_p99),
            row.verdict()
        ));
    }
    text
}

fn own_table(rows: &[Own]) -> String {
    let mut text = String::from("| row | posthouse | at most | verdict |\n|---|---|---|---|\n");
    for Own { what, value, unit, limit } in rows {
        let verdict = if value <= limit { "reached" } else { "**missed**" };
        let limit = if limit.is_finite() { format!("{limit} {unit}") } else { "–".to_owned() };
        text.push_str(&format!("| {what} | {value:.2} {unit} | {limit} | {verdict} |\n"));
    }
    text
}

fn answers(compared: &[Compared], own: &[Own]) -> Value {
    let compared: Vec<Value> = compared
        .iter()
        .map(|row| {
            let ([ours, zaqar], [our_p99, zaqar_p99]) = (&row.rates, row.p99_ms);
            json!({
                "row": row.load.name, "unit": row.load.unit, "posthouse": ours, "zaqar": zaqar,
                "posthouse_p99_ms": our_p99, "zaqar_p99_ms": zaqar_p99,
            })
        })
        .collect();
    let own: Vec<Value> = own
        .iter()
        .map(|row| json!({ "row": row.what, "value": row.value, "unit": row.unit }))
        .collect();
    json!({ "compared": compared, "own": own })
}

/// Who is measured beside whom; ours comes first in every pair of figures.
const ORDER: [Service; 2] = [Service::Ours, Service::Zaqar];
