//! Group commit: takes the whole buffer, writes it, syncs once, moves the watermark; what is committed meanwhile is the
//! next group, which waits a moment for more where that pays ([`Gather`]). Sleeps while there is nothing to write, without
//! a timer but for the mark that follows the last group.
//!
//! Watch out for errors here: a failed write for lack of space is tried again, because nothing was concluded from it; any
//! other failure, and every failed sync, ends the log for good (a second sync would succeed without the data).

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use model::{QueueId, Ticket};

use super::gather::Gather;
use super::log::{Buffer, GATHERED_BYTES_MAX, LogState};
use super::segment::{Position, Segment, log_name};
use super::shared::Shared;
use super::vfs::{VfsFile, write_all_at};

/// How long to wait before trying again to write to a full disk.
const RETRY_FULL: Duration = Duration::from_millis(100);

/// How long the log is quiet before its mark is written: a publisher that waits for each confirm does not pay for it.
const MARK_AFTER: Duration = Duration::from_millis(10);

/// A buffer larger than this is not kept for the next group.
const SPARE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What the writer carries from one group to the next.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// Taken, not yet written.
    group: Option<Group>,
    /// Written to, not yet synced.
    unsynced: Option<Arc<Segment>>,
    gather: Gather,
}

#[derive(Debug)]
struct Group {
    buffer: Arc<Buffer>,
    end: Position,
    ticket: Ticket,
    /// Commits that wait for the sync; there is none if nobody does.
    unsynced: u32,
    hints: Vec<QueueId>,
}

/// What came of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A group was written.
    Wrote,
    /// There is nothing to write.
    Idle,
    /// The disk is full.
    Full,
    /// The log has failed for good.
    Failed,
}

/// Whether a mark is written if nothing else is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Now,
    Later,
}

/// Why the writer no longer sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Work,
    /// Nothing came for [`MARK_AFTER`], and a mark is due.
    Quiet,
    Stop,
}

impl Writer {
    /// Writes groups until told to stop, then what is left.
    pub(crate) fn run(mut self, shared: &Shared) {
        loop {
            self.gather(shared);
            match self.next_group(shared, Mark::Later) {
                Progress::Wrote => {}
                Progress::Failed => return,
                Progress::Full => {
                    let state = shared.log.state();
                    if state.stop {
                        return;
                    }
                    drop(shared.log.work.wait_timeout(state, RETRY_FULL));
                }
                Progress::Idle => match wait_for_work(shared) {
                    Woken::Work => {}
                    Woken::Quiet => drop(self.next_group(shared, Mark::Now)),
                    Woken::Stop => {
                        self.next_group(shared, Mark::Now);
                        return;
                    }
                },
            }
        }
    }

    /// Waits for commits that are about to come, if that is worth it.
    fn gather(&mut self, shared: &Shared) {
        let mut state = shared.log.state();
        if self.group.is_some() || state.active.bytes.len() > GATHERED_BYTES_MAX {
            return;
        }
        let Some(wait) = self.gather.wait(state.unsynced) else { return };
        let end = Instant::now() + wait.at_most;
        state.gathering = wait.commits;
        while state.gathering > 0 && !state.stop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let woken = shared.log.work.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        let complete = std::mem::take(&mut state.gathering) == 0;
        self.gather.waited(complete);
    }

    /// Takes a group, or the mark behind the last one, and brings it to disk.
    pub(crate) fn cycle(&mut self, shared: &Shared) -> Progress {
        self.next_group(shared, Mark::Now)
    }

    fn next_group(&mut self, shared: &Shared, mark: Mark) -> Progress {
        if self.group.is_none() {
            self.group = take_group(&mut shared.log.state(), mark);
        }
        let Some(group) = self.group.take() else { return Progress::Idle };
        if shared.watch.failed() {
            return Progress::Failed;
        }
        let start = Instant::now();
        match self.write(shared, &group) {
            Ok(()) => {
                self.conclude(shared, group, start.elapsed());
                Progress::Wrote
            }
            Err(Failure::Write(error)) if error.kind() == io::ErrorKind::StorageFull => {
                shared.set_full(true, &error);
                self.group = Some(group);
                Progress::Full
            }
            Err(Failure::Write(error) | Failure::Sync(error)) => {
                shared.fail(&error);
                Progress::Failed
            }
        }
    }

    fn write(&mut self, shared: &Shared, group: &Group) -> Result<(), Failure> {
        for (extent, bytes) in group.buffer.filled_parts() {
            if let Some(before) = &self.unsynced
                && before.id != extent.segment.id
            {
                // A header tells that everything before its segment is durable.
                sync(shared, before)?;
                self.unsynced = None;
            }
            let file = open(shared, &extent.segment)?;
            let written = write_all_at(file.as_ref(), u64::from(extent.offset), bytes);
            written.map_err(Failure::Write)?;
            self.unsynced = Some(Arc::clone(&extent.segment));
        }
        shared.numbers.wrote(group.buffer.len());
        if group.unsynced > 0
            && let Some(segment) = self.unsynced.take()
        {
            sync(shared, &segment)?;
        }
        Ok(())
    }

    fn conclude(&mut self, shared: &Shared, group: Group, time: Duration) {
        let Group { buffer, end, ticket, unsynced, hints } = group;
        let wants_sync = unsynced > 0;
        let mut state = shared.log.state();
        state.flushing = None;
        if let Some(mut buffer) = Arc::into_inner(buffer)
            && buffer.bytes.capacity() <= SPARE_BYTES_MAX
        {
            buffer.clear();
            state.spare = buffer;
        }
        if wants_sync {
            state.synced = end;
            self.gather.synced(unsynced, time, state.unsynced);
        }
        let waiters = std::mem::take(&mut state.waiters);
        let rolled = !state.sealed.is_empty();
        drop(state);
        if rolled {
            shared.keeper.ring();
        }
        if wants_sync {
            shared.watch.advance(ticket);
        }
        for queue in hints {
            shared.watch.hint_ready(queue);
        }
        for waiter in waiters {
            waiter.wake();
        }
    }
}

/// Sleeps until there is something to write; a little only, if a mark is due then.
fn wait_for_work(shared: &Shared) -> Woken {
    let mut state = shared.log.state();
    while state.active.extents.is_empty() {
        if state.stop {
            return Woken::Stop;
        }
        state.writer_sleeps = true;
        if !state.is_mark_due() {
            let woken = shared.log.work.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let woken = shared.log.work.wait_timeout(state, MARK_AFTER);
        let (woken, timeout) = woken.unwrap_or_else(PoisonError::into_inner);
        state = woken;
        if timeout.timed_out() && state.active.extents.is_empty() {
            state.writer_sleeps = false;
            return Woken::Quiet;
        }
    }
    Woken::Work
}

fn take_group(state: &mut LogState, mark: Mark) -> Option<Group> {
    if state.active.extents.is_empty() && mark == Mark::Now {
        // What is known to be durable is worth knowing after a crash, too; nobody waits for this.
        state.mark_if_needed();
    }
    if state.active.extents.is_empty() {
        return None;
    }
    let spare = std::mem::take(&mut state.spare);
    let mut buffer = std::mem::replace(&mut state.active, spare);
    buffer.fill_block();
    let buffer = Arc::new(buffer);
    state.flushing = Some(Arc::clone(&buffer));
    Some(Group {
        buffer,
        end: state.end(),
        ticket: Ticket(state.ticket),
        unsynced: std::mem::take(&mut state.unsynced),
        hints: std::mem::take(&mut state.hints),
    })
}

#[derive(Debug)]
enum Failure {
    Write(io::Error),
    Sync(io::Error),
}

fn sync(shared: &Shared, segment: &Segment) -> Result<(), Failure> {
    match segment.file.get() {
        Some(file) => shared.numbers.time(|| file.sync_data()).map_err(Failure::Sync),
        None => Ok(()),
    }
}

/// The segment's file, made now if nobody prepared it.
fn open(shared: &Shared, segment: &Segment) -> Result<Arc<dyn VfsFile>, Failure> {
    if let Some(file) = segment.file.get() {
        return Ok(Arc::clone(file));
    }
    let name = log_name(segment.id);
    let file = shared.vfs.create(&name).map_err(Failure::Write)?;
    file.allocate(u64::from(segment.capacity)).map_err(Failure::Write)?;
    file.sync_data().map_err(Failure::Sync)?;
    shared.vfs.sync_dir().map_err(Failure::Sync)?;
    Ok(Arc::clone(segment.file.get_or_init(|| file)))
}
