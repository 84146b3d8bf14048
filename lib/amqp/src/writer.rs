//! Lengths and frame heads around bytes that are appended to an output.

use crate::{
    error::{EncodeError, SHORT_STRING_BYTES_MAX},
    frame::{FRAME_END, FRAME_HEAD_BYTES, FrameHead},
};

/// Appends a string of at most 255 bytes behind one octet of length.
#[inline]
pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    let Ok(len) = u8::try_from(bytes.len()) else {
        return Err(EncodeError::ShortStringTooLong(bytes.len()));
    };
    out.push(len);
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends bytes behind four octets of length.
#[inline]
pub(crate) fn put_long(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    let len = u32::try_from(bytes.len()).map_err(|_| EncodeError::TooLong(bytes.len()))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends four octets of length and what `fill` writes. Nothing is undone if it fails.
pub(crate) fn put_counted(
    out: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out)?;
    let len = out.len() - start - 4;
    let len = u32::try_from(len).map_err(|_| EncodeError::TooLong(len))?;
    if let Some(slot) = out.get_mut(start..start + 4) {
        slot.copy_from_slice(&len.to_be_bytes());
    }
    Ok(())
}

/// Appends a frame whose payload is what `fill` writes; leaves `out` as it was if that fails.
#[inline]
pub(crate) fn put_frame(
    out: &mut Vec<u8>,
    kind: u8,
    channel: u16,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    let filled = fill(out).and_then(|()| {
        let len = out.len() - start - FRAME_HEAD_BYTES;
        u32::try_from(len).map_err(|_| EncodeError::TooLong(len))
    });
    let size = match filled {
        Ok(size) => size,
        Err(error) => {
            out.truncate(start);
            return Err(error);
        }
    };
    if let Some(head) = out.get_mut(start..start + FRAME_HEAD_BYTES) {
        head.copy_from_slice(&FrameHead { kind, channel, size }.encode());
    }
    out.push(FRAME_END);
    Ok(())
}

const _: () = assert!(SHORT_STRING_BYTES_MAX == u8::MAX as usize);
