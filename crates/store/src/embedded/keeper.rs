//! Work that nobody waits for: segments made ahead, sidecars of closed ones, and space that comes back.

use std::io;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use model::Ticket;

use super::compaction::Moving;
use super::log::{Prepared, Sealed};
use super::recovery::write_sidecar;
use super::segment::{Segment, index_name, log_name};
use super::shared::Shared;
use super::vfs::{VfsFile, write_zeros};

/// How often a full disk is tried again.
const RETRY_FULL: Duration = Duration::from_millis(200);

/// Segments that are filled in less are not written with zeros beforehand: zeros would take half of what the disk can write.
/// Where there is time for zeros and records, it pays: blocks that were written once are synced twice as fast.
const HURRY: Duration = Duration::from_millis(250);

/// Zeros that are brought to disk at once. Each of the log's syncs may have to wait for one such piece.
const PIECE_BYTES: u64 = 128 * 1024;

/// Name of a segment that is being made.
const PREPARING: &str = "next.tmp";

/// What the keeper carries from one round to the next.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    /// A segment whose messages are being moved.
    pub(crate) moving: Option<Moving>,
    /// A segment that may go once what was carried over is durable.
    pub(crate) dropping: Option<(u32, Ticket)>,
    /// The oldest segment could move or go as soon as it is synced.
    pub(crate) syncing: Option<Ticket>,
    /// When a segment was closed last.
    sealed_at: Option<Instant>,
    /// Segments are filled fast.
    hurry: bool,
    /// Files of overtaken segments, to be used again: id and capacity.
    recycled: Vec<(u32, u32, Arc<dyn VfsFile>)>,
}

/// Rings the keeper when the watermark moves.
struct BellWaker(Arc<Shared>);

impl Wake for BellWaker {
    fn wake(self: Arc<Self>) {
        self.0.keeper.ring();
    }
}

impl Keeper {
    /// Works whenever the bell rings, until told to stop.
    pub(crate) fn run(mut self, shared: &Arc<Shared>) {
        let waker = Waker::from(Arc::new(BellWaker(Arc::clone(shared))));
        loop {
            while self.cycle(shared) {
                if shared.keeper.state().stop {
                    return;
                }
            }
            if let Some(ticket) = self.awaited() {
                // Ready already? Then the round above was one too early, and the next is not.
                if shared.watch.poll_durable(&Context::from_waker(&waker), ticket).is_ready() {
                    shared.keeper.ring();
                }
            }
            let mut state = shared.keeper.state();
            while !state.wanted && !state.stop {
                let rung = &shared.keeper.rung;
                if shared.watch.full() {
                    let woken = rung.wait_timeout(state, RETRY_FULL);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                    break;
                }
                state = rung.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop || shared.watch.failed() {
                return;
            }
            state.wanted = false;
        }
    }

    fn awaited(&self) -> Option<Ticket> {
        let moving = self.moving.as_ref().and_then(Moving::awaited);
        moving.or(self.dropping.map(|dropping| dropping.1)).or(self.syncing)
    }

    /// Does one piece of work; false if there is none now.
    pub(crate) fn cycle(&mut self, shared: &Shared) -> bool {
        if shared.watch.failed() {
            return false;
        }
        let sealed = std::mem::take(&mut shared.log.state().sealed);
        if !sealed.is_empty() && shared.options.background {
            let now = Instant::now();
            let last = self.sealed_at.replace(now);
            // Several, if they were filled while one was made.
            let filled = u32::try_from(sealed.len()).unwrap_or(u32::MAX);
            self.hurry = last.is_some_and(|last| now.duration_since(last) < HURRY * filled);
        }
        for Sealed { segment, sidecar } in sealed {
            let Some(end) = segment.end() else { continue };
            let sidecar = sidecar.finish(segment.id, end, segment.salt);
            if let Err(error) = write_sidecar(shared.vfs.as_ref(), segment.id, &sidecar) {
                tracing::warn!(segment = segment.id, %error, "a sidecar could not be written; it will be missed at the next start");
            }
        }
        // First, because a segment that goes is the best one to go on in.
        if self.compact(shared) {
            return true;
        }
        match self.prepare(shared) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                shared.set_full(true, &error);
            }
            Err(error) => tracing::warn!(%error, "a segment could not be made ahead"),
        }
        false
    }

    /// Sees to it that there are as many segments in reserve as there should be. True if one was added.
    fn prepare(&mut self, shared: &Shared) -> io::Result<bool> {
        let overtaken = std::mem::take(&mut shared.log.state().overtaken);
        for Prepared { segment } in overtaken {
            if let Some(file) = segment.file.get() {
                self.recycled.push((segment.id, segment.capacity, Arc::clone(file)));
            }
        }
        let (missing, last_capacity) = {
            let state = shared.log.state();
            let have = state.prepared.len();
            let last = state.prepared.back().map_or(&state.segment, |prepared| &prepared.segment);
            let missing = shared.options.reserve_segments.saturating_sub(have);
            (missing, last.capacity)
        };
        if missing == 0 {
            self.discard_recycled(shared)?;
            if shared.watch.full() {
                tracing::info!("there is space for the log again");
                shared.watch.set_full(false);
            }
            return Ok(false);
        }
        let capacity = shared.options.next_capacity(last_capacity);
        let (from, capacity, file) = match self.take_recycled(capacity) {
            Some((id, capacity, file)) => (log_name(id), capacity, file),
            None => (PREPARING.to_owned(), capacity, make_file(shared, capacity, self.hurry)?),
        };
        name_segment(shared, from, capacity, &file)?;
        Ok(true)
    }

    fn take_recycled(&mut self, capacity: u32) -> Option<(u32, u32, Arc<dyn VfsFile>)> {
        let index = self.recycled.iter().position(|it| it.1 >= capacity)?;
        Some(self.recycled.swap_remove(index))
    }

    fn discard_recycled(&mut self, shared: &Shared) -> io::Result<()> {
        while let Some((id, ..)) = self.recycled.pop() {
            shared.vfs.remove(&log_name(id))?;
        }
        Ok(())
    }

    /// Removes a segment from the log, durably: nothing in it is needed any more.
    pub(crate) fn remove(shared: &Shared, segment: &Segment) -> io::Result<()> {
        shared.log.segments.remove(segment.id);
        let sidecar = shared.vfs.remove(&index_name(segment.id));
        sidecar.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        let reserve = shared.options.reserve_segments;
        let wanted = shared.log.state().prepared.len() < reserve;
        match segment.file.get() {
            // Blocks that were written once are synced faster than new ones.
            Some(file) if wanted && segment.capacity == shared.options.segment_bytes => {
                name_segment(shared, log_name(segment.id), segment.capacity, file)
            }
            _ => {
                shared.vfs.remove(&log_name(segment.id))?;
                shared.vfs.sync_dir()
            }
        }
    }
}

fn make_file(shared: &Shared, capacity: u32, hurry: bool) -> io::Result<Arc<dyn VfsFile>> {
    let file = shared.vfs.create(PREPARING)?;
    let made = file.allocate(u64::from(capacity)).and_then(|()| {
        if !hurry {
            // A log that is filled fast is written in large groups, which gain nothing from it.
            write_zeros_gently(file.as_ref(), u64::from(capacity), shared)?;
        }
        file.sync_data()
    });
    if let Err(error) = made {
        shared.vfs.remove(PREPARING)?;
        return Err(error);
    }
    Ok(file)
}

/// Fills a file piece by piece, each brought to disk on its own, with as much rest as work: all at once they would keep the
/// disk from the log's syncs for as long as they take, tens of milliseconds for 64 MiB.
///
/// Ends early when the pool closes, or when the log has nothing left to go on in: what is left is zero for whoever reads it,
/// only slower to be written the first time.
fn write_zeros_gently(file: &dyn VfsFile, capacity: u64, shared: &Shared) -> io::Result<()> {
    let mut from = 0;
    while from < capacity && !shared.keeper.state().stop && !is_waited_for(shared) {
        let start = Instant::now();
        let to = capacity.min(from + PIECE_BYTES);
        write_zeros(file, from, to)?;
        file.sync_data()?;
        from = to;
        if shared.options.background {
            std::thread::sleep(start.elapsed());
        }
    }
    Ok(())
}

/// The log has used up what was in reserve while more was being made.
fn is_waited_for(shared: &Shared) -> bool {
    let state = shared.log.state();
    state.prepared.is_empty() && !state.sealed.is_empty()
}

/// Gives a file the name of a segment to come, durably, and puts it in reserve.
fn name_segment(
    shared: &Shared,
    mut from: String,
    capacity: u32,
    file: &Arc<dyn VfsFile>,
) -> io::Result<()> {
    loop {
        let (id, salt) = {
            let mut state = shared.log.state();
            let id = state.next_id;
            state.next_id += 1;
            (id, state.salt_of(id))
        };
        let name = log_name(id);
        shared.vfs.rename(&from, &name)?;
        shared.vfs.sync_dir()?;
        let segment = Arc::new(Segment::new(id, salt, capacity));
        segment.file.get_or_init(|| Arc::clone(file));
        let mut state = shared.log.state();
        if state.segment.id < id {
            state.prepared.push_back(Prepared { segment });
            return Ok(());
        }
        // The log went on without it, to a later number.
        from = name;
    }
}
