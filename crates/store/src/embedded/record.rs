//! The grammar of one record, and the checksums that bind it to its place.
//!
//! ```text
//!  0  u32  head checksum   CRC-32 over bytes 4 .. 32 + meta length, started from (segment, salt, offset)
//!  4  u8   0xA9            so that zeros are never a record
//!  5  u8   kind            see `Kind`; numbers are never reused
//!  6  u8   flags           1 = last of its commit
//!  7  u8   0
//!  8  u32  meta length
//! 12  u32  body length
//! 16  u32  body checksum   CRC-32 over the body alone: computed before any lock, and still right after a move
//! 20  u32  properties length (enqueues)
//! 24  u64  ticket          of the commit; 0 for marks
//! 32  meta, body, zeros up to a multiple of 8
//! ```
//!
//! The head checksum covers the body checksum, so the whole record is bound to its place; a record that was left in a
//! recycled file, or that a disk put elsewhere, does not verify.

use super::bytes::Reader;

/// Bytes before the meta.
pub(crate) const HEAD_BYTES: usize = 32;

const MAGIC: u8 = 0xA9;

/// Flag: the last record of its commit.
pub(crate) const FLAG_END: u8 = 1;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Up to where the log was known to be synced when this was written.
    Mark = 1,
    /// A message and its targets.
    Enqueue = 2,
    /// Messages are done with.
    Ack = 3,
    /// Leases ended, with a delay or a count to remember.
    Release = 4,
    /// A queue was emptied.
    Purge = 5,
    /// A stream was cut.
    Trim = 6,
    /// A queue exists, and its counters.
    Queue = 7,
    /// A queue is gone.
    Delete = 8,
    /// Sequences below may have been delivered.
    Reserve = 9,
    /// A definition has a value.
    Define = 10,
    /// A definition is gone.
    Undefine = 11,
    /// Ids of the dedup window, carried over from a dropped segment.
    Dedup = 12,
    /// A message that only gave up its memory; gone after a restart.
    Spill = 13,
    /// Messages are held by somebody until a time, or longer than before.
    Claim = 14,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Mark,
            2 => Self::Enqueue,
            3 => Self::Ack,
            4 => Self::Release,
            5 => Self::Purge,
            6 => Self::Trim,
            7 => Self::Queue,
            8 => Self::Delete,
            9 => Self::Reserve,
            10 => Self::Define,
            11 => Self::Undefine,
            12 => Self::Dedup,
            13 => Self::Spill,
            14 => Self::Claim,
            _ => return None,
        })
    }
}

/// Where a checksum starts: what makes the same bytes elsewhere another record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    /// For the records of one segment.
    pub(crate) fn new(segment: u32, salt: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&segment.to_le_bytes());
        hasher.update(&salt.to_le_bytes());
        Self(hasher.finalize())
    }

    /// CRC is linear, so two offsets can never give one checksum to the same bytes.
    fn checksum(self, offset: u32, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0 ^ offset);
        hasher.update(bytes);
        hasher.finalize()
    }
}

/// The fixed part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) meta_len: u32,
    pub(crate) body_len: u32,
    pub(crate) body_checksum: u32,
    pub(crate) properties_len: u32,
    pub(crate) ticket: u64,
}

impl Head {
    /// Bytes up to the next record.
    pub(crate) fn record_len(&self) -> usize {
        record_len(self.meta_len as usize, self.body_len as usize)
    }

    pub(crate) fn is_end(&self) -> bool {
        self.flags & FLAG_END != 0
    }

    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        let fields: [&[u8]; 6] = [
            &[MAGIC, self.kind as u8, self.flags, 0],
            &self.meta_len.to_le_bytes(),
            &self.body_len.to_le_bytes(),
            &self.body_checksum.to_le_bytes(),
            &self.properties_len.to_le_bytes(),
            &self.ticket.to_le_bytes(),
        ];
        let mut rest = head.get_mut(4..).unwrap_or_default();
        for field in fields {
            let (place, after) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = after;
        }
        head
    }

    fn decode(bytes: &[u8]) -> Option<(u32, Self)> {
        let mut reader = Reader(bytes);
        let checksum = reader.u32()?;
        if reader.u8()? != MAGIC {
            return None;
        }
        let head = Self {
            kind: Kind::from_byte(reader.u8()?)?,
            flags: {
                let flags = reader.u8()?;
                reader.u8()?;
                flags
            },
            meta_len: reader.u32()?,
            body_len: reader.u32()?,
            body_checksum: reader.u32()?,
            properties_len: reader.u32()?,
            ticket: reader.u64()?,
        };
        Some((checksum, head))
    }
}

/// Bytes that a record of these parts takes.
pub(crate) fn record_len(meta_len: usize, body_len: usize) -> usize {
    HEAD_BYTES.saturating_add(meta_len).saturating_add(body_len).next_multiple_of(8)
}

/// Appends a record that will lie at `offset` of its segment; its head's `meta_len` and `body_len` are set here.
pub(crate) fn append(
    out: &mut Vec<u8>,
    seed: Seed,
    offset: u32,
    mut head: Head,
    body: &[u8],
    meta: impl FnOnce(&mut Vec<u8>),
) -> Head {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    meta(out);
    head.meta_len = super::bytes::u32_of(out.len() - start - HEAD_BYTES);
    head.body_len = super::bytes::u32_of(body.len());
    seal(out.get_mut(start..).unwrap_or_default(), seed, offset, &head);
    out.extend_from_slice(body);
    let padded = start + head.record_len();
    out.resize(padded, 0);
    head
}

/// Appends a record of any kind byte, as a fuzzer may make it; false if there is no such kind.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn append_raw(
    out: &mut Vec<u8>,
    seed: Seed,
    kind: u8,
    meta: &[u8],
    body: &[u8],
) -> bool {
    let Some(kind) = Kind::from_byte(kind) else { return false };
    let head = Head {
        kind,
        flags: FLAG_END,
        meta_len: 0,
        body_len: 0,
        body_checksum: crc32fast::hash(body),
        properties_len: u32::from(meta.first().copied().unwrap_or(0)),
        ticket: 0,
    };
    append(out, seed, 0, head, body, |out| out.extend_from_slice(meta));
    true
}

/// Writes the head and its checksum over the front of `record`, whose meta is in place.
pub(crate) fn seal(record: &mut [u8], seed: Seed, offset: u32, head: &Head) {
    if let Some(front) = record.get_mut(..HEAD_BYTES) {
        front.copy_from_slice(&head.encode());
    }
    let covered = record.get(4..HEAD_BYTES + head.meta_len as usize).unwrap_or_default();
    let checksum = seed.checksum(offset, covered);
    if let Some(place) = record.get_mut(..4) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// A record in memory whose head has verified.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) head: Head,
    pub(crate) meta: &'a [u8],
    /// Not yet verified: see [`Record::body_is_whole`].
    pub(crate) body: &'a [u8],
}

impl Record<'_> {
    /// Head and meta as they lie at an offset.
    pub(crate) fn front(&self, seed: Seed, offset: u32) -> Vec<u8> {
        let mut front = vec![0; HEAD_BYTES];
        front.extend_from_slice(self.meta);
        seal(&mut front, seed, offset, &self.head);
        front
    }

    pub(crate) fn body_is_whole(&self) -> bool {
        crc32fast::hash(self.body) == self.head.body_checksum
    }
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The head does not verify: nothing in it may be believed.
    Head,
    /// The head verifies, and says that the record has this many bytes, more than there are.
    Short(usize),
}

/// Whether a record could begin here: cheap, and wrong only in saying yes.
pub(crate) fn may_begin(bytes: &[u8]) -> bool {
    matches!(bytes, [_, _, _, _, MAGIC, _, _, 0, ..])
}

/// How many bytes head and meta would take if a record began here; nothing is verified.
pub(crate) fn claimed_by_head(bytes: &[u8]) -> Option<usize> {
    let (_, head) = Head::decode(bytes)?;
    Some(HEAD_BYTES.saturating_add(head.meta_len as usize))
}

/// The record at the front of `bytes`, which lie at `offset` of their segment.
pub(crate) fn decode(bytes: &[u8], seed: Seed, offset: u32) -> Result<Record<'_>, Broken> {
    let (checksum, head) = Head::decode(bytes).ok_or(Broken::Head)?;
    let meta_end = HEAD_BYTES.saturating_add(head.meta_len as usize);
    let Some(covered) = bytes.get(4..meta_end) else {
        return Err(Broken::Head);
    };
    if seed.checksum(offset, covered) != checksum {
        return Err(Broken::Head);
    }
    let body_end = meta_end.saturating_add(head.body_len as usize);
    if bytes.len() < head.record_len() {
        return Err(Broken::Short(head.record_len()));
    }
    match (bytes.get(HEAD_BYTES..meta_end), bytes.get(meta_end..body_end)) {
        (Some(meta), Some(body)) => Ok(Record { head, meta, body }),
        _ => Err(Broken::Head),
    }
}

/// Head and meta as a sidecar keeps them: not bound to a place, covered by the sidecar's own checksum.
pub(crate) fn decode_detached<'a>(reader: &mut Reader<'a>) -> Option<(Head, &'a [u8])> {
    let (_, head) = Head::decode(reader.bytes(HEAD_BYTES)?)?;
    Some((head, reader.bytes(head.meta_len as usize)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Vec<u8>, Seed) {
        let seed = Seed::new(3, 77);
        let head = Head {
            kind: Kind::Enqueue,
            flags: FLAG_END,
            meta_len: 0,
            body_len: 0,
            body_checksum: crc32fast::hash(b"body"),
            properties_len: 0,
            ticket: 9,
        };
        let mut bytes = Vec::new();
        append(&mut bytes, seed, 4096, head, b"body", |out| out.extend_from_slice(b"meta!"));
        (bytes, seed)
    }

    #[test]
    fn a_record_comes_back_from_its_own_place_only() {
        let (bytes, seed) = example();

        let record = decode(&bytes, seed, 4096).expect("whole");

        assert_eq!((record.meta, record.body), (&b"meta!"[..], &b"body"[..]));
        assert!(record.body_is_whole());
        assert!(decode(&bytes, seed, 4104).is_err());
        assert!(decode(&bytes, Seed::new(4, 77), 4096).is_err());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let (bytes, seed) = example();

        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], seed, 4096).is_err(), "cut to {end} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let (bytes, seed) = example();
        let used = HEAD_BYTES + 5 + 4;

        for bit in 0..used * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let whole = decode(&damaged, seed, 4096).is_ok_and(|record| record.body_is_whole());
            assert!(!whole, "bit {bit}");
        }
    }

    #[test]
    fn zeros_are_not_a_record() {
        assert_eq!(decode(&[0; 64], Seed::new(0, 0), 0).err(), Some(Broken::Head));
    }
}
