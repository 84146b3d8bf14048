//! `kill -9`, under load and during recovery.

use std::time::Duration;

use super::cycle::{Cycle, Up};
use super::load::{Load, Parts};
use super::ticks::Tick;

/// Whether recoveries are killed too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chain {
    /// Each kill is followed by a recovery that may finish.
    Single,
    /// Up to five recoveries in a row are killed.
    DuringRecovery,
}

/// One to three lives under load, each killed; then a drain and a clean stop or a kill while idle.
///
/// # Errors
///
/// If the server does not come up again.
pub(crate) fn run(cycle: &mut Cycle<'_>, chain: Chain) -> anyhow::Result<()> {
    let lives = cycle.random.between(1, 3);
    for life in 0..lives {
        let up = cycle.start()?;
        // A backlog without consumers now and then: recovery has more to read.
        let parts =
            if life + 1 < lives && cycle.random.one_in(4) { Parts::Producers } else { Parts::All };
        let load = cycle.load(&up, parts);
        cycle.run_for(50, 700);
        kill(cycle, up, load)?;
        if chain == Chain::DuringRecovery {
            for _ in 0..cycle.random.between(1, 5) {
                kill_recovery(cycle)?;
            }
        }
    }
    let up = cycle.start()?;
    cycle.drain(&up)?;
    if cycle.random.one_in(2) {
        return up.server.stop();
    }
    up.server.kill()?;
    Ok(())
}

/// Kills the server under its load.
///
/// # Errors
///
/// If it had died by itself.
pub(crate) fn kill(cycle: &mut Cycle<'_>, up: Up, load: Load) -> anyhow::Result<()> {
    load.announce("kill -9")?;
    cycle.rig.faults += 1;
    let died = up.server.kill();
    load.bury(died.as_ref().copied().unwrap_or_else(|_| Tick::now()))?;
    died.map(drop)
}

/// Starts the server and kills it somewhere between its first instruction and half a second.
fn kill_recovery(cycle: &mut Cycle<'_>) -> anyhow::Result<()> {
    // Recoveries take tens of milliseconds, so most kills fall there.
    let longest = if cycle.random.one_in(4) { 500_000 } else { 60_000 };
    let wait = Duration::from_micros(cycle.random.below(longest));
    let server = cycle.rig.launch.spawn()?;
    std::thread::sleep(wait);
    super::load::lock(&cycle.history).note(format_args!("kill recovery after {wait:?}"));
    cycle.rig.faults += 1;
    server.kill()?;
    Ok(())
}
