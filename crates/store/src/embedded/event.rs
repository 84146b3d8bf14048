//! What the meta of each kind of record says.
//!
//! All numbers are little-endian. `runs` are a u32 count, then pairs of u64 (first, last), both inclusive.
//!
//! | kind | meta | body |
//! |---|---|---|
//! | mark | segment u32, offset u32 | |
//! | enqueue, spill | flags u8, priority u8, enqueued u64, exchange (u16 length), routing key (u16 length), \[dedup u128\], targets | payload |
//! | ack | queue u64, runs | |
//! | release | queue u64, counted u8, not before u64 (0 = none), runs | |
//! | purge | queue u64, next sequence u64, runs that stay | |
//! | trim | queue u64, first kept u64 | |
//! | queue | queue u64, kind 3 × u8, next u64, reserved u64 | |
//! | delete | queue u64 | |
//! | reserve | queue u64, up to u64 (exclusive) | |
//! | define | key | value |
//! | undefine | key | |
//! | dedup | pairs of id u128, time u64 | |
//! | claim | queue u64, id u128, since u64, until u64, keep until u64, runs | |
//!
//! targets: u32 count, then each queue u64, sequence u64, priority u8, flags u8, \[expires u64\] \[not before u64\]
//! \[delivery count u32\].

use model::{Message, QueueId};
use smallvec::SmallVec;

use super::bytes::{Reader, u32_of};
use super::record::Kind;
use crate::pool::QueueKind;

const ENQUEUE_PERSISTENT: u8 = 1;
const ENQUEUE_DEDUP: u8 = 2;

const TARGET_EXPIRES: u8 = 1;
const TARGET_NOT_BEFORE: u8 = 2;
const TARGET_COUNT: u8 = 4;
const TARGET_DURABLE: u8 = 8;

/// Inclusive runs of sequences.
pub(crate) type Runs = SmallVec<[(u64, u64); 4]>;

/// Adds a sequence behind all that are there.
pub(crate) fn push_run(runs: &mut Runs, sequence: u64) {
    match runs.last_mut() {
        Some((_, last)) if last.checked_add(1) == Some(sequence) => *last = sequence,
        _ => runs.push((sequence, sequence)),
    }
}

/// One queue of a stored message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) queue: QueueId,
    pub(crate) sequence: u64,
    pub(crate) priority: u8,
    /// `u64::MAX` for never.
    pub(crate) expires: u64,
    /// 0 for at once.
    pub(crate) not_before: u64,
    pub(crate) delivery_count: u32,
    /// Whether it is still there after a restart.
    pub(crate) durable: bool,
}

/// What an enqueue says without its payload and targets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EnqueueMeta<'a> {
    pub(crate) persistent: bool,
    pub(crate) priority: u8,
    pub(crate) enqueued: u64,
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
    pub(crate) dedup: Option<u128>,
    targets: u32,
    rest: Reader<'a>,
}

/// Bytes of a reservation, which may stand before an enqueue for every target.
const RESERVE_BYTES: usize = 48;

/// Most bytes that an enqueue takes, without its body and with all that may come before it.
pub(crate) fn enqueue_bound(message: &Message, targets: usize) -> usize {
    128 + message.address.exchange.len()
        + message.address.routing_key.len()
        + targets.saturating_mul(38 + RESERVE_BYTES)
}

pub(crate) fn put_enqueue(
    out: &mut Vec<u8>,
    message: &Message,
    enqueued: u64,
    dedup: Option<u128>,
    targets: &[Placed],
) {
    let flag = |on: bool, flag: u8| if on { flag } else { 0 };
    let flags = flag(message.persistent, ENQUEUE_PERSISTENT) | flag(dedup.is_some(), ENQUEUE_DEDUP);
    out.extend_from_slice(&[flags, message.priority]);
    out.extend_from_slice(&enqueued.to_le_bytes());
    put_string(out, &message.address.exchange);
    put_string(out, &message.address.routing_key);
    if let Some(dedup) = dedup {
        out.extend_from_slice(&dedup.to_le_bytes());
    }
    out.extend_from_slice(&u32_of(targets.len()).to_le_bytes());
    for target in targets {
        out.extend_from_slice(&target.queue.0.to_le_bytes());
        out.extend_from_slice(&target.sequence.to_le_bytes());
        let flags = flag(target.expires != u64::MAX, TARGET_EXPIRES)
            | flag(target.not_before != 0, TARGET_NOT_BEFORE)
            | flag(target.delivery_count != 0, TARGET_COUNT)
            | flag(target.durable, TARGET_DURABLE);
        out.extend_from_slice(&[target.priority, flags]);
        if target.expires != u64::MAX {
            out.extend_from_slice(&target.expires.to_le_bytes());
        }
        if target.not_before != 0 {
            out.extend_from_slice(&target.not_before.to_le_bytes());
        }
        if target.delivery_count != 0 {
            out.extend_from_slice(&target.delivery_count.to_le_bytes());
        }
    }
}

/// Names are at most 255 bytes where they come in; two bytes of length keep what is longer whole nevertheless.
fn put_string(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes().get(..usize::from(length)).unwrap_or_default());
}

fn string<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    let length = reader.u16()?;
    std::str::from_utf8(reader.bytes(usize::from(length))?).ok()
}

impl<'a> EnqueueMeta<'a> {
    pub(crate) fn decode(meta: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(meta);
        let flags = reader.u8()?;
        Some(Self {
            persistent: flags & ENQUEUE_PERSISTENT != 0,
            priority: reader.u8()?,
            enqueued: reader.u64()?,
            exchange: string(&mut reader)?,
            routing_key: string(&mut reader)?,
            dedup: if flags & ENQUEUE_DEDUP == 0 { None } else { Some(reader.u128()?) },
            targets: reader.u32()?,
            rest: reader,
        })
    }

    /// The queues it went to; ends early where the meta does not hold what it promises.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Placed> + use<'a> {
        let mut reader = self.rest;
        (0..self.targets).map_while(move |_| target(&mut reader))
    }
}

fn target(reader: &mut Reader<'_>) -> Option<Placed> {
    let queue = QueueId(reader.u64()?);
    let sequence = reader.u64()?;
    let priority = reader.u8()?;
    let flags = reader.u8()?;
    Some(Placed {
        queue,
        sequence,
        priority,
        expires: if flags & TARGET_EXPIRES == 0 { u64::MAX } else { reader.u64()? },
        not_before: if flags & TARGET_NOT_BEFORE == 0 { 0 } else { reader.u64()? },
        delivery_count: if flags & TARGET_COUNT == 0 { 0 } else { reader.u32()? },
        durable: flags & TARGET_DURABLE != 0,
    })
}

/// What a record without a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Mark { segment: u32, offset: u32 },
    Ack { queue: QueueId, runs: Runs },
    Release { queue: QueueId, counted: bool, not_before: u64, runs: Runs },
    Purge { queue: QueueId, next: u64, kept: Runs },
    Trim { queue: QueueId, before: u64 },
    Queue { queue: QueueId, kind: QueueKind, next: u64, reserved: u64 },
    Delete { queue: QueueId },
    Reserve { queue: QueueId, up_to: u64 },
    Define { key: Box<str> },
    Undefine { key: Box<str> },
    Dedup { ids: Vec<(u128, u64)> },
    Claim(ClaimEvent),
}

/// Messages are held until a time; what would expire before lives until `keep_until`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimEvent {
    pub(crate) queue: QueueId,
    pub(crate) id: u128,
    pub(crate) since: u64,
    pub(crate) until: u64,
    pub(crate) keep_until: u64,
    pub(crate) runs: Runs,
}

impl Event {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Mark { .. } => Kind::Mark,
            Self::Ack { .. } => Kind::Ack,
            Self::Release { .. } => Kind::Release,
            Self::Purge { .. } => Kind::Purge,
            Self::Trim { .. } => Kind::Trim,
            Self::Queue { .. } => Kind::Queue,
            Self::Delete { .. } => Kind::Delete,
            Self::Reserve { .. } => Kind::Reserve,
            Self::Define { .. } => Kind::Define,
            Self::Undefine { .. } => Kind::Undefine,
            Self::Dedup { .. } => Kind::Dedup,
            Self::Claim(_) => Kind::Claim,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut u64s = |values: &[u64]| {
            for value in values {
                out.extend_from_slice(&value.to_le_bytes());
            }
        };
        match self {
            Self::Mark { segment, offset } => {
                out.extend_from_slice(&segment.to_le_bytes());
                out.extend_from_slice(&offset.to_le_bytes());
            }
            Self::Ack { queue, runs } => {
                u64s(&[queue.0]);
                put_runs(out, runs);
            }
            Self::Release { queue, counted, not_before, runs } => {
                u64s(&[queue.0]);
                out.push(u8::from(*counted));
                out.extend_from_slice(&not_before.to_le_bytes());
                put_runs(out, runs);
            }
            Self::Purge { queue, next, kept } => {
                u64s(&[queue.0, *next]);
                put_runs(out, kept);
            }
            Self::Trim { queue, before } => u64s(&[queue.0, *before]),
            Self::Queue { queue, kind, next, reserved } => {
                u64s(&[queue.0]);
                out.extend_from_slice(&[
                    u8::from(kind.durable),
                    kind.priority_max,
                    u8::from(kind.stream),
                ]);
                out.extend_from_slice(&next.to_le_bytes());
                out.extend_from_slice(&reserved.to_le_bytes());
            }
            Self::Delete { queue } => u64s(&[queue.0]),
            Self::Reserve { queue, up_to } => u64s(&[queue.0, *up_to]),
            Self::Define { key } | Self::Undefine { key } => out.extend_from_slice(key.as_bytes()),
            Self::Dedup { ids } => {
                for (id, when) in ids {
                    out.extend_from_slice(&id.to_le_bytes());
                    out.extend_from_slice(&when.to_le_bytes());
                }
            }
            Self::Claim(ClaimEvent { queue, id, since, until, keep_until, runs }) => {
                u64s(&[queue.0]);
                out.extend_from_slice(&id.to_le_bytes());
                for time in [since, until, keep_until] {
                    out.extend_from_slice(&time.to_le_bytes());
                }
                put_runs(out, runs);
            }
        }
    }

    /// What a record of this kind says; `None` for enqueues and for what does not parse.
    pub(crate) fn decode(kind: Kind, meta: &[u8]) -> Option<Self> {
        let mut reader = Reader(meta);
        Some(match kind {
            Kind::Mark => Self::Mark { segment: reader.u32()?, offset: reader.u32()? },
            Kind::Ack => Self::Ack { queue: queue(&mut reader)?, runs: runs(&mut reader)? },
            Kind::Release => Self::Release {
                queue: queue(&mut reader)?,
                counted: reader.u8()? != 0,
                not_before: reader.u64()?,
                runs: runs(&mut reader)?,
            },
            Kind::Purge => Self::Purge {
                queue: queue(&mut reader)?,
                next: reader.u64()?,
                kept: runs(&mut reader)?,
            },
            Kind::Trim => Self::Trim { queue: queue(&mut reader)?, before: reader.u64()? },
            Kind::Queue => Self::Queue {
                queue: queue(&mut reader)?,
                kind: QueueKind {
                    durable: reader.u8()? != 0,
                    priority_max: reader.u8()?,
                    stream: reader.u8()? != 0,
                },
                next: reader.u64()?,
                reserved: reader.u64()?,
            },
            Kind::Delete => Self::Delete { queue: queue(&mut reader)? },
            Kind::Reserve => Self::Reserve { queue: queue(&mut reader)?, up_to: reader.u64()? },
            Kind::Define => Self::Define { key: std::str::from_utf8(meta).ok()?.into() },
            Kind::Undefine => Self::Undefine { key: std::str::from_utf8(meta).ok()?.into() },
            Kind::Dedup => Self::Dedup { ids: dedup_ids(reader) },
            Kind::Claim => Self::Claim(ClaimEvent {
                queue: queue(&mut reader)?,
                id: reader.u128()?,
                since: reader.u64()?,
                until: reader.u64()?,
                keep_until: reader.u64()?,
                runs: runs(&mut reader)?,
            }),
            Kind::Enqueue | Kind::Spill => return None,
        })
    }
}

fn queue(reader: &mut Reader<'_>) -> Option<QueueId> {
    reader.u64().map(QueueId)
}

fn put_runs(out: &mut Vec<u8>, runs: &Runs) {
    out.extend_from_slice(&u32_of(runs.len()).to_le_bytes());
    for (first, last) in runs {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
    }
}

fn runs(reader: &mut Reader<'_>) -> Option<Runs> {
    let count = reader.u32()?;
    // Collected as they are found: the count is not believed.
    (0..count).map(|_| Some((reader.u64()?, reader.u64()?))).collect()
}

fn dedup_ids(mut reader: Reader<'_>) -> Vec<(u128, u64)> {
    std::iter::from_fn(|| Some((reader.u128()?, reader.u64()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_comes_back_and_every_cut_one_is_refused() {
        let queue = QueueId(7);
        let runs = Runs::from_slice(&[(1, 5), (9, 9)]);
        let kind = QueueKind { durable: true, priority_max: 3, stream: false };
        let events = [
            Event::Mark { segment: 1, offset: 2 },
            Event::Ack { queue, runs: runs.clone() },
            Event::Release { queue, counted: true, not_before: 3, runs: runs.clone() },
            Event::Claim(ClaimEvent {
                queue,
                id: 11,
                since: 1,
                until: 2,
                keep_until: 3,
                runs: runs.clone(),
            }),
            Event::Purge { queue, next: 8, kept: runs },
            Event::Trim { queue, before: 5 },
            Event::Queue { queue, kind, next: 4, reserved: 6 },
            Event::Delete { queue },
            Event::Reserve { queue, up_to: 9 },
        ];

        for event in events {
            let mut bytes = Vec::new();
            event.encode(&mut bytes);
            assert_eq!(Event::decode(event.kind(), &bytes).as_ref(), Some(&event));
            for end in 0..bytes.len() {
                assert_eq!(Event::decode(event.kind(), &bytes[..end]), None, "{event:?}");
            }
        }
    }
}
