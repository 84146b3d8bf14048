//! Streams: queues that are read without taking, by position.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use model::stream_offset::StreamOffset;
use model::{QueueId, Sequence, Timestamp};
use store::{Leased, Pool, ReadRequest, StoreError};

use crate::consumer::Consumer;
use crate::outbox::Outgoing;

/// Most messages read in one go for one consumer.
const READ_MESSAGES_MAX: usize = 256;

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
            },
        };
        consumer.outbox.push(&mut stored.into_iter().map(deliver).collect());
    }
}
