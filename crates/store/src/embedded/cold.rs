//! Waiting messages whose bodies are on disk: 16 bytes each, in chunks ordered by sequence.
//!
//! A list of chunks instead of one ring, because a ring of ten million entries doubles by copying 160 MB.

use std::collections::VecDeque;

use super::segment::Position;

/// Entries of a full chunk: 8 KiB.
const CHUNK_ENTRIES: usize = 512;

const DEAD: u8 = 1;
const DURABLE: u8 = 2;

/// One waiting message, as handed in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cold {
    pub(crate) sequence: u64,
    pub(crate) position: Position,
    pub(crate) body_len: u32,
    /// `u64::MAX` for never.
    pub(crate) expires: u64,
    pub(crate) durable: bool,
}

/// One waiting message, as kept.
#[derive(Debug, Clone, Copy)]
struct Entry {
    segment: u32,
    offset: u32,
    body_len: u32,
    /// Sequence less the chunk's base.
    delta: u16,
    flags: u8,
}

const _: () = assert!(size_of::<Entry>() == 16);

#[derive(Debug)]
struct Chunk {
    base: u64,
    /// Index of the first entry that is not dead.
    head: usize,
    live: usize,
    entries: Vec<Entry>,
    /// As long as `entries`, or empty while nothing here expires.
    expires: Vec<u64>,
}

impl Chunk {
    fn new(base: u64) -> Self {
        Self { base, head: 0, live: 0, entries: Vec::new(), expires: Vec::new() }
    }

    fn delta(&self, sequence: u64) -> Option<u16> {
        u16::try_from(sequence.checked_sub(self.base)?).ok()
    }

    fn item(&self, index: usize) -> Option<Cold> {
        let entry = self.entries.get(index)?;
        (entry.flags & DEAD == 0).then(|| Cold {
            sequence: self.base + u64::from(entry.delta),
            position: Position { segment: entry.segment, offset: entry.offset },
            body_len: entry.body_len,
            expires: self.expires.get(index).copied().unwrap_or(u64::MAX),
            durable: entry.flags & DURABLE != 0,
        })
    }

    fn find(&self, sequence: u64) -> Option<usize> {
        let delta = self.delta(sequence)?;
        self.entries.binary_search_by_key(&delta, |entry| entry.delta).ok()
    }

    /// Puts an item before the entry at `index`.
    fn put(&mut self, index: usize, delta: u16, item: &Cold) {
        let Position { segment, offset } = item.position;
        let flags = if item.durable { DURABLE } else { 0 };
        let entry = Entry { segment, offset, body_len: item.body_len, delta, flags };
        if item.expires != u64::MAX && self.expires.is_empty() {
            self.expires.resize(self.entries.len(), u64::MAX);
        }
        if !self.expires.is_empty() || item.expires != u64::MAX {
            self.expires.insert(index, item.expires);
        }
        self.entries.insert(index, entry);
        self.live += 1;
        self.head = self.head.min(index);
    }

    fn kill(&mut self, index: usize) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.flags |= DEAD;
            self.live -= 1;
        }
        while self.entries.get(self.head).is_some_and(|entry| entry.flags & DEAD != 0) {
            self.head += 1;
        }
    }

    /// Everything from `index` on as a chunk of its own.
    fn split_off(&mut self, index: usize) -> Option<Self> {
        let first = self.entries.get(index)?.delta;
        let mut rest = Self::new(self.base + u64::from(first));
        rest.entries = self.entries.split_off(index);
        if !self.expires.is_empty() {
            rest.expires = self.expires.split_off(index);
        }
        for entry in &mut rest.entries {
            entry.delta -= first;
        }
        self.recount();
        rest.recount();
        Some(rest)
    }

    fn recount(&mut self) {
        let alive = |entry: &&Entry| entry.flags & DEAD == 0;
        self.live = self.entries.iter().filter(alive).count();
        self.head = self.entries.iter().position(|entry| alive(&entry)).unwrap_or(0);
    }
}

/// Waiting messages by sequence.
#[derive(Debug, Default)]
pub(crate) struct ColdList {
    chunks: VecDeque<Chunk>,
    len: usize,
}

impl ColdList {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds a message, usually behind all others; one that is there already is replaced.
    pub(crate) fn insert(&mut self, item: &Cold) {
        let after = match self.chunks.back() {
            Some(chunk) if chunk.base <= item.sequence => self.chunks.len(),
            _ => self.chunks.partition_point(|chunk| chunk.base <= item.sequence),
        };
        let Some(index) = after.checked_sub(1) else {
            self.insert_chunk(0, item);
            return;
        };
        let Some(chunk) = self.chunks.get_mut(index) else { return };
        let Some(delta) = chunk.delta(item.sequence) else {
            self.insert_chunk(after, item);
            return;
        };
        let at = match chunk.entries.last() {
            Some(last) if last.delta < delta => chunk.entries.len(),
            _ => chunk.entries.partition_point(|entry| entry.delta < delta),
        };
        if chunk.entries.get(at).is_some_and(|entry| entry.delta == delta) {
            self.replace(index, at, delta, item);
        } else if chunk.entries.len() < CHUNK_ENTRIES {
            chunk.put(at, delta, item);
            self.len += 1;
        } else {
            if let Some(rest) = chunk.split_off(at)
                && rest.live > 0
            {
                self.chunks.insert(after, rest);
            }
            if self.chunks.get(index).is_some_and(|chunk| chunk.live == 0) {
                self.chunks.remove(index);
                self.insert_chunk(index, item);
            } else {
                self.insert_chunk(after, item);
            }
        }
    }

    fn insert_chunk(&mut self, index: usize, item: &Cold) {
        let mut chunk = Chunk::new(item.sequence);
        chunk.put(0, 0, item);
        self.chunks.insert(index, chunk);
        self.len += 1;
    }

    fn replace(&mut self, index: usize, at: usize, delta: u16, item: &Cold) {
        let Some(chunk) = self.chunks.get_mut(index) else { return };
        if chunk.entries.remove(at).flags & DEAD == 0 {
            chunk.live -= 1;
            self.len -= 1;
        }
        if !chunk.expires.is_empty() {
            chunk.expires.remove(at);
        }
        chunk.put(at, delta, item);
        chunk.recount();
        self.len += 1;
    }

    pub(crate) fn front(&self) -> Option<Cold> {
        let chunk = self.chunks.front()?;
        chunk.item(chunk.head)
    }

    pub(crate) fn pop_front(&mut self) -> Option<Cold> {
        let chunk = self.chunks.front_mut()?;
        let item = chunk.item(chunk.head)?;
        chunk.kill(chunk.head);
        if chunk.live == 0 {
            self.chunks.pop_front();
        }
        self.len -= 1;
        Some(item)
    }

    fn locate(&self, sequence: u64) -> Option<(usize, usize)> {
        let after = self.chunks.partition_point(|chunk| chunk.base <= sequence);
        let index = after.checked_sub(1)?;
        Some((index, self.chunks.get(index)?.find(sequence)?))
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<Cold> {
        let (index, at) = self.locate(sequence)?;
        self.chunks.get(index)?.item(at)
    }

    pub(crate) fn remove(&mut self, sequence: u64) -> Option<Cold> {
        let (index, at) = self.locate(sequence)?;
        let chunk = self.chunks.get_mut(index)?;
        let item = chunk.item(at)?;
        chunk.kill(at);
        if chunk.live == 0 {
            self.chunks.remove(index);
        }
        self.len -= 1;
        Some(item)
    }

    /// Tells that a message lies elsewhere now.
    pub(crate) fn set_position(&mut self, sequence: u64, position: Position) {
        let Some((index, at)) = self.locate(sequence) else { return };
        let entry = self.chunks.get_mut(index).and_then(|chunk| chunk.entries.get_mut(at));
        if let Some(entry) = entry {
            entry.segment = position.segment;
            entry.offset = position.offset;
        }
    }

    /// The last.
    pub(crate) fn back(&self) -> Option<Cold> {
        let chunk = self.chunks.back()?;
        (chunk.head..chunk.entries.len()).rev().find_map(|index| chunk.item(index))
    }

    /// All from `sequence` on, in order.
    pub(crate) fn iter_from(&self, sequence: u64) -> impl Iterator<Item = Cold> {
        let first = self.chunks.partition_point(|chunk| chunk.base <= sequence).saturating_sub(1);
        let items = self.chunks.range(first..).flat_map(|chunk| {
            (chunk.head..chunk.entries.len()).filter_map(|index| chunk.item(index))
        });
        items.skip_while(move |item| item.sequence < sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn item(sequence: u64) -> Cold {
        let position = Position { segment: 1, offset: 8 * u32::try_from(sequence % 1000).unwrap() };
        let expires = if sequence.is_multiple_of(7) { sequence } else { u64::MAX };
        Cold { sequence, position, body_len: 3, expires, durable: sequence.is_multiple_of(2) }
    }

    #[test]
    fn a_list_in_any_order_of_insertion_is_an_ordered_map() {
        let mut list = ColdList::default();
        let mut model = BTreeMap::new();
        let mut random = 12345_u64;

        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let sequence = (random >> 33) % 6000 * if random & 64 == 0 { 1 } else { 37 };
            match random >> 60 {
                0..=8 => {
                    list.insert(&item(sequence));
                    model.insert(sequence, item(sequence));
                }
                9..=11 => assert_eq!(list.remove(sequence), model.remove(&sequence)),
                12..=13 => assert_eq!(list.pop_front(), model.pop_first().map(|it| it.1)),
                _ => {
                    assert_eq!(list.get(sequence), model.get(&sequence).copied());
                    let from = model.range(sequence..).next().map(|it| *it.1);
                    assert_eq!(list.iter_from(sequence).next(), from);
                }
            }
            assert_eq!(list.len(), model.len());
            assert_eq!(list.front(), model.first_key_value().map(|it| *it.1));
            assert_eq!(list.back(), model.last_key_value().map(|it| *it.1));
        }
        assert!(list.iter_from(0).eq(model.into_values()));
    }
}
