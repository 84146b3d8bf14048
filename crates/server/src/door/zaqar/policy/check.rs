//! The expressions of policy files: a subset of oslo.policy's language.
//!
//! ```text
//! check   = "" | "@" | "!" | either
//! either  = both { "or" both }
//! both    = single { "and" single }
//! single  = "not" single | "(" either ")" | "role:" name | "rule:" name | "is_admin" | "is_admin:" ("True" | "False")
//!         | ("project_id:" | "user_id:") (value | "%(project_id)s" | "%(user_id)s")
//! ```
//!
//! What is not in this grammar is an error and not `false`, as oslo.policy would have it: a typing error in a policy
//! must not become a rule that nobody notices.

use std::fmt;

/// Longest expression, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// Deepest nesting of parentheses and `not`.
const DEPTH_MAX: usize = 32;

/// A parsed expression; `rule:` still by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    Always,
    Never,
    Role(String),
    Rule(String),
    Admin(bool),
    Attribute(Attribute, Wanted),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

/// What of a caller is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attribute {
    Project,
    User,
}

/// With what it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Literal(String),
    /// The same thing of what is asked for.
    Target(Attribute),
}

/// What is wrong with an expression, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    /// In characters, from 1.
    pub(super) column: usize,
    pub(super) what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at column {}", self.what, self.column)
    }
}

impl Check {
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        if text.len() > TEXT_BYTES_MAX {
            let what = format!("an expression must be at most {TEXT_BYTES_MAX} bytes");
            return Err(Mistake { column: 1, what });
        }
        let tokens = tokens(text);
        if tokens.is_empty() {
            return Ok(Self::Always);
        }
        let mut parser = Parser { tokens: &tokens, next: 0, end: text.chars().count() + 1 };
        let check = parser.either(0)?;
        match parser.peek() {
            None => Ok(check),
            Some(token) => Err(token.mistake("expected `and` or `or`")),
        }
    }
}

#[derive(Debug, Clone)]
struct Token<'a> {
    text: &'a str,
    column: usize,
}

impl Token<'_> {
    fn mistake(&self, wanted: &str) -> Mistake {
        Mistake { column: self.column, what: format!("{wanted}, found `{}`", self.text) }
    }

    fn is_word(&self, word: &str) -> bool {
        self.text.eq_ignore_ascii_case(word)
    }
}

/// Words and parentheses; the parentheses of `%(name)s` belong to their word.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut start: Option<(usize, usize)> = None;
    let mut before = ' ';
    let mut in_reference = false;
    for (column, (offset, c)) in (1..).zip(text.char_indices()) {
        let opens_reference = c == '(' && before == '%';
        let closes_reference = c == ')' && in_reference;
        let single = matches!(c, '(' | ')') && !opens_reference && !closes_reference;
        if c.is_whitespace() || single {
            if let Some((from, at)) = start.take() {
                tokens.push(Token { text: text.get(from..offset).unwrap_or_default(), column: at });
            }
            in_reference = false;
            if single {
                let text = text.get(offset..offset + 1).unwrap_or_default();
                tokens.push(Token { text, column });
            }
        } else {
            in_reference = opens_reference || (in_reference && !closes_reference);
            start.get_or_insert((offset, column));
        }
        before = c;
    }
    if let Some((from, at)) = start {
        tokens.push(Token { text: text.get(from..).unwrap_or_default(), column: at });
    }
    tokens
}

struct Parser<'a> {
    tokens: &'a [Token<'a>],
    next: usize,
    end: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token<'a>> {
        self.tokens.get(self.next)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is_word(word));
        self.next += usize::from(found);
        found
    }

    fn either(&mut self, depth: usize) -> Result<Check, Mistake> {
        self.list("or", depth, Self::both, Check::Any)
    }

    fn both(&mut self, depth: usize) -> Result<Check, Mistake> {
        self.list("and", depth, Self::single, Check::All)
    }

    fn list(
        &mut self,
        word: &str,
        depth: usize,
        part: fn(&mut Self, usize) -> Result<Check, Mistake>,
        join: fn(Vec<Check>) -> Check,
    ) -> Result<Check, Mistake> {
        let first = part(self, depth)?;
        if !self.peek().is_some_and(|token| token.is_word(word)) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take_word(word) {
            parts.push(part(self, depth)?);
        }
        Ok(join(parts))
    }

    fn single(&mut self, depth: usize) -> Result<Check, Mistake> {
        let Some(token) = self.peek() else {
            let what = "the expression ends where a check was expected".to_owned();
            return Err(Mistake { column: self.end, what });
        };
        if depth >= DEPTH_MAX {
            return Err(token.mistake(&format!("nested deeper than {DEPTH_MAX}")));
        }
        self.next += 1;
        if token.is_word("not") {
            return Ok(Check::Not(Box::new(self.single(depth + 1)?)));
        }
        if token.text != "(" {
            return leaf(token);
        }
        let inner = self.either(depth + 1)?;
        match self.peek() {
            Some(close) if close.text == ")" => {
                self.next += 1;
                Ok(inner)
            }
            Some(other) => Err(other.mistake("expected `)`")),
            None => Err(Mistake { column: self.end, what: "a `)` is missing".to_owned() }),
        }
    }
}

fn leaf(token: &Token<'_>) -> Result<Check, Mistake> {
    match token.text {
        "@" => return Ok(Check::Always),
        "!" => return Ok(Check::Never),
        "is_admin" => return Ok(Check::Admin(true)),
        _ => {}
    }
    let unknown = || {
        token.mistake(
            "expected role:…, rule:…, is_admin, project_id:…, user_id:…, `@`, `!`, `not` or `(`",
        )
    };
    let (kind, value) = token.text.split_once(':').ok_or_else(unknown)?;
    if value.is_empty() {
        return Err(token.mistake("expected a value behind the colon"));
    }
    match kind {
        "role" => Ok(Check::Role(value.to_owned())),
        "rule" => Ok(Check::Rule(value.to_owned())),
        "is_admin" => match value {
            "True" | "true" => Ok(Check::Admin(true)),
            "False" | "false" => Ok(Check::Admin(false)),
            _ => Err(token.mistake("expected is_admin:True or is_admin:False")),
        },
        "project_id" => Ok(Check::Attribute(Attribute::Project, wanted(token, value)?)),
        "user_id" => Ok(Check::Attribute(Attribute::User, wanted(token, value)?)),
        _ => Err(unknown()),
    }
}

fn wanted(token: &Token<'_>, value: &str) -> Result<Wanted, Mistake> {
    match value {
        "%(project_id)s" => Ok(Wanted::Target(Attribute::Project)),
        "%(user_id)s" => Ok(Wanted::Target(Attribute::User)),
        value if value.contains("%(") => {
            Err(token.mistake("expected %(project_id)s or %(user_id)s"))
        }
        value => Ok(Wanted::Literal(value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str) -> Check {
        Check::Role(name.to_owned())
    }

    #[test]
    fn and_binds_tighter_than_or_and_not_tighter_than_both() {
        let check = Check::parse("role:a or role:b and not role:c").unwrap();

        let both = Check::All(vec![role("b"), Check::Not(Box::new(role("c")))]);
        assert_eq!(check, Check::Any(vec![role("a"), both]));
    }

    #[test]
    fn parentheses_group_and_those_of_a_reference_do_not() {
        let check = Check::parse("(role:a or project_id:%(project_id)s) and role:b").unwrap();

        let own = Check::Attribute(Attribute::Project, Wanted::Target(Attribute::Project));
        assert_eq!(check, Check::All(vec![Check::Any(vec![role("a"), own]), role("b")]));
    }

    #[test]
    fn the_short_forms_are_those_of_oslo() {
        assert_eq!(Check::parse(""), Ok(Check::Always));
        assert_eq!(Check::parse(" @ "), Ok(Check::Always));
        assert_eq!(Check::parse("!"), Ok(Check::Never));
        assert_eq!(Check::parse("is_admin:True"), Ok(Check::Admin(true)));
        assert_eq!(Check::parse("NOT is_admin"), Ok(Check::Not(Box::new(Check::Admin(true)))));
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_place() {
        for (text, column) in [
            ("role:a role:b", 8),
            ("role:a and", 11),
            ("(role:a", 8),
            ("role:a)", 7),
            ("rôle:a", 1),
            ("role:a or domain_id:x", 11),
            ("role:", 1),
            ("project_id:%(target.id)s", 1),
            ("is_admin:maybe", 1),
            ("http://example.org/", 1),
            ("and", 1),
        ] {
            assert_eq!(Check::parse(text).unwrap_err().column, column, "{text}");
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let deep = format!("{}role:a", "(".repeat(100_000));
        assert!(Check::parse(&deep).unwrap_err().what.contains("at most 4096 bytes"));
        let deep = format!("{}role:a{}", "(".repeat(40), ")".repeat(40));
        assert!(Check::parse(&deep).unwrap_err().what.contains("nested deeper than 32"));
        assert!(Check::parse(&format!("{}role:a", "not ".repeat(40))).is_err());
    }
}
