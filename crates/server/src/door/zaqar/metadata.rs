//! A queue's metadata: attributes that clients keep with it, of which some, called reserved, mean something.
//!
//! What is stored is the JSON text of an object. Reserved attributes are checked when they are set and understood once
//! per change ([`Rules`]); all others are kept as they were sent.

use super::identity::Family;
use super::json::{Kind, Raw, check, write};
use super::problem::Problem;
use super::retry_policy;
use crate::config::Queues;

/// An object as a list of its members; small enough that searching beats hashing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    members: Vec<(String, String)>,
}

impl Metadata {
    /// The members of an object; of a name that comes twice, the last counts.
    pub(crate) fn of(object: Raw<'_>) -> Self {
        let mut metadata = Self::default();
        for (name, value) in object.members() {
            metadata.set(&name, value);
        }
        metadata
    }

    /// Reads what [`Metadata::to_json`] wrote; what is no object is empty.
    pub(crate) fn from_json(stored: &[u8]) -> Self {
        check(stored).map(Self::of).unwrap_or_default()
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        write_members(&mut out, self.members.iter().map(|(name, value)| (&**name, &**value)));
        out
    }

    pub(crate) fn get(&self, name: &str) -> Option<Raw<'_>> {
        self.members.iter().find(|(found, _)| found == name).and_then(|(_, value)| raw(value))
    }

    pub(crate) fn set(&mut self, name: &str, value: Raw<'_>) {
        let value = value.text().to_owned();
        match self.members.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = value,
            None => self.members.push((name.to_owned(), value)),
        }
    }

    /// False if it was not there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let before = self.members.len();
        self.members.retain(|(found, _)| found != name);
        self.members.len() < before
    }

    /// The object with the reserved attributes filled in, as clients of version 2 see it.
    pub(crate) fn shown(&self, family: Family, limits: &Queues) -> Vec<u8> {
        let defaults = defaults(family, limits);
        let unset = |name: &str| self.get(name).is_none_or(|value| !value.is_truthy());
        let own = self.members.iter().map(|(name, value)| (&**name, &**value));
        let own = own.filter(|(name, _)| !is_reserved(name, family) || !unset(name));
        let filled = defaults.iter().filter(|(name, _)| unset(name));
        let mut out = Vec::with_capacity(256);
        write_members(&mut out, own.chain(filled.map(|(name, value)| (*name, &**value))));
        out
    }

    /// Checks the reserved attributes.
    ///
    /// # Errors
    ///
    /// 400 that names the attribute.
    pub(crate) fn check(&self, family: Family, limits: &Queues) -> Result<(), Problem> {
        let set = |name: &str| self.get(name).filter(|value| value.kind() != Kind::Null);
        let whole = |name: &str| {
            let refused = || Problem::invalid(format!("{name} must be integer."));
            set(name).map(|value| value.integer().ok_or_else(refused)).transpose()
        };
        let message_ttl = 60..=i64::from(limits.max_message_ttl);
        let post_size = 1..=i64::from(limits.max_messages_post_size);
        refuse_outside(whole("_default_message_ttl")?, &message_ttl, || {
            format!(
                "_default_message_ttl can not exceed {} seconds, and must be at least 60 seconds long.",
                limits.max_message_ttl
            )
        })?;
        refuse_outside(whole("_max_messages_post_size")?, &post_size, || {
            format!(
                "_max_messages_post_size can not exceed {},  and must be at least greater than 0.",
                limits.max_messages_post_size
            )
        })?;
        let delay = 0..=i64::from(limits.max_message_delay);
        refuse_outside(whole("_default_message_delay")?, &delay, || {
            format!(
                "The TTL can not exceed {} seconds, and must be at least 0 seconds long.",
                limits.max_message_delay
            )
        })?;
        if family == Family::Topics {
            return Ok(());
        }
        whole("_max_claim_count")?;
        refuse_outside(whole("_dead_letter_queue_messages_ttl")?, &message_ttl, || {
            ttl_text(limits.max_message_ttl)
        })?;
        if set("_enable_encrypt_messages").is_some_and(|value| value.kind() != Kind::Bool) {
            return Err(Problem::invalid("_enable_encrypt_messages must be boolean."));
        }
        set("_retry_policy").map_or(Ok(()), retry_policy::check)
    }

    /// Whether the attributes with these names have these values; whole numbers are compared as numbers.
    pub(crate) fn matches(&self, filters: &[(&str, &str)]) -> bool {
        filters.iter().all(|(name, wanted)| {
            self.get(name).is_some_and(|value| match (value.integer(), wanted.parse::<i64>()) {
                (Some(number), Ok(wanted)) => number == wanted,
                _ => value.string().is_some_and(|text| text == **wanted),
            })
        })
    }
}

fn refuse_outside(
    number: Option<i64>,
    allowed: &std::ops::RangeInclusive<i64>,
    text: impl FnOnce() -> String,
) -> Result<(), Problem> {
    match number {
        Some(number) if !allowed.contains(&number) => Err(Problem::invalid(text())),
        _ => Ok(()),
    }
}

/// What a message's time to live may be, as a refusal says it.
pub(crate) fn ttl_text(max: u32) -> String {
    format!(
        "The TTL for a message may not exceed {max} seconds, and must be at least 60 seconds long."
    )
}

fn raw(value: &str) -> Option<Raw<'_>> {
    super::json::check_value(value.as_bytes()).ok()
}

/// The reserved attributes that are always shown, with their defaults.
fn defaults(family: Family, limits: &Queues) -> Vec<(&'static str, String)> {
    let mut defaults = vec![
        ("_max_messages_post_size", limits.max_messages_post_size.to_string()),
        ("_default_message_ttl", limits.default_message_ttl.to_string()),
        ("_default_message_delay", limits.default_message_delay.to_string()),
    ];
    if family == Family::Queues {
        let null = || "null".to_owned();
        defaults.extend([
            ("_dead_letter_queue", null()),
            ("_dead_letter_queue_messages_ttl", null()),
            ("_max_claim_count", null()),
            ("_enable_encrypt_messages", "false".to_owned()),
        ]);
    }
    defaults
}

/// Whether an attribute is always shown, and may therefore be replaced and removed while it is not set.
pub(crate) fn is_reserved(name: &str, family: Family) -> bool {
    match name {
        "_max_messages_post_size" | "_default_message_ttl" | "_default_message_delay" => true,
        "_dead_letter_queue"
        | "_dead_letter_queue_messages_ttl"
        | "_max_claim_count"
        | "_enable_encrypt_messages" => family == Family::Queues,
        _ => false,
    }
}

fn write_members<'a>(out: &mut Vec<u8>, members: impl Iterator<Item = (&'a str, &'a str)>) {
    out.push(b'{');
    for (index, (name, value)) in members.enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        write::string(out, name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'}');
}

/// What the reserved attributes of a queue mean for its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Bytes of a post; `None` for the door's own limit.
    pub(crate) max_messages_post_size: Option<u32>,
    /// Seconds.
    pub(crate) default_message_ttl: u32,
    /// Seconds; 0 for a queue on which delays are ignored.
    pub(crate) default_message_delay: u32,
    /// Where messages go that were claimed too often.
    pub(crate) dead_letter: Option<DeadLetter>,
    /// Bodies are stored sealed.
    pub(crate) encrypted: bool,
}

/// Where messages go that were claimed too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    pub(crate) queue: Box<str>,
    /// Claims that a message may have had.
    pub(crate) max_claim_count: u32,
    /// Seconds that it lives there; `None` to keep its own time.
    pub(crate) ttl: Option<u32>,
}

impl Rules {
    pub(crate) fn of(metadata: &Metadata, limits: &Queues) -> Self {
        let number = |name| {
            let value = metadata.get(name).filter(|value| value.is_truthy());
            value.and_then(Raw::integer).and_then(|number| u32::try_from(number).ok())
        };
        let dead_letter = metadata
            .get("_dead_letter_queue")
            .and_then(Raw::string)
            .filter(|queue| !queue.is_empty())
            .zip(number("_max_claim_count"))
            .map(|(queue, max_claim_count)| DeadLetter {
                queue: queue.as_ref().into(),
                max_claim_count,
                ttl: number("_dead_letter_queue_messages_ttl"),
            });
        Self {
            max_messages_post_size: number("_max_messages_post_size"),
            default_message_ttl: number("_default_message_ttl")
                .unwrap_or(limits.default_message_ttl),
            default_message_delay: number("_default_message_delay")
                .unwrap_or(limits.default_message_delay),
            dead_letter,
            encrypted: metadata.get("_enable_encrypt_messages").and_then(Raw::boolean)
                == Some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(text: &str) -> Metadata {
        Metadata::from_json(text.as_bytes())
    }

    fn refusal(text: &str) -> String {
        let problem = metadata(text).check(Family::Queues, &Queues::default()).unwrap_err();
        assert_eq!((problem.status, &*problem.title), (400, "Invalid API request"));
        problem.description.unwrap().into_owned()
    }

    #[test]
    fn reserved_attributes_are_shown_with_their_defaults_where_unset_or_falsy() {
        let shown = metadata(r#"{"a": 1, "_default_message_ttl": 0, "_max_claim_count": 3}"#)
            .shown(Family::Queues, &Queues::default());

        let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({
                "a": 1, "_max_messages_post_size": 262_144, "_default_message_ttl": 3600,
                "_default_message_delay": 0, "_dead_letter_queue": null, "_dead_letter_queue_messages_ttl": null,
                "_max_claim_count": 3, "_enable_encrypt_messages": false
            })
        );
        let topic = Metadata::default().shown(Family::Topics, &Queues::default());
        assert_eq!(check(&topic).unwrap().members().count(), 3);
    }

    #[test]
    fn reserved_attributes_outside_their_rules_are_refused_in_zaqars_words() {
        assert_eq!(
            refusal(r#"{"_default_message_ttl": "x"}"#),
            "_default_message_ttl must be integer."
        );
        assert_eq!(
            refusal(r#"{"_default_message_ttl": 59}"#),
            "_default_message_ttl can not exceed 1209600 seconds, and must be at least 60 seconds long."
        );
        assert_eq!(
            refusal(r#"{"_max_messages_post_size": 262145}"#),
            "_max_messages_post_size can not exceed 262144,  and must be at least greater than 0."
        );
        assert_eq!(
            refusal(r#"{"_default_message_delay": 901}"#),
            "The TTL can not exceed 900 seconds, and must be at least 0 seconds long."
        );
        assert_eq!(refusal(r#"{"_max_claim_count": "9"}"#), "_max_claim_count must be integer.");
        assert_eq!(
            refusal(r#"{"_enable_encrypt_messages": "x"}"#),
            "_enable_encrypt_messages must be boolean."
        );
        assert_eq!(refusal(r#"{"_dead_letter_queue_messages_ttl": 1}"#), ttl_text(1_209_600));
        assert!(
            metadata(r#"{"_any": [1], "b": {}}"#).check(Family::Queues, &Queues::default()).is_ok()
        );
    }

    #[test]
    fn attributes_are_compared_as_numbers_where_both_are_numbers() {
        let metadata = metadata(r#"{"node": 31, "name": "x", "text": "31"}"#);

        assert!(metadata.matches(&[("node", "31"), ("name", "x")]));
        assert!(metadata.matches(&[("text", "31")]));
        assert!(!metadata.matches(&[("node", "32")]));
        assert!(!metadata.matches(&[("other", "1")]));
    }

    #[test]
    fn rules_are_what_the_reserved_attributes_say() {
        let rules = Rules::of(
            &metadata(
                r#"{"_dead_letter_queue": "d", "_max_claim_count": 2, "_default_message_ttl": 120}"#,
            ),
            &Queues::default(),
        );

        assert_eq!(rules.default_message_ttl, 120);
        assert_eq!(rules.dead_letter.unwrap().max_claim_count, 2);
        assert_eq!(Rules::of(&metadata("{}"), &Queues::default()).dead_letter, None);
    }
}
