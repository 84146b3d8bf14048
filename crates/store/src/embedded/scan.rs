//! Reading a segment from front to back, over damage.

use super::record::{self, Record};
use super::segment::Segment;

/// One thing found in a segment.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A record whose head verifies, and all its bytes.
    Record { offset: u32, record: Record<'a>, bytes: &'a [u8] },
    /// Bytes that are no record, with records behind them.
    Damage { offset: u32, bytes: u32 },
}

/// Walks the records between two offsets of a segment. `file` holds the segment from its first byte on.
///
/// Where no record begins, the next one is searched for: records begin at multiples of eight, and the checksum is bound
/// to the place, so what a body holds cannot be taken for one. What follows the last record is not reported.
pub(crate) fn scan<'a>(
    file: &'a [u8],
    segment: &Segment,
    from: u32,
    to: u32,
    mut found: impl FnMut(Found<'a>),
) {
    let end = (to as usize).min(file.len());
    let mut offset = from as usize;
    while let Some((at, record)) = next_record(file, segment, offset, end) {
        if at > offset {
            found(Found::Damage { offset: narrow(offset), bytes: narrow(at - offset) });
        }
        let length = record.head.record_len();
        let bytes = file.get(at..at + length).unwrap_or_default();
        found(Found::Record { offset: narrow(at), record, bytes });
        offset = at + length;
    }
}

fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn next_record<'a>(
    file: &'a [u8],
    segment: &Segment,
    from: usize,
    end: usize,
) -> Option<(usize, Record<'a>)> {
    (from..end).step_by(8).find_map(|at| {
        let bytes = file.get(at..end)?;
        if !record::may_begin(bytes) {
            return None;
        }
        Some((at, record::decode(bytes, segment.seed, narrow(at)).ok()?))
    })
}
