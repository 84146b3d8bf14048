//! What a turn published is committed, and its confirms leave when they are due.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use broker::BrokerError;
use model::{Ticket, Timestamp};
use posthouse_amqp::ReplyCode;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::door::amqp::channel::Refusals;
use crate::door::amqp::session::{CROWD_PATIENCE, End, Session};

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Commits what this turn settled and published.
    pub(crate) fn commit_turn(&mut self, now: Timestamp) -> Result<(), End> {
        if !self.acks.is_empty() {
            let acks = std::mem::take(&mut self.acks);
            self.access.acknowledge(acks, now).map_err(|error| self.store_failed(&error))?;
            self.share_credit(now);
        }
        if !self.refusals.is_empty() {
            let Refusals { released, rejected } = std::mem::take(&mut self.refusals);
            let refused = self.access.refuse(&released, &rejected, now);
            refused.map_err(|error| self.store_failed(&error))?;
            self.share_credit(now);
        }
        if self.publisher.pending() == 0 && self.confirming.is_empty() {
            self.publisher.count_received();
            return Ok(());
        }
        self.publishes = true;
        if self.access.broker().watch().full() {
            // Nothing is lost: it waits here, and nothing more is read, until there is space again.
            self.look_at_alarms();
            self.tell_blocked();
            return Ok(());
        }
        let outcome = self.publisher.flush(now);
        self.look_at_alarms();
        self.tell_blocked();
        match outcome {
            Ok(receipt) => {
                self.owe_confirms(receipt.ticket);
                if self.publisher.is_crowded() {
                    self.crowd_until = Some(Instant::now() + CROWD_PATIENCE);
                }
                if receipt.congested {
                    self.paused_until = Some(receipt.ticket);
                }
            }
            Err(BrokerError::Store(error)) if error.retryable() => self.refuse_confirms(),
            Err(error) => return Err(self.store_failed(&error)),
        }
        Ok(())
    }

    /// The store has failed for good: nothing that this connection was promised can be kept, so it ends.
    pub(crate) fn store_failed(&mut self, error: &BrokerError) -> End {
        let text =
            std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source())
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(": ");
        tracing::error!(%text, "store failed under a connection");
        self.connection.close(ReplyCode::InternalError, &text, (0, 0), &mut self.output.buffer);
        End::Failed(text)
    }

    fn owe_confirms(&mut self, ticket: Ticket) {
        for channel in std::mem::take(&mut self.confirming) {
            if let Some(confirms) =
                self.channels.get_mut(&channel).and_then(|channel| channel.confirms())
            {
                confirms.depend_on(ticket);
                if !self.owed.contains(&channel) {
                    self.owed.push(channel);
                }
            }
        }
    }

    fn refuse_confirms(&mut self) {
        for channel in std::mem::take(&mut self.confirming) {
            let Some(confirms) =
                self.channels.get_mut(&channel).and_then(|channel| channel.confirms())
            else {
                continue;
            };
            for tag in confirms.refuse() {
                posthouse_amqp::encode_nack(&mut self.output.buffer, channel, tag, false, true);
            }
        }
    }

    pub(crate) fn poll_confirms(&mut self, context: &Context<'_>) -> Result<bool, End> {
        if self.owed.is_empty() && self.paused_until.is_none() && self.output.held_by().is_none() {
            return Ok(false);
        }
        let broker = Arc::clone(self.access.broker());
        let watch = broker.watch();
        let mut moved = false;
        loop {
            let wakes = watch.wakes();
            let durable = watch.durable();
            self.output.release(durable);
            moved |= self.confirm_up_to(durable);
            moved |= self.paused_until.take_if(|ticket| *ticket <= durable).is_some();
            let next = self
                .owed
                .iter()
                .filter_map(|channel| self.channels.get(channel)?.next_confirm())
                .min();
            let Some(next) =
                [next, self.output.held_by(), self.paused_until].into_iter().flatten().min()
            else {
                return Ok(moved);
            };
            if self.registered == Some(wakes) {
                return Ok(moved);
            }
            match watch.poll_durable(context, next) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Err(self.store_failed(&error.into())),
                Poll::Pending => {
                    self.registered = Some(wakes);
                    return Ok(moved);
                }
            }
        }
    }

    /// Sends the confirms that are due before a channel is closed.
    pub(crate) fn flush_confirms(&mut self) {
        let durable = self.access.broker().watch().durable();
        self.confirm_up_to(durable);
    }

    fn confirm_up_to(&mut self, durable: Ticket) -> bool {
        let (channels, output, access) = (&mut self.channels, &mut self.output, &self.access);
        let before = output.buffer.len();
        self.owed.retain(|number| {
            let Some(confirms) = channels.get_mut(number).and_then(|channel| channel.confirms())
            else {
                return false;
            };
            if let Some((tag, count)) = confirms.durable(durable) {
                posthouse_amqp::encode_ack(&mut output.buffer, *number, tag, count > 1);
                access.broker().counters.confirmed.add(count);
            }
            confirms.next().is_some()
        });
        output.buffer.len() > before
    }
}
