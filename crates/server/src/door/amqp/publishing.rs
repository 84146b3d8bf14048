//! `basic.publish`, `confirm.select` and `tx.*`.

use broker::{Access, BrokerError, Publish, Published, Publisher, SettleBatch};
use model::Timestamp;
use posthouse_amqp::method::{
    BasicPublish, BasicReturn, ConfirmSelectOk, TxCommitOk, TxRollbackOk, TxSelectOk,
};
use posthouse_amqp::{Content, Method, ReplyCode, event};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::door::amqp::channel::{Channel, Confirms, Mode, Refusals, Transaction, Unacked};
use crate::door::amqp::session::{Deferred, End, Session};

/// Most bytes that one transaction publishes, and most that its refusals move, so that it stays within one commit.
const TRANSACTION_BYTES_MAX: usize = 256 * 1024 * 1024;

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
                self.publishes = true;
                let outcome = transaction.admit(&request, self.shared.limits.transaction_messages);
                outcome.and_then(|()| transaction.publisher.publish(request, now))
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
        // A publish outside of a transaction is told at the end of its turn.
        self.tell_blocked();
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
            Err(error) => {
                self.take_back(number);
                self.refuse_with(number, &error, BasicPublish::ID, now)
            }
        }
    }

    /// A message was not accepted and has its channel closed: what is confirmed before that does not include it.
    fn take_back(&mut self, number: u16) {
        let channel = self.channels.get_mut(&number);
        if let Some(confirms) = channel.and_then(|channel| channel.confirms()) {
            confirms.published -= 1;
        }
    }

    /// Returns a message that no queue wants, if its publisher asked for that; in a transaction when it commits.
    fn unroutable(&mut self, number: u16, publish: &event::Publish<'_>, content: &Content<'_>) {
        let counters = &self.access.broker().counters;
        if !publish.mandatory {
            counters.unroutable_dropped.add(1);
            return;
        }
        let channel = self.channels.get_mut(&number);
        let frame_bytes = self.connection.frame_max();
        if let Some(Mode::Transaction(transaction)) = channel.map(|channel| &mut channel.mode) {
            transaction.returned += 1;
            encode_return(&mut transaction.returns, number, publish, content, frame_bytes);
        } else {
            counters.unroutable_returned.add(1);
            encode_return(&mut self.output.buffer, number, publish, content, frame_bytes);
        }
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

    /// Everything of the transaction in one commit; the answer leaves when it is durable. Without space for it the commit
    /// waits, as publishes do, and with it everything behind it on the connection.
    pub(crate) fn tx_commit(&mut self, number: u16, now: Timestamp) -> Result<(), End> {
        let access = self.access.clone();
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let Mode::Transaction(transaction) = &mut channel.mode else {
            return self.not_transactional(number, (90, 20), now);
        };
        if transaction.refused {
            let text =
                "a queue is full and refused a message of the transaction, which was rolled back";
            return self.refuse(number, ReplyCode::PreconditionFailed, text, (90, 20), now);
        }
        let Refusals { released, rejected } = &transaction.refusals;
        let mut hop = match access.refusing(released, rejected, now) {
            Ok(hop) => hop,
            Err(error) => return self.refuse_with(number, &error, (90, 20), now),
        };
        let fills = transaction.publisher.pending() > 0 || hop.moves();
        if fills && access.broker().watch().full() {
            self.wait_for_space(Deferred::Commit(number));
            return Ok(());
        }
        let mut first = access.acknowledging(&mut transaction.acks);
        first.append(&mut hop.changes());
        match transaction.publisher.commit_transaction(first, now) {
            Ok(receipt) => {
                access.settled(&transaction.acks, now);
                access.landed(hop, now);
                access.broker().counters.unroutable_returned.add(transaction.returned as u64);
                // Before the answer, as RabbitMQ does it.
                self.output.buffer.append(&mut transaction.returns);
                transaction.reset();
                self.share_credit(now);
                self.output.hold_until(receipt.ticket);
                self.say(number, &Method::TxCommitOk(TxCommitOk {}));
                Ok(())
            }
            // The disk ran full in this moment.
            Err(BrokerError::Store(error)) if error.retryable() => {
                let text = format!("{error}, the transaction was rolled back");
                self.refuse(number, ReplyCode::PreconditionFailed, &text, (90, 20), now)
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

/// A `basic.return` with its content.
fn encode_return(
    out: &mut Vec<u8>,
    number: u16,
    publish: &event::Publish<'_>,
    content: &Content<'_>,
    frame_bytes: u32,
) {
    let method = Method::BasicReturn(BasicReturn {
        reply_code: ReplyCode::NoRoute.number(),
        reply_text: "NO_ROUTE",
        exchange: &publish.exchange,
        routing_key: &publish.routing_key,
    });
    if let Err(error) = method.encode(number, out) {
        tracing::error!(%error, "cannot encode a return");
        return;
    }
    let body_bytes = content.body.len() as u64;
    posthouse_amqp::encode_content_header(out, number, body_bytes, &content.properties);
    posthouse_amqp::encode_body(out, number, &content.body, frame_bytes);
}

impl Transaction {
    fn new(access: &Access) -> Self {
        Self {
            publisher: Publisher::new(access.clone()),
            acks: SettleBatch::default(),
            settled: Vec::new(),
            refusals: Refusals::default(),
            returns: Vec::new(),
            returned: 0,
            bytes: 0,
            refused: false,
        }
    }

    /// Whether one more publish fits.
    fn admit(&mut self, publish: &Publish<'_>, messages_max: usize) -> Result<(), BrokerError> {
        if self.publisher.pending() + self.returned >= messages_max {
            return Err(BrokerError::LimitReached(format!(
                "a transaction holds at most {messages_max} publishes"
            )));
        }
        self.bytes += publish.properties.len() + publish.body.len();
        if self.bytes > TRANSACTION_BYTES_MAX {
            return Err(BrokerError::LimitReached(format!(
                "a transaction holds at most {TRANSACTION_BYTES_MAX} bytes of publishes"
            )));
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.acks = SettleBatch::default();
        self.settled = Vec::new();
        self.refusals = Refusals::default();
        self.returns = Vec::new();
        self.returned = 0;
        self.bytes = 0;
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
