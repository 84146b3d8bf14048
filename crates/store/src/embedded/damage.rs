//! What was found damaged: told to the operator, counted, never delivered.
//!
//! Each damage leaves a tombstone in the file `quarantine` of the data directory, so that a loss is known after a restart
//! and after its segment is gone, until an operator removes the file. It is text, a line per place:
//!
//! ```text
//! SEGMENT OFFSET BYTES WHAT
//! ```

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::vfs::{Vfs, read_up_to, write_all_at};

/// Name of the file of tombstones.
const FILE: &str = "quarantine";

/// It is written whole under this name first; a crash leaves the one or the other.
const FILE_IN_THE_MAKING: &str = "quarantine.tmp";

/// Damages kept with their places; more are only counted.
const KEPT_MAX: usize = 1024;

/// Most bytes of the file that are read: more than [`KEPT_MAX`] lines have.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// A place in the log whose bytes are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Number of the segment file.
    pub segment: u32,
    /// Where in it.
    pub offset: u32,
    /// How many bytes were skipped, if that is known.
    pub bytes: u32,
    /// What was lost, as far as that can be told.
    pub what: String,
}

impl Damage {
    /// Whether both are about the same: a place may lose several messages.
    fn is(&self, other: &Self) -> bool {
        (self.segment, self.offset) == (other.segment, other.offset) && self.what == other.what
    }

    fn line(&self) -> String {
        let Self { segment, offset, bytes, what } = self;
        format!("{segment} {offset} {bytes} {}\n", what.replace(['\r', '\n'], " "))
    }

    fn of_line(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, ' ');
        let mut number = || fields.next()?.parse().ok();
        let (segment, offset, bytes) = (number()?, number()?, number()?);
        Some(Self { segment, offset, bytes, what: fields.next()?.to_owned() })
    }
}

/// All damages since start, and those before it.
#[derive(Debug)]
pub(crate) struct Damages {
    count: AtomicU64,
    kept: Mutex<Vec<Damage>>,
    vfs: Arc<dyn Vfs>,
}

impl Damages {
    pub(crate) fn new(vfs: Arc<dyn Vfs>) -> Self {
        Self { count: AtomicU64::new(0), kept: Mutex::default(), vfs }
    }

    pub(crate) fn report(&self, damage: Damage) {
        self.report_all([damage]);
    }

    /// Tells of damages and leaves their tombstones.
    pub(crate) fn report_all(&self, damages: impl IntoIterator<Item = Damage>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.len();
        for damage in damages {
            let Damage { segment, offset, bytes, ref what } = damage;
            tracing::error!(segment, offset, bytes, what, "damage in the log is quarantined");
            self.count.fetch_add(1, Ordering::Relaxed);
            if kept.len() < KEPT_MAX {
                kept.push(damage);
            }
        }
        let Some(fresh) = kept.get(before..).filter(|fresh| !fresh.is_empty()) else { return };
        if let Err(error) = add_tombstones(self.vfs.as_ref(), fresh) {
            tracing::warn!(error = &error as &dyn std::error::Error, "no tombstone for a damage");
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn kept(&self) -> Vec<Damage> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The tombstones that there are, oldest first; what cannot be read as one is left out.
pub(crate) fn tombstones(vfs: &dyn Vfs) -> io::Result<Vec<Damage>> {
    if !vfs.list()?.iter().any(|name| name == FILE) {
        return Ok(Vec::new());
    }
    let file = vfs.open(FILE)?;
    let size = usize::try_from(file.size()?).unwrap_or(usize::MAX).min(FILE_BYTES_MAX);
    let mut bytes = vec![0; size];
    let filled = read_up_to(file.as_ref(), 0, &mut bytes)?;
    bytes.truncate(filled);
    Ok(parse(&bytes))
}

/// Reads a file of tombstones.
pub(crate) fn parse(file: &[u8]) -> Vec<Damage> {
    let text = String::from_utf8_lossy(file);
    text.lines().filter_map(Damage::of_line).take(KEPT_MAX).collect()
}

fn add_tombstones(vfs: &dyn Vfs, damages: &[Damage]) -> io::Result<()> {
    let mut all = tombstones(vfs)?;
    let known = all.len();
    for damage in damages {
        if all.len() < KEPT_MAX && !all.iter().any(|tombstone| tombstone.is(damage)) {
            all.push(damage.clone());
        }
    }
    if all.len() == known {
        return Ok(());
    }
    let text: String = all.iter().map(Damage::line).collect();
    let file = vfs.create(FILE_IN_THE_MAKING)?;
    write_all_at(file.as_ref(), 0, text.as_bytes())?;
    file.sync_data()?;
    vfs.rename(FILE_IN_THE_MAKING, FILE)?;
    vfs.sync_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_is_read_as_it_was_written_and_rubbish_is_left_out() {
        let damage = Damage { segment: 1, offset: 64, bytes: 9, what: "a\nmessage".to_owned() };
        let file = format!("{}no tombstone\n1 2\n\u{0}", damage.line());

        let read = parse(file.as_bytes());

        assert_eq!(read, [Damage { what: "a message".to_owned(), ..damage }]);
    }
}
