//! What a confirm means: how often each broker syncs its files for a number of confirmed messages.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::broker::{Peer, Programs};
use super::tool;

/// Messages of the count.
const MESSAGES: u64 = 20_000;

/// Counts the calls that make data durable, with `strace` on the running broker; a sentence for the report.
///
/// # Errors
///
/// If broker or load tool fail; a missing `strace` is a sentence, not an error.
pub(crate) fn count(programs: &Programs, peer: Peer, folder: &Path) -> anyhow::Result<String> {
    if Command::new("strace").arg("--version").stdout(Stdio::null()).status().is_err() {
        return Ok(format!("{}: not counted, there is no strace here", peer.name()));
    }
    let broker = programs.start(peer, folder, &[])?;
    let trace = folder.join("syncs.txt");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-e", "trace=fdatasync,fsync,syncfs,sync,msync,sync_file_range", "-o"])
        .arg(&trace);
    strace.args(["-p", &broker.pid().to_string()]);
    for pid in super::broker::descendants(broker.pid()) {
        strace.args(["-p", &pid.to_string()]);
    }
    let mut strace = strace
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("strace does not start")?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    // Attached once it traces the process: the kernel says so.
    while !is_traced(broker.pid()) && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let args = format!(
        "throughput --count {MESSAGES} --persistent --durable --confirm 1000 --prefetch 1000 --ack 100"
    );
    let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    let answer = tool::load(&programs.tool, &broker, &args);
    crate::install::run(Command::new("kill").args(["-INT", &strace.id().to_string()]))?;
    strace.wait()?;
    answer?;
    broker.kill()?;
    let text = std::fs::read_to_string(&trace)?;
    let mut counts: Vec<String> = Vec::new();
    for call in ["fdatasync", "fsync", "syncfs", "msync", "sync_file_range"] {
        let number = text.lines().filter(|line| line.contains(&format!(" {call}("))).count();
        if number > 0 {
            counts.push(format!("{number} {call}"));
        }
    }
    let counts = if counts.is_empty() { "no sync at all".to_owned() } else { counts.join(", ") };
    Ok(format!("{}: {counts} for {MESSAGES} confirmed messages, window 1000", peer.name()))
}

fn is_traced(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}
