//! A disk that fills up: publishers are told to wait, consumers go on, nothing is lost, and it ends by itself.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::cycle::{Cycle, Up};
use super::load::{Load, Parts, lock};
use super::volume::Volume;

/// Settings that make the alarms quick and the reserve small enough for the volume.
pub(crate) const SETTINGS: [&str; 4] = [
    "alarms.disk_free_min=24MiB",
    "alarms.interval=50ms",
    "store.reserve_segments=2",
    "store.segment_bytes=4MiB",
];

/// How soon producers must be told.
const BLOCKED_WITHIN: Duration = Duration::from_secs(3);

/// How soon they must be let go after space has come back.
const RESUMED_WITHIN: Duration = Duration::from_secs(2);

/// Fills the disk under load, drains what is there while it is full, makes room, and goes on.
///
/// # Errors
///
/// If the server dies or hangs.
pub(crate) fn run(cycle: &mut Cycle<'_>, volume: &Volume) -> anyhow::Result<()> {
    volume.make_room()?;
    let mut up = cycle.start()?;
    let load = cycle.load(&up, Parts::Producers);
    cycle.run_for(100, 400);
    cycle.rig.faults += 1;
    // Either the alarm has its margin, or the disk is full at once and the next write fails.
    let left = if cycle.random.one_in(2) { 12 << 20 } else { 0 };
    lock(&cycle.history).note(format_args!("fault disk full, {left} bytes left"));
    volume.fill_up_to(left)?;
    let told = blocked(&load, true, BLOCKED_WITHIN);
    if told.is_none() {
        complain(cycle, "NOT BLOCKED: the disk is full, producers were not told");
    }
    alive(&mut up)?;
    let consumers = cycle.load(&up, Parts::Consumers);
    let before = lock(&cycle.history).figures.delivered;
    let went_on =
        until(Duration::from_secs(10), || lock(&cycle.history).figures.delivered > before + 100);
    if went_on.is_none() {
        complain(cycle, "CONSUMERS STOPPED: nothing was delivered while the disk was full");
    }
    cycle.run_for(100, 500);
    alive(&mut up)?;
    volume.make_room()?;
    lock(&cycle.history).note("room");
    if told.is_some() && blocked(&load, false, RESUMED_WITHIN).is_none() {
        complain(cycle, "NOT RESUMED: there is room again, producers were not told within 2 s");
    }
    let confirmed = lock(&cycle.history).figures.confirmed;
    if until(RESUMED_WITHIN, || lock(&cycle.history).figures.confirmed > confirmed).is_none() {
        complain(cycle, "NOT RESUMED: there is room again, but nothing is confirmed");
    }
    alive(&mut up)?;
    load.finish()?;
    consumers.finish()?;
    cycle.drain(&up)?;
    up.server.stop()
}

fn alive(up: &mut Up) -> anyhow::Result<()> {
    let ended = up.server.ended(Duration::ZERO)?;
    ensure!(ended.is_none(), "a full disk ended the server: {ended:?}");
    Ok(())
}

fn blocked(load: &Load, wanted: bool, within: Duration) -> Option<Duration> {
    until(within, || load.stage.blocked.load(Ordering::SeqCst) == wanted)
}

fn until(within: Duration, done: impl Fn() -> bool) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < within {
        if done() {
            return Some(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

fn complain(cycle: &Cycle<'_>, text: &str) {
    lock(&cycle.history).complain(text.to_owned());
}
