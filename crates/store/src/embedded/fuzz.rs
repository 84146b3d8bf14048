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

/// As [`fuzz_record`], with an input that says it all: the kind, the length of the meta, then meta and body.
#[must_use]
pub fn fuzz_record_input(input: &[u8]) -> bool {
    let Some(([kind, meta_len], rest)) = input.split_first_chunk::<2>().map(|(a, b)| (*a, b))
    else {
        return false;
    };
    let (meta, body) = rest.split_at(rest.len().min(usize::from(meta_len)));
    fuzz_record(kind, meta, body)
}

/// The file of tombstones.
#[must_use]
pub fn fuzz_quarantine(file: &[u8]) -> bool {
    !super::damage::parse(file).is_empty()
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
    use std::path::PathBuf;

    use super::*;

    type Check = fn(&[u8]) -> bool;

    /// Target of `fuzz/`, and what it calls.
    const TARGETS: [(&str, Check); 4] = [
        ("store_record", fuzz_record_input),
        ("store_segment", fuzz_segment),
        ("store_sidecar", fuzz_sidecar),
        ("store_quarantine", fuzz_quarantine),
    ];

    fn folder(target: &str) -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", target].iter().collect()
    }

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let inputs = std::fs::read_dir(folder(target)).expect("the corpus is committed");
        inputs.map(|input| std::fs::read(input.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn the_corpus_of_every_target_is_decoded_and_has_sound_inputs() {
        for (target, check) in TARGETS {
            let sound = corpus(target).iter().filter(|input| check(input)).count();

            assert!(sound > 0, "{target} knows no sound input any more: did the format change?");
        }
    }

    /// Flips, cuts and repeats what is known to be sound: deeper than bytes that are all chance.
    #[test]
    fn changed_inputs_of_the_corpus_make_no_decoder_panic() {
        let mut random = testkit::random::Random::new(21);
        for (target, check) in TARGETS {
            for input in corpus(target) {
                for _ in 0..2000 {
                    let _sound = check(&random.changed(&input));
                }
            }
        }
    }

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
