//! `basic.publish`, `confirm.select` and `tx.*`.

use broker::{Access, BrokerError, Publish, Published, Publisher, SettleBatch};
use model::Timestamp;
use posthouse_amqp::method::{
    BasicPublish, BasicReturn, ConfirmSelectOk, TxCommitOk, TxRollbackOk, TxSelectOk,
};
use posthouse_amqp::{Content, Method, ReplyCode, event};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::door::amqp::channel::{Channel, Confirms, Mode, Transaction, Unacked};
use crate::door::amqp::session::{End, Session};

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Adds a message to the turn's batch, or to the channel's transaction.
    pub(crate) fn publish(
        &mut self,
        number: u16,
        publish: &event::Publish<'_>,
        content: &Content<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        if publish.immediate {
            return self.refuse(
                number,
                ReplyCode::NotImplemented,
                "immediate=true",
                BasicPublish::ID,
                now,
            );
        }
        let request = Publish {
            exchange: &publish.exchange,
            routing_key: &publish.routing_key,
            properties: &content.properties,
            body: &content.body,
            reply_token: channel.reply_token.as_deref(),
        };
        let outcome = match &mut channel.mode {
            Mode::Transaction(transaction) => {
                if transaction.publisher.pending() >= self.shared.limits.transaction_messages {
                    let limit = self.shared.limits.transaction_messages;
                    Err(BrokerError::LimitReached(format!(
                        "a transaction holds at most {limit} publishes"
                    )))
                } else {
                    transaction.publisher.publish(request, now)
                }
            }
            Mode::Confirm(confirms) => {
                confirms.published += 1;
                if !self.confirming.contains(&number) {
                    self.confirming.push(number);
                }
                self.publisher.publish(request, now)
            }
            Mode::Plain => self.publisher.publish(request, now),
        };
        match outcome {
            Ok(Published::Queued) => Ok(()),
            Ok(Published::Unroutable) => {
                self.unroutable(number, publish, content);
                Ok(())
            }
            Ok(Published::Refused) => {
                self.note_refused(number);
                Ok(())
            }
            Err(error) => self.refuse_with(number, &error, BasicPublish::ID, now),
        }
    }

    /// Returns a message that no queue wants, if its publisher asked for that; in a transaction only after its commit.
    fn unroutable(&mut self, number: u16, publish: &event::Publish<'_>, content: &Content<'_>) {
        let counters = &self.access.broker().counters;
        if !publish.mandatory {
            counters.unroutable_dropped.add(1);
            return;
        }
        counters.unroutable_returned.add(1);
        let method = Method::BasicReturn(BasicReturn {
            reply_code: ReplyCode::NoRoute.number(),
            reply_text: "NO_ROUTE",
            exchange: &publish.exchange,
            routing_key: &publish.routing_key,
        });
        self.say(number, &method);
        let out = &mut self.output.buffer;
        posthouse_amqp::encode_content_header(
            out,
            number,
            content.body.len() as u64,
            &content.properties,
        );
        posthouse_amqp::encode_body(out, number, &content.body, self.connection.frame_max());
    }

    /// A full queue refused: the publisher hears of it at once, or its transaction fails.
    fn note_refused(&mut self, number: u16) {
        if let Some(Mode::Transaction(transaction)) =
            self.channels.get_mut(&number).map(|channel| &mut channel.mode)
        {
            transaction.refused = true;
            return;
        }
        self.nack_last(number);
    }

    fn nack_last(&mut self, number: u16) {
        if let Some(confirms) =
            self.channels.get_mut(&number).and_then(|channel| channel.confirms())
        {
            let tag = confirms.published;
            posthouse_amqp::encode_nack(&mut self.output.buffer, number, tag, false, true);
            confirms.refused(tag);
        }
    }

    pub(crate) fn confirm_select(
        &mut self,
        number: u16,
        no_wait: bool,
        now: Timestamp,
    ) -> Result<(), End> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        match &channel.mode {
            Mode::Transaction(_) => {
                let text = "cannot switch from tx to confirm mode";
                return self.refuse(number, ReplyCode::PreconditionFailed, text, (85, 10), now);
            }
            Mode::Plain => channel.mode = Mode::Confirm(Confirms::default()),
            Mode::Confirm(_) => {}
        }
        if !no_wait {
            self.say(number, &Method::ConfirmSelectOk(ConfirmSelectOk {}));
        }
        Ok(())
    }

    pub(crate) fn tx_select(&mut self, number: u16, now: Timestamp) -> Result<(), End> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        match &channel.mode {
            Mode::Confirm(_) => {
                let text = "cannot switch from confirm to tx mode";
                return self.refuse(number, ReplyCode::PreconditionFailed, text, (90, 10), now);
            }
            Mode::Plain => {
                channel.mode = Mode::Transaction(Box::new(Transaction::new(&self.access)));
            }
            Mode::Transaction(_) => {}
        }
        self.say(number, &Method::TxSelectOk(TxSelectOk {}));
        Ok(())
    }

    /// Everything of the transaction in one commit; the answer leaves when it is durable.
    pub(crate) fn tx_commit(&mut self, number: u16, now: Timestamp) -> Result<(), End> {
        let access = self.access.clone();
        let Some(Mode::Transaction(transaction)) =
            self.channels.get_mut(&number).map(|channel| &mut channel.mode)
        else {
            return self.not_transactional(number, (90, 20), now);
        };
        if transaction.refused {
            let text =
                "a queue is full and refused a message of the transaction, which was rolled back";
            return self.refuse(number, ReplyCode::PreconditionFailed, text, (90, 20), now);
        }
        let first = access.acknowledging(&mut transaction.acks);
        match transaction.publisher.commit_transaction(first, now) {
            Ok(receipt) => {
                access.settled(&transaction.acks, now);
                let released = std::mem::take(&mut transaction.released);
                let rejected = std::mem::take(&mut transaction.rejected);
                transaction.reset();
                access
                    .release(&released, broker::Counted::Yes, now)
                    .map_err(|error| self.store_failed(&error))?;
                access.reject(&rejected, now).map_err(|error| self.store_failed(&error))?;
                self.output.hold_until(receipt.ticket);
                self.say(number, &Method::TxCommitOk(TxCommitOk {}));
                Ok(())
            }
            Err(BrokerError::Store(error)) if !error.retryable() => {
                Err(self.store_failed(&error.into()))
            }
            Err(error) => self.refuse_with(number, &error, (90, 20), now),
        }
    }

    /// Publishes are forgotten, settled deliveries are unsettled again.
    pub(crate) fn tx_rollback(&mut self, number: u16, now: Timestamp) -> Result<(), End> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let Mode::Transaction(transaction) = &mut channel.mode else {
            return self.not_transactional(number, (90, 30), now);
        };
        let settled = std::mem::take(&mut transaction.settled);
        transaction.publisher.discard();
        transaction.reset();
        channel.unacked.put_back(settled);
        self.say(number, &Method::TxRollbackOk(TxRollbackOk {}));
        Ok(())
    }

    fn not_transactional(
        &mut self,
        number: u16,
        method: (u16, u16),
        now: Timestamp,
    ) -> Result<(), End> {
        self.refuse(
            number,
            ReplyCode::PreconditionFailed,
            "channel is not transactional",
            method,
            now,
        )
    }
}

impl Transaction {
    fn new(access: &Access) -> Self {
        Self {
            publisher: Publisher::new(access.clone()),
            acks: SettleBatch::default(),
            settled: Vec::new(),
            released: Vec::new(),
            rejected: Vec::new(),
            refused: false,
        }
    }

    fn reset(&mut self) {
        self.acks = SettleBatch::default();
        self.settled = Vec::new();
        self.released = Vec::new();
        self.rejected = Vec::new();
        self.refused = false;
    }

    /// Notes a settle until the commit.
    pub(crate) fn note(&mut self, unacked: &Unacked) {
        self.settled.push(unacked.clone());
    }
}

impl Channel {
    /// What it owes, if it is in confirm mode.
    pub(crate) fn confirms(&mut self) -> Option<&mut Confirms> {
        match &mut self.mode {
            Mode::Confirm(confirms) => Some(confirms),
            Mode::Plain | Mode::Transaction(_) => None,
        }
    }

    /// The ticket that its next confirm waits for.
    pub(crate) fn next_confirm(&self) -> Option<model::Ticket> {
        match &self.mode {
            Mode::Confirm(confirms) => confirms.next(),
            Mode::Plain | Mode::Transaction(_) => None,
        }
    }
}
