//! Regular expressions of permissions and policies, bounded in size and linear in time.
//!
//! RabbitMQ compiles them with PCRE over bytes and looks for a match anywhere in the name. So do we, without PCRE's
//! backtracking. One use of look-around is too common to refuse, `^(?!amq\.).*` for "all but the built-in ones": groups
//! that look ahead from the start of the name are compiled as expressions of their own.

use regex::bytes::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// Largest compiled expression, in bytes.
pub const COMPILED_BYTES_MAX: usize = 256 * 1024;

/// Why a text is not a usable pattern. The same text never is.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The text itself is too long.
    #[error("a pattern must be at most {PATTERN_BYTES_MAX} bytes, not {0}")]
    TooLong(usize),
    /// It is short, but compiles to too much: usually nested repetitions.
    #[error("a pattern must compile to at most {COMPILED_BYTES_MAX} bytes")]
    TooComplex,
    /// It is not a regular expression, or needs look-around other than ahead from `^`.
    #[error("invalid pattern")]
    Syntax(#[source] regex::Error),
    /// It looks ahead from `^` in one of several alternatives, or repeatedly.
    #[error(
        "a pattern that looks ahead must do so once and have no alternatives outside of groups"
    )]
    LookAheadInAlternative,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    text: Box<str>,
    body: Regex,
    /// What must (or must not) match at the start of the name as well.
    ahead: Vec<Ahead>,
}

#[derive(Debug, Clone)]
struct Ahead {
    expected: bool,
    regex: Regex,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong(text.len()));
        }
        let mut ahead = Vec::new();
        let mut rest = text.strip_prefix('^').unwrap_or_default();
        while let Some((expected, inner, after)) = split_look_ahead(rest) {
            ahead.push(Ahead { expected, regex: compile(&format!("^(?:{inner})"))? });
            rest = after;
        }
        if ahead.is_empty() {
            return Ok(Self { text: text.into(), body: compile(text)?, ahead });
        }
        // A quantifier would repeat the group that looks ahead, and `^` in its place here.
        if top_level(rest, b'|').is_some() || rest.starts_with(['*', '+', '?', '{']) {
            return Err(PatternError::LookAheadInAlternative);
        }
        Ok(Self { text: text.into(), body: compile(&format!("^{rest}"))?, ahead })
    }

    /// A pattern of permissions, where the empty text stands for "nothing": it matches the empty name only.
    pub(crate) fn of_permission(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Ok(Self { text: text.into(), ..Self::new("^$")? });
        }
        Self::new(text)
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is found anywhere in `name`.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let name = name.as_bytes();
        self.body.is_match(name)
            && self.ahead.iter().all(|ahead| ahead.regex.is_match(name) == ahead.expected)
    }
}

/// Bytes suffice for a pattern of ASCII and need a fraction of the tables that `\w` over all of Unicode needs.
fn compile(text: &str) -> Result<Regex, PatternError> {
    let build = |unicode| {
        RegexBuilder::new(text)
            .unicode(unicode)
            .size_limit(COMPILED_BYTES_MAX)
            .dfa_size_limit(COMPILED_BYTES_MAX)
            .build()
    };
    let regex = if text.is_ascii() { build(false).or_else(|_| build(true)) } else { build(true) };
    regex.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => PatternError::TooComplex,
        other => PatternError::Syntax(other),
    })
}

/// Takes `(?!inner)` or `(?=inner)` off the front.
fn split_look_ahead(text: &str) -> Option<(bool, &str, &str)> {
    let (expected, group) = match text.strip_prefix("(?!") {
        Some(group) => (false, group),
        None => (true, text.strip_prefix("(?=")?),
    };
    let (inner, after) = group.split_at_checked(top_level(group, b')')?)?;
    Some((expected, inner, after.strip_prefix(')')?))
}

/// Where `wanted` first stands outside of groups, classes and escapes.
fn top_level(text: &str, wanted: u8) -> Option<usize> {
    let mut depth = 0_usize;
    let mut class_start = None;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (byte, class_start) {
            (b'\\', _) => drop(bytes.next()),
            // A bracket right after `[` or `[^` is an element of the class.
            (b']', Some(start)) if !matches!(text.get(start..at), Some("[" | "[^")) => {
                class_start = None;
            }
            (_, Some(_)) => {}
            (_, None) if byte == wanted && depth == 0 => return Some(at),
            (b'[', None) => class_start = Some(at),
            (b'(', None) => depth += 1,
            (b')', None) => depth = depth.checked_sub(1)?,
            (_, None) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, matching: &[&str], others: &[&str]) {
        let pattern = Pattern::new(pattern).unwrap();

        for name in matching {
            assert!(pattern.matches(name), "{} should match {name}", pattern.text());
        }
        for name in others {
            assert!(!pattern.matches(name), "{} should not match {name}", pattern.text());
        }
    }

    #[test]
    fn a_match_anywhere_in_the_name_counts() {
        check("b", &["abc", "b"], &["ac"]);
        check("^b$", &["b"], &["abc"]);
        check("", &["", "anything"], &[]);
    }

    #[test]
    fn looking_ahead_from_the_start_excludes_names() {
        check(r"^(?!amq\.).*", &["orders", "amqp", ""], &["amq.gen-1"]);
        check(
            r"^(?!amq\.|dead$)(?!x)[a-z]+$",
            &["orders", "deadly"],
            &["amq.a", "dead", "xa", "A"],
        );
        check(r"^(?=.*\.eu$)orders", &["orders.eu"], &["orders.us", "my.orders.eu"]);
        check(r"^(?![)\]]|a\)).", &["b", "ab"], &[")", "]", "a)"]);
        check(r"^(?!a(b|c)d)", &["abc"], &["abd", "acd"]);
    }

    #[test]
    fn looking_ahead_in_an_alternative_is_refused() {
        let refused = Pattern::new("^(?!a).*|b").unwrap_err();

        assert_eq!(refused, PatternError::LookAheadInAlternative);
        assert_eq!(Pattern::new("^(?!a)*b").unwrap_err(), refused);
        assert!(matches!(Pattern::new("^(?!a)b)|(c"), Err(PatternError::Syntax(_))));
        assert!(matches!(Pattern::new("a(?!b)"), Err(PatternError::Syntax(_))));
        assert!(matches!(Pattern::new("^(?!b"), Err(PatternError::Syntax(_))));
    }

    #[test]
    fn length_and_compiled_size_are_bounded() {
        assert_eq!(Pattern::new(&"a".repeat(1025)).unwrap_err(), PatternError::TooLong(1025));
        assert_eq!(Pattern::new("((a{100}){100}){100}").unwrap_err(), PatternError::TooComplex);
        check(r"^\w{1,255}$", &["orders"], &["or ders", ""]);
    }

    #[test]
    fn text_beyond_ascii_is_matched_by_characters() {
        check("^[ä-ü]$", &["ö"], &["o", "öö"]);
        check(r"^\p{Lu}", &["Äpfel"], &["äpfel"]);
    }
}
