//! Segment files: names, headers, and how much of each is still needed.
//!
//! ```text
//! 0      header: magic "PHSLOG\0\1", segment u32, previous segment u32, previous end u32, durable u32, salt u64,
//!        CRC-32 u32 over all that
//! 4096   the same header again, so that damage to one page cannot cost a segment
//! 8192   records, and zeros up to the end of the last one's block
//! ```
//!
//! A header is written together with the first records, after everything before it was synced; so a valid header tells
//! where the segment before ended, and that all of it is durable. A file whose header names another segment, or none, is
//! a spare that was never used.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::bytes::Reader;
use super::record::Seed;
use super::vfs::VfsFile;

/// Where records begin.
pub(crate) const DATA_START: u32 = 8192;

const MAGIC: &[u8; 8] = b"PHSLOG\0\x01";
const COPY_AT: usize = 4096;
const HEADER_BYTES: usize = 36;

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Position {
    /// 0 for what is not in the log.
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

impl Position {
    /// Not in the log.
    pub(crate) const NONE: Self = Self { segment: 0, offset: 0 };

    pub(crate) fn is_logged(self) -> bool {
        self.segment != 0
    }
}

/// What the front of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) segment: u32,
    /// Where the log before this segment ended.
    pub(crate) previous: Position,
    /// Records up to here were durable before the header was written.
    pub(crate) durable: u32,
    pub(crate) salt: u64,
}

impl Header {
    /// The block that stands before the records.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(HEADER_BYTES + 4);
        copy.extend_from_slice(MAGIC);
        for field in [self.segment, self.previous.segment, self.previous.offset, self.durable] {
            copy.extend_from_slice(&field.to_le_bytes());
        }
        copy.extend_from_slice(&self.salt.to_le_bytes());
        copy.extend_from_slice(&crc32fast::hash(&copy).to_le_bytes());
        let mut block = copy.clone();
        block.resize(COPY_AT, 0);
        block.extend_from_slice(&copy);
        block.resize(DATA_START as usize, 0);
        block
    }

    /// The header in either copy of a block, whatever segment it names.
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        Self::decode_copy(block).or_else(|| Self::decode_copy(block.get(COPY_AT..)?))
    }

    fn decode_copy(bytes: &[u8]) -> Option<Self> {
        let covered = bytes.get(..HEADER_BYTES - 4)?;
        let mut reader = Reader(bytes);
        if reader.bytes(8)? != MAGIC {
            return None;
        }
        let segment = reader.u32()?;
        let previous = Position { segment: reader.u32()?, offset: reader.u32()? };
        let durable = reader.u32()?;
        let salt = reader.u64()?;
        (reader.u32()? == crc32fast::hash(covered)).then_some(Self {
            segment,
            previous,
            durable,
            salt,
        })
    }
}

/// The file that holds a segment.
pub(crate) fn log_name(segment: u32) -> String {
    format!("{segment:010}.log")
}

/// The file that holds the sidecar of a segment.
pub(crate) fn index_name(segment: u32) -> String {
    format!("{segment:010}.index")
}

/// Which segment a file of this name holds.
pub(crate) fn segment_of(name: &str, extension: &str) -> Option<u32> {
    let number = name.strip_suffix(extension)?.strip_suffix('.')?;
    (number.len() == 10).then(|| number.parse().ok()).flatten()
}

/// One segment of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: u32,
    pub(crate) salt: u64,
    pub(crate) seed: Seed,
    /// Bytes that it may hold.
    pub(crate) capacity: u32,
    /// Where its records end; 0 while it is being filled.
    end: AtomicU32,
    /// Made by whoever writes first, if nobody prepared it.
    pub(crate) file: OnceLock<Arc<dyn VfsFile>>,
    targets: AtomicU64,
    settled: AtomicU64,
}

impl Segment {
    pub(crate) fn new(id: u32, salt: u64, capacity: u32) -> Self {
        Self {
            id,
            salt,
            seed: Seed::new(id, salt),
            capacity,
            end: AtomicU32::new(0),
            file: OnceLock::new(),
            targets: AtomicU64::new(0),
            settled: AtomicU64::new(0),
        }
    }

    pub(crate) fn close(&self, end: u32) {
        self.end.store(end, Ordering::Release);
    }

    /// Where its records end, once nothing is added any more.
    pub(crate) fn end(&self) -> Option<u32> {
        Some(self.end.load(Ordering::Acquire)).filter(|end| *end != 0)
    }

    pub(crate) fn add_targets(&self, count: u64) {
        self.targets.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether that was the last one that was needed.
    pub(crate) fn settle(&self, count: u64) -> bool {
        let settled = self.settled.fetch_add(count, Ordering::AcqRel) + count;
        self.end().is_some() && settled >= self.targets.load(Ordering::Acquire)
    }

    /// Messages, per queue, that lie here and are still needed.
    pub(crate) fn live(&self) -> u64 {
        let settled = self.settled.load(Ordering::Acquire);
        self.targets.load(Ordering::Acquire).saturating_sub(settled)
    }

    /// Messages, per queue, that were ever put here.
    pub(crate) fn targets(&self) -> u64 {
        self.targets.load(Ordering::Acquire)
    }

    /// About how many bytes are still needed: its share of messages times its size. A body shared by ten queues counts
    /// a tenth for each, which is what makes this better than adding up lengths.
    pub(crate) fn live_bytes(&self) -> u64 {
        let used = u64::from(self.end().unwrap_or(self.capacity));
        let targets = u128::from(self.targets().max(1));
        let bytes = u128::from(used) * u128::from(self.live()) / targets;
        u64::try_from(bytes).unwrap_or(used)
    }
}

/// All segments that hold something, by id.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    map: RwLock<BTreeMap<u32, Arc<Segment>>>,
}

impl Segments {
    pub(crate) fn insert(&self, segment: Arc<Segment>) {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(segment.id, segment);
    }

    pub(crate) fn get(&self, id: u32) -> Option<Arc<Segment>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(crate) fn remove(&self, id: u32) {
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Tells that messages of a segment are not needed any more; true if it has none left and is closed.
    pub(crate) fn settle(&self, id: u32, count: u64) -> bool {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.get(&id).is_some_and(|segment| segment.settle(count))
    }
}

/// Collects settled messages by segment, so that the table is asked once for a run of neighbours.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    segment: u32,
    count: u64,
    emptied: bool,
}

impl Freed {
    pub(crate) fn add(&mut self, segments: &Segments, position: Position) {
        if !position.is_logged() {
            return;
        }
        if position.segment != self.segment {
            self.flush(segments);
            self.segment = position.segment;
        }
        self.count += 1;
    }

    /// Hands in what was collected; true if some closed segment is empty now.
    pub(crate) fn flush(&mut self, segments: &Segments) -> bool {
        if self.count > 0 {
            self.emptied |= segments.settle(self.segment, self.count);
            self.count = 0;
        }
        std::mem::take(&mut self.emptied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_damage_to_either_copy() {
        let previous = Position { segment: 4, offset: 4096 };
        let header = Header { segment: 5, previous, durable: 4096, salt: 99 };
        let block = header.encode();

        for damaged in [0, COPY_AT] {
            let mut block = block.clone();
            block[damaged + 9] ^= 1;
            assert_eq!(Header::decode(&block), Some(header));
        }
        assert_eq!(Header::decode(&vec![0; 8192]), None);
    }

    #[test]
    fn only_names_of_segments_name_segments() {
        assert_eq!(segment_of(&log_name(12), "log"), Some(12));
        assert_eq!(segment_of("12.log", "log"), None);
        assert_eq!(segment_of("0000000012.index", "log"), None);
    }
}
