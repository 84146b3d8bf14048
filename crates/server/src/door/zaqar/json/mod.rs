//! JSON as the wire has it: checked once, kept as text, never built into trees.
//!
//! A body is checked as a whole first ([`check`]); what comes out, a [`Raw`], is a slice of it. Members and items are
//! found by skipping over checked text. Nothing recurses, so depth costs bits and not stack.

mod check;
pub(crate) mod write;

use std::borrow::Cow;

pub(crate) use check::{Flaw, check, check_value};

/// A checked value: its text without the spaces around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raw<'a>(&'a str);

/// What kind of value a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// A number without fraction and exponent; it fits 64 bits with sign.
    Integer,
    /// Another number.
    Fraction,
    /// `true` or `false`.
    Bool,
    /// `null`.
    Null,
}

impl<'a> Raw<'a> {
    /// The value's text.
    pub(crate) fn text(self) -> &'a str {
        self.0
    }

    pub(crate) fn kind(self) -> Kind {
        match self.0.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::String,
            Some(b't' | b'f') => Kind::Bool,
            Some(b'n') => Kind::Null,
            _ if self.0.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) => Kind::Fraction,
            _ => Kind::Integer,
        }
    }

    /// Whether an `if` of Python would take it for true.
    pub(crate) fn is_truthy(self) -> bool {
        match self.kind() {
            Kind::Object => self.members().next().is_some(),
            Kind::Array => self.items().next().is_some(),
            Kind::String => self.0 != "\"\"",
            Kind::Integer | Kind::Fraction => self.0.parse::<f64>().is_ok_and(|n| n != 0.0),
            Kind::Bool => self.0 == "true",
            Kind::Null => false,
        }
    }

    /// A whole number; `true` and `false` count as 1 and 0, as in Python.
    pub(crate) fn integer(self) -> Option<i64> {
        match self.0 {
            "true" => Some(1),
            "false" => Some(0),
            text => text.parse().ok().filter(|_| self.kind() == Kind::Integer),
        }
    }

    pub(crate) fn boolean(self) -> Option<bool> {
        match self.0 {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }

    /// The content of a string.
    pub(crate) fn string(self) -> Option<Cow<'a, str>> {
        let content = self.0.strip_prefix('"')?.strip_suffix('"')?;
        Some(unescaped(content))
    }

    /// The members of an object in the order of the text; nothing for another kind. A name may come twice.
    pub(crate) fn members(self) -> Members<'a> {
        Members { rest: Walk { text: self.0, at: 1, over: self.kind() != Kind::Object } }
    }

    /// The value of a member; of the last one, where a name comes twice.
    pub(crate) fn member(self, name: &str) -> Option<Self> {
        self.members().filter(|(found, _)| found == name).last().map(|(_, value)| value)
    }

    /// The items of an array; nothing for another kind.
    pub(crate) fn items(self) -> Items<'a> {
        Items { rest: Walk { text: self.0, at: 1, over: self.kind() != Kind::Array } }
    }
}

/// Where a walk through a container is.
#[derive(Debug, Clone)]
struct Walk<'a> {
    text: &'a str,
    at: usize,
    over: bool,
}

impl<'a> Walk<'a> {
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// Goes over spaces, commas and colons: between checked values they mean nothing more.
    fn reach_value(&mut self) -> bool {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r' | b',' | b':') {
            self.at += 1;
        }
        self.over |= matches!(self.peek(), b'}' | b']' | 0);
        !self.over
    }

    /// Takes the value that begins here.
    fn take(&mut self) -> Raw<'a> {
        let start = self.at;
        match self.peek() {
            b'"' => self.skip_string(),
            b'{' | b'[' => self.skip_container(),
            _ => {
                while !matches!(self.peek(), 0 | b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
                {
                    self.at += 1;
                }
            }
        }
        Raw(self.text.get(start..self.at).unwrap_or_default())
    }

    fn skip_string(&mut self) {
        self.at += 1;
        loop {
            self.at += check::plain_run(self.text.as_bytes().get(self.at..).unwrap_or_default());
            match self.peek() {
                b'\\' => self.at += 2,
                _ => break,
            }
        }
        self.at += 1;
    }

    fn skip_container(&mut self) {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                b'"' => {
                    self.skip_string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                0 => return,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

/// See [`Raw::members`].
#[derive(Debug, Clone)]
pub(crate) struct Members<'a> {
    rest: Walk<'a>,
}

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, Raw<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        if !self.rest.reach_value() {
            return None;
        }
        let name = self.rest.take().string()?;
        self.rest.reach_value().then(|| (name, self.rest.take()))
    }
}

/// See [`Raw::items`].
#[derive(Debug, Clone)]
pub(crate) struct Items<'a> {
    rest: Walk<'a>,
}

impl<'a> Iterator for Items<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rest.reach_value().then(|| self.rest.take())
    }
}

/// The content of a checked string. Half a surrogate pair becomes U+FFFD.
fn unescaped(content: &str) -> Cow<'_, str> {
    if !content.contains('\\') {
        return Cow::Borrowed(content);
    }
    let mut out = String::with_capacity(content.len());
    let mut rest = content;
    while let Some((before, escape)) = rest.split_once('\\') {
        out.push_str(before);
        let mut chars = escape.chars();
        let code = chars.next().unwrap_or('\\');
        rest = chars.as_str();
        match code {
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => rest = push_unicode(rest, &mut out),
            other => out.push(other),
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Writes the character that the text behind `\u` names; returns what is behind it.
fn push_unicode<'a>(text: &'a str, out: &mut String) -> &'a str {
    let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
    let (Some(first), Some(rest)) = (unit(text), text.get(4..)) else { return text };
    let second = rest.strip_prefix("\\u").and_then(unit);
    let pair = second.filter(|_| (0xd800..0xdc00).contains(&first));
    match pair.and_then(|second| char::decode_utf16([first, second]).next()?.ok()) {
        Some(both) => {
            out.push(both);
            rest.get(6..).unwrap_or_default()
        }
        None => {
            out.push(char::from_u32(first.into()).unwrap_or(char::REPLACEMENT_CHARACTER));
            rest
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_items_are_found_with_their_raw_text() {
        let text = r#" { "a" : [1, {"x":"]\"}"} ,true] , "b":"y\"z" , "a": -2.5e3 } "#;
        let raw = check(text.as_bytes()).unwrap();

        let members: Vec<_> = raw.members().map(|(k, v)| (k.into_owned(), v.text())).collect();

        assert_eq!(members[0], ("a".into(), r#"[1, {"x":"]\"}"} ,true]"#));
        assert_eq!(members[1], ("b".into(), r#""y\"z""#));
        assert_eq!(raw.member("a").unwrap().kind(), Kind::Fraction);
        let (_, list) = raw.members().next().unwrap();
        let items: Vec<_> = list.items().map(Raw::text).collect();
        assert_eq!(items, ["1", r#"{"x":"]\"}"}"#, "true"]);
        assert_eq!(list.items().last().unwrap().integer(), Some(1));
        assert_eq!(check(b"{}").unwrap().members().count(), 0);
        assert_eq!(check(b"[ ]").unwrap().items().count(), 0);
    }

    #[test]
    fn strings_are_unescaped() {
        let string = |text: &str| {
            check(text.as_bytes()).unwrap().items().next().unwrap().string().unwrap().into_owned()
        };

        assert_eq!(string(r#"["a\n\u00e9\ud83d\ude00\/\\"]"#), "a\né😀/\\");
        assert_eq!(string(r#"["\ud83dx"]"#), "\u{fffd}x");
        assert_eq!(string(r#"["\ud83d\u0041"]"#), "\u{fffd}A");
    }

    #[test]
    fn truth_is_pythons() {
        let truthy = |text: &str| {
            check(format!("[{text}]").as_bytes()).unwrap().items().next().unwrap().is_truthy()
        };

        for text in ["0", "0.0", "null", "false", "\"\"", "{ }", "[]"] {
            assert!(!truthy(text), "{text}");
        }
        for text in ["1", "-0.5", "true", "\"a\"", "{\"a\":0}", "[null]"] {
            assert!(truthy(text), "{text}");
        }
    }
}
