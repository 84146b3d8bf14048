//! What must hold for a data directory of any bytes at all. The fuzz target `store_recovery` calls this, and its corpus is
//! replayed through it.

use std::sync::Arc;

use model::{QueueId, Timestamp};
use store::embedded::{Embedded, Options, inspect_with};
use store::{Hold, LeaseRequest, Pool};
use testkit::disk::SimDisk;

/// Bytes before a segment's records; small inputs leave most of them out.
const HEADER_BYTES: usize = 8192;

/// Where the second copy of a header begins.
const COPY_AT: usize = 4096;

/// A log of two segments and a sidecar. The input gives their parts, each with its length in two bytes before it: two
/// headers (each both copies of a segment's), the records behind each, the sidecar of the first.
///
/// It opens or says why not, leases only what verifies, and opens again with the same outcome.
pub(crate) fn check_recovery(data: &[u8]) {
    let mut rest = data;
    let mut part = || {
        let Some((length, after)) = rest.split_first_chunk::<2>() else { return &[][..] };
        let (part, after) = after.split_at(after.len().min(u16::from_le_bytes(*length).into()));
        rest = after;
        part
    };
    let [first, second, records, more, sidecar] = [part(), part(), part(), part(), part()];
    let disk = SimDisk::new();
    put(&disk, "0000000001.log", &segment(first, records));
    put(&disk, "0000000002.log", &segment(second, more));
    if !sidecar.is_empty() {
        put(&disk, "0000000001.index", sidecar);
    }
    drop(inspect_with(&disk));
    let once = delivered(&disk);
    let again = delivered(&disk.killed());
    assert_eq!(once, again, "the next start finds the same");
}

fn segment(header: &[u8], records: &[u8]) -> Vec<u8> {
    let mut file = vec![0; HEADER_BYTES];
    let header = &header[..header.len().min(COPY_AT)];
    file[..header.len()].copy_from_slice(header);
    file[COPY_AT..COPY_AT + header.len()].copy_from_slice(header);
    file.extend_from_slice(records);
    file
}

fn put(disk: &SimDisk, name: &str, bytes: &[u8]) {
    use store::embedded::Vfs as _;
    let file = disk.create(name).expect("a file");
    store::embedded::vfs::write_all_at(file.as_ref(), 0, bytes).expect("written");
    file.sync_data().expect("synced");
    disk.sync_dir().expect("synced");
}

/// What is in the queues; `None` if the log cannot be opened.
fn delivered(disk: &SimDisk) -> Option<Vec<(QueueId, u64, Vec<u8>)>> {
    let options = Options {
        segment_bytes: 64 * 1024,
        first_segment_bytes: 16 * 1024,
        background: false,
        salt: Some(5),
        ..Options::default()
    };
    let store = Embedded::open_with(Arc::new(disk.clone()), options).ok()?;
    let mut all = Vec::new();
    let queues = store.queues().now().expect("queues");
    for (queue, kind) in queues.into_iter().filter(|(_, kind)| !kind.stream) {
        assert!(!kind.stream);
        let request = LeaseRequest {
            queue,
            messages_max: 1000,
            bytes_max: usize::MAX,
            hold: Hold::UntilSettled,
            now: Timestamp(1),
        };
        let Ok(lease) = store.lease(request).now() else { continue };
        let messages = lease.messages.into_iter();
        all.extend(
            messages.map(|leased| (queue, leased.sequence.0, leased.message.body().to_vec())),
        );
    }
    all.sort();
    Some(all)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use testkit::random::Random;

    use super::*;

    fn corpus() -> Vec<Vec<u8>> {
        let folder: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", "store_recovery"]
                .iter()
                .collect();
        let inputs = std::fs::read_dir(folder).expect("the corpus is committed");
        inputs.map(|input| std::fs::read(input.expect("it").path()).expect("it")).collect()
    }

    #[test]
    fn every_directory_of_the_corpus_opens_twice_to_the_same() {
        let inputs = corpus();
        assert!(!inputs.is_empty());
        inputs.iter().for_each(|input| check_recovery(input));
    }

    #[test]
    fn changed_directories_open_twice_to_the_same() {
        let mut random = Random::new(22);
        for input in corpus() {
            for _ in 0..300 {
                let mut changed = input.clone();
                for _ in 0..=random.index(3) {
                    let at = random.index(changed.len().max(1));
                    match random.below(6) {
                        0 => changed.truncate(at),
                        _ => changed.iter_mut().skip(at).take(1).for_each(|byte| {
                            *byte ^= 1 << random.index(8);
                        }),
                    }
                }
                check_recovery(&changed);
            }
        }
    }
}
