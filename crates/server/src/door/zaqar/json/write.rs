//! Writing JSON into bytes, piece by piece.

/// Writes a string with its quotes.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut plain = 0;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => b"\\u00",
            _ => continue,
        };
        out.extend_from_slice(bytes.get(plain..at).unwrap_or_default());
        out.extend_from_slice(escape);
        if escape.len() == 4 {
            hex(out, u64::from(*byte), 2);
        }
        plain = at + 1;
    }
    out.extend_from_slice(bytes.get(plain..).unwrap_or_default());
    out.push(b'"');
}

/// Writes a whole number in decimal digits.
pub(crate) fn integer(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut rest = number;
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        length += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - length..).unwrap_or_default());
}

/// Writes the lowest `digits` hexadecimal digits of a number, in lower case; at most 16.
pub(crate) fn hex(out: &mut Vec<u8>, number: u64, digits: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0_u8; 16];
    let mut rest = number;
    for digit in text.iter_mut().rev() {
        *digit =
            usize::try_from(rest & 15).ok().and_then(|it| DIGITS.get(it)).copied().unwrap_or(b'0');
        rest >>= 4;
    }
    let first = 16_usize.saturating_sub(digits as usize);
    out.extend_from_slice(text.get(first..).unwrap_or_default());
}

/// Writes items with commas between them.
pub(crate) fn list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_again_as_they_were() {
        for text in ["", "plain", "a\"b\\c\n\r\t\u{1}\u{1f}\u{7f}é😀", "\\"] {
            let mut out = Vec::new();
            string(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 7, 10, 1234567890, u64::MAX] {
            let mut out = Vec::new();
            integer(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
        let mut out = Vec::new();
        hex(&mut out, 0x1ab, 8);
        assert_eq!(out, b"000001ab");
    }
}
