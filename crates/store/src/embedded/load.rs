//! Messages that are in the log only come back into memory: verified, neighbours together.

use std::cell::RefCell;
use std::sync::Arc;

use model::{Address, Message};

use super::cold::Cold;
use super::damage::Damage;
use super::entry::Entry;
use super::event::EnqueueMeta;
use super::queue::Locked;
use super::record::{self, Broken, Record};
use super::segment::{Position, Segment};
use super::shared::Shared;

/// Most bytes read at once.
const WINDOW_BYTES: usize = 1024 * 1024;

/// Neighbours that lie farther apart are read one by one.
const GAP_BYTES_MAX: usize = 64 * 1024;

/// What a record takes beside its body, at a guess; if it is more, it is read again.
const RECORD_EXTRA_BYTES: usize = 512;

/// A scratch buffer that grew larger is given back.
const SCRATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A message and when it was enqueued.
pub(crate) type Loaded = (Message, u64);

/// Gives messages of one route one address.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    last: Option<Arc<Address>>,
}

impl Addresses {
    fn get(&mut self, exchange: &str, routing_key: &str) -> Arc<Address> {
        match &self.last {
            Some(last) if *last.routing_key == *routing_key && *last.exchange == *exchange => {
                Arc::clone(last)
            }
            _ => {
                let address =
                    Address { exchange: exchange.into(), routing_key: routing_key.into() };
                Arc::clone(self.last.insert(Arc::new(address)))
            }
        }
    }
}

/// The message of a record whose head has verified.
pub(crate) fn message_of(record: &Record<'_>, addresses: &mut Addresses) -> Result<Loaded, String> {
    if !record.body_is_whole() {
        return Err("a message whose body does not match its checksum".to_owned());
    }
    let properties_len = record.head.properties_len as usize;
    let meta = EnqueueMeta::decode(record.meta).filter(|_| properties_len <= record.body.len());
    let Some(meta) = meta else {
        return Err("a record that is not a message".to_owned());
    };
    let message = Message::from_payload(
        addresses.get(meta.exchange, meta.routing_key),
        Arc::from(record.body),
        properties_len,
        meta.persistent,
        meta.priority,
    );
    Ok((message, meta.enqueued))
}

impl Shared {
    /// Loads the first of `items` and those of its neighbours that one read brings; hands out each, or why it is lost.
    /// Returns how many that were.
    pub(crate) fn load_neighbours(
        &self,
        items: impl Iterator<Item = Cold>,
        bytes_max: usize,
        mut each: impl FnMut(&Cold, Result<Loaded, String>),
    ) -> usize {
        let Some((group, span)) = neighbours(items, bytes_max.min(WINDOW_BYTES)) else { return 0 };
        let Some(first) = group.first() else { return 0 };
        let lost = |item: &Cold, why: String| {
            let Position { segment, offset } = item.position;
            self.damages.report(Damage {
                segment,
                offset,
                bytes: item.body_len,
                what: why.clone(),
            });
            Err(why)
        };
        let Some(segment) = self.log.segments.get(first.position.segment) else {
            each(first, lost(first, "a message of a segment that is not there".to_owned()));
            return 1;
        };
        let base = first.position.offset;
        let mut addresses = Addresses::default();
        let mut done = 0;
        with_scratch(|scratch| {
            let read = self.log.read(&segment, base, span, scratch);
            let filled = *read.as_ref().unwrap_or(&0);
            for item in &group {
                let within = (item.position.offset - base) as usize;
                let bytes = scratch.get(within..filled).unwrap_or_default();
                let loaded = match record::decode(bytes, segment.seed, item.position.offset) {
                    Ok(record) => message_of(&record, &mut addresses),
                    // The window ends within the record, or the buffers that it was read from do.
                    Err(_) if done > 0 => break,
                    Err(_) => self.load_alone(&segment, item, &mut addresses),
                };
                each(item, loaded.or_else(|why| lost(item, why)));
                done += 1;
            }
        });
        done
    }

    fn load_alone(
        &self,
        segment: &Segment,
        item: &Cold,
        addresses: &mut Addresses,
    ) -> Result<Loaded, String> {
        let offset = item.position.offset;
        let mut bytes = Vec::new();
        let mut len = item.body_len as usize + RECORD_EXTRA_BYTES;
        loop {
            let filled = self.log.read(segment, offset, len, &mut bytes);
            let filled =
                filled.map_err(|error| format!("a message that cannot be read: {error}"))?;
            match record::decode(bytes.get(..filled).unwrap_or_default(), segment.seed, offset) {
                Ok(record) => return message_of(&record, addresses),
                Err(Broken::Short(needs)) if needs > len => len = needs,
                // Meta that is longer than the guess looks like damage until it is all there.
                Err(Broken::Head) if filled == len && len < WINDOW_BYTES => len = WINDOW_BYTES,
                Err(_) => return Err("a record that does not match its checksum".to_owned()),
            }
        }
    }

    /// The message of an entry, from memory or from the log; `None` if it is lost.
    pub(crate) fn message(&self, entry: &Entry) -> Option<Loaded> {
        if let Some(message) = &entry.message {
            return Some((message.clone(), entry.enqueued));
        }
        let mut loaded = None;
        self.load_neighbours(std::iter::once(entry.cold()), WINDOW_BYTES, |_, result| {
            loaded = result.ok();
        });
        loaded
    }

    /// Brings the front of a lane's cold messages into memory. What is lost is counted out.
    pub(crate) fn refill(&self, queue: &mut Locked<'_>, priority: u8) {
        let Some(lane) = queue.lanes.get_mut(usize::from(priority)) else { return };
        let (mut resident, mut lost) = (0, Vec::new());
        let (hot, cold) = (&mut lane.hot, &lane.cold);
        let done = self.load_neighbours(cold.iter_from(0), WINDOW_BYTES, |item, loaded| {
            let Ok((message, enqueued)) = loaded else {
                lost.push(*item);
                return;
            };
            let mut entry = Entry::of_cold(item, priority);
            entry.enqueued = enqueued;
            entry.message = Some(message);
            resident += entry.resident_cost();
            hot.push_back(entry);
        });
        for _ in 0..done {
            lane.cold.pop_front();
        }
        queue.resident += resident;
        for item in lost {
            queue.ready -= 1;
            queue.ready_bytes -= u64::from(item.body_len);
            self.log.segments.settle(item.position.segment, 1);
        }
    }
}

fn with_scratch(work: impl FnOnce(&mut Vec<u8>)) {
    SCRATCH.with_borrow_mut(|scratch| {
        work(scratch);
        if scratch.len() > SCRATCH_BYTES_MAX {
            *scratch = Vec::new();
        }
    });
}

/// The first items that lie close together, ascending, and how many bytes from the first's begin to the last's end.
fn neighbours(items: impl Iterator<Item = Cold>, bytes_max: usize) -> Option<(Vec<Cold>, usize)> {
    let mut group: Vec<Cold> = Vec::new();
    let mut span = 0;
    for item in items {
        let length = item.body_len as usize + RECORD_EXTRA_BYTES;
        let Some((first, last)) = group.first().zip(group.last()) else {
            span = length;
            group.push(item);
            continue;
        };
        let (Position { segment, offset: base }, before) = (first.position, last.position.offset);
        let at = item.position.offset;
        let near = item.position.segment == segment
            && at > before
            && (at - base) as usize <= span + GAP_BYTES_MAX
            && (at - base) as usize + length <= bytes_max;
        if !near {
            break;
        }
        span = (at - base) as usize + length;
        group.push(item);
    }
    (!group.is_empty()).then_some((group, span))
}
