//! Damage on disk while the server is down: torn tails and flipped bits.
//!
//! The rig knows no file format. It finds a message by the text of its `message-id`, which the properties carry, and
//! from there the body, whose bytes follow from the id.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::client::{Client, Event, Options};
use super::cycle::{Cycle, Up};
use super::kill::kill;
use super::load::{Parts, lock};
use super::message_id::MessageId;
use super::plan::{Route, name};

/// Longest torn tail.
const TORN_BYTES_MAX: u64 = 8_192;

/// Bodies of the probes; at least this much of a record lies behind its id.
const BODY_BYTES: usize = 300;

/// Tears the tail of the newest segment, past and into the last records, and restarts.
///
/// # Errors
///
/// If the server does not come up again.
pub(crate) fn torn(cycle: &mut Cycle<'_>) -> anyhow::Result<()> {
    let up = cycle.start()?;
    let load = cycle.load(&up, Parts::All);
    cycle.run_for(50, 300);
    load.finish()?;
    // The tail: each its own commit, so that nothing but the torn ones may go.
    let tail = publish_one_by_one(cycle, &up, 30)?;
    kill_idle(cycle, up)?;
    let last = *tail.last().context("no tail")?;
    let data = cycle.rig.launch.data_dir.clone();
    let places = find(&data, &tail)?;
    let (file, at) = places
        .iter()
        .filter(|(id, ..)| *id == last)
        .map(|(_, file, at)| (file.clone(), *at))
        .max_by_key(|(_, at)| *at)
        .context("the last confirmed message is in no file")?;
    let end = at + BODY_BYTES as u64;
    let written = written_end(&file)?.max(end);
    let from = match cycle.random.below(3) {
        // Only what was never synced: no loss is allowed at all.
        0 => written,
        _ => written.saturating_sub(cycle.random.between(1, TORN_BYTES_MAX)),
    };
    for (id, _, at) in places.iter().filter(|(_, place, _)| *place == file) {
        if at + BODY_BYTES as u64 + 64 >= from {
            lock(&cycle.history).sacrificed.push(*id);
        }
    }
    tear(cycle, &file, from, written)?;
    cycle.rig.faults += 1;
    let up = cycle.start()?;
    cycle.drain(&up)?;
    up.server.stop()
}

/// Kills a server that nobody uses.
fn kill_idle(cycle: &mut Cycle<'_>, up: Up) -> anyhow::Result<()> {
    lock(&cycle.history).fault("kill -9 while idle")?;
    let died = up.server.kill()?;
    lock(&cycle.history).died(died);
    Ok(())
}

/// Publishes small messages, each after the confirm of the one before.
fn publish_one_by_one(
    cycle: &mut Cycle<'_>,
    up: &Up,
    count: u64,
) -> anyhow::Result<Vec<MessageId>> {
    let mut client = Client::connect(up.address)?;
    client.select_confirms()?;
    let producer = lock(&cycle.history).producer();
    let mut ids = Vec::new();
    for sequence in 1..=count {
        let id = {
            let mut history = lock(&cycle.history);
            let id = MessageId::new(history.cycle(), producer, sequence);
            history.publish_start(id, Route::Queue(1), BODY_BYTES, None);
            id
        };
        client.publish("", name(1), &id.text(), &id.body(BODY_BYTES), Options::default());
        loop {
            match client.event(std::time::Duration::from_secs(10))? {
                Some(Event::Confirmed { positive: true, .. }) => break,
                Some(_) => {}
                None => anyhow::bail!("no confirm within 10 s"),
            }
        }
        lock(&cycle.history).confirmed(id);
        ids.push(id);
    }
    Ok(ids)
}

/// Truncates, zeroes or overwrites what lies behind `from`.
fn tear(cycle: &mut Cycle<'_>, path: &Path, from: u64, written: u64) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let behind = cycle.random.between(1, TORN_BYTES_MAX);
    let len = usize::try_from(written - from + behind)?;
    let kind = cycle.random.below(3);
    lock(&cycle.history).note(format_args!(
        "fault torn tail {} kind {kind} from {from} of {written} written",
        path.display()
    ));
    match kind {
        0 => file.set_len(from)?,
        1 => overwrite(&mut file, from, &vec![0; len])?,
        _ => {
            let mut noise = vec![0; len];
            cycle.random.fill(&mut noise);
            overwrite(&mut file, from, &noise)?;
        }
    }
    Ok(file.sync_all()?)
}

/// Flips single bits in stored messages, has the damage reported, and restarts.
///
/// # Errors
///
/// If the server does not come up again.
pub(crate) fn flip(cycle: &mut Cycle<'_>) -> anyhow::Result<()> {
    let up = cycle.start()?;
    let load = cycle.load(&up, Parts::Producers);
    cycle.run_for(200, 500);
    load.finish()?;
    let probes = publish_one_by_one(cycle, &up, 200)?;
    let load = cycle.load(&up, Parts::Producers);
    cycle.run_for(50, 100);
    kill(cycle, up, load)?;
    let data = cycle.rig.launch.data_dir.clone();
    let places = find(&data, &probes)?;
    ensure!(!places.is_empty(), "no stored message was found in {}", data.display());
    let mut hit = Vec::new();
    for _ in 0..cycle.random.between(1, 10) {
        let which = usize::try_from(cycle.random.below(places.len() as u64))?;
        let Some((id, path, at)) = places.get(which) else { continue };
        if hit.contains(id) {
            continue;
        }
        let offset = at + cycle.random.below(BODY_BYTES as u64);
        flip_bit(path, offset, u32::try_from(cycle.random.below(8))?)?;
        lock(&cycle.history).note(format_args!(
            "fault bit at {offset} of {} for {}",
            path.display(),
            id.text()
        ));
        cycle.rig.faults += 1;
        hit.push(*id);
    }
    lock(&cycle.history).sacrificed.extend(&hit);
    check_verify(cycle, &data, hit.len())?;
    let up = cycle.start()?;
    cycle.drain(&up)?;
    up.server.stop()?;
    let delivered: Vec<MessageId> = {
        let history = lock(&cycle.history);
        let lost: Vec<_> = history.undelivered().map(|(_, id)| id).collect();
        hit.iter().filter(|id| !lost.contains(id)).copied().collect()
    };
    // A copy that compaction made elsewhere may have saved it; its body was checked on delivery.
    for id in delivered {
        lock(&cycle.history).note(format_args!("damaged, yet delivered whole: {}", id.text()));
    }
    Ok(())
}

/// `posthouse store verify` must see the damage.
fn check_verify(cycle: &Cycle<'_>, data: &Path, hits: usize) -> anyhow::Result<()> {
    let Some(program) = cycle.rig.launch.command.last() else { return Ok(()) };
    let output = Command::new(program).args(["store", "verify"]).arg(data).output()?;
    lock(&cycle.history).note(format_args!(
        "store verify: {} {}",
        output.status,
        String::from_utf8_lossy(&output.stdout).replace('\n', " / ")
    ));
    if output.status.success() {
        let text = format!("UNDETECTED: `store verify` finds nothing after {hits} flipped bits");
        lock(&cycle.history).complain(text);
    }
    Ok(())
}

fn overwrite(file: &mut File, at: u64, bytes: &[u8]) -> anyhow::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(bytes)?)
}

fn flip_bit(path: &Path, at: u64, bit: u32) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(path)?;
    let byte = bytes.get_mut(usize::try_from(at)?).context("outside of the file")?;
    *byte ^= 1 << bit;
    let byte = *byte;
    overwrite(&mut OpenOptions::new().write(true).open(path)?, at, &[byte])
}

/// Where the ids stand: file and the offset right behind the id, where the body begins or is about to.
fn find(folder: &Path, ids: &[MessageId]) -> anyhow::Result<Vec<(MessageId, PathBuf, u64)>> {
    let mut found = Vec::new();
    for path in files(folder)? {
        let bytes = std::fs::read(&path)?;
        let mut from = 0;
        while let Some(at) = bytes.get(from..).and_then(|rest| position(rest, b"rig-")) {
            let start = from + at;
            from = start + 4;
            let Some(text) = bytes.get(start..start + 20) else { break };
            if let Some(id) = ids.iter().find(|id| id.text().as_bytes() == text) {
                found.push((*id, path.clone(), start as u64 + 20));
            }
        }
    }
    Ok(found)
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { files.extend(self::files(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

/// Where the preallocated zeros begin.
fn written_end(path: &Path) -> anyhow::Result<u64> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
}
