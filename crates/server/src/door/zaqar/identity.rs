//! Who asks and for what: client ids, names, and the ids of messages and claims.

use model::Sequence;

use super::problem::Problem;
use crate::config::Queues;

/// Longest name of a queue or topic.
const NAME_BYTES_MAX: usize = 64;

/// Longest name of a project.
const PROJECT_CHARS_MAX: usize = 256;

/// Longest client id: a UUID with its dashes.
const CLIENT_ID_BYTES_MAX: usize = 144;

/// The client that a request comes from, in a form that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientId {
    bytes: [u8; CLIENT_ID_BYTES_MAX],
    length: u8,
}

impl ClientId {
    /// Reads a `Client-ID`; a UUID in any of its forms becomes the one with dashes and small letters.
    ///
    /// # Errors
    ///
    /// 400 if it is no UUID, or not 10 to 36 characters where any text is allowed.
    pub(crate) fn parse(text: &str, limits: &Queues) -> Result<Self, Problem> {
        if limits.client_id_uuid_strict {
            return Self::of_uuid(text).ok_or_else(|| {
                Problem::new(400, "Wrong UUID value", "Malformed hexadecimal UUID.")
            });
        }
        let allowed = limits.min_length_client_id..=limits.max_length_client_id;
        match Self::of_text(text) {
            Some(id) if allowed.contains(&text.chars().count()) => Ok(id),
            _ => Err(Problem::invalid(format!(
                "Length of client id must be at least {} and no greater than {}.",
                limits.min_length_client_id, limits.max_length_client_id
            ))),
        }
    }

    fn of_text(text: &str) -> Option<Self> {
        let mut bytes = [0; CLIENT_ID_BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self { bytes, length: u8::try_from(text.len()).ok()? })
    }

    /// As Python's `uuid.UUID`: without `urn:`, `uuid:`, braces and dashes, 32 hexadecimal digits are left.
    fn of_uuid(text: &str) -> Option<Self> {
        let text = text.strip_prefix("urn:").unwrap_or(text);
        let text = text.strip_prefix("uuid:").unwrap_or(text).trim_matches(['{', '}']);
        let mut bytes = [0; CLIENT_ID_BYTES_MAX];
        let mut length = 0;
        let mut digits = 0;
        for byte in text.bytes().filter(|byte| *byte != b'-') {
            if !byte.is_ascii_hexdigit() || digits == 32 {
                return None;
            }
            if matches!(digits, 8 | 12 | 16 | 20) {
                *bytes.get_mut(length)? = b'-';
                length += 1;
            }
            *bytes.get_mut(length)? = byte.to_ascii_lowercase();
            length += 1;
            digits += 1;
        }
        (digits == 32).then_some(Self { bytes, length: 36 })
    }

    pub(crate) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// Checks the name of a queue or topic, and the length of its project's.
///
/// # Errors
///
/// 400, in the words for `family`.
pub(crate) fn check_name(name: &str, project: &str, family: Family) -> Result<(), Problem> {
    if is_name(name) && project.chars().nth(PROJECT_CHARS_MAX).is_none() {
        return Ok(());
    }
    Err(match family {
        Family::Queues => Problem::new(
            400,
            "Invalid queue identification",
            "The format of the submitted queue name or project id is not valid.",
        ),
        Family::Topics => Problem::new(
            400,
            "Invalid topic identification",
            "The format of the submitted topic name or project id is not valid.",
        ),
    })
}

/// Whether a queue or topic may be called so.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// What a name is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `/queues/…`
    Queues,
    /// `/topics/…`
    Topics,
}

impl Family {
    /// The word in paths.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Queues => "queues",
            Self::Topics => "topics",
        }
    }
}

/// Names a message: the queue's identity, so that an id of another queue is not found, and its sequence there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageId {
    /// The lowest 32 bits of the queue's identity.
    pub(crate) queue: u32,
    pub(crate) sequence: Sequence,
}

impl MessageId {
    /// Reads 24 hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = |from: usize, to: usize| {
            let digits = text.get(from..to)?;
            digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digits)
        };
        if text.len() != 24 {
            return None;
        }
        let queue = u32::from_str_radix(digits(0, 8)?, 16).ok()?;
        let sequence = u64::from_str_radix(digits(8, 24)?, 16).ok()?;
        Some(Self { queue, sequence: Sequence(sequence) })
    }

    /// Writes 24 hexadecimal digits.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        super::json::write::hex(out, self.queue.into(), 8);
        super::json::write::hex(out, self.sequence.0, 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_taken_in_every_form_and_compared_in_one() {
        let plain = "3381af92-2b9e-11e3-b191-71861300734c";
        for form in [
            plain,
            "3381AF922B9E11E3B19171861300734C",
            "{3381af92-2b9e-11e3-b191-71861300734c}",
            "urn:uuid:3381af92-2b9e-11e3-b191-71861300734c",
        ] {
            assert_eq!(ClientId::of_uuid(form).unwrap().as_str(), plain, "{form}");
        }
        for bad in [
            "",
            "3381af92",
            "3381af92-2b9e-11e3-b191-71861300734g",
            "3381af922b9e11e3b19171861300734c0",
        ] {
            assert_eq!(ClientId::of_uuid(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_letters_digits_underscores_dots_and_dashes() {
        for good in ["a", "A-b_c.9", &"x".repeat(64)] {
            assert_eq!(check_name(good, "p", Family::Queues), Ok(()), "{good}");
        }
        for bad in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(check_name(bad, "p", Family::Topics).is_err(), "{bad}");
        }
        assert!(check_name("a", &"p".repeat(257), Family::Queues).is_err());
    }

    #[test]
    fn an_id_of_a_message_is_24_digits() {
        let id = MessageId { queue: 0xdead_beef, sequence: Sequence(77) };
        let mut text = Vec::new();
        id.write(&mut text);

        assert_eq!(text, b"deadbeef000000000000004d");
        assert_eq!(MessageId::parse("deadbeef000000000000004d"), Some(id));
        for bad in
            ["", "deadbeef00000000000000", "+eadbeef000000000000004d", "deadbeef00000000000000zz"]
        {
            assert_eq!(MessageId::parse(bad), None, "{bad}");
        }
    }
}
