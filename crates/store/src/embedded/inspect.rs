//! Looking at a stopped store: what is in its segments and queues, and whether all of it is whole.

use std::io;
use std::path::Path;

use model::QueueId;

use super::damage::{Damage, tombstones};
use super::options::Options;
use super::record::Kind;
use super::recovery::{Survey, read_log};
use super::scan::{Found, Window, scan};
use super::segment::{DATA_START, Segment};
use super::unavailable;
use super::vfs::{OsVfs, Vfs, VfsFile};
use crate::error::StoreError;
use crate::pool::QueueKind;

/// What one segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentContents {
    /// Its number, as in the name of its file.
    pub segment: u32,
    /// Bytes on disk.
    pub bytes: u64,
    /// Records whose heads verify.
    pub records: u64,
    /// Messages, counted once per queue, that recovery would find here.
    pub live: u64,
    /// Records with a body that does not verify, and gaps between records.
    pub damaged: u64,
}

/// What one queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueContents {
    /// The queue.
    pub queue: QueueId,
    /// How it keeps messages.
    pub kind: QueueKind,
    /// Messages, delayed and claimed ones among them.
    pub messages: u64,
    /// The sequence that the next message gets.
    pub next: u64,
}

/// What a stopped store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Segments, oldest first.
    pub segments: Vec<SegmentContents>,
    /// Durable queues by id.
    pub queues: Vec<QueueContents>,
    /// How many definitions there are.
    pub definitions: u64,
    /// Damaged places.
    pub damages: Vec<Damage>,
    /// Places that were damaged and are no longer in the log; what they held is lost.
    pub quarantined: Vec<Damage>,
}

/// Reads every byte of the store in the directory at `path`, and changes nothing.
///
/// # Errors
///
/// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if it is in use, or cannot be read.
pub fn inspect(path: &Path) -> Result<Inspection, StoreError> {
    let vfs = OsVfs::existing(path).map_err(|error| {
        unavailable(&format!("data directory `{}` cannot be opened", path.display()), error)
    })?;
    inspect_with(&vfs)
}

/// As [`inspect`], in any [`Vfs`].
///
/// # Errors
///
/// As [`inspect`].
pub fn inspect_with(vfs: &dyn Vfs) -> Result<Inspection, StoreError> {
    let _guard = vfs.lock().map_err(|error| {
        unavailable("the data directory is in use by another process; stop it first", error)
    })?;
    read_all(vfs).map_err(|error| unavailable("the log cannot be read", error))
}

fn read_all(vfs: &dyn Vfs) -> io::Result<Inspection> {
    let survey = Survey::of(vfs)?;
    let mut reading = read_log(vfs, &survey, &Options::default())?;
    let timers = reading.replay.finish();
    drop(timers);
    let mut inspection = Inspection::default();
    for (header, file, size) in &survey.segments {
        let segment = Segment::new(header.segment, header.salt, *size);
        let replayed = reading.replay.segments.get(&segment.id);
        let end = replayed.and_then(|segment| segment.end()).unwrap_or(*size);
        let live = replayed.map_or(0, |segment| segment.live());
        inspection.add_segment(&segment, file.as_ref(), end, live)?;
    }
    for damage in reading.replay.damages {
        if !inspection
            .damages
            .iter()
            .any(|known| known.segment == damage.segment && known.offset == damage.offset)
        {
            inspection.damages.push(damage);
        }
    }
    inspection.quarantined = tombstones(vfs)?;
    inspection.quarantined.retain(|tombstone| {
        let place = (tombstone.segment, tombstone.offset);
        !inspection.damages.iter().any(|known| (known.segment, known.offset) == place)
    });
    for (queue, state) in &reading.replay.queues {
        inspection.queues.push(QueueContents {
            queue: *queue,
            kind: state.kind,
            messages: state.ready + (state.delayed.len() + state.leased.len()) as u64,
            next: state.next,
        });
    }
    inspection.queues.sort_unstable_by_key(|contents| contents.queue);
    inspection.definitions = reading.replay.definitions.len() as u64;
    Ok(inspection)
}

impl Inspection {
    fn add_segment(
        &mut self,
        segment: &Segment,
        file: &dyn VfsFile,
        end: u32,
        live: u64,
    ) -> io::Result<()> {
        let (mut records, mut damaged) = (0, 0);
        let mut damage = |offset: u32, bytes: u32, what: &str| {
            damaged += 1;
            let what = what.to_owned();
            self.damages.push(Damage { segment: segment.id, offset, bytes, what });
        };
        scan(&mut Window::new(file), segment, DATA_START, end, |found| match found {
            Found::Record { offset, record, bytes } => {
                records += 1;
                if !record.body_is_whole() {
                    let bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                    let what = match record.head.kind {
                        Kind::Define => "a definition",
                        _ => "a message whose body does not match its checksum",
                    };
                    damage(offset, bytes, what);
                }
            }
            Found::Damage { offset, bytes } => damage(offset, bytes, "bytes that are no record"),
        })?;
        let bytes = file.size()?;
        self.segments.push(SegmentContents { segment: segment.id, bytes, records, live, damaged });
        Ok(())
    }
}
