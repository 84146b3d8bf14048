//! The end of the log: a buffer that commits are encoded into, and that the writer takes away whole.
//!
//! A commit lies in one segment. If it may not fit, the segment is closed first; if no segment is large enough, one is
//! made for it. The header of a new segment goes through the same buffer, so that it is written in its turn.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use model::{Message, QueueId, Ticket};

use super::bytes::u32_of;
use super::event::{self, Event, Placed};
use super::record::{self, FLAG_END, Head, Kind};
use super::segment::{DATA_START, Header, Position, Segment, Segments};
use super::sidecar::SidecarBuilder;
use super::vfs::{BLOCK_BYTES, read_up_to};

/// Most bytes of one commit; the doors' limits lie far below.
pub(crate) const COMMIT_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// A mark, a header's slack.
const EXTRA_BYTES: usize = 128;

/// Bytes of the buffer that end in one place of the disk.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u32,
    /// Where in the buffer; it goes to the next extent's start, or to the end.
    pub(crate) start: usize,
}

/// Encoded commits with their places.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) extents: Vec<Extent>,
    /// Zeros at the end, see [`Buffer::fill_block`].
    filling: usize,
}

impl Buffer {
    /// Bytes of the commits.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.filling
    }

    /// Extents with their bytes.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&Extent, &[u8])> {
        self.extents_of(self.len())
    }

    /// The same with what fills the last block.
    pub(crate) fn filled_parts(&self) -> impl Iterator<Item = (&Extent, &[u8])> {
        self.extents_of(self.bytes.len())
    }

    fn extents_of(&self, end: usize) -> impl Iterator<Item = (&Extent, &[u8])> {
        self.extents.iter().enumerate().map(move |(index, extent)| {
            let end = self.extents.get(index + 1).map_or(end, |next| next.start);
            (extent, self.bytes.get(extent.start..end).unwrap_or_default())
        })
    }

    /// Adds zeros up to the end of the last block, so that the kernel need not read what the disk has there: nothing that
    /// is needed, for the next records go there. Who reads from here does not see them.
    pub(crate) fn fill_block(&mut self) {
        let Some(last) = self.extents.last() else { return };
        let end = last.offset as usize + self.len() - last.start;
        let filled = end.next_multiple_of(BLOCK_BYTES).min(last.segment.capacity as usize);
        let filling = filled.saturating_sub(end);
        let len = self.len() + filling;
        // Exactly, because the log's lock is held and a large buffer would be doubled.
        self.bytes.reserve_exact(len.saturating_sub(self.bytes.len()));
        self.bytes.resize(len, 0);
        self.filling = filling;
    }

    /// Takes everything out, to be used again.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.extents.clear();
        self.filling = 0;
    }
}

/// A file that was made before it is needed.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) segment: Arc<Segment>,
}

/// A closed segment whose sidecar is to be written.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) segment: Arc<Segment>,
    pub(crate) sidecar: SidecarBuilder,
}

/// A group of more bytes does not wait for others: writing it takes longer than the sync.
pub(crate) const GATHERED_BYTES_MAX: usize = 256 * 1024;

/// Everything behind the log's lock.
#[derive(Debug)]
pub(crate) struct LogState {
    pub(crate) active: Buffer,
    pub(crate) flushing: Option<Arc<Buffer>>,
    /// A buffer to use again.
    pub(crate) spare: Buffer,
    pub(crate) segment: Arc<Segment>,
    /// Where the next record goes.
    pub(crate) offset: u32,
    pub(crate) sidecar: SidecarBuilder,
    pub(crate) ticket: u64,
    /// Commits in `active` that wait for a sync.
    pub(crate) unsynced: u32,
    /// The writer waits for `unsynced` to become this; 0 if it does not.
    pub(crate) gathering: u32,
    /// Queues to hint at when `active` is durable.
    pub(crate) hints: Vec<QueueId>,
    /// Everything before is durable.
    pub(crate) synced: Position,
    /// What the last mark said.
    pub(crate) marked: Position,
    pub(crate) prepared: VecDeque<Prepared>,
    /// Prepared under ids that were overtaken.
    pub(crate) overtaken: Vec<Prepared>,
    pub(crate) sealed: Vec<Sealed>,
    pub(crate) next_id: u32,
    pub(crate) salt: u64,
    /// Capacity of a segment that nobody prepared.
    pub(crate) segment_bytes: u32,
    pub(crate) writer_sleeps: bool,
    pub(crate) failed: bool,
    pub(crate) stop: bool,
    /// Who waits for the buffer to be taken.
    pub(crate) waiters: Vec<Waker>,
}

/// The log as commits see it.
#[derive(Debug)]
pub(crate) struct Log {
    state: Mutex<LogState>,
    pub(crate) work: Condvar,
    pub(crate) segments: Segments,
}

impl Log {
    pub(crate) fn new(state: LogState, segments: Segments) -> Self {
        Self { state: Mutex::new(state), work: Condvar::new(), segments }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a commit of at most `bound` encoded bytes.
    pub(crate) fn begin(&self, bound: usize) -> LogCommit<'_> {
        let mut state = self.state();
        state.make_room(&self.segments, bound.saturating_add(EXTRA_BYTES));
        if state.active.extents.is_empty() {
            state.start_buffer();
        }
        state.ticket += 1;
        let ticket = Ticket(state.ticket);
        LogCommit { log: self, state, ticket, last: None, durable: false }
    }

    /// Has everything up to here synced, although nobody was promised it; returns the ticket that says when it is.
    pub(crate) fn sync_soon(&self) -> Ticket {
        let mut commit = self.begin(EXTRA_BYTES);
        commit.state.put_mark();
        commit.durable = true;
        commit.finish().0
    }

    /// Reads up to `len` bytes from a place that lies in the log, on disk or on its way there, to the front of `into`,
    /// which only grows. May read less where that changes; returns how much it was.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    pub(crate) fn read(
        &self,
        segment: &Segment,
        offset: u32,
        len: usize,
        into: &mut Vec<u8>,
    ) -> io::Result<usize> {
        if into.len() < len {
            into.resize(len, 0);
        }
        let mut len = len;
        {
            let state = self.state();
            let buffers = [state.flushing.as_deref(), Some(&state.active)];
            for (extent, bytes) in buffers.into_iter().flatten().flat_map(Buffer::parts) {
                if extent.segment.id != segment.id {
                    continue;
                }
                if let Some(within) = offset.checked_sub(extent.offset) {
                    if let Some(found) = bytes.get(within as usize..)
                        && !found.is_empty()
                    {
                        let found = found.get(..len).unwrap_or(found);
                        if let Some(place) = into.get_mut(..found.len()) {
                            place.copy_from_slice(found);
                        }
                        return Ok(found.len());
                    }
                } else {
                    len = len.min((extent.offset - offset) as usize);
                }
            }
        }
        let Some(file) = segment.file.get() else { return Ok(0) };
        read_up_to(file.as_ref(), u64::from(offset), into.get_mut(..len).unwrap_or_default())
    }
}

impl LogState {
    fn make_room(&mut self, segments: &Segments, bytes: usize) {
        let end = (self.offset as usize).saturating_add(bytes);
        if end > self.segment.capacity as usize {
            self.roll(segments, bytes);
        }
    }

    /// Closes the segment and goes on in the next.
    fn roll(&mut self, segments: &Segments, bytes: usize) {
        let need = (DATA_START as usize).saturating_add(bytes);
        let previous = Position { segment: self.segment.id, offset: self.offset };
        let fits = self.prepared.front().is_some_and(|it| it.segment.capacity as usize >= need);
        let next = match self.prepared.pop_front() {
            Some(prepared) if fits => prepared.segment,
            other => {
                self.overtaken.extend(other);
                self.overtaken.extend(self.prepared.drain(..));
                let capacity = u32_of(need).max(self.segment_bytes);
                let segment = Segment::new(self.next_id, self.salt_of(self.next_id), capacity);
                self.next_id += 1;
                Arc::new(segment)
            }
        };
        segments.insert(Arc::clone(&next));
        let closed = std::mem::replace(&mut self.segment, next);
        closed.close(self.offset);
        let sidecar = std::mem::take(&mut self.sidecar);
        self.sealed.push(Sealed { segment: closed, sidecar });
        let header = Header {
            segment: self.segment.id,
            previous,
            durable: DATA_START,
            salt: self.segment.salt,
        };
        let start = self.active.bytes.len();
        self.active.bytes.extend_from_slice(&header.encode());
        self.active.extents.push(Extent { segment: Arc::clone(&self.segment), offset: 0, start });
        self.offset = DATA_START;
    }

    pub(crate) fn salt_of(&self, segment: u32) -> u64 {
        self.salt.wrapping_add(u64::from(segment)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn start_buffer(&mut self) {
        let start = self.active.bytes.len();
        let (segment, offset) = (Arc::clone(&self.segment), self.offset);
        self.active.extents.push(Extent { segment, offset, start });
        self.put_mark();
    }

    /// Says how far the log is known to be durable.
    fn put_mark(&mut self) {
        let Position { segment, offset } = self.synced;
        let event = Event::Mark { segment, offset };
        let head = Head { flags: FLAG_END, ..plain_head(Kind::Mark, 0) };
        let (seed, at) = (self.segment.seed, self.offset);
        let head =
            record::append(&mut self.active.bytes, seed, at, head, &[], |out| event.encode(out));
        self.offset += u32_of(head.record_len());
        self.marked = self.synced;
    }

    /// Puts a mark on its way, if the last one is out of date and there is room.
    pub(crate) fn mark_if_needed(&mut self) {
        if self.is_mark_due() {
            self.start_buffer();
        }
    }

    /// Whether the last mark is out of date, nothing else is on its way, and there is room for another.
    pub(crate) fn is_mark_due(&self) -> bool {
        let end = (self.offset as usize).saturating_add(EXTRA_BYTES);
        let fits = end <= self.segment.capacity as usize;
        self.marked != self.synced && self.active.extents.is_empty() && fits
    }

    /// Where the log ends, with everything that is on its way.
    pub(crate) fn end(&self) -> Position {
        Position { segment: self.segment.id, offset: self.offset }
    }
}

fn plain_head(kind: Kind, ticket: u64) -> Head {
    Head {
        kind,
        flags: 0,
        meta_len: 0,
        body_len: 0,
        body_checksum: crc32fast::hash(&[]),
        properties_len: 0,
        ticket,
    }
}

/// A commit being encoded; holds the log's lock.
#[derive(Debug)]
pub(crate) struct LogCommit<'a> {
    log: &'a Log,
    state: MutexGuard<'a, LogState>,
    ticket: Ticket,
    last: Option<(usize, u32, Head)>,
    durable: bool,
}

impl LogCommit<'_> {
    /// What the watermark must reach.
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Where this commit lies.
    pub(crate) fn segment(&self) -> u32 {
        self.state.segment.id
    }

    /// Adds a record without a message, which is durable with this commit.
    pub(crate) fn event(&mut self, event: &Event) -> Position {
        self.event_with_body(event, &[])
    }

    pub(crate) fn event_with_body(&mut self, event: &Event, body: &[u8]) -> Position {
        self.durable = true;
        let mut head = plain_head(event.kind(), self.ticket.0);
        head.body_checksum = crc32fast::hash(body);
        let (position, start, meta_end) = self.append(head, body, |out| event.encode(out));
        let state = &mut *self.state;
        if let Some(record) = state.active.bytes.get(start..meta_end) {
            state.sidecar.add(position.offset, record);
        }
        position
    }

    /// Adds a message; if no target is durable, only to free its memory.
    pub(crate) fn enqueue(
        &mut self,
        message: &Message,
        body_checksum: u32,
        enqueued: u64,
        dedup: Option<u128>,
        targets: &[Placed],
    ) -> Position {
        let durable = targets.iter().any(|target| target.durable);
        self.durable |= durable;
        let kind = if durable { Kind::Enqueue } else { Kind::Spill };
        let head = Head {
            body_checksum,
            properties_len: u32_of(message.properties_len()),
            ..plain_head(kind, self.ticket.0)
        };
        let (position, start, meta_end) = self.append(head, message.payload(), |out| {
            event::put_enqueue(out, message, enqueued, dedup, targets);
        });
        let state = &mut *self.state;
        state.segment.add_targets(targets.len() as u64);
        if !durable {
            return position;
        }
        let plain = dedup.is_none() && targets.iter().all(SidecarBuilder::is_plain);
        if plain {
            let body_len = u32_of(message.body_len());
            for target in targets {
                state.sidecar.add_plain(position.offset, target, body_len);
            }
        } else if let Some(record) = state.active.bytes.get(start..meta_end) {
            state.sidecar.add(position.offset, record);
        }
        position
    }

    /// Returns where the record lies, and where in the buffer it and its body begin.
    fn append(
        &mut self,
        head: Head,
        body: &[u8],
        meta: impl FnOnce(&mut Vec<u8>),
    ) -> (Position, usize, usize) {
        let state = &mut *self.state;
        let position = state.end();
        let start = state.active.bytes.len();
        let seed = state.segment.seed;
        let head = record::append(&mut state.active.bytes, seed, position.offset, head, body, meta);
        state.offset += u32_of(head.record_len());
        self.last = Some((start, position.offset, head));
        (position, start, start + record::HEAD_BYTES + head.meta_len as usize)
    }

    /// Hints at a queue when this commit is durable.
    pub(crate) fn hint(&mut self, queue: QueueId) {
        self.state.hints.push(queue);
    }

    /// Ends the commit and wakes the writer if it sleeps. Returns what to wait for, [`Ticket::NONE`] if nothing here
    /// needs to last, and how many bytes wait to be written.
    pub(crate) fn finish(mut self) -> (Ticket, usize) {
        let state = &mut *self.state;
        if let Some((start, offset, head)) = self.last {
            let head = Head { flags: head.flags | FLAG_END, ..head };
            let seed = state.segment.seed;
            let record = state.active.bytes.get_mut(start..).unwrap_or_default();
            record::seal(record, seed, offset, &head);
        }
        state.unsynced += u32::from(self.durable);
        let waiting = state.active.bytes.len();
        let gathered = state.gathering > 0
            && (state.unsynced >= state.gathering || waiting > GATHERED_BYTES_MAX);
        if gathered {
            state.gathering = 0;
        }
        let wake = std::mem::take(&mut state.writer_sleeps) || gathered;
        let ticket = if self.durable { self.ticket } else { Ticket::NONE };
        let log = self.log;
        drop(self);
        if wake {
            log.work.notify_one();
        }
        (ticket, waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(offset: u32, records: usize, capacity: u32) -> Buffer {
        let segment = Arc::new(Segment::new(1, 0, capacity));
        let first = Extent { segment: Arc::clone(&segment), offset: 0, start: 0 };
        let last = Extent { segment, offset, start: 10 };
        let mut buffer =
            Buffer { bytes: vec![1; 10 + records], extents: vec![first, last], filling: 0 };
        buffer.fill_block();
        buffer
    }

    #[test]
    fn a_group_is_written_up_to_the_end_of_a_block_and_nobody_reads_what_fills_it() {
        let buffer = filled(5000, 100, 16 * 1024);
        let (_, written) = buffer.filled_parts().last().unwrap();
        assert_eq!(written.len(), 8192 - 5000);
        assert!(written[..100].iter().all(|byte| *byte == 1));
        assert!(written[100..].iter().all(|byte| *byte == 0));

        let lengths: Vec<usize> = buffer.parts().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(lengths, [10, 100]);
    }

    #[test]
    fn nothing_is_added_behind_a_whole_block_or_behind_the_end_of_a_segment() {
        assert_eq!(filled(4096, 4096, 16 * 1024).bytes.len(), 10 + 4096);
        assert_eq!(filled(8192, 100, 8192 + 150).bytes.len(), 10 + 150);
        assert_eq!(filled(8192, 100, 8192 + 100).bytes.len(), 10 + 100);
    }
}
