//! Messages on their way to the broker: kept until they are confirmed, sent again on every new connection.
//!
//! One queue per connection, in the order of publishing. In front of `sent` lies what the present channel has been given
//! and has not confirmed; behind it what is still to be written. A lost connection sets `sent` back to the front, and
//! nothing else. A message needs no allocation and no task of its own here: whoever waits for a confirm leaves a waker in
//! the message's entry.

mod confirm;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use posthouse_amqp::encode::{content_bytes, encode_body, encode_content_header};
use posthouse_amqp::event::Returned;
use posthouse_amqp::method::{BasicPublish, Method};
use posthouse_amqp::properties::Properties;
use tokio::sync::Notify;

pub use self::confirm::Confirm;
use crate::error::PublishError;
use crate::metrics::Metrics;

/// A message in the form that goes to the wire.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) exchange: Cow<'static, str>,
    pub(crate) routing_key: Cow<'static, str>,
    pub(crate) mandatory: bool,
    /// Flags and values.
    pub(crate) properties: Bytes,
    pub(crate) body: Bytes,
}

impl Packet {
    fn bytes(&self) -> usize {
        // What an entry takes beside its contents, so that a million empty messages are not free.
        128 + self.properties.len() + self.body.len()
    }
}

/// How the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    Away,
    Closed,
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    packet: Packet,
    /// The broker's words, if it gave the message back.
    returned: Option<Arc<str>>,
    settled: bool,
    /// Whether somebody still has the [`Confirm`].
    watched: bool,
    waker: Option<Waker>,
}

impl Entry {
    const fn new(sequence: u64, packet: Packet, watched: bool) -> Self {
        Self { sequence, packet, returned: None, settled: false, watched, waker: None }
    }
}

#[derive(Debug)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    next_sequence: u64,
    /// How many entries at the front were written to the present channel.
    sent: usize,
    /// The delivery tag of the front entry on the present channel.
    front_tag: u64,
    link: Link,
    /// The broker asked for a pause, for this reason.
    blocked: Option<Arc<str>>,
    /// So many entries are sent one by one, because one of them had the channel closed.
    suspects: usize,
    /// Bad news for those who still have the [`Confirm`].
    failures: HashMap<u64, PublishError>,
}

/// The messages of one connection that are not confirmed yet.
#[derive(Debug)]
pub(crate) struct Outgoing {
    state: Mutex<State>,
    messages_max: usize,
    bytes_max: usize,
    /// Wakes the connection's task.
    work: Arc<Notify>,
    /// Something left the queue, or the connection changed.
    progress: Notify,
    metrics: Metrics,
}

impl Outgoing {
    pub(crate) fn new(
        messages_max: usize,
        bytes_max: usize,
        work: Arc<Notify>,
        metrics: Metrics,
    ) -> Self {
        let state = State {
            entries: VecDeque::new(),
            bytes: 0,
            next_sequence: 0,
            sent: 0,
            front_tag: 1,
            link: Link::Away,
            blocked: None,
            suspects: 0,
            failures: HashMap::new(),
        };
        let state = Mutex::new(state);
        Self { state, messages_max, bytes_max, work, progress: Notify::new(), metrics }
    }

    /// Takes a message; waits for room while the broker is there. Cancel-safe: dropped, it took nothing.
    pub(crate) async fn put(self: &Arc<Self>, packet: Packet) -> Result<Confirm, PublishError> {
        check(&packet)?;
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            // Registered before the look, so that nothing between the two is missed.
            progress.as_mut().enable();
            if let Some(confirm) = self.try_put(&packet)? {
                return Ok(confirm);
            }
            progress.await;
        }
    }

    fn try_put(self: &Arc<Self>, packet: &Packet) -> Result<Option<Confirm>, PublishError> {
        let mut state = self.lock();
        if state.link == Link::Closed {
            return Err(PublishError::Closed);
        }
        let bytes = packet.bytes();
        let full = state.entries.len() >= self.messages_max
            // One message is always taken, however large it is.
            || (!state.entries.is_empty() && state.bytes + bytes > self.bytes_max);
        if full && state.link == Link::Away {
            let (messages, bytes) = (state.entries.len(), state.bytes);
            return Err(PublishError::BufferFull { messages, bytes });
        }
        if full {
            return Ok(None);
        }
        let sequence = state.next_sequence;
        state.next_sequence += 1;
        state.bytes += bytes;
        let idle = state.sent == state.entries.len();
        let packet = packet.clone();
        state.entries.push_back(Entry::new(sequence, packet, true));
        drop(state);
        // The task looks here again by itself when it has written what was there.
        if idle {
            self.work.notify_one();
        }
        Ok(Some(Confirm::new(Arc::clone(self), sequence)))
    }

    /// Appends frames of messages that are to be sent, until `out` has `bytes` or more.
    pub(crate) fn fill(&self, channel: u16, out: &mut Vec<u8>, frame_max: u32, bytes: usize) {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.link != Link::Up || state.blocked.is_some() {
            return;
        }
        let before = state.entries.len();
        while out.len() < bytes && !(state.suspects > 0 && state.sent > 0) {
            let Some(entry) = state.entries.get_mut(state.sent) else { break };
            if fits(&entry.packet, frame_max) && encode(&entry.packet, channel, out, frame_max) {
                state.sent += 1;
                self.metrics.published.inc();
                continue;
            }
            let text = format!("its properties do not fit a frame of {frame_max} bytes");
            let sent = state.sent;
            state.fail_at(sent, PublishError::Encode(text.into()));
            state.remove(sent);
        }
        let removed = state.entries.len() < before;
        drop(guard);
        // There is room for who waits, and what was refused is waited for no longer.
        if removed {
            self.progress.notify_waiters();
        }
    }

    /// A new channel is there: everything is sent again.
    pub(crate) fn begin(&self) {
        let mut state = self.lock();
        let before = state.entries.len();
        state.entries.retain(|entry| !entry.settled);
        debug_assert!(state.entries.len() <= before, "only settled entries go");
        for entry in &mut state.entries {
            entry.returned = None;
        }
        state.bytes = state.entries.iter().map(|entry| entry.packet.bytes()).sum();
        (state.sent, state.front_tag) = (0, 1);
        if state.link != Link::Closed {
            state.link = Link::Up;
        }
        drop(state);
        self.progress.notify_waiters();
        self.work.notify_one();
    }

    /// Takes messages that were confirmed already and are to be sent once more; those still on their way are left out.
    pub(crate) fn resend(&self, packets: Vec<Packet>) {
        let mut state = self.lock();
        for packet in packets {
            let known =
                |entry: &Entry| !entry.settled && entry.packet.properties == packet.properties;
            if state.link == Link::Closed || state.entries.iter().any(known) {
                continue;
            }
            let sequence = state.next_sequence;
            state.next_sequence += 1;
            state.bytes += packet.bytes();
            state.entries.push_back(Entry::new(sequence, packet, false));
        }
    }

    /// The connection is gone.
    pub(crate) fn interrupt(&self) {
        let mut state = self.lock();
        if state.link == Link::Up {
            state.link = Link::Away;
        }
        drop(state);
        self.set_blocked(None);
        self.progress.notify_waiters();
    }

    /// The broker closed the channel because of something that was published; [`Outgoing::begin`] follows.
    ///
    /// If one message only was under way it is the one. Otherwise everything under way is sent again one by one, until
    /// it happens again.
    pub(crate) fn accuse(&self, code: u16, text: &str) {
        let mut state = self.lock();
        let open = |entry: &Entry| !entry.settled;
        let sent = state.sent;
        let suspects = state.entries.iter().take(sent).filter(|entry| open(entry)).count();
        if suspects == 1
            && let Some(index) = state.entries.iter().take(sent).position(open)
        {
            state.fail_at(index, PublishError::Rejected { code, text: text.into() });
            state.suspects = state.suspects.saturating_sub(1);
        } else {
            state.suspects = state.suspects.max(suspects);
        }
        if state.link == Link::Up {
            state.link = Link::Away;
        }
    }

    /// The broker gave a message back; its ack or nack follows.
    ///
    /// A return has no tag. The id alone does not say which message it is: one event may go to several keys, and only
    /// some of them meet a queue.
    pub(crate) fn give_back(&self, returned: &Returned<'_>, properties: &[u8]) {
        let mut state = self.lock();
        let sent = state.sent;
        let id = message_id(properties);
        let entry = state.entries.iter_mut().take(sent).find(|entry| {
            !entry.settled
                && entry.packet.mandatory
                && entry.returned.is_none()
                && entry.packet.exchange == returned.exchange
                && entry.packet.routing_key == returned.routing_key
                && message_id(&entry.packet.properties) == id
        });
        let (code, text) = (returned.reply_code, &returned.reply_text);
        match entry {
            Some(entry) => entry.returned = Some(format!("{code} {text}").into()),
            None => tracing::warn!(code, %text, "the broker returned a message that is not ours"),
        }
    }

    /// The broker confirmed (`Ok`) or refused messages up to a tag, or one of them.
    pub(crate) fn settle(&self, tag: u64, multiple: bool, verdict: Result<(), ()>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        // Tag 0 with `multiple` means everything (AMQP 0-9-1 §1.8.3.13).
        let end = match tag {
            0 => state.sent,
            tag => usize::try_from((tag + 1).saturating_sub(state.front_tag)).unwrap_or(0),
        };
        let end = end.min(state.sent);
        let start = if multiple { 0 } else { end.saturating_sub(1) };
        for index in start..end {
            state.decide(index, verdict, &self.metrics);
        }
        while state.entries.front().is_some_and(|entry| entry.settled) {
            state.remove(0);
            state.sent -= 1;
            state.front_tag += 1;
        }
        let more = state.sent < state.entries.len();
        drop(guard);
        self.progress.notify_waiters();
        if more {
            self.work.notify_one();
        }
    }

    /// The broker asks for a pause, or ends it.
    /// The broker takes no messages for a reason, or takes them again.
    pub(crate) fn set_blocked(&self, reason: Option<&str>) {
        let before = std::mem::replace(&mut self.lock().blocked, reason.map(Into::into));
        match (before, reason) {
            (None, Some(_)) => drop(self.metrics.blocked.inc()),
            (Some(_), None) => drop(self.metrics.blocked.dec()),
            _ => {}
        }
        self.work.notify_one();
    }

    /// Why a message has no confirm after so long.
    pub(crate) fn late(&self, within: Duration, sent: bool) -> PublishError {
        match &self.lock().blocked {
            None => PublishError::Timeout { within, sent },
            Some(reason) => PublishError::Blocked { reason: Arc::clone(reason), within, sent },
        }
    }

    /// Nothing will be sent any more: everybody who waits is told.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.link = Link::Closed;
        for index in 0..state.entries.len() {
            state.fail_at(index, PublishError::Closed);
        }
        state.entries.clear();
        (state.bytes, state.sent) = (0, 0);
        drop(state);
        self.progress.notify_waiters();
    }

    /// Waits until everything is confirmed.
    pub(crate) async fn drained(&self) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.lock().entries.is_empty() {
                return;
            }
            progress.await;
        }
    }

    /// Messages that wait for their confirm, and their bytes.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.entries.len(), state.bytes)
    }

    /// Takes a message back if it was not sent on this connection; says whether it was sent.
    fn withdraw(&self, sequence: u64) -> bool {
        let mut state = self.lock();
        let Ok(index) = state.find(sequence) else { return true };
        if index < state.sent {
            return true;
        }
        state.remove(index);
        drop(state);
        self.progress.notify_waiters();
        false
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&self, sequence: u64) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&sequence, |entry| entry.sequence)
    }

    fn remove(&mut self, index: usize) {
        if let Some(entry) = self.entries.remove(index) {
            self.bytes = self.bytes.saturating_sub(entry.packet.bytes());
        }
    }

    fn decide(&mut self, index: usize, verdict: Result<(), ()>, metrics: &Metrics) {
        let Some(entry) = self.entries.get_mut(index).filter(|entry| !entry.settled) else {
            return;
        };
        self.suspects = self.suspects.saturating_sub(1);
        match (verdict, entry.returned.take()) {
            (Ok(()), None) => {
                entry.settled = true;
                metrics.confirmed.inc();
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            }
            (_, Some(text)) => {
                metrics.returned.inc();
                let exchange = entry.packet.exchange.as_ref().into();
                let routing_key = entry.packet.routing_key.as_ref().into();
                self.fail_at(index, PublishError::Unroutable { exchange, routing_key, text });
            }
            (Err(()), None) => {
                metrics.refused.inc();
                self.fail_at(index, PublishError::Refused);
            }
        }
    }

    fn fail_at(&mut self, index: usize, error: PublishError) {
        let Some(entry) = self.entries.get_mut(index).filter(|entry| !entry.settled) else {
            return;
        };
        entry.settled = true;
        if !entry.watched {
            tracing::error!(%error, "a message was not accepted and nobody waits to hear of it");
            return;
        }
        self.failures.insert(entry.sequence, error);
        if let Some(waker) = entry.waker.take() {
            waker.wake();
        }
    }
}

fn check(packet: &Packet) -> Result<(), PublishError> {
    for (what, name) in [("exchange", &packet.exchange), ("routing key", &packet.routing_key)] {
        if name.len() > 255 {
            let text = format!("{what} must be at most 255 bytes, not {}", name.len());
            return Err(PublishError::Encode(text.into()));
        }
    }
    Ok(())
}

fn fits(packet: &Packet, frame_max: u32) -> bool {
    content_bytes(packet.properties.len(), 0, frame_max) <= frame_max as usize
}

fn encode(packet: &Packet, channel: u16, out: &mut Vec<u8>, frame_max: u32) -> bool {
    let publish = BasicPublish {
        exchange: &packet.exchange,
        routing_key: &packet.routing_key,
        mandatory: packet.mandatory,
        immediate: false,
    };
    if Method::from(publish).encode(channel, out).is_err() {
        return false;
    }
    encode_content_header(out, channel, packet.body.len() as u64, &packet.properties);
    encode_body(out, channel, &packet.body, frame_max);
    true
}

fn message_id(properties: &[u8]) -> Option<&str> {
    Properties::decode(properties).ok()?.message_id
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::*;

    fn outgoing(messages_max: usize) -> Arc<Outgoing> {
        let metrics = Metrics::default();
        Arc::new(Outgoing::new(messages_max, 1 << 20, Arc::new(Notify::new()), metrics))
    }

    fn packet(id: &str) -> Packet {
        packet_to("q", id)
    }

    fn packet_to(routing_key: &'static str, id: &str) -> Packet {
        let mut properties = Vec::new();
        let encoded = Properties { message_id: Some(id), ..Properties::default() };
        encoded.encode(&mut properties).unwrap();
        Packet {
            exchange: "".into(),
            routing_key: routing_key.into(),
            mandatory: true,
            properties: properties.into(),
            body: Bytes::from_static(b"x"),
        }
    }

    async fn put(outgoing: &Arc<Outgoing>, id: &str) -> Confirm {
        outgoing.put(packet(id)).await.unwrap()
    }

    /// As a broker gives it back.
    fn give_back(outgoing: &Outgoing, packet: &Packet) {
        let returned = Returned {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: packet.exchange.clone(),
            routing_key: packet.routing_key.clone(),
        };
        outgoing.give_back(&returned, &packet.properties);
    }

    fn fill(outgoing: &Outgoing) -> usize {
        let mut out = Vec::new();
        outgoing.fill(1, &mut out, 4096, 1 << 20);
        out.windows(4).filter(|bytes| *bytes == [0, 60, 0, 40]).count()
    }

    #[tokio::test]
    async fn confirms_settle_the_messages_they_name() {
        let outgoing = outgoing(10);
        outgoing.begin();
        let (first, second, third) =
            (put(&outgoing, "1").await, put(&outgoing, "2").await, put(&outgoing, "3").await);
        assert_eq!(fill(&outgoing), 3);

        outgoing.settle(3, false, Ok(()));
        outgoing.settle(1, false, Err(()));
        outgoing.settle(2, true, Ok(()));

        assert_eq!(first.await, Err(PublishError::Refused));
        assert_eq!((second.await, third.await), (Ok(()), Ok(())));
        assert_eq!(outgoing.waiting(), (0, 0));
    }

    #[tokio::test]
    async fn a_returned_message_is_unroutable_and_no_other_is() {
        let outgoing = outgoing(10);
        outgoing.begin();
        let (first, second) = (put(&outgoing, "1").await, put(&outgoing, "2").await);
        fill(&outgoing);

        give_back(&outgoing, &packet("2"));
        outgoing.settle(2, true, Ok(()));

        assert_eq!(first.await, Ok(()));
        assert!(matches!(second.await, Err(PublishError::Unroutable { .. })));
    }

    #[tokio::test]
    async fn of_two_messages_with_one_id_the_one_that_met_no_queue_is_unroutable() {
        let outgoing = outgoing(10);
        outgoing.begin();
        let nowhere = packet_to("nowhere", "1");
        let first = put(&outgoing, "1").await;
        let second = outgoing.put(nowhere.clone()).await.unwrap();
        fill(&outgoing);

        give_back(&outgoing, &nowhere);
        outgoing.settle(2, true, Ok(()));

        assert_eq!(first.await, Ok(()));
        let lost = second.await.unwrap_err();
        assert!(
            matches!(&lost, PublishError::Unroutable { routing_key, .. } if &**routing_key == "nowhere"),
            "{lost}"
        );
    }

    #[tokio::test]
    async fn what_was_not_confirmed_is_sent_again_on_a_new_channel() {
        let outgoing = outgoing(10);
        outgoing.begin();
        let confirms =
            [put(&outgoing, "1").await, put(&outgoing, "2").await, put(&outgoing, "3").await];
        fill(&outgoing);
        outgoing.settle(2, false, Ok(()));

        outgoing.interrupt();
        assert_eq!(fill(&outgoing), 0, "nothing goes to a connection that is gone");
        outgoing.begin();

        assert_eq!(fill(&outgoing), 2);
        outgoing.settle(2, true, Ok(()));
        for confirm in confirms {
            assert_eq!(confirm.await, Ok(()));
        }
    }

    #[tokio::test]
    async fn while_the_broker_is_away_a_full_buffer_refuses_at_once() {
        let outgoing = outgoing(2);
        let kept = [put(&outgoing, "1").await, put(&outgoing, "2").await];

        let refused = outgoing.put(packet("3")).await.unwrap_err();

        assert!(matches!(refused, PublishError::BufferFull { messages: 2, .. }), "{refused}");
        outgoing.begin();
        assert_eq!(fill(&outgoing), 2);
        drop(kept);
    }

    #[tokio::test]
    async fn the_message_that_closed_the_channel_is_found_among_many() {
        let outgoing = outgoing(10);
        outgoing.begin();
        let confirms =
            [put(&outgoing, "1").await, put(&outgoing, "bad").await, put(&outgoing, "3").await];
        assert_eq!(fill(&outgoing), 3);

        outgoing.accuse(404, "NOT_FOUND");
        outgoing.begin();
        assert_eq!(fill(&outgoing), 1, "one by one");
        outgoing.settle(1, false, Ok(()));
        assert_eq!(fill(&outgoing), 1);
        outgoing.accuse(404, "NOT_FOUND");
        outgoing.begin();
        assert_eq!(fill(&outgoing), 1);
        outgoing.settle(1, false, Ok(()));

        let [first, bad, third] = confirms;
        assert_eq!((first.await, third.await), (Ok(()), Ok(())));
        assert!(matches!(bad.await, Err(PublishError::Rejected { code: 404, .. })));
    }

    #[tokio::test]
    async fn a_message_that_fits_no_frame_makes_room_for_the_next() {
        let outgoing = outgoing(1);
        outgoing.begin();
        let large = Packet { properties: vec![0; 10_000].into(), ..packet("large") };
        let refused = outgoing.put(large).await.unwrap();
        let mut next = pin!(outgoing.put(packet("next")));
        assert!(next.as_mut().now_or_never().is_none(), "there is no room");

        assert_eq!(fill(&outgoing), 0);

        assert!(matches!(refused.await, Err(PublishError::Encode(_))));
        let confirm = next.now_or_never().expect("there is room").unwrap();
        assert_eq!(fill(&outgoing), 1);
        outgoing.settle(1, false, Ok(()));
        assert_eq!(confirm.await, Ok(()));
    }

    #[tokio::test]
    async fn a_message_that_was_not_sent_is_withdrawn_when_its_time_is_over() {
        let outgoing = outgoing(10);
        let confirm = put(&outgoing, "1").await;

        let outcome = confirm.within(Duration::from_millis(1)).await;

        assert!(matches!(outcome, Err(PublishError::Timeout { sent: false, .. })));
        outgoing.begin();
        assert_eq!(fill(&outgoing), 0);
    }
}
