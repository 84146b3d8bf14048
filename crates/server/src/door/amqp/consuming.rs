//! Consumers, deliveries and their settling.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use broker::{
    ConsumeOptions, Consumer, Counted, Fetched, Holder, Outgoing, PREFETCH_UNLIMITED, Refused,
};
use model::{Setback, Timestamp, death, stream_offset};
use posthouse_amqp::frame::FRAME_END;
use posthouse_amqp::method::{
    BasicAck, BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty,
    BasicGetOk, BasicNack, BasicQos, BasicQosOk, BasicRecoverOk,
};
use posthouse_amqp::{Method, ReplyCode, Value};
use store::Leased;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::door::amqp::channel::{Mode, Unacked};
use crate::door::amqp::names;
use crate::door::amqp::session::{Deferred, End, Session};

/// What a content header's frame holds besides the properties: frame head and end, class, weight, size of the body.
const HEADER_BYTES: usize = 7 + 1 + 2 + 2 + 8;

/// Unsettled deliveries are looked at no more often than this,
const TIMEOUT_CHECK_MIN: Duration = Duration::from_millis(50);

/// and no less often, so that a timeout is late by seconds at most.
const TIMEOUT_CHECK_MAX: Duration = Duration::from_secs(10);

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// `basic.qos`. Without `global` it holds for each consumer of the channel, running ones included: RabbitMQ leaves
    /// those as they are, which users have asked to change for years.
    pub(crate) fn qos(&mut self, number: u16, qos: &BasicQos, now: Timestamp) -> Result<(), End> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return self.refuse(number, ReplyCode::NotImplemented, &text, BasicQos::ID, now);
        }
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let limit = u32::from(qos.prefetch_count);
        if qos.global {
            channel.credit.set_limit(limit);
        } else {
            channel.prefetch = limit;
            for consumer in channel.consumers.values().filter(|consumer| !consumer.options.no_ack) {
                consumer.credit.set_limit(limit);
            }
        }
        let queues: Vec<_> =
            channel.consumers.values().map(|consumer| Arc::clone(&consumer.queue)).collect();
        self.say(number, &Method::BasicQosOk(BasicQosOk {}));
        for queue in queues {
            self.access.dispatch(&queue, now);
        }
        Ok(())
    }

    pub(crate) fn consume(
        &mut self,
        number: u16,
        consume: &BasicConsume<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        let Some(name) = self.queue_name(number, consume.queue, BasicConsume::ID, now)? else {
            return Ok(());
        };
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let tag: Arc<str> = match consume.consumer_tag {
            "" => names::consumer_tag().into(),
            tag => tag.into(),
        };
        if channel.consumers.contains_key(&tag) {
            let text = format!("attempt to reuse consumer tag '{tag}'");
            return self.refuse(number, ReplyCode::NotAllowed, &text, BasicConsume::ID, now);
        }
        if channel.consumers.len() >= self.shared.limits.consumers_per_channel {
            let text = format!(
                "a channel has at most {} consumers",
                self.shared.limits.consumers_per_channel
            );
            return self.refuse(
                number,
                ReplyCode::PreconditionFailed,
                &text,
                BasicConsume::ID,
                now,
            );
        }
        let options = match self.consume_options(number, consume, Arc::clone(&tag)) {
            Ok(options) => options,
            Err(text) => {
                let vhost = self.access.tenant_name();
                let text = text.replace("{vhost}", vhost);
                return self.refuse(
                    number,
                    ReplyCode::PreconditionFailed,
                    &text,
                    BasicConsume::ID,
                    now,
                );
            }
        };
        if &*name == broker::REPLY_TO {
            return self.consume_replies(number, consume, options, now);
        }
        let credit = self
            .channels
            .get(&number)
            .map_or_else(Arc::default, |channel| Arc::clone(&channel.credit));
        let consumer = match self.access.consume(&name, options, &self.outbox, credit, now) {
            Ok(consumer) => consumer,
            Err(error) => return self.refuse_with(number, &error, BasicConsume::ID, now),
        };
        let queue = Arc::clone(&consumer.queue);
        self.note_timeout(&consumer);
        self.add_consumer(number, consumer, consume.no_wait);
        self.access.dispatch(&queue, now);
        Ok(())
    }

    fn add_consumer(&mut self, number: u16, consumer: Arc<Consumer>, no_wait: bool) {
        let tag = Arc::clone(&consumer.options.tag);
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.consumers.insert(Arc::clone(&tag), consumer);
        }
        if !no_wait {
            self.say(number, &Method::BasicConsumeOk(BasicConsumeOk { consumer_tag: &tag }));
        }
    }

    fn consume_options(
        &self,
        number: u16,
        consume: &BasicConsume<'_>,
        tag: Arc<str>,
    ) -> Result<ConsumeOptions, String> {
        let queue = consume.queue;
        let arguments = consume.arguments.decode().map_err(|error| error.to_string())?;
        let priority = match arguments.get("x-priority") {
            None => 0,
            Some(value) => value.as_i64().and_then(|value| i32::try_from(value).ok()).ok_or_else(|| {
                format!(
                    "invalid arg 'x-priority' for queue '{queue}' in vhost '{{vhost}}': \"expected integer, got {}\"",
                    value.type_name()
                )
            })?,
        };
        let stream_offset = stream_offset::parse(arguments.get("x-stream-offset"))
            .map_err(|error| error.to_string())?;
        let timeout_ms = arguments.get("x-consumer-timeout").and_then(Value::as_i64);
        Ok(ConsumeOptions {
            tag,
            channel: number,
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            priority,
            prefetch: self
                .channels
                .get(&number)
                .map_or(PREFETCH_UNLIMITED, |channel| channel.prefetch),
            stream_offset,
            timeout_ms: timeout_ms.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0),
        })
    }

    /// The pseudo-queue of direct replies.
    fn consume_replies(
        &mut self,
        number: u16,
        consume: &BasicConsume<'_>,
        options: ConsumeOptions,
        now: Timestamp,
    ) -> Result<(), End> {
        let taken = self.channels.get(&number).is_some_and(|channel| channel.reply_token.is_some());
        let problem = match () {
            () if !consume.no_ack => Some("reply consumer cannot acknowledge"),
            () if taken => Some("reply consumer already set"),
            () => None,
        };
        if let Some(text) = problem {
            return self.refuse(number, ReplyCode::PreconditionFailed, text, BasicConsume::ID, now);
        }
        let token: Arc<str> = names::reply_token().into();
        let consumer = self.access.consume_replies(Arc::clone(&token), options, &self.outbox, now);
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.reply_token = Some(token);
        }
        self.add_consumer(number, consumer, consume.no_wait);
        Ok(())
    }

    pub(crate) fn cancel(&mut self, number: u16, cancel: &BasicCancel<'_>, now: Timestamp) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        if let Some(consumer) = channel.consumers.remove(cancel.consumer_tag) {
            if consumer.queue.name.as_ref() == broker::REPLY_TO
                && let Some(token) = channel.reply_token.take()
            {
                self.access.cancel_replies(&token);
            }
            self.access.cancel(&consumer, now);
            if consumer.options.no_ack {
                self.deliver_taken(&consumer, now);
            }
        }
        if !cancel.no_wait {
            self.say(
                number,
                &Method::BasicCancelOk(BasicCancelOk { consumer_tag: cancel.consumer_tag }),
            );
        }
    }

    /// Delivers what was taken out of its queue for a consumer that acknowledges nothing: it is nowhere else. The queue
    /// has forgotten the consumer, so nothing comes after this.
    fn deliver_taken(&mut self, consumer: &Arc<Consumer>, now: Timestamp) {
        self.incoming.extend(self.outbox.take_rest());
        let is_its = |outgoing: &Outgoing| matches!(outgoing, Outgoing::Deliver { consumer: its, .. } if its.id == consumer.id);
        let (taken, others) = self.incoming.drain(..).partition::<VecDeque<_>, _>(is_its);
        self.incoming = others;
        let mut bytes = 0;
        for outgoing in taken {
            bytes += self.tell(outgoing, now);
        }
        self.outbox.release(bytes);
        self.finish_deliveries(now);
    }

    pub(crate) fn get(
        &mut self,
        number: u16,
        get: &BasicGet<'_>,
        now: Timestamp,
    ) -> Result<(), End> {
        let Some(name) = self.queue_name(number, get.queue, BasicGet::ID, now)? else {
            return Ok(());
        };
        self.fetch(DeferredGet { number, name, no_ack: get.no_ack }, now)
    }

    /// Fetches, or defers the fetch and all input behind it until the store's watermark moves.
    pub(crate) fn fetch(&mut self, get: DeferredGet, now: Timestamp) -> Result<(), End> {
        let number = get.number;
        if !self.channels.contains_key(&number) {
            // It went while the fetch was deferred; what would be fetched now would be leased to nobody.
            return Ok(());
        }
        let (queue, leased, left) = match self.access.get(&get.name, get.no_ack, now) {
            Ok(Fetched::Message(queue, leased, left)) => (queue, leased, left),
            Ok(Fetched::Nothing) => {
                self.say(number, &Method::BasicGetEmpty(BasicGetEmpty {}));
                return Ok(());
            }
            Ok(Fetched::NotYet(ticket)) => {
                self.paused_until = Some(ticket);
                self.deferred = Some(Deferred::Get(get));
                return Ok(());
            }
            Err(error) => return self.refuse_with(number, &error, BasicGet::ID, now),
        };
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let delivery_tag = channel.take_tag();
        if !get.no_ack {
            let holder = Holder::Fetched(Arc::clone(&queue));
            channel.unacked.push(Unacked::new(
                delivery_tag,
                holder,
                leased.sequence,
                leased.delivery_count,
                now,
            ));
        }
        let address = Arc::clone(&leased.message.address);
        let method = Method::BasicGetOk(BasicGetOk {
            delivery_tag,
            redelivered: leased.redelivered,
            exchange: &address.exchange,
            routing_key: &address.routing_key,
            message_count: u32::try_from(left).unwrap_or(u32::MAX),
        });
        self.say(number, &method);
        self.content(number, &queue, &leased);
        Ok(())
    }

    /// Writes one thing from the outbox; returns the bytes that it occupied there.
    pub(crate) fn tell(&mut self, outgoing: Outgoing, now: Timestamp) -> usize {
        match outgoing {
            Outgoing::Deliver { consumer, leased } => {
                let bytes = broker::delivery_bytes(&leased);
                self.deliver(&consumer, leased, now);
                bytes
            }
            Outgoing::Cancelled { consumer } => {
                self.cancelled(&consumer);
                0
            }
        }
    }

    #[inline]
    fn deliver(&mut self, consumer: &Arc<Consumer>, leased: Leased, now: Timestamp) {
        let number = consumer.options.channel;
        let is_gone = consumer.is_cancelled() && !consumer.options.no_ack;
        let Some(channel) = self.channels.get_mut(&number).filter(|_| !is_gone) else {
            self.turned_away.push(Outgoing::Deliver { consumer: Arc::clone(consumer), leased });
            return;
        };
        let tag = channel.take_tag();
        let address = &leased.message.address;
        let encoded = posthouse_amqp::encode_deliver(
            &mut self.output.buffer,
            number,
            &consumer.options.tag,
            tag,
            leased.redelivered,
            &address.exchange,
            &address.routing_key,
        );
        debug_assert!(encoded.is_ok(), "names are bounded where they come in");
        if !consumer.options.no_ack {
            let holder = Holder::Consumer(Arc::clone(consumer));
            channel.unacked.push(Unacked::new(
                tag,
                holder,
                leased.sequence,
                leased.delivery_count,
                now,
            ));
            self.sent.delivered += 1;
        } else {
            self.sent.delivered_no_ack += 1;
        }
        self.sent.redelivered += u64::from(leased.redelivered);
        self.content(number, &consumer.queue, &leased);
    }

    /// Header and body, with what the queue adds to the headers.
    #[inline]
    fn content(&mut self, number: u16, queue: &broker::Queue, leased: &Leased) {
        let message = &leased.message;
        let body_len = message.body_len();
        let adds = queue.is_stream() || (leased.delivery_count > 0 && queue.counts_deliveries());
        let mut properties = Cow::Borrowed(message.properties());
        if adds {
            properties = names::with_delivery_headers(queue, leased).into();
        }
        // A header has one frame. A story that grew beyond the consumer's frames is told as far as it fits; what a
        // client wrote itself is sent as it is, as RabbitMQ does.
        let bytes_max = (self.connection.frame_max() as usize).saturating_sub(HEADER_BYTES);
        if properties.len() > bytes_max
            && let Some(shorter) = death::shorten(&properties, bytes_max)
        {
            properties = shorter.into();
        }
        posthouse_amqp::encode_content_header(
            &mut self.output.buffer,
            number,
            body_len as u64,
            &properties,
        );
        let start = message.properties_len();
        for piece in posthouse_amqp::body_frames(body_len, self.connection.frame_max()) {
            let head = posthouse_amqp::body_frame_head(number, piece.len());
            self.output.buffer.extend_from_slice(&head);
            self.output.body(message.payload(), start + piece.start..start + piece.end);
            self.output.buffer.push(FRAME_END);
        }
    }

    /// The queue of a consumer is gone.
    fn cancelled(&mut self, consumer: &Arc<Consumer>) {
        let number = consumer.options.channel;
        let Some(channel) = self.channels.get_mut(&number) else { return };
        let known =
            channel.consumers.get(&consumer.options.tag).is_some_and(|own| own.id == consumer.id);
        if !known {
            return;
        }
        channel.consumers.remove(&consumer.options.tag);
        if self.understands.consumer_cancel_notify {
            let tag = Arc::clone(&consumer.options.tag);
            self.say(
                number,
                &Method::BasicCancel(BasicCancel { consumer_tag: &tag, no_wait: true }),
            );
        }
    }

    /// After deliveries were encoded: figures, and what met no consumer goes back.
    pub(crate) fn finish_deliveries(&mut self, now: Timestamp) {
        let sent = std::mem::take(&mut self.sent);
        let counters = &self.access.broker().counters;
        counters.delivered.add(sent.delivered);
        counters.delivered_no_ack.add(sent.delivered_no_ack);
        counters.redelivered.add(sent.redelivered);
        if !self.turned_away.is_empty() {
            let turned_away = std::mem::take(&mut self.turned_away);
            self.turn_away(turned_away, now);
            self.share_credit(now);
        }
    }

    /// `basic.ack`, gathered until the end of the turn.
    #[inline]
    pub(crate) fn ack(&mut self, number: u16, ack: &BasicAck, now: Timestamp) -> Result<(), End> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let taken = match &mut channel.mode {
            Mode::Transaction(transaction) => {
                channel.unacked.take(ack.delivery_tag, ack.multiple, |unacked| {
                    transaction.acks.add(&unacked.holder, unacked.sequence);
                    transaction.note(unacked);
                })
            }
            Mode::Plain | Mode::Confirm(_) => {
                let acks = &mut self.acks;
                channel.unacked.take(ack.delivery_tag, ack.multiple, |unacked| {
                    acks.add(&unacked.holder, unacked.sequence);
                })
            }
        };
        match taken {
            Ok(()) => Ok(()),
            Err(_) => self.unknown_tag(number, ack.delivery_tag, BasicAck::ID, now),
        }
    }

    /// `basic.nack` and `basic.reject`, gathered until the end of the turn, too.
    pub(crate) fn nack(
        &mut self,
        number: u16,
        nack: &BasicNack,
        method: (u16, u16),
        now: Timestamp,
    ) -> Result<(), End> {
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let mode = &mut channel.mode;
        let turn = &mut self.refusals;
        // As RabbitMQ 4.3 tells them apart.
        let setback = if method == BasicNack::ID { Setback::Returned } else { Setback::Failed };
        let taken = channel.unacked.take(nack.delivery_tag, nack.multiple, |unacked| {
            let refusals = match mode {
                Mode::Transaction(transaction) => {
                    transaction.note(unacked);
                    &mut transaction.refusals
                }
                Mode::Plain | Mode::Confirm(_) => &mut *turn,
            };
            match nack.requeue {
                true => refusals.released.push(unacked.refused(setback)),
                false => refusals.rejected.push(unacked.refused(setback)),
            }
        });
        match taken {
            Ok(()) => Ok(()),
            Err(_) => self.unknown_tag(number, nack.delivery_tag, method, now),
        }
    }

    fn unknown_tag(
        &mut self,
        number: u16,
        tag: u64,
        method: (u16, u16),
        now: Timestamp,
    ) -> Result<(), End> {
        let text = format!("unknown delivery tag {tag}");
        self.refuse(number, ReplyCode::PreconditionFailed, &text, method, now)
    }

    pub(crate) fn recover(
        &mut self,
        number: u16,
        requeue: bool,
        (method, answers): ((u16, u16), bool),
        now: Timestamp,
    ) -> Result<(), End> {
        if !requeue {
            return self.refuse(number, ReplyCode::NotImplemented, "requeue=false", method, now);
        }
        if answers {
            self.say(number, &Method::BasicRecoverOk(BasicRecoverOk {}));
        }
        let Some(channel) = self.channels.get_mut(&number) else { return Ok(()) };
        let refused: Vec<Refused> =
            channel.unacked.take_all().iter().map(|held| held.refused(Setback::Returned)).collect();
        // Uncounted: the client asks for its messages again, and nothing failed. A look at a queue ends so.
        let released = self.access.release(&refused, Counted::No, now);
        released.map_err(|error| self.store_failed(&error))?;
        self.share_credit(now);
        Ok(())
    }

    /// Has deliveries looked at often enough for the shortest timeout of the connection's consumers.
    fn note_timeout(&mut self, consumer: &Consumer) {
        let of_queue = || consumer.queue.settings().consumer_timeout;
        let asked = consumer.options.timeout_ms.or_else(of_queue).map(Duration::from_millis);
        let Some(timeout) = asked.or(self.shared.limits.consumer_timeout) else { return };
        let check = (timeout / 4).clamp(TIMEOUT_CHECK_MIN, TIMEOUT_CHECK_MAX);
        self.timeout_check = Some(self.timeout_check.map_or(check, |own| own.min(check)));
    }

    /// Closes channels whose deliveries stay unsettled longer than their consumers said (off unless asked for).
    pub(crate) fn check_consumer_timeouts(&mut self, now: Timestamp) -> Result<(), End> {
        let late: Vec<(u16, u64, u64)> = self
            .channels
            .iter()
            .filter_map(|(number, channel)| {
                let oldest = channel.unacked.oldest()?;
                let timeout_ms = oldest.timeout_ms(self.shared.limits.consumer_timeout)?;
                (oldest.delivered.after_ms(timeout_ms) <= now)
                    .then_some((*number, oldest.tag, timeout_ms))
            })
            .collect();
        for (number, tag, timeout_ms) in late {
            let text = format!(
                "delivery acknowledgement on channel {number} timed out (delivery tag {tag}). Timeout value used: \
                 {timeout_ms} ms. It was asked for by the consumer, the queue or a policy (consumer-timeout)"
            );
            self.refuse(number, ReplyCode::PreconditionFailed, &text, (0, 0), now)?;
        }
        Ok(())
    }
}

impl<S> Session<S> {
    /// Ends a channel that is gone: its consumers, and what they held returns to the queues.
    pub(crate) fn drop_channel(&mut self, number: u16, now: Timestamp) {
        let Some(mut channel) = self.channels.remove(&number) else { return };
        self.access.close_channel();
        self.access.broker().counters.channels_closed.add(1);
        self.owed.retain(|owed| *owed != number);
        self.confirming.retain(|confirming| *confirming != number);
        if let Some(token) = channel.reply_token.take() {
            self.access.cancel_replies(&token);
        }
        // Cancelled first, so that what returns does not come back here; auto-delete last, so that it finds nobody.
        let mut held = channel.unacked.take_all();
        if let Mode::Transaction(transaction) = &mut channel.mode {
            held.append(&mut transaction.settled);
            held.sort_unstable_by_key(|unacked| unacked.tag);
        }
        let refused: Vec<Refused> = held.iter().map(|held| held.refused(Setback::Failed)).collect();
        for consumer in channel.consumers.values() {
            self.access.stop(consumer);
        }
        if let Err(error) = self.access.release(&refused, Counted::Yes, now) {
            tracing::warn!(%error, "cannot give messages back");
        }
        for consumer in channel.consumers.values() {
            self.access.cancel(consumer, now);
        }
    }
}

/// A fetch that waits for the store.
#[derive(Debug)]
pub(crate) struct DeferredGet {
    pub(crate) number: u16,
    pub(crate) name: Arc<str>,
    pub(crate) no_ack: bool,
}

/// Figures of one turn.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) delivered: u64,
    pub(crate) delivered_no_ack: u64,
    pub(crate) redelivered: u64,
}
