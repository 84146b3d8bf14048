//! Frames: seven octets of head, the payload, one end octet (AMQP 0-9-1 §2.3.5).
//!
//! ```text
//! 0      1         3             7                  size+7 size+8
//! +------+---------+-------------+------------------+------+
//! | kind | channel | size        | payload          | 206  |
//! +------+---------+-------------+------------------+------+
//! ```

/// What a client sends first; also the whole answer to any other header.
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The octet after every payload.
pub const FRAME_END: u8 = 206;

/// Octets in front of a payload.
pub const FRAME_HEAD_BYTES: usize = 7;

/// Octets of a frame that are not payload: the head and the end octet. `frame_max` counts them.
pub const FRAME_OVERHEAD_BYTES: u32 = 8;

/// The smallest `frame_max` anybody may ask for, and the one that holds before tuning.
pub const FRAME_MIN_SIZE: u32 = 4096;

/// The largest `frame_max` this side takes part in. A connection may have to keep that much of an unfinished frame, and
/// the encoded properties of a message are never longer.
pub const FRAME_MAX_CEILING: u32 = 1024 * 1024;

/// A frame that carries a method.
pub const FRAME_METHOD: u8 = 1;
/// A frame that carries a content header: size and properties.
pub const FRAME_HEADER: u8 = 2;
/// A frame that carries a piece of a body.
pub const FRAME_BODY: u8 = 3;
/// An empty frame on channel 0 that says "still here".
pub const FRAME_HEARTBEAT: u8 = 8;

/// The whole heartbeat frame.
pub const HEARTBEAT: &[u8; 8] = &[FRAME_HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END];

/// The first seven octets of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameHead {
    /// [`FRAME_METHOD`], [`FRAME_HEADER`], [`FRAME_BODY`], [`FRAME_HEARTBEAT`] or nonsense.
    pub kind: u8,
    /// The channel; 0 is the connection itself.
    pub channel: u16,
    /// Octets of the payload as claimed.
    pub size: u32,
}

impl FrameHead {
    /// The head and what follows it, `None` if `input` has fewer than seven octets.
    #[inline]
    #[must_use]
    pub fn decode(input: &[u8]) -> Option<(Self, &[u8])> {
        let (&[kind, c0, c1, s0, s1, s2, s3], rest) =
            input.split_first_chunk::<FRAME_HEAD_BYTES>()?;
        let channel = u16::from_be_bytes([c0, c1]);
        let size = u32::from_be_bytes([s0, s1, s2, s3]);
        Some((Self { kind, channel, size }, rest))
    }

    /// The seven octets.
    #[inline]
    #[must_use]
    pub const fn encode(self) -> [u8; FRAME_HEAD_BYTES] {
        let [c0, c1] = self.channel.to_be_bytes();
        let [s0, s1, s2, s3] = self.size.to_be_bytes();
        [self.kind, c0, c1, s0, s1, s2, s3]
    }
}

/// Octets of payload that fit a frame of `frame_max`; 0 means no limit, which here is [`FRAME_MAX_CEILING`].
#[inline]
#[must_use]
pub const fn payload_max(frame_max: u32) -> u32 {
    let frame_max =
        if frame_max == 0 || frame_max > FRAME_MAX_CEILING { FRAME_MAX_CEILING } else { frame_max };
    let frame_max = if frame_max < FRAME_MIN_SIZE { FRAME_MIN_SIZE } else { frame_max };
    frame_max - FRAME_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_seven_octets_and_comes_back() {
        let head = FrameHead { kind: FRAME_BODY, channel: 0x0102, size: 0x0304_0506 };

        let bytes = head.encode();

        assert_eq!(bytes, [3, 1, 2, 3, 4, 5, 6]);
        assert_eq!(FrameHead::decode(&bytes), Some((head, &[][..])));
        assert_eq!(FrameHead::decode(&bytes[..6]), None);
    }

    #[test]
    fn no_limit_is_the_ceiling() {
        assert_eq!(payload_max(0), FRAME_MAX_CEILING - 8);
        assert_eq!(payload_max(u32::MAX), FRAME_MAX_CEILING - 8);
        assert_eq!(payload_max(1), 4088);
    }
}
