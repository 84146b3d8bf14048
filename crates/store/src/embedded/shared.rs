//! What commits, the writer and the keeper share.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use foldhash::fast::RandomState;
use model::QueueId;

use super::damage::Damages;
use super::dedup::Dedup;
use super::definitions::Definitions;
use super::log::Log;
use super::numbers::Numbers;
use super::options::Options;
use super::queue::{Locked, Queue};
use super::timers::{Reason, Timer, Timers};
use super::vfs::Vfs;
use crate::error::{ErrorKind, StoreError};
use crate::watch::Watch;

/// Queues by id.
pub(crate) type Table = HashMap<QueueId, Arc<Queue>, RandomState>;

/// One open store.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) options: Options,
    pub(crate) watch: Watch,
    pub(crate) log: Log,
    pub(crate) table: RwLock<Table>,
    /// Bytes of messages kept in memory, in all queues.
    pub(crate) resident: AtomicI64,
    pub(crate) timers: Timers,
    pub(crate) dedup: Mutex<Dedup>,
    definitions: Mutex<Definitions>,
    pub(crate) damages: Damages,
    pub(crate) keeper: KeeperBell,
    pub(crate) numbers: Numbers,
}

/// Wakes the keeper.
#[derive(Debug, Default)]
pub(crate) struct KeeperBell {
    pub(crate) state: Mutex<KeeperState>,
    pub(crate) rung: Condvar,
}

/// What the keeper was told.
#[derive(Debug, Default)]
pub(crate) struct KeeperState {
    pub(crate) wanted: bool,
    pub(crate) stop: bool,
}

impl KeeperBell {
    pub(crate) fn state(&self) -> MutexGuard<'_, KeeperState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ring(&self) {
        let mut state = self.state();
        if !state.wanted {
            state.wanted = true;
            self.rung.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.state().stop = true;
        self.rung.notify_one();
    }
}

impl Shared {
    pub(crate) fn new(
        vfs: Arc<dyn Vfs>,
        options: Options,
        log: Log,
        table: Table,
        dedup: Dedup,
        definitions: Definitions,
    ) -> Self {
        let damages = Damages::new(Arc::clone(&vfs));
        Self {
            vfs,
            options,
            watch: Watch::default(),
            log,
            table: RwLock::new(table),
            resident: AtomicI64::new(0),
            timers: Timers::default(),
            dedup: Mutex::new(dedup),
            definitions: Mutex::new(definitions),
            damages,
            keeper: KeeperBell::default(),
            numbers: Numbers::default(),
        }
    }

    pub(crate) fn definitions(&self) -> MutexGuard<'_, Definitions> {
        self.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn dedup(&self) -> MutexGuard<'_, Dedup> {
        self.dedup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn queue(&self, id: QueueId) -> Option<Arc<Queue>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All queues, by id.
    pub(crate) fn all_queues(&self) -> Vec<Arc<Queue>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut queues: Vec<_> = table.values().cloned().collect();
        queues.sort_unstable_by_key(|queue| queue.id);
        queues
    }

    pub(crate) fn check_alive(&self) -> Result<(), StoreError> {
        if self.watch.failed() {
            return Err(StoreError::new(
                ErrorKind::Poisoned,
                "the log has failed and the server must be restarted",
            ));
        }
        Ok(())
    }

    pub(crate) fn pool_has_room(&self, persistent: bool) -> bool {
        let limit = if persistent {
            self.options.resident_persistent_bytes
        } else {
            self.options.resident_transient_bytes
        };
        let used = u64::try_from(self.resident.load(Ordering::Relaxed)).unwrap_or(0);
        used < limit
    }

    /// Sees to it that the head of a queue is looked at when it expires.
    pub(crate) fn watch_head(&self, queue: QueueId, state: &mut Locked<'_>) {
        let expires = state.head_expires();
        if expires < state.head_timer {
            state.head_timer = expires;
            let timer = Timer { at: expires, queue, reason: Reason::Head, sequence: 0 };
            // The broker knows when a message that it enqueues expires, but not when one becomes the head.
            if self.timers.insert(timer) {
                self.watch.hint_due();
            }
        }
    }

    /// The log is lost: nothing will be durable any more.
    pub(crate) fn fail(&self, error: &io::Error) {
        tracing::error!(error = error as &dyn std::error::Error, "the log has failed");
        let waiters = {
            let mut state = self.log.state();
            state.failed = true;
            std::mem::take(&mut state.waiters)
        };
        self.watch.fail();
        for waiter in waiters {
            waiter.wake();
        }
    }

    /// Notes that there is no space left, or some again.
    pub(crate) fn set_full(&self, full: bool, error: &io::Error) {
        let was_full = self.watch.set_full(full);
        if full && !was_full {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "no space for the log; enqueues are refused until there is"
            );
            // Now that it can be seen: only while the disk is full does the keeper look again by itself.
            self.keeper.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::embedded::Embedded;

    /// Or the keeper finds nothing to do, sleeps, and nobody tells it that there is space again.
    #[test]
    fn the_keeper_is_rung_only_when_it_can_see_that_the_disk_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { background: false, ..Options::default() };
        let store = Embedded::open(folder.path(), options).unwrap();
        let shared = &store.shared;
        let awake = shared.keeper.state();

        std::thread::scope(|scope| {
            scope.spawn(|| shared.set_full(true, &io::ErrorKind::StorageFull.into()));
            let until = Instant::now() + Duration::from_secs(10);
            while !shared.watch.full() && Instant::now() < until {
                std::thread::yield_now();
            }
            let seen = shared.watch.full();
            drop(awake);
            assert!(seen, "it is told first, and looks before there is something to see");
        });
        assert!(shared.keeper.state().wanted);
    }
}
