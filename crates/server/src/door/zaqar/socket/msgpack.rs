//! MessagePack, the form of binary frames, to JSON text and back, so that everything behind it knows JSON only.
//!
//! Nothing recurses and nothing is allocated by a length that a peer claims: containers that are open lie on a list that is
//! as long as the nesting is deep, and the text grows with what was really there.

use crate::door::zaqar::json::{check_value, write};

/// Deepest nesting that is read, as in JSON.
const DEPTH_MAX: usize = 128;

/// Why a binary frame cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("OutOfData: the message ends too early")]
    Short,
    #[error("ExtraData: there is something behind the message")]
    Long,
    #[error("ValueError: byte 0x{0:02x} begins nothing that JSON has")]
    Kind(u8),
    #[error("UnicodeDecodeError: a string must be UTF-8")]
    Text,
    #[error("ValueError: a key must be a string")]
    Key,
    #[error("ValueError: a number must be finite")]
    Number,
    #[error("StackError: nested deeper than {DEPTH_MAX}")]
    Deep,
    #[error("ValueError: as JSON it would be more than {0} bytes")]
    Large(usize),
}

/// One value, or the beginning of a container.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Nil,
    Bool(bool),
    Negative(i64),
    Positive(u64),
    Float(f64),
    Text(&'a str),
    Array(u32),
    Map(u32),
}

/// A container that is not complete yet.
#[derive(Debug, Clone, Copy)]
struct Open {
    is_map: bool,
    /// Values to come; a map has two of them per pair.
    left: u64,
    first: bool,
}

impl Open {
    fn expects_key(self) -> bool {
        self.is_map && self.left.is_multiple_of(2)
    }
}

/// The JSON text of a message, of at most `bytes_max` bytes.
///
/// # Errors
///
/// Every [`Flaw`].
pub(crate) fn to_json(bytes: &[u8], bytes_max: usize) -> Result<Vec<u8>, Flaw> {
    let mut reader = Reader { rest: bytes };
    let mut out = Vec::with_capacity(bytes.len());
    let mut open: Vec<Open> = Vec::new();
    loop {
        if let Some(inner) = open.last_mut() {
            match (inner.is_map && !inner.expects_key(), inner.first) {
                (true, _) => out.push(b':'),
                (false, true) => {}
                (false, false) => out.push(b','),
            }
            inner.first = false;
        }
        let token = reader.token()?;
        let key = open.last().is_some_and(|inner| inner.expects_key());
        if key && !matches!(token, Token::Text(_)) {
            return Err(Flaw::Key);
        }
        if let Some(inner) = open.last_mut() {
            inner.left -= 1;
        }
        if let Some(container) = write_token(&mut out, token)? {
            if open.len() == DEPTH_MAX {
                return Err(Flaw::Deep);
            }
            open.push(container);
        }
        while let Some(done) = open.pop_if(|inner| inner.left == 0) {
            out.push(if done.is_map { b'}' } else { b']' });
        }
        if out.len() > bytes_max {
            return Err(Flaw::Large(bytes_max));
        }
        if open.is_empty() {
            return if reader.rest.is_empty() { Ok(out) } else { Err(Flaw::Long) };
        }
    }
}

/// Writes a value, or opens a container and says so.
fn write_token(out: &mut Vec<u8>, token: Token<'_>) -> Result<Option<Open>, Flaw> {
    match token {
        Token::Nil => out.extend_from_slice(b"null"),
        Token::Bool(true) => out.extend_from_slice(b"true"),
        Token::Bool(false) => out.extend_from_slice(b"false"),
        Token::Negative(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Token::Positive(number) => write::integer(out, number),
        Token::Float(number) => {
            let number = serde_json::Number::from_f64(number).ok_or(Flaw::Number)?;
            out.extend_from_slice(number.to_string().as_bytes());
        }
        Token::Text(text) => write::string(out, text),
        Token::Array(items) => {
            out.push(b'[');
            return Ok(Some(Open { is_map: false, left: items.into(), first: true }));
        }
        Token::Map(pairs) => {
            out.push(b'{');
            return Ok(Some(Open { is_map: true, left: u64::from(pairs) * 2, first: true }));
        }
    }
    Ok(None)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn token(&mut self) -> Result<Token<'a>, Flaw> {
        let [kind] = self.bytes()?;
        Ok(match kind {
            0x00..=0x7f => Token::Positive(kind.into()),
            0x80..=0x8f => Token::Map((kind & 0x0f).into()),
            0x90..=0x9f => Token::Array((kind & 0x0f).into()),
            0xa0..=0xbf => self.text(usize::from(kind & 0x1f))?,
            0xc0 => Token::Nil,
            0xc2 | 0xc3 => Token::Bool(kind == 0xc3),
            // Binary data: what msgpack libraries made of byte strings for long.
            0xc4 | 0xd9 => {
                let [length] = self.bytes()?;
                self.text(length.into())?
            }
            0xc5 | 0xda => {
                let length = u16::from_be_bytes(self.bytes()?);
                self.text(length.into())?
            }
            0xc6 | 0xdb => {
                let length = u32::from_be_bytes(self.bytes()?);
                self.text(usize::try_from(length).map_err(|_| Flaw::Short)?)?
            }
            0xca => Token::Float(f32::from_be_bytes(self.bytes()?).into()),
            0xcb => Token::Float(f64::from_be_bytes(self.bytes()?)),
            0xcc => Token::Positive(u8::from_be_bytes(self.bytes()?).into()),
            0xcd => Token::Positive(u16::from_be_bytes(self.bytes()?).into()),
            0xce => Token::Positive(u32::from_be_bytes(self.bytes()?).into()),
            0xcf => Token::Positive(u64::from_be_bytes(self.bytes()?)),
            0xd0 => Token::Negative(i8::from_be_bytes(self.bytes()?).into()),
            0xd1 => Token::Negative(i16::from_be_bytes(self.bytes()?).into()),
            0xd2 => Token::Negative(i32::from_be_bytes(self.bytes()?).into()),
            0xd3 => Token::Negative(i64::from_be_bytes(self.bytes()?)),
            0xdc => Token::Array(u16::from_be_bytes(self.bytes()?).into()),
            0xdd => Token::Array(u32::from_be_bytes(self.bytes()?)),
            0xde => Token::Map(u16::from_be_bytes(self.bytes()?).into()),
            0xdf => Token::Map(u32::from_be_bytes(self.bytes()?)),
            0xe0..=0xff => Token::Negative(i8::from_be_bytes([kind]).into()),
            // Extensions, timestamps among them, and the byte that means nothing.
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => return Err(Flaw::Kind(kind)),
        })
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Flaw::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn text(&mut self, length: usize) -> Result<Token<'a>, Flaw> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Flaw::Short)?;
        self.rest = rest;
        Ok(Token::Text(std::str::from_utf8(taken).map_err(|_| Flaw::Text)?))
    }
}

/// The MessagePack of a JSON text that this program has made, in its shortest form.
pub(crate) fn from_json(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let sizes = sizes(text);
    let mut next_size = sizes.iter();
    for event in (Events { text, at: 0 }) {
        match event {
            Event::Open { is_map } => {
                let size = next_size.next().copied().unwrap_or(0);
                if is_map { write_map(&mut out, size / 2) } else { write_array(&mut out, size) }
            }
            Event::Close => {}
            Event::Value(value) => write_value(&mut out, value),
        }
    }
    out
}

/// How many values each container has, in the order in which they open; members count twice.
fn sizes(text: &str) -> Vec<u32> {
    let mut sizes: Vec<u32> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for event in (Events { text, at: 0 }) {
        if event != Event::Close
            && let Some(size) = open.last().and_then(|inner| sizes.get_mut(*inner))
        {
            *size += 1;
        }
        match event {
            Event::Open { .. } => {
                open.push(sizes.len());
                sizes.push(0);
            }
            Event::Close => drop(open.pop()),
            Event::Value(_) => {}
        }
    }
    sizes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event<'a> {
    Open {
        is_map: bool,
    },
    Close,
    /// A scalar's text, strings with their quotes.
    Value(&'a str),
}

/// What is in a JSON text, one after the other.
struct Events<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.text.as_bytes();
        let peek = |at: usize| bytes.get(at).copied();
        while matches!(peek(self.at)?, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':') {
            self.at += 1;
        }
        let start = self.at;
        self.at += 1;
        match peek(start)? {
            b'{' => return Some(Event::Open { is_map: true }),
            b'[' => return Some(Event::Open { is_map: false }),
            b'}' | b']' => return Some(Event::Close),
            b'"' => {
                while let Some(byte) = peek(self.at).filter(|byte| *byte != b'"') {
                    self.at += if byte == b'\\' { 2 } else { 1 };
                }
                self.at += 1;
            }
            _ => {
                let is_inside =
                    |byte: &u8| !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
                while peek(self.at).as_ref().is_some_and(is_inside) {
                    self.at += 1;
                }
            }
        }
        self.text.get(start..self.at).map(Event::Value)
    }
}

fn write_value(out: &mut Vec<u8>, text: &str) {
    match text {
        "null" => out.push(0xc0),
        "false" => out.push(0xc2),
        "true" => out.push(0xc3),
        text if text.starts_with('"') => {
            let content = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            match content.filter(|content| !content.contains('\\')) {
                Some(plain) => write_text(out, plain),
                None => {
                    let value = check_value(text.as_bytes()).ok().and_then(|value| value.string());
                    write_text(out, &value.unwrap_or_default());
                }
            }
        }
        number => write_number(out, number),
    }
}

fn write_number(out: &mut Vec<u8>, text: &str) {
    if let Ok(number) = text.parse::<u64>() {
        match (u8::try_from(number), u16::try_from(number), u32::try_from(number)) {
            (Ok(byte), ..) if byte < 0x80 => out.push(byte),
            (Ok(byte), ..) => out.extend_from_slice(&[0xcc, byte]),
            (_, Ok(number), _) => with_head(out, 0xcd, &number.to_be_bytes()),
            (.., Ok(number)) => with_head(out, 0xce, &number.to_be_bytes()),
            _ => with_head(out, 0xcf, &number.to_be_bytes()),
        }
    } else if let Ok(number) = text.parse::<i64>() {
        match (i8::try_from(number), i16::try_from(number), i32::try_from(number)) {
            (Ok(byte), ..) if byte >= -32 => out.extend_from_slice(&byte.to_be_bytes()),
            (Ok(byte), ..) => with_head(out, 0xd0, &byte.to_be_bytes()),
            (_, Ok(number), _) => with_head(out, 0xd1, &number.to_be_bytes()),
            (.., Ok(number)) => with_head(out, 0xd2, &number.to_be_bytes()),
            _ => with_head(out, 0xd3, &number.to_be_bytes()),
        }
    } else {
        with_head(out, 0xcb, &text.parse::<f64>().unwrap_or_default().to_be_bytes());
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length), _) if length < 32 => out.push(0xa0 | length),
        (Ok(length), _) => out.extend_from_slice(&[0xd9, length]),
        (_, Ok(length)) => with_head(out, 0xda, &length.to_be_bytes()),
        _ => with_head(out, 0xdb, &length.to_be_bytes()),
    }
    out.extend_from_slice(text.as_bytes());
}

fn write_array(out: &mut Vec<u8>, items: u32) {
    write_container(out, items, [0x90, 0xdc, 0xdd]);
}

fn write_map(out: &mut Vec<u8>, pairs: u32) {
    write_container(out, pairs, [0x80, 0xde, 0xdf]);
}

fn write_container(out: &mut Vec<u8>, size: u32, [tiny, small, large]: [u8; 3]) {
    match (u8::try_from(size), u16::try_from(size)) {
        (Ok(size), _) if size < 16 => out.push(tiny | size),
        (_, Ok(size)) => with_head(out, small, &size.to_be_bytes()),
        _ => with_head(out, large, &size.to_be_bytes()),
    }
}

fn with_head(out: &mut Vec<u8>, head: u8, bytes: &[u8]) {
    out.push(head);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(bytes: &[u8]) -> Result<String, Flaw> {
        to_json(bytes, 1 << 20).map(|json| String::from_utf8(json).unwrap())
    }

    #[test]
    fn every_kind_of_value_becomes_json() {
        // {"a": [1, -1, true, nil, 1.5, "x\n"], "b": {}}, as msgpack.packb writes it.
        let bytes = b"\x82\xa1a\x96\x01\xff\xc3\xc0\xcb\x3f\xf8\0\0\0\0\0\0\xa2x\n\xa1b\x80";

        assert_eq!(json(bytes).unwrap(), r#"{"a":[1,-1,true,null,1.5,"x\n"],"b":{}}"#);
        assert_eq!(json(b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff").unwrap(), "18446744073709551615");
        assert_eq!(json(b"\xd3\x80\0\0\0\0\0\0\0").unwrap(), "-9223372036854775808");
        assert_eq!(json(b"\xc4\x01b").unwrap(), "\"b\"");
        assert_eq!(json(b"\xca\x3f\x80\0\0").unwrap(), "1.0");
    }

    #[test]
    fn json_comes_back_the_same() {
        let long = format!(r#"["{}",[{}0]]"#, "x".repeat(70_000), "1,".repeat(70_000));
        let wide =
            format!("{{{}\"k\":0}}", (0..20).map(|n| format!("\"{n}\":{n},")).collect::<String>());
        for text in [
            "{}",
            "[]",
            r#"{"a":[{"b":[]},{}],"c":"é"}"#,
            "[0,127,128,255,256,65535,65536,4294967296,18446744073709551615]",
            "[-1,-32,-33,-128,-129,-32769,-2147483649,-9223372036854775808]",
            r#"["\"\\\n"]"#,
            "[1.5,null,true,false]",
            &long,
            &wide,
        ] {
            assert_eq!(json(&from_json(text)).unwrap(), text);
        }
        assert_eq!(json(&from_json(" { \"a\" : [ 1 , 2 ] } ")).unwrap(), r#"{"a":[1,2]}"#);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = from_json(r#"{"a":[1,-1,"text",{"b":1.5}],"c":null}"#);

        for end in 0..bytes.len() {
            assert_eq!(json(&bytes[..end]), Err(Flaw::Short), "{end}");
        }
    }

    #[test]
    fn what_json_has_not_is_refused() {
        for (bytes, flaw) in [
            (&b"\x81\x01\x01"[..], Flaw::Key),
            (b"\x01\x01", Flaw::Long),
            (b"\xc1", Flaw::Kind(0xc1)),
            (b"\xd6\xff\0\0\0\0", Flaw::Kind(0xd6)),
            (b"\xa1\xff", Flaw::Text),
            (b"\xcb\x7f\xf8\0\0\0\0\0\0", Flaw::Number),
        ] {
            assert_eq!(json(bytes), Err(flaw), "{bytes:?}");
        }
    }

    #[test]
    fn depth_and_size_are_bounded_and_claims_cost_nothing() {
        let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();

        assert!(json(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(json(&nested(DEPTH_MAX + 1)), Err(Flaw::Deep));
        assert_eq!(json(&nested(100_000)), Err(Flaw::Deep));
        assert_eq!(json(b"\xdf\xff\xff\xff\xff"), Err(Flaw::Short));
        assert_eq!(json(b"\xdb\xff\xff\xff\xffx"), Err(Flaw::Short));
        assert_eq!(to_json(&[b"\x9f".as_slice(), &[0xc0; 15]].concat(), 50), Err(Flaw::Large(50)));
    }

    #[test]
    fn random_bytes_never_panic_and_what_is_read_comes_back() {
        let seed = 0x5eed_u64;
        let mut state = seed;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33).to_be_bytes()[7]
        };
        let good = from_json(
            r#"{"action":"message_post","body":{"messages":[{"ttl":60,"body":[1.5,null,-7]}]}}"#,
        );
        let mut read = 0;
        for round in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..round % 4 {
                let at = usize::from(random()) % bytes.len();
                bytes[at] = random();
            }
            if let Ok(text) = json(&bytes) {
                read += 1;
                assert_eq!(json(&from_json(&text)).unwrap(), text, "seed {seed:#x}, round {round}");
            }
        }
        assert!(read > 5000, "{read}");
    }
}
