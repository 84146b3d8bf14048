//! Doors for fuzzing: what reads bytes from a disk, as functions of bytes.
//!
//! `cargo fuzz` targets call these; each returns whether the input was taken for sound, and must not panic, hang or
//! allocate more than a small multiple of the input.

use super::event::{EnqueueMeta, Event};
use super::load::{Addresses, message_of};
use super::record::{self, Kind, Seed};
use super::scan::{Found, Window, scan};
use super::segment::{DATA_START, Header, Segment};
use super::sidecar::SidecarReader;

/// One record at offset 0 of segment 1, made to verify: so that what lies behind the checksum is reached.
#[must_use]
pub fn fuzz_record(kind: u8, meta: &[u8], body: &[u8]) -> bool {
    let seed = Seed::new(1, 0);
    let mut bytes = Vec::new();
    if !record::append_raw(&mut bytes, seed, kind, meta, body) {
        return false;
    }
    let Ok(record) = record::decode(&bytes, seed, 0) else { return false };
    match record.head.kind {
        Kind::Enqueue | Kind::Spill => {
            let targets = EnqueueMeta::decode(record.meta).map_or(0, |meta| meta.targets().count());
            targets > 0 && message_of(&record, &mut Addresses::default()).is_ok()
        }
        kind => Event::decode(kind, record.meta).is_some(),
    }
}

/// A whole segment file, with whatever header it has.
#[must_use]
pub fn fuzz_segment(file: &[u8]) -> bool {
    let salt = Header::decode(file).map_or(0, |header| header.salt);
    let capacity = u32::try_from(file.len()).unwrap_or(u32::MAX);
    let segment = Segment::new(1, salt, capacity);
    let mut sound = true;
    let read = scan(&mut Window::new(file), &segment, DATA_START, capacity, |found| match found {
        Found::Record { record, .. } => sound &= record.body_is_whole(),
        Found::Damage { .. } => sound = false,
    });
    read.is_ok() && sound
}

/// The entries of a sidecar, made to verify.
#[must_use]
pub fn fuzz_sidecar(entries: &[u8]) -> bool {
    let file = super::sidecar::file_of(entries, 1, 1, 1);
    let Some(mut reader) = SidecarReader::new(&file, 1, 1, 1) else { return false };
    std::iter::from_fn(|| reader.next_entry()).take(entries.len() + 1).all(|entry| entry.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few million steps of what the fuzzer does all night.
    #[test]
    fn no_bytes_make_a_decoder_panic() {
        let mut state = 1_u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        for round in 0..20_000_usize {
            let bytes: Vec<u8> = (0..round % 120).map(|_| byte() & byte()).collect();
            let (meta, body) = bytes.split_at(bytes.len() / 2);
            for kind in 0..16 {
                let _sound = fuzz_record(kind, meta, body);
            }
            let _sound = (fuzz_sidecar(&bytes), fuzz_segment(&bytes));
        }
    }
}
