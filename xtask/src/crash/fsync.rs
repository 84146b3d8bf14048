//! A sync that fails: no confirm after it, the server ends itself, and comes back whole.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};

use super::cycle::Cycle;
use super::load::{Parts, lock};
use super::ticks::Tick;

/// How soon the server must have ended itself.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// A message published this long after the failure must never be confirmed; clocks of two processes differ less.
const GRACE: Duration = Duration::from_millis(5);

/// Runs under `strace`, which fails every `fdatasync` and `fsync` of a thread from a random one on.
///
/// # Errors
///
/// If the server does not come up again.
pub(crate) fn run(cycle: &mut Cycle<'_>) -> anyhow::Result<()> {
    // The queues must be there first, or the failure hits their declaration.
    cycle.start()?.server.stop()?;
    let trace = cycle.rig.ledgers.join(format!("strace-{}.txt", cycle.rig.number));
    let plain = cycle.rig.launch.command.clone();
    let first = cycle.random.between(20, 400);
    cycle.rig.launch.command = strace(first, &trace).chain(plain.iter().cloned()).collect();
    let up = cycle.start();
    cycle.rig.launch.command = plain;
    let mut up = up?;
    let load = cycle.load(&up, Parts::All);
    load.announce(&format!("sync {first} fails"))?;
    cycle.rig.faults += 1;
    let ended = up.server.ended(Duration::from_secs(20))?;
    let died = Tick::now();
    if ended.is_none() {
        up.server.kill()?;
    }
    load.bury(died)?;
    let failed = first_failure(&trace)?;
    ensure!(
        failed.is_some() || ended.is_none(),
        "it ended before the sync that was to fail: {ended:?}"
    );
    match (failed, ended) {
        (Some(_), None) => {
            complain(cycle, "GOES ON: syncs fail, the server has not ended within 20 s");
        }
        (Some(failed), Some(status)) => {
            let took = failed.elapsed().unwrap_or_default();
            if took > ENDS_WITHIN {
                complain(
                    cycle,
                    &format!("SLOW STOP: ended {} ms after the failed sync", took.as_millis()),
                );
            }
            if status.success() {
                complain(cycle, "SILENT STOP: a failed sync ended the server with exit code 0");
            }
            let confirmed = lock(&cycle.history).confirmed_since(failed + GRACE);
            if confirmed > 0 {
                complain(
                    cycle,
                    &format!(
                        "LYING CONFIRM: {confirmed} messages, published after the sync had failed"
                    ),
                );
            }
        }
        (None, _) => lock(&cycle.history).note("the load never reached the sync that was to fail"),
    }
    let up = cycle.start()?;
    cycle.drain(&up)?;
    up.server.stop()?;
    Ok(std::fs::remove_file(trace)?)
}

/// The traced process is our own child (`-D`: the tracer is its grandchild), so that signals and its end reach us.
fn strace(first: u64, trace: &std::path::Path) -> impl Iterator<Item = PathBuf> {
    let inject = format!("inject=fdatasync,fsync:error=EIO:when={first}+");
    // `-Y`: with the names of the threads.
    let words =
        ["strace", "-D", "-f", "-Y", "-ttt", "-e", "trace=fdatasync,fsync", "-e", &inject, "-o"];
    words.map(PathBuf::from).into_iter().chain([trace.to_path_buf()])
}

/// When the log's first sync failed. Each thread's syncs are counted alone, and one that makes files ahead may come to
/// its own first failure sooner: nothing is in those files that anybody waits for.
fn first_failure(trace: &std::path::Path) -> anyhow::Result<Option<SystemTime>> {
    let text = std::fs::read_to_string(trace).context("no trace")?;
    let is_of_log = |line: &&str| line.contains("(INJECTED)") && !line.contains("<store-keeper>");
    let Some(line) = text.lines().find(is_of_log) else { return Ok(None) };
    let seconds: f64 =
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).context("no time")?;
    Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}

fn complain(cycle: &Cycle<'_>, text: &str) {
    lock(&cycle.history).complain(text.to_owned());
}
