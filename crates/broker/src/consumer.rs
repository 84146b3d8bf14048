//! Who consumes a queue, and how much more it may be given.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::outbox::Outbox;
use crate::queue::Queue;

/// A prefetch of this means no limit (AMQP: 0).
pub const PREFETCH_UNLIMITED: u32 = 0;

/// A limit of messages held unsettled, shared by all who draw from it.
#[derive(Debug, Default)]
pub struct Credit {
    limit: AtomicU32,
    held: AtomicU32,
    /// Beyond any limit that a client sets: what the server lets it hold. 0 for none.
    cap: u32,
}

impl Credit {
    /// A credit of at most `limit` messages, [`PREFETCH_UNLIMITED`] for none.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self { limit: AtomicU32::new(limit), held: AtomicU32::new(0), cap: 0 }
    }

    /// A credit without a limit of the client's, of at most `cap` messages.
    #[must_use]
    pub fn capped(cap: u32) -> Self {
        Self { cap, ..Self::new(PREFETCH_UNLIMITED) }
    }

    /// Changes the limit; what is held beyond a lower one stays held.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Release);
    }

    /// How many more messages fit.
    #[must_use]
    pub fn room(&self) -> u32 {
        let unlimited = |limit| if limit == PREFETCH_UNLIMITED { u32::MAX } else { limit };
        let limit = unlimited(self.limit.load(Ordering::Acquire)).min(unlimited(self.cap));
        limit.saturating_sub(self.held.load(Ordering::Acquire))
    }

    /// Whether somebody may have been refused who draws from the same credit.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.is_limited() || (self.cap != 0 && self.held() >= self.cap / 2)
    }

    /// Whether there is a limit at all.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limit.load(Ordering::Acquire) != PREFETCH_UNLIMITED
    }

    /// Messages held now.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.held.load(Ordering::Acquire)
    }

    /// Takes credit for `count` messages, even beyond the limit.
    pub fn take(&self, count: u32) {
        self.held.fetch_add(count, Ordering::AcqRel);
    }

    /// Gives credit for `count` messages back.
    pub fn give_back(&self, count: u32) {
        self.held.fetch_sub(count, Ordering::AcqRel);
    }
}

/// What a client asks for when it starts to consume.
#[derive(Debug, Clone)]
pub struct ConsumeOptions {
    /// Its name on the channel, at most 255 bytes.
    pub tag: Arc<str>,
    /// The channel of the connection that it belongs to.
    pub channel: u16,
    /// Deliveries are settled by being sent.
    pub no_ack: bool,
    /// Nobody else may consume the queue meanwhile.
    pub exclusive: bool,
    /// Higher ones are served first while they have credit; 0 by default.
    pub priority: i32,
    /// Most unsettled messages of this consumer.
    pub prefetch: u32,
    /// Where a stream is read from.
    pub stream_offset: Option<model::stream_offset::StreamOffset>,
    /// How long a delivery may stay unsettled before the channel is closed.
    pub timeout_ms: Option<u64>,
}

/// One consumer of one queue.
#[derive(Debug)]
pub struct Consumer {
    /// Unique in the process.
    pub id: u64,
    /// What it asked for.
    pub options: ConsumeOptions,
    /// What it consumes.
    pub queue: Arc<Queue>,
    /// The connection's mailbox.
    pub outbox: Arc<Outbox>,
    /// Its own limit of unsettled messages.
    pub credit: Credit,
    /// The limit that it shares with the other consumers of its channel.
    pub channel_credit: Arc<Credit>,
    cancelled: AtomicBool,
    /// Streams: the sequence to be read next.
    pub(crate) cursor: AtomicU64,
}

impl Consumer {
    pub(crate) fn new(
        id: u64,
        options: ConsumeOptions,
        queue: Arc<Queue>,
        outbox: Arc<Outbox>,
        channel_credit: Arc<Credit>,
        cursor: u64,
    ) -> Self {
        let credit =
            Credit::new(if options.no_ack { PREFETCH_UNLIMITED } else { options.prefetch });
        Self {
            id,
            options,
            queue,
            outbox,
            credit,
            channel_credit,
            cancelled: AtomicBool::new(false),
            cursor: AtomicU64::new(cursor),
        }
    }

    /// Whether it was cancelled by its client, its connection's end or its queue's.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Marks it cancelled; true for the first to do so.
    pub(crate) fn cancel(&self) -> bool {
        !self.cancelled.swap(true, Ordering::AcqRel)
    }

    /// How many messages it may be given now.
    pub(crate) fn room(&self) -> u32 {
        if self.is_cancelled() || self.outbox.room_bytes() == 0 {
            return 0;
        }
        if self.options.no_ack {
            return u32::MAX;
        }
        self.credit.room().min(self.channel_credit.room())
    }

    /// Counts `count` deliveries against its limits.
    pub(crate) fn take_credit(&self, count: u32) {
        if !self.options.no_ack {
            self.credit.take(count);
            self.channel_credit.take(count);
        }
    }

    /// Settled deliveries count no longer; the caller has the queue dispatched afterwards.
    pub fn return_credit(&self, count: u32) {
        if !self.options.no_ack {
            self.credit.give_back(count);
            self.channel_credit.give_back(count);
        }
    }
}
