//! How deliveries of one channel end: gathered by workers, written by the connection's task in as few frames as possible.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posthouse_amqp::encode::{encode_ack, encode_nack};
use tokio::sync::Notify;

use crate::delivery::Receipt;

/// What the broker is told of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settle {
    /// It is done with.
    Ack,
    /// Back to its place in the queue.
    Requeue,
    /// Out of the queue, to its dead-letter exchange if it has one.
    Reject,
}

/// What workers have decided and the connection has not written.
#[derive(Debug)]
pub(crate) struct Settlements {
    decided: Mutex<Vec<(Receipt, Settle)>>,
    written: Notify,
    /// Wakes the connection's task.
    work: Arc<Notify>,
}

impl Settlements {
    pub(crate) fn new(work: Arc<Notify>) -> Self {
        Self { decided: Mutex::default(), written: Notify::new(), work }
    }

    pub(crate) fn put(&self, receipt: Receipt, settle: Settle) {
        let mut decided = self.lock();
        decided.push((receipt, settle));
        let first = decided.len() == 1;
        drop(decided);
        if first {
            self.work.notify_one();
        }
    }

    /// Exchanges what was decided for an empty list.
    pub(crate) fn swap(&self, list: &mut Vec<(Receipt, Settle)>) {
        list.clear();
        std::mem::swap(&mut *self.lock(), list);
        if !list.is_empty() {
            self.written.notify_waiters();
        }
    }

    /// Waits until everything that was decided is on its way, or the channel is gone.
    pub(crate) async fn drained(&self) {
        loop {
            let written = self.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if self.lock().is_empty() {
                return;
            }
            written.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Receipt, Settle)>> {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The deliveries of a channel from the oldest that is not settled.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    first_tag: u64,
    marks: VecDeque<Mark>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Held,
    /// Decided, not written.
    Acked,
    Written,
}

impl Unsettled {
    /// A new channel, whose first delivery has tag 1.
    pub(crate) fn new() -> Self {
        Self { first_tag: 1, marks: VecDeque::new() }
    }

    pub(crate) fn delivered(&mut self) {
        self.marks.push_back(Mark::Held);
    }

    /// Writes what was decided: one ack for everything settled at the front, single frames for the rest.
    pub(crate) fn write(&mut self, channel: u16, decided: &[(u64, Settle)], out: &mut Vec<u8>) {
        for &(tag, settle) in decided {
            let Some(mark) = self.mark(tag).filter(|mark| **mark == Mark::Held) else { continue };
            match settle {
                Settle::Ack => *mark = Mark::Acked,
                Settle::Requeue | Settle::Reject => {
                    *mark = Mark::Written;
                    encode_nack(out, channel, tag, false, settle == Settle::Requeue);
                }
            }
        }
        let mut last_acked = None;
        while let Some(mark) = self.marks.front().filter(|mark| **mark != Mark::Held) {
            if *mark == Mark::Acked {
                last_acked = Some(self.first_tag);
            }
            self.marks.pop_front();
            self.first_tag += 1;
        }
        if let Some(tag) = last_acked {
            encode_ack(out, channel, tag, true);
        }
        for &(tag, _) in decided {
            if let Some(mark) = self.mark(tag).filter(|mark| **mark == Mark::Acked) {
                *mark = Mark::Written;
                encode_ack(out, channel, tag, false);
            }
        }
    }

    fn mark(&mut self, tag: u64) -> Option<&mut Mark> {
        let index = usize::try_from(tag.checked_sub(self.first_tag)?).ok()?;
        self.marks.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(unsettled: &mut Unsettled, decided: &[(u64, Settle)]) -> Vec<u8> {
        let mut out = Vec::new();
        unsettled.write(3, decided, &mut out);
        out
    }

    fn frames(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        build(&mut out);
        out
    }

    #[test]
    fn acks_at_the_front_are_one_frame_and_others_wait_for_nobody() {
        let mut unsettled = Unsettled::new();
        (0..5).for_each(|_| unsettled.delivered());

        let out = written(&mut unsettled, &[(4, Settle::Ack), (2, Settle::Ack), (1, Settle::Ack)]);
        assert_eq!(
            out,
            frames(|out| {
                encode_ack(out, 3, 2, true);
                encode_ack(out, 3, 4, false);
            })
        );

        let out = written(&mut unsettled, &[(3, Settle::Ack), (3, Settle::Ack)]);
        assert_eq!(out, frames(|out| encode_ack(out, 3, 3, true)));
    }

    #[test]
    fn an_ack_of_several_never_names_a_delivery_that_was_settled_otherwise() {
        let mut unsettled = Unsettled::new();
        (0..3).for_each(|_| unsettled.delivered());

        let out = written(&mut unsettled, &[(2, Settle::Reject), (1, Settle::Ack)]);

        assert_eq!(
            out,
            frames(|out| {
                encode_nack(out, 3, 2, false, false);
                encode_ack(out, 3, 1, true);
            })
        );
    }
}
