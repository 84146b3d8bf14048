//! Opening a log: what is there, what of it counts, and a fresh segment to go on in.
//!
//! Segments are read in order, from their sidecars where these are whole. Each segment's end is told by the header of the
//! next; what lies before is known to be durable, so bytes that do not verify there are damage: skipped and reported. The
//! last segment is durable up to what its newest mark says; behind that the first record that does not verify ends the
//! log, and an unfinished commit before it is dropped.
//!
//! What lies behind the newest mark may be readable only from the page cache (pages are marked clean also when a sync
//! failed). So it is written anew, into a fresh segment, and synced before anybody is told. The header of that segment is
//! written last; it says where the log before it ends, and so takes effect at once or not at all: a crash anywhere in
//! recovery leaves the same log to the next.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;

use super::bytes::u32_of;
use super::event::{EnqueueMeta, Event};
use super::log::{Log, LogState};
use super::options::Options;
use super::record::{self, Head, Kind, Record};
use super::replay::Replay;
use super::scan::{Found, Window, record_at, scan};
use super::segment::{
    DATA_START, Header, Position, Segment, Segments, index_name, log_name, segment_of,
};
use super::sidecar::{SidecarBuilder, SidecarEntry, SidecarReader};
use super::vfs::{Vfs, VfsFile, read_up_to, write_all_at, write_zeros};

/// What is said of bytes that nothing can be made of.
const NO_RECORD: &str = "bytes that are no record";

/// Files that a directory holds.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Segments that are part of the log, ascending.
    pub(crate) segments: Vec<(Header, Arc<dyn VfsFile>, u32)>,
    /// Files that were made ahead and never used, and files in the making.
    pub(crate) unused: Vec<String>,
    /// Files that look like segments and have no whole header.
    pub(crate) headless: Vec<String>,
    indexes: Vec<u32>,
    pub(crate) highest: u32,
}

impl Survey {
    pub(crate) fn of(vfs: &dyn Vfs) -> io::Result<Self> {
        let mut survey = Self::default();
        let mut names = vfs.list()?;
        names.sort_unstable();
        for name in names {
            if let Some(id) = segment_of(&name, "log") {
                survey.highest = survey.highest.max(id);
                survey.add(vfs, id, name)?;
            } else if let Some(id) = segment_of(&name, "index") {
                survey.indexes.push(id);
            } else if name.ends_with(".tmp") {
                survey.unused.push(name);
            }
        }
        survey.find_headless();
        Ok(survey)
    }

    /// What the log refers to was in use, whatever its header says now.
    fn find_headless(&mut self) {
        let in_use = |name: &String| {
            let id = segment_of(name, "log");
            self.segments.iter().any(|(header, ..)| Some(header.previous.segment) == id)
        };
        let (headless, unused) = std::mem::take(&mut self.unused).into_iter().partition(in_use);
        self.unused = unused;
        self.headless.extend::<Vec<String>>(headless);
    }

    fn add(&mut self, vfs: &dyn Vfs, id: u32, name: String) -> io::Result<()> {
        let file = vfs.open(&name)?;
        let mut block = vec![0; DATA_START as usize];
        let filled = read_up_to(file.as_ref(), 0, &mut block)?;
        block.truncate(filled);
        match Header::decode(&block) {
            Some(header) if header.segment == id => {
                let size = u32::try_from(file.size()?).unwrap_or(u32::MAX);
                self.segments.push((header, file, size));
            }
            // Made from an old segment, or of zeros.
            Some(_) => self.unused.push(name),
            None if block.iter().all(|byte| *byte == 0) => self.unused.push(name),
            None => self.headless.push(name),
        }
        Ok(())
    }
}

/// What recovery tells about the log it found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoverySummary {
    /// Segments read.
    pub segments: u64,
    /// Of these, how many from their sidecar.
    pub from_sidecars: u64,
    /// Bytes that were not known to be durable and are now.
    pub rewritten_bytes: u64,
    /// Damaged places found.
    pub damages: u64,
}

/// A log that was read.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) replay: Replay,
    pub(crate) summary: RecoverySummary,
    /// Commits of the last segment that are not known to be durable, encoded without their places.
    tail: Vec<(Head, Vec<u8>, Vec<u8>)>,
    /// Where the log ends without the tail.
    end: Position,
    sidecars: Vec<(u32, Vec<u8>)>,
}

/// Reads the whole log without changing anything.
pub(crate) fn read_log(vfs: &dyn Vfs, survey: &Survey, options: &Options) -> io::Result<Reading> {
    let mut reading = Reading {
        replay: Replay::new(options),
        summary: RecoverySummary::default(),
        tail: Vec::new(),
        end: Position::NONE,
        sidecars: Vec::new(),
    };
    for (index, (header, file, size)) in survey.segments.iter().enumerate() {
        let segment = Arc::new(Segment::new(header.segment, header.salt, *size));
        // Nobody else has it yet.
        segment.file.get_or_init(|| Arc::clone(file));
        reading.replay.segments.insert(segment.id, Arc::clone(&segment));
        reading.summary.segments += 1;
        let next = survey.segments.get(index + 1).map(|next| next.0);
        match next {
            Some(next) if next.previous.segment == segment.id => {
                segment.close(next.previous.offset);
                reading.sealed(vfs, &segment, next.previous.offset, survey)?;
            }
            Some(next) => {
                segment.close(*size);
                let what = format!("segment {} is missing behind this one", next.previous.segment);
                reading.replay.damaged(segment.id, *size, 0, &what);
                reading.sealed(vfs, &segment, *size, survey)?;
            }
            None => reading.last(&segment, header.durable)?,
        }
    }
    for name in &survey.headless {
        let segment = segment_of(name, "log").unwrap_or(0);
        reading.replay.damaged(segment, 0, 0, "a segment without a whole header is left out");
    }
    reading.summary.damages = reading.replay.damages.len() as u64;
    Ok(reading)
}

/// A window on the segment's file.
fn window(segment: &Segment) -> Option<Window<&dyn VfsFile>> {
    segment.file.get().map(|file| Window::new(file.as_ref()))
}

impl Reading {
    /// A segment that is complete up to `end`.
    fn sealed(
        &mut self,
        vfs: &dyn Vfs,
        segment: &Arc<Segment>,
        end: u32,
        survey: &Survey,
    ) -> io::Result<()> {
        if survey.indexes.contains(&segment.id)
            && let Ok(sidecar) = read_file(vfs, &index_name(segment.id))
            && let Some(reader) = SidecarReader::new(&sidecar, segment.id, end, segment.salt)
        {
            self.summary.from_sidecars += 1;
            return self.indexed(segment, reader);
        }
        let mut sidecar = SidecarBuilder::default();
        self.scanned(segment, end, &mut sidecar)?;
        self.sidecars.push((segment.id, sidecar.finish(segment.id, end, segment.salt)));
        Ok(())
    }

    fn indexed(&mut self, segment: &Segment, mut reader: SidecarReader<'_>) -> io::Result<()> {
        while let Some(entry) = reader.next_entry() {
            match entry {
                Some(SidecarEntry::Plain { offset, placed, body_len }) => {
                    self.replay.enqueue(segment, offset, &placed, body_len);
                }
                Some(SidecarEntry::Record { offset, head, meta }) => {
                    let value = read_value(segment, offset, &head)?;
                    match value {
                        Some(value) => self.replay.record(segment, offset, &head, meta, &value),
                        None => self.replay.damaged(segment.id, offset, 0, "a definition"),
                    }
                }
                None => {
                    self.replay.damaged(segment.id, 0, 0, "a sidecar that does not parse");
                    break;
                }
            }
        }
        Ok(())
    }

    /// Records from the front to `end`, all durable.
    fn scanned(
        &mut self,
        segment: &Arc<Segment>,
        end: u32,
        sidecar: &mut SidecarBuilder,
    ) -> io::Result<()> {
        let Some(mut window) = window(segment) else { return Ok(()) };
        let mut reached = DATA_START;
        scan(&mut window, segment, DATA_START, end, |found| match found {
            Found::Record { offset, record, bytes } => {
                reached = offset.saturating_add(u32_of(bytes.len()));
                self.whole_record(segment, offset, &record, sidecar);
            }
            Found::Damage { offset, bytes } => {
                self.replay.damaged(segment.id, offset, bytes, NO_RECORD);
            }
        })?;
        if reached < end {
            self.replay.damaged(segment.id, reached, end - reached, NO_RECORD);
        }
        Ok(())
    }

    fn whole_record(
        &mut self,
        segment: &Segment,
        offset: u32,
        record: &Record<'_>,
        sidecar: &mut SidecarBuilder,
    ) {
        if record.head.kind == Kind::Define && !record.body_is_whole() {
            let length = u32_of(record.head.record_len());
            self.replay.damaged(segment.id, offset, length, "a definition");
            return;
        }
        note(sidecar, segment, offset, record);
        self.replay.record(segment, offset, &record.head, record.meta, record.body);
    }

    /// The segment that was written last: one pass, in which what a mark says to be durable is applied.
    fn last(&mut self, segment: &Arc<Segment>, known: u32) -> io::Result<()> {
        let Some(file) = segment.file.get() else { return Ok(()) };
        // Most of it may be only allocated: reading that would take longer than all that was written. Asked before anything
        // is read, because what the kernel reads ahead counts as written.
        let end = u32::try_from(file.written_to()?).unwrap_or(u32::MAX).min(segment.capacity);
        let mut window = Window::new(file.as_ref());
        let mut sidecar = SidecarBuilder::default();
        let mut waiting =
            Waiting { seen: VecDeque::new(), durable: known.max(DATA_START), reached: DATA_START };
        scan(&mut window, segment, DATA_START, end, |found| {
            waiting.add(segment, &found);
            while let Some(seen) = waiting.next_durable() {
                self.seen(segment, seen, &mut sidecar);
            }
        })?;
        let durable = waiting.durable;
        if waiting.reached < durable {
            let bytes = durable - waiting.reached;
            self.replay.damaged(segment.id, waiting.reached, bytes, NO_RECORD);
        }
        segment.close(durable);
        self.sidecars.push((segment.id, sidecar.finish(segment.id, durable, segment.salt)));
        self.end = Position { segment: segment.id, offset: durable };
        self.read_tail(segment, durable)
    }

    fn seen(&mut self, segment: &Segment, seen: Seen, sidecar: &mut SidecarBuilder) {
        match seen {
            Seen::Record { offset, head, meta, body } => {
                let record = Record { head, meta: &meta, body: &body };
                self.whole_record(segment, offset, &record, sidecar);
            }
            Seen::Damage { offset, bytes } => {
                self.replay.damaged(segment.id, offset, bytes, NO_RECORD);
            }
        }
    }

    /// Whole commits behind what is known to be durable, up to the first record that is not whole.
    fn read_tail(&mut self, segment: &Segment, durable: u32) -> io::Result<()> {
        let Some(mut window) = window(segment) else { return Ok(()) };
        let mut offset = durable as usize;
        let mut complete = 0;
        while let Some((record, bytes)) =
            record_at(&mut window, segment, offset, segment.capacity as usize)?
            && record.body_is_whole()
        {
            offset += bytes.len();
            if !matches!(record.head.kind, Kind::Mark | Kind::Spill) {
                self.tail.push((record.head, record.meta.to_vec(), record.body.to_vec()));
            }
            if record.head.is_end() {
                complete = self.tail.len();
            }
        }
        self.tail.truncate(complete);
        Ok(())
    }

    fn tail_bytes(&self) -> usize {
        self.tail.iter().map(|(head, ..)| head.record_len()).sum()
    }
}

/// What was found in the last segment and no mark has covered yet.
#[derive(Debug)]
struct Waiting {
    seen: VecDeque<Seen>,
    /// Everything before is durable.
    durable: u32,
    /// The end of the last thing that is.
    reached: u32,
}

#[derive(Debug)]
enum Seen {
    /// The body only of a definition.
    Record {
        offset: u32,
        head: Head,
        meta: Box<[u8]>,
        body: Box<[u8]>,
    },
    Damage {
        offset: u32,
        bytes: u32,
    },
}

impl Seen {
    fn end(&self) -> u32 {
        match self {
            Self::Record { offset, head, .. } => offset.saturating_add(u32_of(head.record_len())),
            Self::Damage { offset, bytes } => offset.saturating_add(*bytes),
        }
    }
}

impl Waiting {
    fn add(&mut self, segment: &Segment, found: &Found<'_>) {
        match *found {
            Found::Record { offset, record, .. } => {
                if record.head.kind == Kind::Mark
                    && let Some(Event::Mark { segment: marked, offset }) =
                        Event::decode(Kind::Mark, record.meta)
                    && marked == segment.id
                {
                    self.durable = self.durable.max(offset);
                }
                let body = if record.head.kind == Kind::Define { record.body } else { &[] };
                let (head, meta, body) = (record.head, record.meta.into(), body.into());
                self.seen.push_back(Seen::Record { offset, head, meta, body });
            }
            Found::Damage { offset, bytes } => self.seen.push_back(Seen::Damage { offset, bytes }),
        }
    }

    fn next_durable(&mut self) -> Option<Seen> {
        let end = self.seen.front().map(Seen::end).filter(|end| *end <= self.durable)?;
        self.reached = end;
        self.seen.pop_front()
    }
}

/// Adds a scanned record to a sidecar.
fn note(sidecar: &mut SidecarBuilder, segment: &Segment, offset: u32, record: &Record<'_>) {
    let head = &record.head;
    match head.kind {
        Kind::Mark | Kind::Spill => return,
        Kind::Enqueue => {
            if let Some(meta) = EnqueueMeta::decode(record.meta)
                && meta.dedup.is_none()
                && meta.targets().all(|placed| SidecarBuilder::is_plain(&placed))
            {
                let body_len = head.body_len.saturating_sub(head.properties_len);
                for placed in meta.targets() {
                    sidecar.add_plain(offset, &placed, body_len);
                }
                return;
            }
        }
        _ => {}
    }
    sidecar.add(offset, &record.front(segment.seed, offset));
}

fn read_file(vfs: &dyn Vfs, name: &str) -> io::Result<Vec<u8>> {
    let file = vfs.open(name)?;
    let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(usize::MAX)];
    let filled = read_up_to(file.as_ref(), 0, &mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// The value of a definition, which sidecars leave out; `None` if it is damaged, empty for all other records.
fn read_value(segment: &Segment, offset: u32, head: &Head) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = segment.file.get().filter(|_| head.kind == Kind::Define) else {
        return Ok(Some(Vec::new()));
    };
    let record_len = head.record_len().min(segment.capacity as usize);
    let mut bytes = vec![0; record_len];
    let filled = read_up_to(file.as_ref(), u64::from(offset), &mut bytes)?;
    bytes.truncate(filled);
    Ok(match record::decode(&bytes, segment.seed, offset) {
        Ok(record) if record.body_is_whole() => Some(record.body.to_vec()),
        _ => None,
    })
}

/// Makes a log that was read ready for use: tidies up, and starts a fresh segment with the tail.
pub(crate) fn continue_log(
    vfs: &dyn Vfs,
    survey: &Survey,
    mut reading: Reading,
    options: &Options,
) -> io::Result<(Log, Replay, RecoverySummary)> {
    for name in &survey.unused {
        vfs.remove(name)?;
    }
    for name in &survey.headless {
        vfs.rename(name, &format!("{name}.damaged"))?;
    }
    let salt = options.salt.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let tail_bytes = reading.tail_bytes();
    reading.summary.rewritten_bytes = tail_bytes as u64;
    let id = survey.highest.saturating_add(1);
    let capacity =
        (tail_bytes + DATA_START as usize + 64 * 1024).max(options.first_segment_bytes as usize);
    let segment_salt = salt ^ u64::from(id);
    let segment = Arc::new(Segment::new(id, segment_salt, u32_of(capacity)));
    let mut sidecar = SidecarBuilder::default();
    let image = reading.rewrite_tail(&segment, &mut sidecar);
    if let Some((header, file, _)) = survey.segments.last() {
        // Seen, but perhaps not durable either; the fresh segment's header will say that it is.
        write_all_at(file.as_ref(), 0, &header.encode())?;
        file.sync_data()?;
    }
    let file = vfs.create(&log_name(id))?;
    file.allocate(capacity as u64)?;
    write_fresh(file.as_ref(), &image, capacity)?;
    file.sync_data()?;
    vfs.sync_dir()?;
    let header = Header {
        segment: id,
        previous: reading.end,
        durable: DATA_START + u32_of(image.len()),
        salt: segment_salt,
    };
    write_all_at(file.as_ref(), 0, &header.encode())?;
    file.sync_data()?;
    segment.file.get_or_init(|| file);
    reading.replay.segments.insert(id, Arc::clone(&segment));
    for (segment, sidecar) in &reading.sidecars {
        if let Err(error) = write_sidecar(vfs, *segment, sidecar) {
            tracing::warn!(segment, %error, "a sidecar could not be written; it will be missed at the next start");
        }
    }
    let offset = DATA_START + u32_of(image.len());
    let end = Position { segment: id, offset };
    let segments = segments(&reading.replay);
    let state = LogState {
        active: Default::default(),
        flushing: None,
        spare: Default::default(),
        segment,
        offset,
        sidecar,
        ticket: reading.replay.ticket,
        unsynced: 0,
        gathering: 0,
        hints: Vec::new(),
        synced: end,
        marked: Position::NONE,
        prepared: Default::default(),
        overtaken: Vec::new(),
        sealed: Vec::new(),
        next_id: id + 1,
        salt,
        segment_bytes: options.segment_bytes,
        writer_sleeps: false,
        failed: false,
        stop: false,
        waiters: Vec::new(),
    };
    Ok((Log::new(state, segments), reading.replay, reading.summary))
}

fn segments(replay: &Replay) -> Segments {
    let segments = Segments::default();
    for segment in replay.segments.values() {
        segments.insert(Arc::clone(segment));
    }
    segments
}

/// Writes records behind the place of the header, and zeros up to the capacity.
fn write_fresh(file: &dyn VfsFile, image: &[u8], capacity: usize) -> io::Result<()> {
    let mut offset = u64::from(DATA_START);
    write_all_at(file, offset, image)?;
    offset += image.len() as u64;
    write_zeros(file, offset, capacity as u64)
}

pub(crate) fn write_sidecar(vfs: &dyn Vfs, segment: u32, bytes: &[u8]) -> io::Result<()> {
    let name = format!("{}.tmp", index_name(segment));
    let file = vfs.create(&name)?;
    write_all_at(file.as_ref(), 0, bytes)?;
    vfs.rename(&name, &index_name(segment))
}

impl Reading {
    /// Encodes the tail for its new place and applies it.
    fn rewrite_tail(&mut self, segment: &Arc<Segment>, sidecar: &mut SidecarBuilder) -> Vec<u8> {
        let mut image = Vec::with_capacity(self.tail_bytes());
        for (head, meta, body) in std::mem::take(&mut self.tail) {
            let start = image.len();
            let offset = DATA_START + u32_of(start);
            let head = record::append(&mut image, segment.seed, offset, head, &body, |out| {
                out.extend_from_slice(&meta);
            });
            let record = Record { head, meta: &meta, body: &body };
            self.whole_record(segment, offset, &record, sidecar);
        }
        image
    }
}
