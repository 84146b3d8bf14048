//! What can be set about an embedded store.

use std::time::Duration;

use crate::memory::{DEDUP_IDS_MAX, DEDUP_WINDOW};

/// Settings of an embedded store; the defaults are for production.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of a segment once the log is in use; default 64 MiB, at least 64 KiB. The first are smaller.
    pub segment_bytes: u32,
    /// Bytes of the first segment after a start, made before the start is done; each next is four times larger, up to
    /// `segment_bytes`. Default 1 MiB.
    pub first_segment_bytes: u32,
    /// Segments made ahead, which settles, deletes and compaction go on with when the disk is full. Default 2.
    pub reserve_segments: usize,
    /// Bytes of persistent messages kept in memory for those who will lease them soon. Default 16 MiB.
    pub resident_persistent_bytes: u64,
    /// Bytes of transient messages kept in memory; more are written to the log. Default 64 MiB.
    pub resident_transient_bytes: u64,
    /// A commit is answered late while more encoded bytes than this wait for the disk. Default 4 MiB: more
    /// would be memory without speed.
    pub buffer_bytes: usize,
    /// How long a dedup id is remembered. Default ten minutes.
    pub dedup_window: Duration,
    /// How many dedup ids are remembered. Default one million.
    pub dedup_ids_max: usize,
    /// Whether threads write and tidy up. Without, tests do both with `Embedded::drive`.
    pub background: bool,
    /// Makes segments tell their own bytes from those of earlier files; `None` for a random one.
    pub salt: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            first_segment_bytes: 1024 * 1024,
            reserve_segments: 2,
            resident_persistent_bytes: 16 * 1024 * 1024,
            resident_transient_bytes: 64 * 1024 * 1024,
            buffer_bytes: 4 * 1024 * 1024,
            dedup_window: DEDUP_WINDOW,
            dedup_ids_max: DEDUP_IDS_MAX,
            background: true,
            salt: None,
        }
    }
}

impl Options {
    /// Capacity of the segment that follows one of `capacity`.
    pub(crate) fn next_capacity(&self, capacity: u32) -> u32 {
        capacity.saturating_mul(4).clamp(64 * 1024, self.segment_bytes.max(64 * 1024))
    }
}
