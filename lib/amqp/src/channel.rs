//! The channels of a connection and what their frames mean.

use crate::{
    connection::{Connection, Side},
    content::{Assembly, Carrier, Frame, Step, whole_content},
    error::{Close, DecodeError, Failure, ReplyCode, short_text},
    event::{Event, Publish},
    frame::{FRAME_BODY, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD},
    method::{
        AccessRequestOk, BasicPublish, ChannelClose, ChannelCloseOk, ChannelFlowOk, ChannelOpen,
        ChannelOpenOk, Method, Sender,
    },
    snippet,
};

/// Channels in use, sorted by number: two for most connections, thousands for some.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    slots: Vec<Slot>,
    /// Where the last frame's channel was: the next frame is for the same.
    last: usize,
}

#[derive(Debug)]
pub(crate) struct Slot {
    number: u16,
    pub(crate) state: State,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Client: `channel.open` is sent, not answered.
    Opening,
    /// Methods are welcome.
    Open,
    /// A message has begun.
    Content(Box<Assembly>),
    /// `channel.close` is sent, not answered: only the answer counts.
    Closing,
}

impl Channels {
    #[inline]
    pub(crate) fn find(&mut self, number: u16) -> Option<&mut Slot> {
        if self.slots.get(self.last).is_none_or(|slot| slot.number != number) {
            self.last = self.index(number).ok()?;
        }
        self.slots.get_mut(self.last)
    }

    pub(crate) fn state(&self, number: u16) -> Option<&State> {
        self.slots.get(self.index(number).ok()?).map(|slot| &slot.state)
    }

    pub(crate) fn insert(&mut self, number: u16, state: State) {
        match self.index(number) {
            Ok(_) => debug_assert!(false, "a channel is opened once"),
            Err(index) => self.slots.insert(index, Slot { number, state }),
        }
    }

    pub(crate) fn remove(&mut self, number: u16) {
        if let Ok(index) = self.index(number) {
            self.slots.remove(index);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.slots = Vec::new();
    }

    pub(crate) const fn len(&self) -> usize {
        self.slots.len()
    }

    fn index(&self, number: u16) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&number, |slot| slot.number)
    }
}

/// Class and method of `basic.publish` on the wire.
const PUBLISH_ID: &[u8] = &[0, 60, 0, 40];

/// What a method frame says it is, if it is long enough to say so.
pub(crate) fn method_id(payload: &[u8]) -> Option<(u16, u16)> {
    let &[c0, c1, m0, m1] = payload.first_chunk()?;
    Some((u16::from_be_bytes([c0, c1]), u16::from_be_bytes([m0, m1])))
}

impl Connection {
    /// A frame while the connection is open. Content that follows a method is taken out of `input`, too.
    #[inline]
    pub(crate) fn handle_open_frame<'a>(
        &mut self,
        frame: Frame<'a>,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        let open =
            self.channels.find(frame.channel).is_some_and(|s| matches!(s.state, State::Open));
        if open
            && frame.kind == FRAME_METHOD
            && let Some(arguments) = frame.payload.strip_prefix(PUBLISH_ID)
            && self.is_server()
        {
            return self.handle_publish(frame.channel, arguments, input, out);
        }
        self.handle_other_frame(frame, input, out)
    }

    #[inline]
    fn handle_publish<'a>(
        &mut self,
        channel: u16,
        arguments: &'a [u8],
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        let publish = match BasicPublish::decode_arguments(arguments) {
            Ok(method) => Publish::from(method),
            Err(error) => return Some(self.fail_decode(error, BasicPublish::ID, out)),
        };
        let whole = whole_content(input, channel, self.payload_max, self.message_bytes_max);
        let Some((content, rest)) = whole else {
            self.begin_assembly(channel, Carrier::Publish(publish));
            return None;
        };
        *input = rest;
        Some(Event::Publish { channel, publish, content })
    }

    #[cold]
    fn begin_assembly(&mut self, channel: u16, carrier: Carrier<'_>) {
        if let Some(slot) = self.channels.find(channel) {
            slot.state = State::Content(Assembly::new(carrier));
        }
    }

    #[inline(never)]
    fn handle_other_frame<'a>(
        &mut self,
        frame: Frame<'a>,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        if let Some(failed) = self.refuse_frame(frame, out) {
            return Some(failed);
        }
        if frame.channel == 0 {
            return self.handle_open_connection_frame(frame, out);
        }
        let body_len_max = self.message_bytes_max;
        let Some(slot) = self.channels.find(frame.channel) else {
            return self.handle_unopened(frame, out);
        };
        match std::mem::replace(&mut slot.state, State::Open) {
            State::Open => self.handle_method_frame(frame, input, out),
            State::Content(assembly) => {
                let step = assembly.step(frame, body_len_max);
                self.handle_step(frame.channel, step, out)
            }
            State::Opening => {
                slot.state = State::Opening;
                self.handle_opening(frame, out)
            }
            State::Closing => {
                slot.state = State::Closing;
                self.handle_closing_channel(frame, out)
            }
        }
    }

    /// Refuses frames that are nothing at all, on whatever channel.
    fn refuse_frame(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Option<Event<'static>> {
        let Frame { kind, channel, payload } = frame;
        let known = match kind {
            FRAME_METHOD => payload.len() >= 4,
            FRAME_HEADER => payload.len() >= crate::encode::CONTENT_HEADER_BYTES,
            FRAME_BODY => true,
            FRAME_HEARTBEAT => payload.is_empty(),
            _ => false,
        };
        if !known {
            let detail = snippet::unknown_frame(kind, payload);
            return Some(self.fail(ReplyCode::FrameError, &detail, (0, 0), out));
        }
        let content = matches!(kind, FRAME_HEADER | FRAME_BODY);
        let misplaced = if channel == 0 { content } else { kind == FRAME_HEARTBEAT };
        misplaced.then(|| {
            let detail = snippet::unexpected(kind, payload);
            self.fail(ReplyCode::UnexpectedFrame, &detail, (0, 0), out)
        })
    }

    fn handle_unopened(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Option<Event<'static>> {
        if frame.kind != FRAME_METHOD {
            return Some(self.fail_no_method(out));
        }
        let id = method_id(frame.payload).unwrap_or_default();
        if id != ChannelOpen::ID || !self.is_server() {
            return Some(self.fail(ReplyCode::ChannelError, "expected 'channel.open'", id, out));
        }
        if let Err(error) = Method::decode(frame.payload) {
            return Some(self.fail_decode(error, id, out));
        }
        let (open, max) = (self.channels.len(), self.channel_max);
        if max != 0 && open >= usize::from(max) {
            let detail = format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({max})"
            );
            return Some(self.fail(ReplyCode::NotAllowed, &detail, (0, 0), out));
        }
        self.channels.insert(frame.channel, State::Open);
        self.send(frame.channel, ChannelOpenOk {}, out);
        Some(Event::ChannelOpened(frame.channel))
    }

    fn fail_no_method(&mut self, out: &mut Vec<u8>) -> Event<'static> {
        let detail = "expected method frame, got non method frame instead";
        self.fail(ReplyCode::UnexpectedFrame, detail, (0, 0), out)
    }

    fn handle_method_frame<'a>(
        &mut self,
        frame: Frame<'a>,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        if frame.kind != FRAME_METHOD {
            return Some(self.fail_no_method(out));
        }
        let channel = frame.channel;
        let method = match Method::decode(frame.payload) {
            Ok(method) => method,
            Err(error) => {
                let id = method_id(frame.payload).unwrap_or_default();
                return Some(self.fail_decode(error, id, out));
            }
        };
        if let Method::ChannelOpen(_) = method {
            let detail = "second 'channel.open' seen";
            return Some(self.fail(ReplyCode::ChannelError, detail, method.id(), out));
        }
        if !self.takes(&method) {
            let detail = "unimplemented method";
            return Some(self.fail(ReplyCode::CommandInvalid, detail, method.id(), out));
        }
        match method {
            Method::ChannelClose(close) => Some(self.handle_channel_close(channel, close, out)),
            Method::ChannelFlow(flow) if self.is_server() && !flow.active => {
                let detail = "active=false";
                Some(self.fail(ReplyCode::NotImplemented, detail, method.id(), out))
            }
            Method::ChannelFlow(flow) => {
                self.send(channel, ChannelFlowOk { active: flow.active }, out);
                (!self.is_server()).then_some(Event::Method { channel, method })
            }
            Method::AccessRequest(_) => {
                self.send(channel, AccessRequestOk { ticket: 1 }, out);
                None
            }
            Method::BasicReturn(carrier) => self.handle_carrier(channel, carrier.into(), input),
            Method::BasicDeliver(carrier) => self.handle_carrier(channel, carrier.into(), input),
            Method::BasicGetOk(carrier) => self.handle_carrier(channel, carrier.into(), input),
            method => Some(Event::Method { channel, method }),
        }
    }

    /// Whether the peer may send this method on an open channel.
    fn takes(&self, method: &Method<'_>) -> bool {
        let (class_id, _) = method.id();
        let out_of_place = matches!(method, Method::ChannelCloseOk(_) | Method::ChannelOpenOk(_))
            || class_id == 10
            || (self.is_server() && matches!(method, Method::ChannelFlowOk(_)));
        let from_peer = match method.sender() {
            Sender::Both => true,
            Sender::Client => self.is_server(),
            Sender::Server => !self.is_server(),
        };
        from_peer && !out_of_place
    }

    fn handle_carrier<'a>(
        &mut self,
        channel: u16,
        carrier: Carrier<'a>,
        input: &mut &'a [u8],
    ) -> Option<Event<'a>> {
        let whole = whole_content(input, channel, self.payload_max, self.message_bytes_max);
        let Some((content, rest)) = whole else {
            self.begin_assembly(channel, carrier);
            return None;
        };
        *input = rest;
        Some(carrier.into_event(channel, content))
    }

    fn handle_step<'a>(
        &mut self,
        channel: u16,
        step: Step<'a>,
        out: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        match step {
            Step::Complete(event) => Some(event),
            Step::Incomplete(assembly) => {
                if let Some(slot) = self.channels.find(channel) {
                    slot.state = State::Content(assembly);
                }
                None
            }
            Step::TooLarge { body_len, id } => {
                let max = self.message_bytes_max;
                let detail =
                    format!("message size {body_len} is larger than configured max size {max}");
                Some(self.fail_channel(channel, ReplyCode::PreconditionFailed, &detail, id, out))
            }
            Step::Unexpected { detail, id } => {
                Some(self.fail(ReplyCode::UnexpectedFrame, &detail, id, out))
            }
        }
    }

    fn handle_channel_close<'a>(
        &mut self,
        channel: u16,
        close: ChannelClose<'a>,
        out: &mut Vec<u8>,
    ) -> Event<'a> {
        self.channels.remove(channel);
        self.send(channel, ChannelCloseOk {}, out);
        match self.side {
            Side::Server(_) => Event::ChannelClosed(channel),
            Side::Client(_) => Event::ChannelCloseRequested {
                channel,
                code: close.reply_code,
                text: close.reply_text,
                class_method: (close.class_id, close.method_id),
            },
        }
    }

    fn handle_opening<'a>(&mut self, frame: Frame<'a>, out: &mut Vec<u8>) -> Option<Event<'a>> {
        let channel = frame.channel;
        if frame.kind != FRAME_METHOD {
            return Some(self.fail_no_method(out));
        }
        match Method::decode(frame.payload) {
            Ok(Method::ChannelOpenOk(_)) => {
                if let Some(slot) = self.channels.find(channel) {
                    slot.state = State::Open;
                }
                Some(Event::ChannelOpened(channel))
            }
            Ok(Method::ChannelClose(close)) => Some(self.handle_channel_close(channel, close, out)),
            Ok(method) => {
                let detail = "expected 'channel.open-ok'";
                Some(self.fail(ReplyCode::ChannelError, detail, method.id(), out))
            }
            Err(error) => {
                let id = method_id(frame.payload).unwrap_or_default();
                Some(self.fail_decode(error, id, out))
            }
        }
    }

    /// Everything but close and close-ok crossed our close on the way and is dropped.
    fn handle_closing_channel(
        &mut self,
        frame: Frame<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Event<'static>> {
        if frame.kind != FRAME_METHOD {
            return None;
        }
        match method_id(frame.payload)? {
            ChannelCloseOk::ID => {
                self.channels.remove(frame.channel);
                Some(Event::ChannelClosed(frame.channel))
            }
            // Both sides closed at once: the peer's answer to our close is still to come.
            ChannelClose::ID => {
                self.send(frame.channel, ChannelCloseOk {}, out);
                None
            }
            _ => None,
        }
    }

    /// Closes a channel for what the peer sent on it.
    fn fail_channel(
        &mut self,
        channel: u16,
        code: ReplyCode,
        detail: &str,
        id: (u16, u16),
        out: &mut Vec<u8>,
    ) -> Event<'static> {
        let text = self.write_channel_close(channel, code, detail, id, out);
        let (class_id, method_id) = id;
        let failure = Failure { code, text, class_id, method_id, close: Close::WithFrame };
        Event::ChannelFailed { channel, failure }
    }

    /// Writes `channel.close` and gives the whole reply text.
    pub(crate) fn write_channel_close(
        &mut self,
        channel: u16,
        code: ReplyCode,
        detail: &str,
        (class_id, method_id): (u16, u16),
        out: &mut Vec<u8>,
    ) -> String {
        let text = code.text(detail);
        if let Some(slot) = self.channels.find(channel) {
            slot.state = State::Closing;
            let reply_text = short_text(&text);
            let close = ChannelClose { reply_code: code.number(), reply_text, class_id, method_id };
            self.send(channel, close, out);
        }
        text
    }

    /// A method whose arguments cannot be read, or that nobody knows.
    pub(crate) fn fail_decode(
        &mut self,
        error: DecodeError,
        id: (u16, u16),
        out: &mut Vec<u8>,
    ) -> Event<'static> {
        let code = match error {
            DecodeError::UnknownMethod { .. } => ReplyCode::NotImplemented,
            DecodeError::Truncated
            | DecodeError::NotUtf8
            | DecodeError::Trailing(_)
            | DecodeError::UnknownPropertyFlags(_) => ReplyCode::SyntaxError,
        };
        self.fail(code, &error.to_string(), id, out)
    }
}
