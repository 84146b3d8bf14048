//! The verbs of a channel: declare, publish, consume, settle.

use std::time::{Duration, Instant};

use crate::connection::{Close, Connection, Event, close_of};
use crate::frame::{self, Args, Frame, Reader};
use crate::{Message, PATIENCE, Properties, SILENCE, Value};

type Table<'a> = &'a [(String, Value)];

/// One channel of a connection.
#[derive(Debug, Clone)]
pub struct Channel {
    /// The connection it belongs to.
    pub connection: Connection,
    /// Its number.
    pub number: u16,
}

/// What `queue.declare-ok` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// The queue's name, which the server may have chosen.
    pub name: String,
    /// Messages that are ready.
    pub messages: u32,
    /// Its consumers.
    pub consumers: u32,
}

/// What the broker said about a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirm {
    /// The publish, counted from 1.
    pub tag: u64,
    /// Whether it speaks for all before it too.
    pub multiple: bool,
    /// Ack or nack.
    pub accepted: bool,
}

/// Topology.
impl Channel {
    /// Declares a queue that is exclusive to the connection, so that it leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn declare(&self, name: &str, arguments: Table<'_>) -> Result<Declared, Close> {
        self.declare_queue(name, [false, false, true, false], arguments)
    }

    /// Declares a durable queue.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn declare_durable(&self, name: &str, arguments: Table<'_>) -> Result<Declared, Close> {
        self.declare_queue(name, [false, true, false, false], arguments)
    }

    /// Asks about a queue without making it.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn inspect(&self, name: &str) -> Result<Declared, Close> {
        self.declare_queue(name, [true, false, false, false], &[])
    }

    /// `queue.declare` with the flags passive, durable, exclusive, auto-delete.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn declare_queue(
        &self,
        name: &str,
        flags: [bool; 4],
        arguments: Table<'_>,
    ) -> Result<Declared, Close> {
        let [passive, durable, exclusive, auto_delete] = flags;
        let bits = [passive, durable, exclusive, auto_delete, false];
        let args = Args::default().short(0).text(name).bits(&bits).table(arguments);
        let answer = self.call((50, 10), &args, (50, 11))?;
        let mut reader = Reader(&answer.args);
        Ok(Declared { name: reader.text(), messages: reader.long(), consumers: reader.long() })
    }

    /// `exchange.declare` with the flags passive, durable, auto-delete, internal.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn declare_exchange(
        &self,
        name: &str,
        kind: &str,
        flags: [bool; 4],
        arguments: Table<'_>,
    ) -> Result<(), Close> {
        let [passive, durable, auto_delete, internal] = flags;
        let bits = [passive, durable, auto_delete, internal, false];
        let args = Args::default().short(0).text(name).text(kind).bits(&bits).table(arguments);
        self.call((40, 10), &args, (40, 11)).map(drop)
    }

    /// An exchange that goes with its last binding.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn exchange(&self, name: &str, kind: &str) -> Result<(), Close> {
        self.declare_exchange(name, kind, [false, false, true, false], &[])
    }

    /// `exchange.delete`, unused or not.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn delete_exchange(&self, name: &str, if_unused: bool) -> Result<(), Close> {
        self.call((40, 20), &Args::default().short(0).text(name).bits(&[if_unused]), (40, 21))
            .map(drop)
    }

    /// `queue.bind`.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn bind(
        &self,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: Table<'_>,
    ) -> Result<(), Close> {
        let args =
            Args::default().short(0).text(queue).text(exchange).text(key).octet(0).table(arguments);
        self.call((50, 20), &args, (50, 21)).map(drop)
    }

    /// Fetches a message that must be there and keeps it unsettled; answers its tag.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn take_unsettled(&self, queue: &str) -> u64 {
        self.get(queue, false).expect("a queue").expect("a message").tag
    }

    /// `queue.unbind`.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn unbind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), Close> {
        let args = Args::default().short(0).text(queue).text(exchange).text(key).table(&[]);
        self.call((50, 50), &args, (50, 51)).map(drop)
    }

    /// `exchange.bind`.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn bind_exchange(&self, to: &str, from: &str, key: &str) -> Result<(), Close> {
        let args = Args::default().short(0).text(to).text(from).text(key).octet(0).table(&[]);
        self.call((40, 30), &args, (40, 31)).map(drop)
    }

    /// `queue.purge`; answers how many were ready.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn purge(&self, queue: &str) -> Result<u32, Close> {
        let answer =
            self.call((50, 30), &Args::default().short(0).text(queue).octet(0), (50, 31))?;
        Ok(Reader(&answer.args).long())
    }

    /// `queue.delete` with the flags if-unused and if-empty; answers how many were ready.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn delete(&self, queue: &str, [if_unused, if_empty]: [bool; 2]) -> Result<u32, Close> {
        let args = Args::default().short(0).text(queue).bits(&[if_unused, if_empty, false]);
        let answer = self.call((50, 40), &args, (50, 41))?;
        Ok(Reader(&answer.args).long())
    }
}

/// Publishing.
impl Channel {
    /// Publishes without waiting for anything.
    pub fn publish(&self, exchange: &str, key: &str, properties: &Properties, body: &[u8]) {
        self.publish_flagged(exchange, key, [false, false], properties, body);
    }

    /// Publishes to a queue by its name.
    pub fn send(&self, queue: &str, body: &str) {
        self.publish("", queue, &Properties::default(), body.as_bytes());
    }

    /// Publishes with the flags mandatory and immediate.
    pub fn publish_flagged(
        &self,
        exchange: &str,
        key: &str,
        flags: [bool; 2],
        properties: &Properties,
        body: &[u8],
    ) {
        let args = Args::default().short(0).text(exchange).text(key).bits(&flags);
        let mut bytes = frame::method(self.number, 60, 40, &args);
        bytes.extend(self.header(body.len() as u64, properties));
        let most = usize::try_from(self.connection.frame_max).unwrap() - 8;
        for part in body.chunks(most) {
            bytes.extend(
                Frame { kind: frame::BODY, channel: self.number, payload: part.to_vec() }.encode(),
            );
        }
        self.connection.send(&bytes);
    }

    /// The header frame of a body of that size.
    #[must_use]
    pub fn header(&self, size: u64, properties: &Properties) -> Vec<u8> {
        let payload =
            Args::default().short(60).short(0).longlong(size).bytes(&properties.write().0).0;
        Frame { kind: frame::HEADER, channel: self.number, payload }.encode()
    }

    /// `confirm.select`.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub fn confirms(&self) {
        self.call((85, 10), &Args::default().octet(0), (85, 11)).expect("confirm.select-ok");
    }

    /// The next ack or nack of a publish.
    #[must_use]
    pub fn next_confirm(&self, within: Duration) -> Option<Confirm> {
        let event = self.event(within, |event| matches!(event.id, (60, 80 | 120)))?;
        let mut reader = Reader(&event.args);
        let (tag, bits) = (reader.longlong(), reader.octet());
        Some(Confirm { tag, multiple: bits & 1 != 0, accepted: event.id == (60, 80) })
    }

    /// Waits until every publish up to `last` is answered for and says which were refused.
    ///
    /// # Panics
    ///
    /// If an answer is missing.
    pub fn wait_confirms(&self, last: u64) -> Vec<u64> {
        let mut open: std::collections::BTreeSet<u64> = (1..=last).collect();
        let mut refused = Vec::new();
        while !open.is_empty() {
            let confirm =
                self.next_confirm(PATIENCE).unwrap_or_else(|| panic!("no confirm for {open:?}"));
            let low = if confirm.multiple { 1 } else { confirm.tag };
            let settled: Vec<u64> = open.range(low..=confirm.tag).copied().collect();
            settled.iter().for_each(|tag| assert!(open.remove(tag)));
            if !confirm.accepted {
                refused.extend(settled);
            }
        }
        refused
    }

    /// The next returned message.
    #[must_use]
    pub fn next_return(&self, within: Duration) -> Option<Message> {
        self.event(within, |event| event.id == (60, 50)).map(message_of)
    }

    /// `tx.select`, `tx.commit` or `tx.rollback`, by its number 10, 20 or 30.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn transaction(&self, method: u16) -> Result<(), Close> {
        self.call((90, method), &Args::default(), (90, method + 1)).map(drop)
    }
}

/// Consuming.
impl Channel {
    /// `basic.qos` for each new consumer.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub fn prefetch(&self, count: u16) {
        let args = Args::default().long(0).short(count).octet(0);
        self.call((60, 10), &args, (60, 11)).expect("qos-ok");
    }

    /// `basic.qos` for the whole channel.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    pub fn prefetch_shared(&self, count: u16) {
        let args = Args::default().long(0).short(count).octet(1);
        self.call((60, 10), &args, (60, 11)).expect("qos-ok");
    }

    /// Consumes with acknowledgements; the tag is `tag`, or the server's choice if empty.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn consume(&self, queue: &str, tag: &str, arguments: Table<'_>) -> Result<String, Close> {
        self.consume_flagged(queue, tag, [false, false], arguments)
    }

    /// Consumes with the flags no-ack and exclusive.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn consume_flagged(
        &self,
        queue: &str,
        tag: &str,
        [no_ack, exclusive]: [bool; 2],
        arguments: Table<'_>,
    ) -> Result<String, Close> {
        let bits = [false, no_ack, exclusive, false];
        let args = Args::default().short(0).text(queue).text(tag).bits(&bits).table(arguments);
        let answer = self.call((60, 20), &args, (60, 21))?;
        Ok(Reader(&answer.args).text())
    }

    /// `basic.cancel`.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn cancel(&self, tag: &str) -> Result<(), Close> {
        self.call((60, 30), &Args::default().text(tag).octet(0), (60, 31)).map(drop)
    }

    /// The next delivery, waiting up to [`PATIENCE`].
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn next(&self) -> Message {
        self.delivery(PATIENCE).expect("a delivery")
    }

    /// The next delivery if one comes in that time.
    #[must_use]
    pub fn delivery(&self, within: Duration) -> Option<Message> {
        self.event(within, |event| event.id == (60, 60)).map(message_of)
    }

    /// Listens for [`SILENCE`] and fails if something is delivered.
    ///
    /// # Panics
    ///
    /// If there is a delivery.
    pub fn expect_silence(&self) {
        let extra = self.delivery(SILENCE);
        assert!(extra.is_none(), "delivered although nothing should be: {extra:?}");
    }

    /// The tag of the consumer that the broker cancelled.
    #[must_use]
    pub fn next_cancel(&self, within: Duration) -> Option<String> {
        self.event(within, |event| event.id == (60, 30)).map(|event| Reader(&event.args).text())
    }

    /// `basic.get` without acknowledgement.
    ///
    /// # Panics
    ///
    /// If the broker refuses.
    #[must_use]
    pub fn take(&self, queue: &str) -> Option<Message> {
        self.get(queue, true).expect("get-ok or get-empty")
    }

    /// Takes the next message of a queue, asking until there is one.
    ///
    /// # Panics
    ///
    /// If none comes within [`PATIENCE`].
    #[must_use]
    pub fn take_soon(&self, queue: &str) -> Message {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(message) = self.take(queue) {
                return message;
            }
            assert!(Instant::now() < deadline, "no message in `{queue}`");
            self.connection.listen(Duration::from_millis(5)).expect("an open connection");
        }
    }

    /// Takes everything and answers the bodies.
    #[must_use]
    pub fn take_all(&self, queue: &str) -> Vec<String> {
        std::iter::from_fn(|| self.take(queue)).map(|message| message.text().to_owned()).collect()
    }

    /// `basic.get`.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn get(&self, queue: &str, no_ack: bool) -> Result<Option<Message>, Close> {
        let args = Args::default().short(0).text(queue).bits(&[no_ack]);
        self.connection.send(&frame::method(self.number, 60, 70, &args));
        let answer = self.answer(|event| matches!(event.id, (60, 71 | 72)))?;
        Ok((answer.id == (60, 71)).then(|| message_of(answer)))
    }

    /// `basic.ack` of one.
    pub fn ack(&self, tag: u64) {
        self.connection.send(&frame::method(
            self.number,
            60,
            80,
            &Args::default().longlong(tag).octet(0),
        ));
    }

    /// `basic.ack` of all up to this one.
    pub fn ack_all(&self, tag: u64) {
        self.connection.send(&frame::method(
            self.number,
            60,
            80,
            &Args::default().longlong(tag).octet(1),
        ));
    }

    /// `basic.nack` with the flags multiple and requeue.
    pub fn nack(&self, tag: u64, flags: [bool; 2]) {
        self.connection.send(&frame::method(
            self.number,
            60,
            120,
            &Args::default().longlong(tag).bits(&flags),
        ));
    }

    /// `basic.reject`.
    pub fn reject(&self, tag: u64, requeue: bool) {
        self.connection.send(&frame::method(
            self.number,
            60,
            90,
            &Args::default().longlong(tag).bits(&[requeue]),
        ));
    }

    /// `basic.recover` with requeue.
    ///
    /// # Errors
    ///
    /// Why the broker refused.
    pub fn recover(&self, requeue: bool) -> Result<(), Close> {
        self.call((60, 110), &Args::default().bits(&[requeue]), (60, 111)).map(drop)
    }
}

/// The plain wire.
impl Channel {
    /// Sends a method and waits for its answer; everything else that arrives stays for later.
    ///
    /// # Errors
    ///
    /// Why the broker closed the channel or the connection instead.
    pub fn call(&self, id: (u16, u16), args: &Args, answer: (u16, u16)) -> Result<Event, Close> {
        self.connection.send(&frame::method(self.number, id.0, id.1, args));
        self.answer(|event| event.id == answer)
    }

    /// Waits for the broker to close this channel and says why.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[must_use]
    pub fn closed(&self) -> Close {
        self.answer(|_| false).expect_err("the channel stayed open")
    }

    /// Closes the channel in good order.
    ///
    /// # Errors
    ///
    /// Why the broker closed it first.
    pub fn close(&self) -> Result<(), Close> {
        let args = Args::default().short(200).text("").short(0).short(0);
        self.call((20, 40), &args, (20, 41)).map(drop)
    }

    /// The next event of any kind on this channel.
    #[must_use]
    pub fn next_event(&self, within: Duration) -> Option<Event> {
        self.connection.event_on(self.number, within).expect("an open connection")
    }

    /// Waits until the broker has read all that was sent on this channel.
    ///
    /// # Panics
    ///
    /// If the channel is closed.
    pub fn sync(&self) {
        self.call((20, 20), &Args::default().octet(1), (20, 21)).expect("flow-ok");
    }

    fn answer(&self, wanted: impl Fn(&Event) -> bool) -> Result<Event, Close> {
        let wanted = |event: &Event| event.id == (20, 40) || wanted(event);
        let event =
            self.connection.event_matching(self.number, PATIENCE, wanted)?.expect("an answer");
        if event.id == (20, 40) {
            self.connection.send(&frame::method(self.number, 20, 41, &Args::default()));
            return Err(close_of(&event.args, false));
        }
        Ok(event)
    }

    fn event(&self, within: Duration, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let wanted = |event: &Event| event.id == (20, 40) || wanted(event);
        let event = self
            .connection
            .event_matching(self.number, within, wanted)
            .expect("an open connection")?;
        assert!(event.id != (20, 40), "the channel was closed: {:?}", close_of(&event.args, false));
        Some(event)
    }
}

fn message_of(event: Event) -> Message {
    let mut reader = Reader(&event.args);
    let (properties, body) = event.content.expect("a content");
    let (mut consumer, mut tag, mut redelivered, mut returned) = (String::new(), 0, false, None);
    if event.id == (60, 50) {
        returned = Some((reader.short(), reader.text()));
    } else {
        if event.id == (60, 60) {
            consumer = reader.text();
        }
        tag = reader.longlong();
        redelivered = reader.octet() != 0;
    }
    let (exchange, routing_key) = (reader.text(), reader.text());
    let left = if event.id == (60, 71) { reader.long() } else { 0 };
    Message { consumer, tag, redelivered, exchange, routing_key, left, returned, properties, body }
}
