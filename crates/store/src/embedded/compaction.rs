//! Space comes back at the front of the log only.
//!
//! A segment goes when none of its messages is needed any more. When the log is more than twice as large as what is
//! needed of it, the needed messages of the oldest segment are written again at the end, so one message that nobody
//! takes cannot hold a history.
//!
//! Why settles may go with their segment: a settle lies behind the enqueue that it is about, and behind every copy of it,
//! because only messages that are not settled are copied, under the lock of their queue. So what lies behind a dropped
//! front never misses a settle that was in it. What else the front alone tells (queues, definitions, the dedup window) is
//! written again first, and the front goes when that is durable. Segments go one after the other, each durably before the
//! next: if an older one could come back after a crash, a message settled in a newer one that is gone would come back
//! with it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use model::{Message, QueueId, Ticket};

use super::damage::Damage;
use super::event::{ClaimEvent, EnqueueMeta, Event, Placed, Runs, enqueue_bound};
use super::keeper::Keeper;
use super::load::{Addresses, message_of};
use super::queue::Locked;
use super::record::{Kind, Record};
use super::scan::{Found, Window, scan};
use super::segment::{DATA_START, Position, Segment};
use super::shared::Shared;
use super::vfs::read_up_to;

/// Copied between two waits for the disk.
const STEP_BYTES: usize = 1024 * 1024;

/// A segment whose messages are being copied to the end.
#[derive(Debug)]
pub(crate) struct Moving {
    segment: Arc<Segment>,
    file: Vec<u8>,
    /// Messages and where they lie, as far as not yet done.
    rest: VecDeque<u32>,
    awaited: Ticket,
}

impl Moving {
    pub(crate) fn awaited(&self) -> Option<Ticket> {
        (self.awaited != Ticket::NONE).then_some(self.awaited)
    }
}

/// Sum over the log.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    bytes: u64,
    live_bytes: u64,
}

impl Keeper {
    /// Does one step towards a shorter log; false if there is none to do now.
    pub(crate) fn compact(&mut self, shared: &Shared) -> bool {
        if self.syncing.is_some_and(|ticket| shared.watch.durable() < ticket) {
            return false;
        }
        self.syncing = None;
        let done = match (self.dropping, self.moving.take()) {
            (Some((id, ticket)), _) => self.drop_when_durable(shared, id, ticket),
            (None, Some(moving)) => self.move_on(shared, moving),
            (None, None) => self.look(shared),
        };
        done.unwrap_or_else(|error| {
            tracing::warn!(%error, "the log could not be made shorter");
            false
        })
    }

    /// Decides what to do about the oldest segment.
    fn look(&mut self, shared: &Shared) -> io::Result<bool> {
        let segments = shared.log.segments.all();
        let Some(front) = segments.first() else { return Ok(false) };
        if front.end().is_none() || !(front.live() == 0 || is_large(shared, &segments)) {
            return Ok(false);
        }
        let synced = shared.log.state().synced;
        if front.id >= synced.segment {
            // What is in it and behind it may be transient: then nobody else would have the log synced.
            self.syncing = Some(shared.log.sync_soon());
            return Ok(true);
        }
        if front.live() == 0 {
            return Ok(self.carry(shared, front.id));
        }
        self.moving = Some(start_moving(front)?);
        Ok(true)
    }

    fn move_on(&mut self, shared: &Shared, mut moving: Moving) -> io::Result<bool> {
        if shared.watch.durable() < moving.awaited {
            self.moving = Some(moving);
            return Ok(false);
        }
        let mut copied = 0;
        let mut addresses = Addresses::default();
        while copied < STEP_BYTES
            && let Some(offset) = moving.rest.pop_front()
        {
            copied += shared.move_record(&moving.segment, &moving.file, offset, &mut addresses);
        }
        if copied > 0 {
            moving.awaited = shared.log.sync_soon();
        }
        if !moving.rest.is_empty() {
            self.moving = Some(moving);
            return Ok(true);
        }
        if moving.segment.live() > 0 {
            shared.forget_damaged(moving.segment.id);
        }
        Ok(true)
    }

    /// Writes anew what only segments up to `id` tell. True if there is something to do at once.
    fn carry(&mut self, shared: &Shared, id: u32) -> bool {
        shared.carry_queues(id);
        shared.carry_definitions(id);
        shared.carry_dedup(id);
        self.dropping = Some((id, shared.log.sync_soon()));
        true
    }

    fn drop_when_durable(&mut self, shared: &Shared, id: u32, ticket: Ticket) -> io::Result<bool> {
        if shared.watch.durable() < ticket {
            return Ok(false);
        }
        self.dropping = None;
        if let Some(segment) = shared.log.segments.get(id) {
            Self::remove(shared, &segment)?;
        }
        Ok(true)
    }
}

/// Whether the log is so much larger than what is needed of it that the needed part is worth moving.
fn is_large(shared: &Shared, segments: &[Arc<Segment>]) -> bool {
    let size = segments.iter().fold(Size::default(), |size, segment| Size {
        bytes: size.bytes + u64::from(segment.capacity),
        live_bytes: size.live_bytes + segment.live_bytes(),
    });
    let spare = 2 * u64::from(shared.options.segment_bytes);
    size.bytes > 2 * size.live_bytes + spare
}

fn start_moving(segment: &Arc<Segment>) -> io::Result<Moving> {
    let end = segment.end().unwrap_or(DATA_START);
    let mut bytes = vec![0; end as usize];
    if let Some(file) = segment.file.get() {
        let filled = read_up_to(file.as_ref(), 0, &mut bytes)?;
        bytes.truncate(filled);
    }
    let mut rest = VecDeque::new();
    scan(&mut Window::new(bytes.as_slice()), segment, DATA_START, end, |found| {
        if let Found::Record { offset, record, .. } = found
            && matches!(record.head.kind, Kind::Enqueue | Kind::Spill)
        {
            rest.push_back(offset);
        }
    })?;
    Ok(Moving { segment: Arc::clone(segment), file: bytes, rest, awaited: Ticket::NONE })
}

impl Shared {
    /// Copies the targets of one record that are still needed; returns how many bytes were written.
    fn move_record(
        &self,
        segment: &Segment,
        file: &[u8],
        offset: u32,
        addresses: &mut Addresses,
    ) -> usize {
        let bytes = file.get(offset as usize..).unwrap_or_default();
        let Ok(record) = super::record::decode(bytes, segment.seed, offset) else { return 0 };
        let Some(meta) = EnqueueMeta::decode(record.meta) else { return 0 };
        let position = Position { segment: segment.id, offset };
        let mut message = None;
        let mut copied = 0;
        for placed in meta.targets() {
            let Some(queue) = self.queue(placed.queue) else { continue };
            let mut state = queue.lock(&self.resident);
            if state.deleted || !lies_at(&mut state, placed.sequence, position) {
                continue;
            }
            if message.is_none() {
                message = message_of(&record, addresses).ok();
            }
            let Some((message, enqueued)) = &message else { break };
            copied += self.move_target(&mut state, &placed, &record, message, *enqueued);
        }
        copied
    }

    fn move_target(
        &self,
        state: &mut Locked<'_>,
        placed: &Placed,
        record: &Record<'_>,
        message: &Message,
        enqueued: u64,
    ) -> usize {
        let mut placed = *placed;
        placed.not_before = 0;
        let delayed = state.delayed.get(&placed.sequence).map(|entry| entry.until);
        if let Some(entry) = state.find_mut(placed.sequence) {
            placed.delivery_count = entry.delivery_count;
            placed.expires = entry.expires;
            placed.not_before = delayed.unwrap_or(0);
        }
        let claim = claim_on(state, placed.queue, placed.sequence);
        let bytes = enqueue_bound(message, 1) + CLAIM_BYTES + message.payload().len();
        let mut log = self.log.begin(bytes);
        let checksum = record.head.body_checksum;
        let to = log.enqueue(message, checksum, enqueued, None, &[placed]);
        if let Some(claim) = claim.filter(|_| placed.durable) {
            log.event(&Event::Claim(claim));
        }
        log.finish();
        let from = set_position(state, placed.sequence, to);
        self.log.segments.settle(from, 1);
        bytes
    }

    /// Gives up what still refers to a segment although no whole record of it is there.
    fn forget_damaged(&self, segment: u32) {
        for queue in self.all_queues() {
            let mut state = queue.lock(&self.resident);
            for sequence in sequences_in(&state, segment) {
                let mut lost = false;
                if let Some(cold) = take_cold(&mut state, sequence) {
                    state.ready -= 1;
                    state.ready_bytes -= u64::from(cold);
                    lost = true;
                } else if let Some(entry) = state.find_mut(sequence) {
                    // Kept as long as it is held or resident, but not found in the log any more.
                    entry.position = Position::NONE;
                    lost = true;
                }
                if lost {
                    self.log.segments.settle(segment, 1);
                    let what = format!("message {sequence} of queue {}", queue.id.0);
                    self.damages.report(Damage { segment, offset: 0, bytes: 0, what });
                }
            }
        }
    }

    fn carry_queues(&self, up_to_segment: u32) {
        for queue in self.all_queues() {
            let mut state = queue.lock(&self.resident);
            if state.deleted || !state.kind.durable || state.state_segment > up_to_segment {
                continue;
            }
            let mut log = self.log.begin(256);
            let event = Event::Queue {
                queue: queue.id,
                kind: state.kind,
                next: state.next,
                reserved: state.reservation.top(),
            };
            log.event(&event);
            state.state_segment = log.event(&event).segment;
            log.finish();
        }
    }

    fn carry_dedup(&self, up_to_segment: u32) {
        let mut dedup = self.dedup();
        if !dedup.must_carry(up_to_segment) {
            return;
        }
        // 24 bytes an id; all of them in one commit are at most as many as the window holds.
        let bound = 128 + 24 * self.options.dedup_ids_max.min(dedup.len());
        let mut log = self.log.begin(bound);
        let ids = dedup.carry(up_to_segment, log.segment());
        log.event(&Event::Dedup { ids });
        log.finish();
    }
}

/// Most bytes of a record that tells of a claim on one message.
const CLAIM_BYTES: usize = 160;

/// The claim that holds a message, to be told again behind its copy: a claim is only known from behind the enqueue.
fn claim_on(state: &Locked<'_>, queue: QueueId, sequence: u64) -> Option<ClaimEvent> {
    let entry = state.leased.get(sequence).filter(|entry| entry.until != 0)?;
    let held = state.claims.as_ref()?.get(entry.until)?;
    let (id, since, until) = (held.id, held.since, held.until);
    let runs = Runs::from_slice(&[(sequence, sequence)]);
    Some(ClaimEvent { queue, id, since, until, keep_until: entry.expires, runs })
}

fn lies_at(state: &mut Locked<'_>, sequence: u64, position: Position) -> bool {
    let cold = state.lanes.iter().find_map(|lane| lane.cold.get(sequence));
    if let Some(cold) = cold {
        return cold.position == position;
    }
    state.find_mut(sequence).is_some_and(|entry| entry.position == position)
}

/// Tells a message where it lies now; returns the segment where it lay.
fn set_position(state: &mut Locked<'_>, sequence: u64, to: Position) -> u32 {
    for lane in &mut state.lanes {
        if let Some(cold) = lane.cold.get(sequence) {
            lane.cold.set_position(sequence, to);
            return cold.position.segment;
        }
    }
    match state.find_mut(sequence) {
        Some(entry) => std::mem::replace(&mut entry.position, to).segment,
        None => 0,
    }
}

fn sequences_in(state: &Locked<'_>, segment: u32) -> Vec<u64> {
    let ready = state.lanes.iter().flat_map(|lane| {
        let warm = lane.returned.values().chain(lane.hot.iter());
        let warm = warm.map(|entry| (entry.sequence, entry.position.segment));
        warm.chain(lane.cold.iter_from(0).map(|cold| (cold.sequence, cold.position.segment)))
    });
    let others = state.delayed.values().chain(state.leased.iter_from(0, usize::MAX));
    let others = others.map(|entry| (entry.sequence, entry.position.segment));
    let mut found: Vec<u64> =
        ready.chain(others).filter(|it| it.1 == segment).map(|it| it.0).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Takes a cold message out; returns its body's length.
fn take_cold(state: &mut Locked<'_>, sequence: u64) -> Option<u32> {
    state.lanes.iter_mut().find_map(|lane| lane.cold.remove(sequence)).map(|cold| cold.body_len)
}
