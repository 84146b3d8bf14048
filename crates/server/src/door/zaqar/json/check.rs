//! Whether bytes are a JSON document that this door takes.

use super::Raw;

/// Deepest nesting. Real documents stay below ten; the bound fits the bits of a `u128`.
pub(crate) const DEPTH_MAX: u32 = 128;

/// Why a document is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Not UTF-8, not JSON, nested deeper than [`DEPTH_MAX`], or neither object nor array.
    Malformed,
    /// A whole number does not fit 64 bits with sign.
    IntegerTooLarge,
}

/// Checks a document, which must be an object or an array.
///
/// # Errors
///
/// The first [`Flaw`] met.
pub(crate) fn check(bytes: &[u8]) -> Result<Raw<'_>, Flaw> {
    let raw = check_value(bytes)?;
    if raw.text().starts_with(['{', '[']) { Ok(raw) } else { Err(Flaw::Malformed) }
}

/// Checks a value of any kind.
///
/// # Errors
///
/// The first [`Flaw`] met.
pub(crate) fn check_value(bytes: &[u8]) -> Result<Raw<'_>, Flaw> {
    let text = std::str::from_utf8(bytes).map_err(|_| Flaw::Malformed)?;
    let mut checker = Checker { bytes, at: 0, depth: 0, objects: 0 };
    checker.skip_space();
    let start = checker.at;
    checker.value()?;
    let end = checker.at;
    checker.skip_space();
    match text.get(start..end) {
        Some(value) if checker.at == bytes.len() => Ok(Raw(value)),
        _ => Err(Flaw::Malformed),
    }
}

struct Checker<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
    /// A bit per open container, lowest for the innermost: 1 for an object.
    objects: u128,
}

impl Checker<'_> {
    /// The byte here; 0, which no grammar rule takes, at the end.
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Flaw> {
        if self.eat(byte) { Ok(()) } else { Err(Flaw::Malformed) }
    }

    /// A value with everything in it.
    fn value(&mut self) -> Result<(), Flaw> {
        loop {
            let opened = self.scalar_or_opening()?;
            if !opened && self.close_or_continue()? {
                return Ok(());
            }
        }
    }

    /// A scalar, an empty container, or the beginning of one (true), after which its first value comes.
    fn scalar_or_opening(&mut self) -> Result<bool, Flaw> {
        match self.peek() {
            b'"' => self.string().map(|()| false),
            b'{' => self.open(true),
            b'[' => self.open(false),
            b't' => self.word(b"true").map(|()| false),
            b'f' => self.word(b"false").map(|()| false),
            b'n' => self.word(b"null").map(|()| false),
            b'-' | b'0'..=b'9' => self.number().map(|()| false),
            _ => Err(Flaw::Malformed),
        }
    }

    fn open(&mut self, object: bool) -> Result<bool, Flaw> {
        self.at += 1;
        self.skip_space();
        if self.eat(if object { b'}' } else { b']' }) {
            return Ok(false);
        }
        if self.depth == DEPTH_MAX {
            return Err(Flaw::Malformed);
        }
        self.depth += 1;
        self.objects = (self.objects << 1) | u128::from(object);
        if object {
            self.name()?;
        }
        Ok(true)
    }

    /// Behind a value: closes what ends here. True when the outermost value is over.
    fn close_or_continue(&mut self) -> Result<bool, Flaw> {
        loop {
            if self.depth == 0 {
                return Ok(true);
            }
            let object = self.objects & 1 == 1;
            self.skip_space();
            if self.eat(b',') {
                self.skip_space();
                if object {
                    self.name()?;
                }
                return Ok(false);
            }
            self.expect(if object { b'}' } else { b']' })?;
            self.depth -= 1;
            self.objects >>= 1;
        }
    }

    fn name(&mut self) -> Result<(), Flaw> {
        self.string()?;
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Flaw> {
        let end = self.at + word.len();
        if self.bytes.get(self.at..end) != Some(word) {
            return Err(Flaw::Malformed);
        }
        self.at = end;
        Ok(())
    }

    fn string(&mut self) -> Result<(), Flaw> {
        self.expect(b'"')?;
        loop {
            self.at += plain_run(self.bytes.get(self.at..).unwrap_or_default());
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                _ => return Err(Flaw::Malformed),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Flaw> {
        self.at += 1;
        let code = self.peek();
        self.at += 1;
        match code {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4).ok_or(Flaw::Malformed)?;
                self.at += 4;
                if digits.iter().all(u8::is_ascii_hexdigit) { Ok(()) } else { Err(Flaw::Malformed) }
            }
            _ => Err(Flaw::Malformed),
        }
    }

    fn digits(&mut self) -> Result<(), Flaw> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Flaw::Malformed) }
    }

    fn number(&mut self) -> Result<(), Flaw> {
        let start = self.at;
        let _negative = self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        let mut whole = true;
        if self.eat(b'.') {
            whole = false;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        // Up to 18 digits always fit.
        if !whole || self.at - start <= 18 {
            return Ok(());
        }
        let digits = self.bytes.get(start..self.at).and_then(|text| std::str::from_utf8(text).ok());
        match digits.map(str::parse::<i64>) {
            Some(Ok(_)) => Ok(()),
            _ => Err(Flaw::IntegerTooLarge),
        }
    }
}

/// How many bytes at the front are neither quote, backslash nor control character. Most bytes of most documents are in
/// such runs, so they are looked at in blocks, which the compiler turns into a few instructions each.
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let plain = blocks.iter().take_while(|block| !is_any_special(block)).count() * BLOCK;
    let rest = bytes.get(plain..).unwrap_or_default();
    plain + rest.iter().take_while(|byte| !is_special(**byte)).count()
}

/// Bytes that are looked at together: two of the widest registers that every processor has.
const BLOCK: usize = 32;

fn is_special(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..0x20)
}

/// All are looked at, because leaving early would be a branch for each.
fn is_any_special(block: &[u8; BLOCK]) -> bool {
    block.iter().fold(false, |any, byte| any | (*byte == b'"') | (*byte == b'\\') | (*byte < 0x20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_taken_or_refused_as_a_parser_of_trees_does() {
        let good = [
            "{}",
            "[]",
            " [1,2 , 3]\n",
            r#"{"a":{"b":[[],{}]},"c":null}"#,
            "[-0.5e+10, 0, 1E5]",
            r#"["\u12aF \\ \" \/"]"#,
            "[\"é😀\"]",
            r#"{"":{"":""}}"#,
        ];
        let bad = [
            "",
            " ",
            "1",
            "\"a\"",
            "null",
            "{",
            "[",
            "[1",
            "[1,]",
            "[,1]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "[01]",
            "[1.]",
            "[.5]",
            "[+1]",
            "[-]",
            "[1e]",
            "[\"\\x\"]",
            "[\"\\u12g4\"]",
            "[\"\u{1}\"]",
            "[\"a]",
            "[tru]",
            "[]]",
            "[] []",
            "{1:2}",
            "[NaN]",
            "{]",
            "[}",
            "[1 2]",
            "\u{feff}[]",
        ];

        for text in good {
            assert!(check(text.as_bytes()).is_ok(), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
        }
        for text in bad {
            assert_eq!(check(text.as_bytes()), Err(Flaw::Malformed), "{text}");
        }
        assert_eq!(check(b"[\"\xff\"]"), Err(Flaw::Malformed));
    }

    #[test]
    fn every_truncation_and_every_changed_byte_agrees_with_a_parser_of_trees() {
        let text = r#"{"messages": [{"ttl": 300, "body": {"ev\u00e9nt": "x\\\"", "n": [-1.5e3, true, null]}}, []]}"#;
        let agrees = |bytes: &[u8]| {
            let theirs = serde_json::from_slice::<serde_json::Value>(bytes);
            let theirs = theirs.is_ok_and(|value| value.is_object() || value.is_array());
            // They refuse half a surrogate pair, which the grammar allows.
            let ours = check(bytes).is_ok();
            assert!(
                ours == theirs || ours && bytes.windows(3).any(|w| w == b"\\ud"),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        };

        for len in 0..text.len() {
            agrees(&text.as_bytes()[..len]);
            for byte in 0..=255 {
                let mut changed = text.as_bytes().to_vec();
                changed[len] = byte;
                agrees(&changed);
            }
        }
    }

    #[test]
    fn integers_beyond_64_bits_are_refused_and_others_not() {
        let of = |number: &str| check(format!("[{number}]").as_bytes()).map(|_| ());

        assert_eq!(of("9223372036854775807"), Ok(()));
        assert_eq!(of("-9223372036854775808"), Ok(()));
        assert_eq!(of("9223372036854775808"), Err(Flaw::IntegerTooLarge));
        assert_eq!(of("-9223372036854775809"), Err(Flaw::IntegerTooLarge));
        assert_eq!(of("9223372036854775808.0"), Ok(()));
        assert_eq!(of("1e400"), Ok(()));
    }

    #[test]
    fn depth_is_bounded_and_costs_no_stack() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));

        assert!(check(nested(128).as_bytes()).is_ok());
        assert_eq!(check(nested(130).as_bytes()), Err(Flaw::Malformed));
        assert_eq!(check("[".repeat(1_000_000).as_bytes()), Err(Flaw::Malformed));
        assert_eq!(check("{\"a\":".repeat(1_000_000).as_bytes()), Err(Flaw::Malformed));
    }
}
