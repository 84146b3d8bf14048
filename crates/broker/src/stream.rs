//! Streams: queues that are read without taking, by position.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::stream_offset::StreamOffset;
use model::{QueueId, Sequence, Timestamp};
use store::{Change, Commit, Leased, Pool, ReadRequest, StoreError, Which};

use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::outbox::Outgoing;
use crate::queue::Queue;

/// Most messages read in one go for one consumer.
const READ_MESSAGES_MAX: usize = 256;

/// How often streams are looked at for what has become too old.
const TRIM_INTERVAL_MS: u64 = 1000;

/// Messages that "last" goes back: RabbitMQ starts at the last chunk, a size that its users do not rely on.
const LAST_MESSAGES: u64 = 1;

/// Where a consumer begins to read.
pub(crate) fn start(
    queue: QueueId,
    offset: Option<&StreamOffset>,
    pool: &dyn Pool,
    now: Timestamp,
) -> Result<Sequence, StoreError> {
    let stats = pool.stats(queue).now()?;
    Ok(match offset {
        None | Some(StreamOffset::Next) => stats.next,
        Some(StreamOffset::First) => stats.first,
        Some(StreamOffset::Last) => {
            Sequence(stats.next.0.saturating_sub(LAST_MESSAGES).max(stats.first.0))
        }
        Some(StreamOffset::Offset(offset)) => Sequence((*offset).max(stats.first.0)),
        Some(StreamOffset::Timestamp(since)) => pool.sequence_at(queue, *since).now()?,
        Some(StreamOffset::Interval(back)) => {
            let back_ms = u64::try_from(back.as_millis()).unwrap_or(u64::MAX);
            pool.sequence_at(queue, Timestamp(now.0.saturating_sub(back_ms))).now()?
        }
    })
}

/// Gives a consumer what lies at its position, as far as it has room.
pub(crate) fn deliver(queue: QueueId, consumer: &Arc<Consumer>, pool: &dyn Pool) {
    loop {
        let room = consumer.room() as usize;
        if room == 0 {
            return;
        }
        let from = Sequence(consumer.cursor.load(Ordering::Acquire));
        let request = ReadRequest {
            queue,
            which: Which::ALL,
            from,
            messages_max: room.min(READ_MESSAGES_MAX),
            bytes_max: consumer.outbox.room_bytes().max(1),
        };
        let stored = match pool.read(request).now() {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(queue = queue.0, %error, "cannot read stream");
                return;
            }
        };
        let Some(last) = stored.last() else { return };
        consumer.cursor.store(last.sequence.0 + 1, Ordering::Release);
        consumer.take_credit(u32::try_from(stored.len()).unwrap_or(u32::MAX));
        let deliver = |stored: store::Stored| Outgoing::Deliver {
            consumer: Arc::clone(consumer),
            leased: Leased {
                sequence: stored.sequence,
                message: stored.message,
                delivery_count: 0,
                redelivered: false,
                expires: None,
                enqueued: stored.enqueued,
            },
        };
        consumer.outbox.push(&mut stored.into_iter().map(deliver).collect());
    }
}

impl Broker {
    /// Drops what a stream keeps beyond its limits of bytes and age.
    pub(crate) fn trim_stream(&self, queue: &Queue, now: Timestamp) {
        let settings = queue.settings();
        let mut keep_from = None;
        if let Some(age_ms) = settings.max_age {
            keep_from =
                self.pool.sequence_at(queue.id, Timestamp(now.0.saturating_sub(age_ms))).now().ok();
        }
        if let Some(bytes_max) = settings.max_length_bytes {
            keep_from = keep_from.max(self.first_within(queue, bytes_max));
        }
        let Some(before) = keep_from else { return };
        let first = self.pool.stats(queue.id).now().map_or(before, |stats| stats.first);
        if before > first {
            let changes = vec![Change::Trim { queue: queue.id, before }];
            if let Err(error) = self.pool.commit(Commit { changes, now, ..Commit::default() }).now()
            {
                tracing::warn!(queue = %queue.name, %error, "cannot trim stream");
            }
        }
    }

    /// The sequence from which on a stream has at most so many bytes.
    fn first_within(&self, queue: &Queue, bytes_max: u64) -> Option<Sequence> {
        let stats = self.pool.stats(queue.id).now().ok()?;
        let mut over = stats.ready_bytes.checked_sub(bytes_max).filter(|over| *over > 0)?;
        let mut from = stats.first;
        while over > 0 {
            let request = ReadRequest {
                queue: queue.id,
                which: Which::ALL,
                from,
                messages_max: READ_MESSAGES_MAX,
                bytes_max: usize::MAX,
            };
            let stored = self.pool.read(request).now().ok()?;
            if stored.is_empty() {
                break;
            }
            for message in stored {
                if over == 0 {
                    break;
                }
                over = over.saturating_sub(message.message.body_len() as u64);
                from = Sequence(message.sequence.0 + 1);
            }
        }
        Some(from)
    }

    /// Drops what has become too old in streams that nobody publishes to.
    pub(crate) fn trim_old_streams(&self, now: Timestamp) -> Option<Timestamp> {
        let aging: Vec<_> = self
            .expiring_queues()
            .into_iter()
            .filter(|queue| queue.settings().max_age.is_some())
            .collect();
        for queue in &aging {
            self.trim_stream(queue, now);
        }
        (!aging.is_empty()).then(|| now.after_ms(TRIM_INTERVAL_MS))
    }
}
