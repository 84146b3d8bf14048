//! Messages: a method, a content header and body frames become one event.
//!
//! If all of them lie in the received bytes, the event borrows from there. Otherwise an [`Assembly`] keeps what has
//! arrived; it grows with received bytes, never by an announced size.

use std::borrow::Cow;

use crate::{
    encode::{CLASS_BASIC, CONTENT_HEADER_BYTES},
    event::{Content, Delivery, Event, Got, Publish, Returned},
    frame::{FRAME_BODY, FRAME_END, FRAME_HEADER, FrameHead},
    method::{BasicDeliver, BasicGetOk, BasicPublish, BasicReturn},
};

/// A frame whose end octet is right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) channel: u16,
    pub(crate) payload: &'a [u8],
}

/// What the front of the received bytes is.
#[derive(Debug)]
pub(crate) enum Split<'a> {
    /// Not a whole frame yet.
    Partial,
    /// A frame and what follows it.
    Frame(Frame<'a>, &'a [u8]),
    /// A head that claims more than the limit.
    TooLarge(FrameHead),
    /// A frame that ends in this octet.
    WrongEnd(Frame<'a>, u8),
}

/// Takes the first frame apart.
#[inline]
pub(crate) fn split_frame(input: &[u8], payload_max: u32) -> Split<'_> {
    let Some((head, rest)) = FrameHead::decode(input) else {
        return Split::Partial;
    };
    if head.size > payload_max {
        return Split::TooLarge(head);
    }
    let Some((payload, [end, rest @ ..])) = rest.split_at_checked(head.size as usize) else {
        return Split::Partial;
    };
    let frame = Frame { kind: head.kind, channel: head.channel, payload };
    if *end != FRAME_END {
        return Split::WrongEnd(frame, *end);
    }
    Split::Frame(frame, rest)
}

/// A content header taken apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContentHeader<'a> {
    pub(crate) class_id: u16,
    pub(crate) body_len: u64,
    pub(crate) properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    /// `None` if the payload is too short to be one. The weight, always 0, is not looked at.
    #[inline]
    pub(crate) fn decode(payload: &'a [u8]) -> Option<Self> {
        let (&[c0, c1, _, _, l0, l1, l2, l3, l4, l5, l6, l7], properties) =
            payload.split_first_chunk::<CONTENT_HEADER_BYTES>()?;
        let class_id = u16::from_be_bytes([c0, c1]);
        let body_len = u64::from_be_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        Some(Self { class_id, body_len, properties })
    }
}

/// The content at the front of `input` and what follows it, if it is all there, in one body frame at most, and
/// nothing about it needs a second look.
#[inline]
pub(crate) fn whole_content(
    input: &[u8],
    channel: u16,
    payload_max: u32,
    body_len_max: u64,
) -> Option<(Content<'_>, &[u8])> {
    let Split::Frame(frame, rest) = split_frame(input, payload_max) else {
        return None;
    };
    if frame.kind != FRAME_HEADER || frame.channel != channel {
        return None;
    }
    let header = ContentHeader::decode(frame.payload)?;
    if header.class_id != CLASS_BASIC || header.body_len > body_len_max {
        return None;
    }
    let properties = Cow::Borrowed(header.properties);
    if header.body_len == 0 {
        return Some((Content { properties, body: Cow::Borrowed(&[]) }, rest));
    }
    let Split::Frame(frame, rest) = split_frame(rest, payload_max) else {
        return None;
    };
    if frame.kind != FRAME_BODY
        || frame.channel != channel
        || frame.payload.len() as u64 != header.body_len
    {
        return None;
    }
    Some((Content { properties, body: Cow::Borrowed(frame.payload) }, rest))
}

/// A method that content follows.
#[derive(Debug)]
pub(crate) enum Carrier<'a> {
    Publish(Publish<'a>),
    Return(Returned<'a>),
    Deliver(Delivery<'a>),
    GetOk(Got<'a>),
}

impl<'a> Carrier<'a> {
    #[inline]
    pub(crate) fn into_event(self, channel: u16, content: Content<'a>) -> Event<'a> {
        match self {
            Self::Publish(publish) => Event::Publish { channel, publish, content },
            Self::Return(returned) => Event::Return { channel, returned, content },
            Self::Deliver(delivery) => Event::Deliver { channel, delivery, content },
            Self::GetOk(got) => Event::GetOk { channel, got, content },
        }
    }

    pub(crate) const fn id(&self) -> (u16, u16) {
        match self {
            Self::Publish(_) => BasicPublish::ID,
            Self::Return(_) => BasicReturn::ID,
            Self::Deliver(_) => BasicDeliver::ID,
            Self::GetOk(_) => BasicGetOk::ID,
        }
    }

    fn into_owned(self) -> Carrier<'static> {
        match self {
            Self::Publish(publish) => Carrier::Publish(Publish {
                exchange: own(publish.exchange),
                routing_key: own(publish.routing_key),
                ..publish
            }),
            Self::Return(returned) => Carrier::Return(Returned {
                reply_text: own(returned.reply_text),
                exchange: own(returned.exchange),
                routing_key: own(returned.routing_key),
                ..returned
            }),
            Self::Deliver(delivery) => Carrier::Deliver(Delivery {
                consumer_tag: own(delivery.consumer_tag),
                exchange: own(delivery.exchange),
                routing_key: own(delivery.routing_key),
                ..delivery
            }),
            Self::GetOk(got) => Carrier::GetOk(Got {
                exchange: own(got.exchange),
                routing_key: own(got.routing_key),
                ..got
            }),
        }
    }
}

fn own(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}

impl<'a> From<BasicPublish<'a>> for Publish<'a> {
    #[inline]
    fn from(method: BasicPublish<'a>) -> Self {
        Self {
            exchange: Cow::Borrowed(method.exchange),
            routing_key: Cow::Borrowed(method.routing_key),
            mandatory: method.mandatory,
            immediate: method.immediate,
        }
    }
}

impl<'a> From<BasicReturn<'a>> for Carrier<'a> {
    fn from(method: BasicReturn<'a>) -> Self {
        Self::Return(Returned {
            reply_code: method.reply_code,
            reply_text: Cow::Borrowed(method.reply_text),
            exchange: Cow::Borrowed(method.exchange),
            routing_key: Cow::Borrowed(method.routing_key),
        })
    }
}

impl<'a> From<BasicDeliver<'a>> for Carrier<'a> {
    fn from(method: BasicDeliver<'a>) -> Self {
        Self::Deliver(Delivery {
            consumer_tag: Cow::Borrowed(method.consumer_tag),
            delivery_tag: method.delivery_tag,
            redelivered: method.redelivered,
            exchange: Cow::Borrowed(method.exchange),
            routing_key: Cow::Borrowed(method.routing_key),
        })
    }
}

impl<'a> From<BasicGetOk<'a>> for Carrier<'a> {
    fn from(method: BasicGetOk<'a>) -> Self {
        Self::GetOk(Got {
            delivery_tag: method.delivery_tag,
            redelivered: method.redelivered,
            exchange: Cow::Borrowed(method.exchange),
            routing_key: Cow::Borrowed(method.routing_key),
            message_count: method.message_count,
        })
    }
}

/// A message of which something is missing.
#[derive(Debug)]
pub(crate) struct Assembly {
    carrier: Carrier<'static>,
    header: Option<OwnedHeader>,
}

#[derive(Debug)]
struct OwnedHeader {
    properties: Vec<u8>,
    body_len: u64,
    body: Vec<u8>,
}

/// What a frame made of an assembly.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// More frames are to come.
    Incomplete(Box<Assembly>),
    /// The message is whole.
    Complete(Event<'a>),
    /// The message has `body_len` bytes, which are too many.
    TooLarge { body_len: u64, id: (u16, u16) },
    /// The frame does not belong there; the text says what would.
    Unexpected { detail: String, id: (u16, u16) },
}

impl Assembly {
    pub(crate) fn new(carrier: Carrier<'_>) -> Box<Self> {
        Box::new(Self { carrier: carrier.into_owned(), header: None })
    }

    /// Takes the next frame of the channel.
    pub(crate) fn step<'a>(mut self: Box<Self>, frame: Frame<'a>, body_len_max: u64) -> Step<'a> {
        let id = self.carrier.id();
        let unexpected = |detail: &str| Step::Unexpected { detail: detail.to_owned(), id };
        match (self.header.take(), frame.kind) {
            (None, FRAME_HEADER) => self.step_header(frame, body_len_max),
            (None, _) => unexpected(
                "expected content header for class 60, got non content header frame instead",
            ),
            (Some(header), FRAME_BODY) => self.step_body(header, frame),
            (Some(_), _) => unexpected("expected content body, got non content body frame instead"),
        }
    }

    fn step_header(mut self: Box<Self>, frame: Frame<'_>, body_len_max: u64) -> Step<'_> {
        let id = self.carrier.id();
        let Some(header) = ContentHeader::decode(frame.payload) else {
            return Step::Unexpected { detail: "content header is cut short".to_owned(), id };
        };
        let ContentHeader { class_id, body_len, properties } = header;
        if class_id != CLASS_BASIC {
            let detail = format!(
                "expected content header for class 60, got one for class {class_id} instead"
            );
            return Step::Unexpected { detail, id };
        }
        if body_len > body_len_max {
            return Step::TooLarge { body_len, id };
        }
        if body_len == 0 {
            let content =
                Content { properties: Cow::Borrowed(properties), body: Cow::Borrowed(&[]) };
            return Step::Complete(self.carrier.into_event(frame.channel, content));
        }
        let properties = properties.to_vec();
        self.header = Some(OwnedHeader { properties, body_len, body: Vec::new() });
        Step::Incomplete(self)
    }

    fn step_body(mut self: Box<Self>, mut header: OwnedHeader, frame: Frame<'_>) -> Step<'_> {
        let arrived = (header.body.len() + frame.payload.len()) as u64;
        if arrived > header.body_len {
            let detail =
                format!("content body has {arrived} bytes, {} were announced", header.body_len);
            return Step::Unexpected { detail, id: self.carrier.id() };
        }
        if arrived < header.body_len {
            header.body.extend_from_slice(frame.payload);
            self.header = Some(header);
            return Step::Incomplete(self);
        }
        let body = if header.body.is_empty() {
            Cow::Borrowed(frame.payload)
        } else {
            header.body.extend_from_slice(frame.payload);
            Cow::Owned(header.body)
        };
        let content = Content { properties: Cow::Owned(header.properties), body };
        Step::Complete(self.carrier.into_event(frame.channel, content))
    }
}
