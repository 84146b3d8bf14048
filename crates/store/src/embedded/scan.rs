//! Reading a segment from front to back, over damage, through a window that moves with it: a segment is never in memory
//! as a whole.

use std::io;

use super::record::{self, Broken, Record};
use super::segment::Segment;
use super::vfs::{VfsFile, read_up_to};

/// Bytes read at once; a window grows beyond it only for a larger record.
const WINDOW_BYTES: usize = 256 * 1024;

/// One thing found in a segment.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A record whose head verifies, and all its bytes.
    Record { offset: u32, record: Record<'a>, bytes: &'a [u8] },
    /// Bytes that are no record, with records behind them.
    Damage { offset: u32, bytes: u32 },
}

/// Walks the records between two offsets of a segment that `window` shows.
///
/// Where no record begins, the next one is searched for: records begin at multiples of eight, and the checksum is bound
/// to the place, so what a body holds cannot be taken for one. What follows the last record is not reported.
///
/// # Errors
///
/// As reading from the window.
pub(crate) fn scan<S: Source>(
    window: &mut Window<S>,
    segment: &Segment,
    from: u32,
    to: u32,
    mut found: impl FnMut(Found<'_>),
) -> io::Result<()> {
    let end = to as usize;
    let mut offset = from as usize;
    let mut at = offset;
    while let Some(candidate) = candidate(window, at, end)? {
        let Some((record, bytes)) = record_at(window, segment, candidate, end)? else {
            at = candidate + 8;
            continue;
        };
        if candidate > offset {
            let bytes = narrow(candidate - offset);
            found(Found::Damage { offset: narrow(offset), bytes });
        }
        offset = candidate + bytes.len();
        at = offset;
        found(Found::Record { offset: narrow(candidate), record, bytes });
    }
    Ok(())
}

fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

/// The next place, `at` or behind, where a record could begin.
fn candidate<S: Source>(
    window: &mut Window<S>,
    mut at: usize,
    end: usize,
) -> io::Result<Option<usize>> {
    while at < end {
        let bytes = window.bytes(at, record::HEAD_BYTES, end)?;
        if bytes.len() < record::HEAD_BYTES {
            return Ok(None);
        }
        let eights = bytes.chunks_exact(8);
        let step = eights.len() * 8;
        if let Some(index) = eights.into_iter().position(record::may_begin) {
            return Ok(Some(at + index * 8));
        }
        at += step;
    }
    Ok(None)
}

/// The record that begins at an offset and ends before `end`, with all its bytes; `None` if there is none.
pub(crate) fn record_at<'w, S: Source>(
    window: &'w mut Window<S>,
    segment: &Segment,
    at: usize,
    end: usize,
) -> io::Result<Option<(Record<'w>, &'w [u8])>> {
    let offset = narrow(at);
    let mut wanted = record::HEAD_BYTES;
    // At most three times: for the head, for the meta that it claims, for the body when the head has verified.
    loop {
        let bytes = window.bytes(at, wanted, end)?;
        let more = match record::decode(bytes, segment.seed, offset) {
            Ok(_) => break,
            Err(Broken::Short(length)) => length,
            Err(Broken::Head) => record::claimed_by_head(bytes).unwrap_or(0),
        };
        if more <= wanted.max(bytes.len()) || at.saturating_add(more) > end {
            return Ok(None);
        }
        wanted = more;
    }
    let bytes = window.bytes(at, wanted, end)?;
    Ok(record::decode(bytes, segment.seed, offset).ok().and_then(|record| {
        let bytes = bytes.get(..record.head.record_len())?;
        Some((record, bytes))
    }))
}

/// Where bytes come from.
pub(crate) trait Source {
    /// Fills `into` as far as there is something; returns how many bytes there were.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

impl Source for &dyn VfsFile {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        read_up_to(*self, offset, into)
    }
}

impl Source for &[u8] {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.get(from..).unwrap_or_default();
        let bytes = bytes.get(..into.len()).unwrap_or(bytes);
        if let Some(place) = into.get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
        }
        Ok(bytes.len())
    }
}

/// A part of a segment in memory, which moves forward.
#[derive(Debug)]
pub(crate) struct Window<S> {
    source: S,
    /// Where the buffer begins.
    at: usize,
    filled: usize,
    buffer: Vec<u8>,
}

impl<S: Source> Window<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source, at: 0, filled: 0, buffer: Vec::new() }
    }

    /// What lies at an offset: at least `wanted` bytes and nothing behind `end`, less only where the source ends.
    fn bytes(&mut self, at: usize, wanted: usize, end: usize) -> io::Result<&[u8]> {
        let wanted = wanted.min(end.saturating_sub(at));
        let within = at.checked_sub(self.at).filter(|within| *within <= self.filled);
        if within.is_none_or(|within| self.filled - within < wanted) {
            self.move_to(at, within, wanted)?;
        }
        let from = at - self.at;
        let to = self.filled.min(end.saturating_sub(self.at)).max(from);
        Ok(self.buffer.get(from..to).unwrap_or_default())
    }

    /// Begins at `at`, `within` bytes behind the present begin if that is in the buffer, and reads on.
    fn move_to(&mut self, at: usize, within: Option<usize>, wanted: usize) -> io::Result<()> {
        let kept = within.map_or(0, |within| self.filled - within);
        if let Some(within) = within {
            self.buffer.copy_within(within..self.filled, 0);
        }
        (self.at, self.filled) = (at, kept);
        let length = wanted.max(WINDOW_BYTES);
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        let space = self.buffer.get_mut(kept..length).unwrap_or_default();
        self.filled += self.source.read((at + kept) as u64, space)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Head, Kind};
    use super::*;

    /// Records with bodies of these lengths, one after the other, and where they begin.
    fn segment_of(bodies: &[usize]) -> (Segment, Vec<u8>, Vec<u32>) {
        let segment = Segment::new(3, 77, u32::MAX);
        let (mut file, mut places) = (Vec::new(), Vec::new());
        for length in bodies {
            let body = vec![0xA9; *length];
            let head = Head {
                kind: Kind::Enqueue,
                flags: 0,
                meta_len: 0,
                body_len: 0,
                body_checksum: crc32fast::hash(&body),
                properties_len: 0,
                ticket: 1,
            };
            let offset = narrow(file.len());
            record::append(&mut file, segment.seed, offset, head, &body, |out| {
                out.extend_from_slice(&[7; 100]);
            });
            places.push(offset);
        }
        (segment, file, places)
    }

    fn found(segment: &Segment, file: &[u8], to: u32) -> (Vec<u32>, Vec<(u32, u32)>) {
        let (mut records, mut damages) = (Vec::new(), Vec::new());
        let outcome = scan(&mut Window::new(file), segment, 0, to, |found| match found {
            Found::Record { offset, record, .. } => {
                assert!(record.body_is_whole());
                records.push(offset);
            }
            Found::Damage { offset, bytes } => damages.push((offset, bytes)),
        });
        outcome.unwrap();
        (records, damages)
    }

    #[test]
    fn records_are_found_wherever_windows_end_and_however_large_they_are() {
        let lengths: Vec<usize> = (0..2_000).map(|n| n * 37 % 1_500).collect();
        let lengths = [&lengths[..], &[3 * WINDOW_BYTES, 5, WINDOW_BYTES]].concat();
        let (segment, mut file, places) = segment_of(&lengths);
        file.resize(file.len() + 3 * WINDOW_BYTES, 0);
        let to = narrow(file.len());

        assert_eq!(found(&segment, &file, to), (places, Vec::new()));
    }

    #[test]
    fn damage_is_stepped_over_and_told() {
        let (segment, mut file, places) = segment_of(&[500; 1_500]);
        for broken in [1, 2, 900] {
            file[places[broken] as usize + 40] ^= 1;
        }

        let (records, damages) = found(&segment, &file, narrow(file.len()));

        assert_eq!(records.len(), places.len() - 3);
        let length = places[1];
        assert_eq!(damages, [(places[1], 2 * length), (places[900], length)]);
    }

    #[test]
    fn a_record_that_ends_behind_the_limit_is_none() {
        let (segment, file, places) = segment_of(&[500; 3]);

        assert_eq!(found(&segment, &file, narrow(file.len()) - 8).0, places[..2]);
    }
}
