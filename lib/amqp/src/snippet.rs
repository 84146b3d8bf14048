//! The reply texts of broken frames, which quote the frame as Erlang prints it: clients' suites compare them.

use std::fmt::Write;

use crate::frame::FrameHead;

/// How much of a payload is quoted.
const QUOTED_BYTES_MAX: usize = 16;

/// `type 1, all octets = <<"x">>`.
pub(crate) fn unexpected(kind: u8, payload: &[u8]) -> String {
    match payload.get(..QUOTED_BYTES_MAX) {
        Some(front) if front.len() < payload.len() => {
            format!("type {kind}, first 16 octets = {}", binary(front))
        }
        _ => format!("type {kind}, all octets = {}", binary(payload)),
    }
}

/// `type 77, all octets = <<"x">>: unknown_frame`.
pub(crate) fn unknown_frame(kind: u8, payload: &[u8]) -> String {
    format!("{}: unknown_frame", unexpected(kind, payload))
}

/// `type 3, all octets = <<>>: {frame_too_large,5000,4088}`.
pub(crate) fn too_large(head: FrameHead, payload_max: u32) -> String {
    format!("{}: {{frame_too_large,{},{payload_max}}}", unexpected(head.kind, &[]), head.size)
}

/// `type 1, all octets = <<0>>: {invalid_frame_end_marker,0}`.
pub(crate) fn wrong_end(kind: u8, payload: &[u8], end: u8) -> String {
    format!("{}: {{invalid_frame_end_marker,{end}}}", unexpected(kind, payload))
}

/// An Erlang binary: text if all of it is printable ASCII, otherwise numbers.
fn binary(bytes: &[u8]) -> String {
    let mut text = String::from("<<");
    if !bytes.is_empty() && bytes.iter().all(|octet| matches!(octet, b' '..=b'~')) {
        text.push('"');
        for octet in bytes {
            if matches!(octet, b'"' | b'\\') {
                text.push('\\');
            }
            text.push(char::from(*octet));
        }
        text.push('"');
    } else {
        for (index, octet) in bytes.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(text, "{comma}{octet}").unwrap_or_default();
        }
    }
    text.push_str(">>");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_are_quoted_as_erlang_prints_them() {
        assert_eq!(unknown_frame(77, b"x"), r#"type 77, all octets = <<"x">>: unknown_frame"#);
        assert_eq!(unexpected(2, b"a\"\\"), r#"type 2, all octets = <<"a\"\\">>"#);
        assert_eq!(unexpected(8, b""), "type 8, all octets = <<>>");
        assert_eq!(
            wrong_end(1, &[0, 10, 255], 7),
            "type 1, all octets = <<0,10,255>>: {invalid_frame_end_marker,7}"
        );
        assert_eq!(
            unexpected(3, b"0123456789abcdefg"),
            r#"type 3, first 16 octets = <<"0123456789abcdef">>"#
        );
    }
}
