//! Power cuts: the file system loses everything that was not synced.

use super::cycle::Cycle;
use super::load::Parts;
use super::server::signal;
use super::ticks::Tick;
use super::volume::Volume;

/// One to three lives under load, each ended by a power cut; then a drain.
///
/// # Errors
///
/// If the server does not come up again, or the volume cannot be cut or mounted.
pub(crate) fn run(cycle: &mut Cycle<'_>, volume: &mut Volume) -> anyhow::Result<()> {
    for _ in 0..cycle.random.between(1, 3) {
        let up = cycle.start()?;
        let load = cycle.load(&up, Parts::All);
        cycle.run_for(50, 700);
        load.announce("power cut")?;
        cycle.rig.faults += 1;
        // Stopped first, so that no confirm can leave after the cut.
        signal(up.server.pid(), "STOP")?;
        let died = Tick::now();
        let cut = volume.cut();
        let killed = up.server.kill();
        load.bury(died)?;
        cut?;
        killed?;
        volume.unmount()?;
        volume.mount()?;
    }
    let up = cycle.start()?;
    cycle.drain(&up)?;
    up.server.stop()
}
