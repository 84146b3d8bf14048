//! The load tool and the other programs: found, built or installed, and run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::broker::Broker;
use crate::install;

/// The load tool's core.
const CORE: &str = "1";

/// Finds the load tool: the one named, or a checkout beside ours, which is built into our target folder.
///
/// # Errors
///
/// If there is neither, or it does not build.
pub(crate) fn find(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(named) = named {
        ensure!(named.is_file(), "there is no load tool at {}", named.display());
        return Ok(named.to_path_buf());
    }
    let source = install::root().join("../shared/tools/amqp-load");
    if !source.join("Cargo.toml").is_file() {
        bail!(
            "the load tool `amqp-load` is not part of this repository: give its path with --amqp-load or AMQP_LOAD, or \
             put its source at {}",
            source.display()
        );
    }
    let target = install::target().join("amqp-load");
    println!("builds the load tool of {} into {}", source.display(), target.display());
    // Built from a copy, because cargo writes a lock file beside the manifest.
    let copy = target.join("source");
    std::fs::create_dir_all(&target)?;
    install::run(Command::new("cp").args(["-rfT"]).arg(&source).arg(&copy))?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--quiet", "--manifest-path"]).arg(copy.join("Cargo.toml"));
    install::run(cargo.arg("--target-dir").arg(&target))?;
    Ok(target.join("release/amqp-load"))
}

/// The server script of Debian's RabbitMQ, installed if it is missing.
///
/// # Errors
///
/// If it cannot be installed.
pub(crate) fn rabbit() -> anyhow::Result<PathBuf> {
    if let Some(found) = rabbit_script() {
        return Ok(found);
    }
    println!("installs these Debian packages: rabbitmq-server (its service is not started)");
    // A policy that forbids it keeps the service from starting by itself and taking port 5672.
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y", "-qq", "--no-install-recommends", "rabbitmq-server"]);
    install::run(apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1"))?;
    rabbit_script().context("rabbitmq-server is still missing")
}

fn rabbit_script() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib/rabbitmq/lib").ok()?;
    folders
        .flatten()
        .map(|entry| entry.path().join("sbin/rabbitmq-server"))
        .find(|path| path.exists())
}

/// Runs the load tool against a broker and returns its answer.
///
/// # Errors
///
/// If it fails; its own words are in the error.
pub(crate) fn load(tool: &Path, broker: &Broker, args: &[String]) -> anyhow::Result<Value> {
    let mut command = Command::new("taskset");
    command.args(["-c", CORE]).arg(tool).args(["--port", &broker.port.to_string()]).args(args);
    if args.first().is_some_and(|command| command != "ready") {
        command.args(["--broker-pid", &broker.pid().to_string()]);
    }
    let output = command.stdin(Stdio::null()).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {} {}", args.join(" "), output.status, error.trim());
    serde_json::from_slice(&output.stdout).context("the load tool's answer is no JSON")
}

/// The figure at a JSON pointer.
pub(crate) fn figure(answer: &Value, at: &str) -> Option<f64> {
    answer.pointer(at).and_then(Value::as_f64)
}

/// The middle of the figures; `None` of none.
pub(crate) fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied()?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    sorted.get(sorted.len() / 2 - 1).map(|lower| f64::midpoint(*lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[]), None);
    }
}
