//! The embedded driver: messages and definitions in one segmented log, indexed in memory.
//!
//! A commit encodes its records into a buffer and changes the index in the caller's thread; a writer thread takes the
//! buffer, writes it, syncs once, and moves the watermark. What is not resident is read back by position.
//!
//! | file | concept |
//! |---|---|
//! | `vfs` | every file operation, as a trait |
//! | `record`, `event` | the grammar of the log: one record, and what each kind says |
//! | `segment` | segment files, their headers, how much of each is needed |
//! | `log`, `writer` | the end of the log: the buffer commits go to, and group commit |
//! | `queue`, `entry`, `cold`, `leases`, `claims` | the index: one queue in memory |
//! | `reservation` | what keeps `redelivered` truthful across a crash |
//! | `commit`, `remove`, `lease`, `claim`, `due`, `read`, `load` | the operations |
//! | `timers`, `dedup`, `definitions` | what the pool keeps beside queues |
//! | `sidecar`, `scan`, `replay`, `recovery` | starting |
//! | `keeper`, `compaction` | segments made ahead, and space that comes back |
//! | `damage`, `inspect`, `numbers` | what an operator is told |

mod bytes;
mod claim;
mod claims;
mod cold;
mod commit;
mod compaction;
mod damage;
mod dedup;
mod definitions;
mod due;
mod entry;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod gather;
mod inspect;
mod keeper;
mod lease;
mod leases;
mod load;
mod log;
mod numbers;
mod options;
mod queue;
mod read;
mod record;
mod recovery;
mod remove;
mod replay;
mod reservation;
mod scan;
mod segment;
mod shared;
mod sidecar;
mod timers;
pub mod vfs;
mod writer;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use model::{ClaimId, QueueId, Sequence, Timestamp};

pub use damage::Damage;
pub use inspect::{Inspection, QueueContents, SegmentContents, inspect, inspect_with};
pub use numbers::{SYNC_BOUNDS_SECS, SyncTimes};
pub use options::Options;
pub use recovery::RecoverySummary;
pub use vfs::{DirectoryGuard, OsVfs, Vfs, VfsFile};

use crate::error::{ErrorKind, StoreError};
use crate::pool::{
    Capabilities, Claim, Claimed, Commit, Due, Extended, Lease, LeaseRequest, Pending, Pool,
    QueueKind, QueueStats, ReadRequest, Receipt, Stored,
};
use crate::watch::Watch;
use keeper::Keeper;
use queue::Queue;
use recovery::{Survey, continue_log, read_log};
use shared::{Shared, Table};
use writer::{Progress, Writer};

/// A store in a directory of this machine.
///
/// Dropping it writes and syncs what is left.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    summary: RecoverySummary,
    threads: Vec<JoinHandle<()>>,
    /// For [`Embedded::drive`]; idle where threads do the work.
    by_hand: Mutex<(Writer, Keeper)>,
    _guard: Box<dyn DirectoryGuard>,
}

/// Numbers about a store, for metrics and health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmbeddedStats {
    /// Segments in the log.
    pub segments: u64,
    /// Bytes that they take on disk.
    pub log_bytes: u64,
    /// About how many of these are still needed.
    pub live_bytes: u64,
    /// Bytes of messages kept in memory.
    pub resident_bytes: u64,
    /// Damaged places met since start.
    pub damages: u64,
    /// Dedup ids forgotten before their time, for lack of room.
    pub dedup_evicted: u64,
    /// Commits accepted since start.
    pub commits: u64,
    /// Bytes written to the log since start.
    pub bytes_written: u64,
    /// Syncs since start.
    pub syncs: SyncTimes,
}

fn unavailable(what: &str, error: io::Error) -> StoreError {
    StoreError::caused(ErrorKind::Unavailable, what.to_owned(), error)
}

impl Embedded {
    /// Opens the store in the directory at `path`, made if it is not there. Blocks while the log is read.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] if another process has it open, or the operating system refuses.
    pub fn open(path: &Path, options: Options) -> Result<Self, StoreError> {
        let vfs = OsVfs::new(path).map_err(|error| {
            unavailable(&format!("data directory `{}` cannot be opened", path.display()), error)
        })?;
        Self::open_with(Arc::new(vfs), options)
    }

    /// Opens the store in any [`Vfs`].
    ///
    /// # Errors
    ///
    /// As [`Embedded::open`].
    pub fn open_with(vfs: Arc<dyn Vfs>, options: Options) -> Result<Self, StoreError> {
        let guard = vfs.lock().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => unavailable(
                "the data directory is in use by another process; stop it first, or give this one its own",
                error,
            ),
            _ => unavailable("the data directory cannot be locked", error),
        })?;
        let failed = |error| unavailable("the log cannot be opened", error);
        let survey = Survey::of(vfs.as_ref()).map_err(failed)?;
        let reading = read_log(vfs.as_ref(), &survey, &options).map_err(failed)?;
        let (log, mut replay, summary) =
            continue_log(vfs.as_ref(), &survey, reading, &options).map_err(failed)?;
        let timers = replay.finish();
        let mut table = Table::default();
        let mut resident = 0_usize;
        for (id, state) in replay.queues.drain() {
            resident += state.resident;
            table.insert(id, Arc::new(Queue::new(id, state)));
        }
        debug_assert_eq!(resident, 0, "recovery loads no message");
        let shared =
            Arc::new(Shared::new(vfs, options, log, table, replay.dedup, replay.definitions));
        shared.damages.report_all(replay.damages);
        for timer in timers {
            shared.timers.insert(timer);
        }
        for queue in shared.all_queues() {
            let mut state = queue.lock(&shared.resident);
            shared.watch_head(queue.id, &mut state);
        }
        let RecoverySummary { segments, from_sidecars, rewritten_bytes, damages } = summary;
        tracing::info!(segments, from_sidecars, rewritten_bytes, damages, "the log is open");
        let threads = if shared.options.background { start_threads(&shared)? } else { Vec::new() };
        Ok(Self { shared, summary, threads, by_hand: Mutex::default(), _guard: guard })
    }

    /// What recovery found.
    #[must_use]
    pub fn recovery(&self) -> RecoverySummary {
        self.summary
    }

    /// Damaged places met since start, the first thousand.
    #[must_use]
    pub fn damages(&self) -> Vec<Damage> {
        self.shared.damages.kept()
    }

    /// Numbers about the store.
    #[must_use]
    pub fn embedded_stats(&self) -> EmbeddedStats {
        let segments = self.shared.log.segments.all();
        let resident = self.shared.resident.load(std::sync::atomic::Ordering::Relaxed);
        EmbeddedStats {
            segments: segments.len() as u64,
            log_bytes: segments.iter().map(|segment| u64::from(segment.capacity)).sum(),
            live_bytes: segments.iter().map(|segment| segment.live_bytes()).sum(),
            resident_bytes: u64::try_from(resident).unwrap_or(0),
            damages: self.shared.damages.count(),
            dedup_evicted: self.shared.dedup().evicted(),
            commits: self.shared.numbers.commits(),
            bytes_written: self.shared.numbers.bytes_written(),
            syncs: self.shared.numbers.syncs(),
        }
    }

    /// Does by hand what threads do otherwise: writes and syncs what waits, then tidies up, until nothing is left to do.
    /// Only where [`Options::background`] is off.
    pub fn drive(&self) {
        let mut by_hand = self.by_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let (writer, keeper) = &mut *by_hand;
        loop {
            let mut progress = false;
            while writer.cycle(&self.shared) == Progress::Wrote {
                progress = true;
            }
            progress |= keeper.cycle(&self.shared);
            if !progress || self.shared.watch.failed() {
                return;
            }
        }
    }

    /// Tidies up one step, and nothing else. Only where [`Options::background`] is off.
    pub fn drive_keeper(&self) {
        let mut by_hand = self.by_hand.lock().unwrap_or_else(PoisonError::into_inner);
        by_hand.1.cycle(&self.shared);
    }

    /// Writes and syncs what waits, and nothing else. Only where [`Options::background`] is off.
    pub fn drive_writer(&self) {
        let mut by_hand = self.by_hand.lock().unwrap_or_else(PoisonError::into_inner);
        while by_hand.0.cycle(&self.shared) == Progress::Wrote {}
    }
}

fn start_threads(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, StoreError> {
    let failed = |error| unavailable("a thread of the store cannot be started", error);
    let (for_writer, for_keeper) = (Arc::clone(shared), Arc::clone(shared));
    let writer = std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || Writer::default().run(&for_writer))
        .map_err(failed)?;
    let keeper = std::thread::Builder::new()
        .name("store-keeper".to_owned())
        .spawn(move || Keeper::default().run(&for_keeper))
        .map_err(failed)?;
    shared.keeper.ring();
    Ok(vec![writer, keeper])
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.log.state().stop = true;
        self.shared.log.work.notify_all();
        self.shared.keeper.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store has panicked");
            }
        }
    }
}

impl Pool for Embedded {
    fn capabilities(&self) -> Capabilities {
        Capabilities { durable: true, atomic_across_queues: true, ordered: true, delayed: true }
    }

    fn commit(&self, commit: Commit) -> Pending<Receipt> {
        self.shared.commit(commit)
    }

    fn lease(&self, request: LeaseRequest) -> Pending<Lease> {
        Pending::ready(self.shared.lease(request))
    }

    fn extend(&self, queue: QueueId, claim: Claim, now: Timestamp) -> Pending<Extended> {
        Pending::ready(self.shared.extend(queue, claim, now))
    }

    fn claimed(&self, queue: QueueId, claim: ClaimId) -> Pending<Option<Claimed>> {
        Pending::ready(self.shared.claimed(queue, claim))
    }

    fn newest(&self, queue: QueueId) -> Pending<Option<Stored>> {
        Pending::ready(self.shared.newest(queue))
    }

    fn due(&self, now: Timestamp, messages_max: usize) -> Pending<Due> {
        Pending::ready(self.shared.due(now, messages_max))
    }

    fn read(&self, request: ReadRequest) -> Pending<Vec<Stored>> {
        Pending::ready(self.shared.read(&request))
    }

    fn sequence_at(&self, queue: QueueId, since: Timestamp) -> Pending<Sequence> {
        Pending::ready(self.shared.sequence_at(queue, since))
    }

    fn stats(&self, queue: QueueId) -> Pending<QueueStats> {
        Pending::ready(self.shared.stats(queue))
    }

    fn queues(&self) -> Pending<Vec<(QueueId, QueueKind)>> {
        Pending::ready(Ok(self.shared.queue_kinds()))
    }

    fn watch(&self) -> &Watch {
        &self.shared.watch
    }
}
