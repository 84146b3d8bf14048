//! The sidecar of a sealed segment: its log without the bodies, so that recovery needs not read the messages.
//!
//! A cache: whatever is wrong with one, it is made again from the segment. Built while the segment is filled.
//!
//! ```text
//! header: magic "PHSIDX\0\1", segment u32, end u32, salt u64, length u64 of what follows, CRC-32 u32 over both
//! entries, each begun by a tag:
//!   0            varint offset step, then head and meta of the record as in the segment
//!   0x80 | bits  one target of a plain enqueue: \[queue varint\] \[sequence varint\] \[offset step varint\] body length varint
//! ```
//!
//! Steps are in units of 8 bytes from the record before. Bits: 1 = same queue as before, 2 = next sequence, 4 = same
//! record as before, 8 = a priority byte follows. A message to one queue behind the last costs about six bytes.

use model::QueueId;

use super::bytes::{Reader, put_varint};
use super::event::Placed;
use super::record::{self, Head};

const MAGIC: &[u8; 8] = b"PHSIDX\0\x01";
const HEADER_BYTES: usize = 36;

const TAG_PLAIN: u8 = 0x80;
const SAME_QUEUE: u8 = 1;
const NEXT_SEQUENCE: u8 = 2;
const SAME_RECORD: u8 = 4;
const PRIORITY: u8 = 8;

/// What steps and bits refer to.
#[derive(Debug, Clone, Copy, Default)]
struct Before {
    queue: u64,
    sequence: u64,
    offset: u32,
}

/// Collects the entries of a segment.
#[derive(Debug, Default)]
pub(crate) struct SidecarBuilder {
    entries: Vec<u8>,
    before: Before,
}

impl SidecarBuilder {
    /// Adds a record as it is. `head_and_meta` begins where the record begins.
    pub(crate) fn add(&mut self, offset: u32, head_and_meta: &[u8]) {
        let step = self.step(offset);
        self.entries.push(0);
        put_varint(&mut self.entries, step);
        self.entries.extend_from_slice(head_and_meta);
        self.before.offset = offset;
    }

    /// Adds one target of an enqueue; false if it says more than the short form can.
    pub(crate) fn add_plain(&mut self, offset: u32, placed: &Placed, body_len: u32) -> bool {
        if !Self::is_plain(placed) {
            return false;
        }
        let Before { queue, sequence, offset: last } = self.before;
        let mut tag = TAG_PLAIN;
        let mut set = |on: bool, bit: u8| {
            if on {
                tag |= bit;
            }
            on
        };
        let same_queue = set(queue == placed.queue.0, SAME_QUEUE);
        let next = set(sequence.checked_add(1) == Some(placed.sequence), NEXT_SEQUENCE);
        let same_record = set(last == offset, SAME_RECORD);
        let priority = set(placed.priority != 0, PRIORITY);
        let step = self.step(offset);
        self.entries.push(tag);
        if !same_queue {
            put_varint(&mut self.entries, placed.queue.0);
        }
        if !next {
            put_varint(&mut self.entries, placed.sequence);
        }
        if !same_record {
            put_varint(&mut self.entries, step);
        }
        put_varint(&mut self.entries, u64::from(body_len));
        if priority {
            self.entries.push(placed.priority);
        }
        self.before = Before { queue: placed.queue.0, sequence: placed.sequence, offset };
        true
    }

    /// Whether the short form says all of it.
    pub(crate) fn is_plain(placed: &Placed) -> bool {
        placed.durable
            && placed.expires == u64::MAX
            && placed.not_before == 0
            && placed.delivery_count == 0
    }

    fn step(&self, offset: u32) -> u64 {
        u64::from(offset.wrapping_sub(self.before.offset) / 8)
    }

    /// The whole file.
    pub(crate) fn finish(&self, segment: u32, end: u32, salt: u64) -> Vec<u8> {
        let mut file = Vec::with_capacity(HEADER_BYTES + self.entries.len());
        file.extend_from_slice(MAGIC);
        file.extend_from_slice(&segment.to_le_bytes());
        file.extend_from_slice(&end.to_le_bytes());
        file.extend_from_slice(&salt.to_le_bytes());
        file.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&file);
        hasher.update(&self.entries);
        file.extend_from_slice(&hasher.finalize().to_le_bytes());
        file.extend_from_slice(&self.entries);
        file
    }
}

/// One entry of a sidecar.
#[derive(Debug)]
pub(crate) enum SidecarEntry<'a> {
    /// A record without its body.
    Record { offset: u32, head: Head, meta: &'a [u8] },
    /// One target of an enqueue.
    Plain { offset: u32, placed: Placed, body_len: u32 },
}

/// The entries of a sidecar that belongs to this segment and is whole.
#[derive(Debug)]
pub(crate) struct SidecarReader<'a> {
    reader: Reader<'a>,
    before: Before,
}

impl<'a> SidecarReader<'a> {
    /// `None` if it is damaged, or of another segment, or of another end of it.
    pub(crate) fn new(file: &'a [u8], segment: u32, end: u32, salt: u64) -> Option<Self> {
        let mut reader = Reader(file);
        let matches = reader.bytes(8)? == MAGIC
            && reader.u32()? == segment
            && reader.u32()? == end
            && reader.u64()? == salt;
        let length = usize::try_from(reader.u64()?).ok()?;
        let checksum = reader.u32()?;
        let entries = reader.bytes(length)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(file.get(..HEADER_BYTES - 4)?);
        hasher.update(entries);
        let whole = matches && hasher.finalize() == checksum;
        whole.then_some(Self { reader: Reader(entries), before: Before::default() })
    }

    /// The next entry; `Some(None)` if there is something that is none.
    pub(crate) fn next_entry(&mut self) -> Option<Option<SidecarEntry<'a>>> {
        if self.reader.0.is_empty() {
            return None;
        }
        Some(self.entry())
    }

    fn entry(&mut self) -> Option<SidecarEntry<'a>> {
        let tag = self.reader.u8()?;
        if tag & TAG_PLAIN == 0 {
            let offset = self.offset()?;
            let (head, meta) = record::decode_detached(&mut self.reader)?;
            self.before.offset = offset;
            return Some(SidecarEntry::Record { offset, head, meta });
        }
        let before = self.before;
        let queue = if tag & SAME_QUEUE != 0 { before.queue } else { self.reader.varint()? };
        let sequence = if tag & NEXT_SEQUENCE != 0 {
            before.sequence.checked_add(1)?
        } else {
            self.reader.varint()?
        };
        let offset = if tag & SAME_RECORD != 0 { before.offset } else { self.offset()? };
        let body_len = u32::try_from(self.reader.varint()?).ok()?;
        let priority = if tag & PRIORITY != 0 { self.reader.u8()? } else { 0 };
        self.before = Before { queue, sequence, offset };
        let placed = Placed {
            queue: QueueId(queue),
            sequence,
            priority,
            expires: u64::MAX,
            not_before: 0,
            delivery_count: 0,
            durable: true,
        };
        Some(SidecarEntry::Plain { offset, placed, body_len })
    }

    fn offset(&mut self) -> Option<u32> {
        let step = u32::try_from(self.reader.varint()?).ok()?;
        self.before.offset.checked_add(step.checked_mul(8)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(queue: u64, sequence: u64, priority: u8) -> Placed {
        Placed {
            queue: QueueId(queue),
            sequence,
            priority,
            expires: u64::MAX,
            not_before: 0,
            delivery_count: 0,
            durable: true,
        }
    }

    #[test]
    fn plain_enqueues_come_back_and_cost_a_few_bytes() {
        let mut builder = SidecarBuilder::default();
        let all = [(4096, placed(1, 0, 0)), (5160, placed(1, 1, 0)), (5160, placed(2, 9, 3))];

        for (offset, placed) in &all {
            assert!(builder.add_plain(*offset, placed, 1024));
        }
        let file = builder.finish(7, 9000, 5);

        assert!(file.len() < HEADER_BYTES + 24, "{} bytes", file.len());
        let mut reader = SidecarReader::new(&file, 7, 9000, 5).expect("whole");
        for (offset, placed) in all {
            let Some(Some(SidecarEntry::Plain { offset: at, placed: got, body_len })) =
                reader.next_entry()
            else {
                panic!("an entry")
            };
            assert_eq!((at, got, body_len), (offset, placed, 1024));
        }
        assert!(reader.next_entry().is_none());
    }

    #[test]
    fn a_damaged_or_foreign_sidecar_is_not_used() {
        let mut builder = SidecarBuilder::default();
        builder.add_plain(4096, &placed(1, 0, 0), 5);
        let file = builder.finish(7, 9000, 5);

        assert!(SidecarReader::new(&file, 8, 9000, 5).is_none());
        assert!(SidecarReader::new(&file, 7, 9000, 6).is_none());
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SidecarReader::new(&damaged, 7, 9000, 5).is_none(), "bit {bit}");
        }
    }
}
