//! The frames of the hot path, written without building a [`Method`](crate::method::Method) first.
//!
//! A message is three calls: [`encode_deliver`], [`encode_content_header`], [`encode_body`]. For a large body write the
//! pieces of [`body_frames`] instead and hand the body to the socket as it is.

use std::ops::Range;

use crate::{
    error::EncodeError,
    frame::{
        FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_METHOD, FRAME_OVERHEAD_BYTES, FrameHead,
        payload_max,
    },
    method::{BasicAck, BasicDeliver, BasicNack},
    writer::put_short,
};

/// The class of all content.
pub(crate) const CLASS_BASIC: u16 = 60;

/// Octets of a content header in front of the properties: class, weight and body size.
pub(crate) const CONTENT_HEADER_BYTES: usize = 12;

/// Appends a `basic.deliver` frame.
///
/// # Errors
///
/// [`EncodeError`] if a name has more than 255 bytes; `out` is then as it was.
#[inline]
pub fn encode_deliver(
    out: &mut Vec<u8>,
    channel: u16,
    consumer_tag: &str,
    delivery_tag: u64,
    redelivered: bool,
    exchange: &str,
    routing_key: &str,
) -> Result<(), EncodeError> {
    const FIXED_BYTES: usize = 4 + 1 + 8 + 1 + 1 + 1;
    let payload = FIXED_BYTES + consumer_tag.len() + exchange.len() + routing_key.len();
    let start = out.len();
    let size = u32::try_from(payload).map_err(|_| EncodeError::TooLong(payload))?;
    out.reserve(payload + FRAME_OVERHEAD_BYTES as usize);
    out.extend_from_slice(&FrameHead { kind: FRAME_METHOD, channel, size }.encode());
    out.extend_from_slice(&id_octets(BasicDeliver::ID));
    let written = put_short(out, consumer_tag.as_bytes()).and_then(|()| {
        out.extend_from_slice(&delivery_tag.to_be_bytes());
        out.push(u8::from(redelivered));
        put_short(out, exchange.as_bytes())?;
        put_short(out, routing_key.as_bytes())
    });
    match written {
        Ok(()) => out.push(FRAME_END),
        Err(_) => out.truncate(start),
    }
    written
}

/// Appends a content header frame; `properties` are flags and values as of [`crate::properties`], at most
/// `frame_max - 20` bytes if the peer is to take them.
#[inline]
pub fn encode_content_header(out: &mut Vec<u8>, channel: u16, body_len: u64, properties: &[u8]) {
    let payload = CONTENT_HEADER_BYTES + properties.len();
    let size = u32::try_from(payload).unwrap_or(u32::MAX);
    out.reserve(payload + FRAME_OVERHEAD_BYTES as usize);
    out.extend_from_slice(&FrameHead { kind: FRAME_HEADER, channel, size }.encode());
    let [c0, c1] = CLASS_BASIC.to_be_bytes();
    out.extend_from_slice(&[c0, c1, 0, 0]);
    out.extend_from_slice(&body_len.to_be_bytes());
    out.extend_from_slice(properties);
    out.push(FRAME_END);
}

/// Appends the frames of a body, none if it is empty, each at most `frame_max` octets long.
#[inline]
pub fn encode_body(out: &mut Vec<u8>, channel: u16, body: &[u8], frame_max: u32) {
    for piece in body_frames(body.len(), frame_max) {
        let piece = body.get(piece).unwrap_or_default();
        out.reserve(piece.len() + FRAME_OVERHEAD_BYTES as usize);
        out.extend_from_slice(&body_frame_head(channel, piece.len()));
        out.extend_from_slice(piece);
        out.push(FRAME_END);
    }
}

/// The head of a body frame of `len` octets; [`FRAME_END`] goes behind them.
#[inline]
#[must_use]
pub fn body_frame_head(channel: u16, len: usize) -> [u8; 7] {
    FrameHead { kind: FRAME_BODY, channel, size: u32::try_from(len).unwrap_or(u32::MAX) }.encode()
}

/// The pieces of a body that go into one frame each.
#[inline]
pub fn body_frames(body_len: usize, frame_max: u32) -> impl ExactSizeIterator<Item = Range<usize>> {
    let piece = payload_max(frame_max) as usize;
    (0..body_len.div_ceil(piece)).map(move |index| {
        let start = index * piece;
        start..body_len.min(start + piece)
    })
}

/// Octets that a message takes on the wire after its method: the content header frame and all body frames.
#[inline]
#[must_use]
pub fn content_bytes(properties_len: usize, body_len: usize, frame_max: u32) -> usize {
    let frames = 1 + body_len.div_ceil(payload_max(frame_max) as usize);
    CONTENT_HEADER_BYTES + properties_len + body_len + frames * FRAME_OVERHEAD_BYTES as usize
}

/// Appends a `basic.ack` frame.
#[inline]
pub fn encode_ack(out: &mut Vec<u8>, channel: u16, delivery_tag: u64, multiple: bool) {
    encode_settled(out, channel, BasicAck::ID, delivery_tag, u8::from(multiple));
}

/// Appends a `basic.nack` frame.
#[inline]
pub fn encode_nack(
    out: &mut Vec<u8>,
    channel: u16,
    delivery_tag: u64,
    multiple: bool,
    requeue: bool,
) {
    let bits = u8::from(multiple) | u8::from(requeue) << 1;
    encode_settled(out, channel, BasicNack::ID, delivery_tag, bits);
}

#[inline]
fn encode_settled(out: &mut Vec<u8>, channel: u16, id: (u16, u16), delivery_tag: u64, bits: u8) {
    const PAYLOAD: u32 = 4 + 8 + 1;
    let [h0, h1, h2, h3, h4, h5, h6] =
        FrameHead { kind: FRAME_METHOD, channel, size: PAYLOAD }.encode();
    let [i0, i1, i2, i3] = id_octets(id);
    let [t0, t1, t2, t3, t4, t5, t6, t7] = delivery_tag.to_be_bytes();
    out.extend_from_slice(&[
        h0, h1, h2, h3, h4, h5, h6, i0, i1, i2, i3, t0, t1, t2, t3, t4, t5, t6, t7, bits, FRAME_END,
    ]);
}

#[inline]
const fn id_octets((class_id, method_id): (u16, u16)) -> [u8; 4] {
    let [c0, c1] = class_id.to_be_bytes();
    let [m0, m1] = method_id.to_be_bytes();
    [c0, c1, m0, m1]
}
