//! Settings given to queues and exchanges by pattern of their names.
//!
//! Of all policies that match, one applies: the one of highest priority. Operators have policies of their own beside
//! those of the tenants, to set limits. How both meet the arguments of a queue is not decided here.

use posthouse_amqp::table::{Table, Value};

use crate::{pattern::Pattern, permission::PatternError, stream_offset::parse_interval};

/// Which kind of thing a policy is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyTarget {
    /// A classic queue.
    ClassicQueue,
    /// A quorum queue.
    QuorumQueue,
    /// A stream.
    Stream,
    /// An exchange.
    Exchange,
}

/// What a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ApplyTo {
    /// Queues of every type.
    Queues,
    /// Classic queues.
    ClassicQueues,
    /// Quorum queues.
    QuorumQueues,
    /// Streams.
    Streams,
    /// Exchanges.
    Exchanges,
    /// Queues of every type and exchanges.
    All,
}

impl ApplyTo {
    /// Reads the word of definitions.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "queues" => Self::Queues,
            "classic_queues" => Self::ClassicQueues,
            "quorum_queues" => Self::QuorumQueues,
            "streams" => Self::Streams,
            "exchanges" => Self::Exchanges,
            "all" => Self::All,
            _ => return None,
        })
    }

    /// The word of definitions.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queues => "queues",
            Self::ClassicQueues => "classic_queues",
            Self::QuorumQueues => "quorum_queues",
            Self::Streams => "streams",
            Self::Exchanges => "exchanges",
            Self::All => "all",
        }
    }

    /// Whether it is for things of that kind.
    #[must_use]
    pub const fn covers(self, kind: PolicyTarget) -> bool {
        match self {
            Self::All => true,
            Self::Queues => !matches!(kind, PolicyTarget::Exchange),
            Self::ClassicQueues => matches!(kind, PolicyTarget::ClassicQueue),
            Self::QuorumQueues => matches!(kind, PolicyTarget::QuorumQueue),
            Self::Streams => matches!(kind, PolicyTarget::Stream),
            Self::Exchanges => matches!(kind, PolicyTarget::Exchange),
        }
    }
}

/// Why a policy cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The pattern is none.
    #[error("invalid pattern of policy `{name}`")]
    Pattern {
        /// Of the policy.
        name: Box<str>,
        /// What is wrong with it.
        #[source]
        source: PatternError,
    },
    /// It is for something that does not exist.
    #[error(
        "apply-to must be queues, classic_queues, quorum_queues, streams, exchanges or all, not `{0}`"
    )]
    ApplyTo(Box<str>),
    /// It defines nothing.
    #[error("no policy provided")]
    Empty,
    /// A key has a value it cannot have.
    #[error("`{key}` must be {expected}")]
    Value {
        /// The key as in definitions.
        key: &'static str,
        /// What its value must be.
        expected: &'static str,
    },
}

/// A policy.
#[derive(Debug, Clone)]
pub struct Policy {
    name: Box<str>,
    pattern: Pattern,
    /// Higher wins.
    pub priority: i64,
    /// What it is for.
    pub apply_to: ApplyTo,
    /// What it sets.
    pub definition: PolicyDefinition,
}

impl Policy {
    /// A policy, and the keys of its definition that are not understood and so do nothing.
    ///
    /// An empty `apply_to` is "all". Keys that make sense in a cluster of RabbitMQ only are accepted and do nothing.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] for the first thing that is wrong.
    pub fn new(
        name: &str,
        pattern: &str,
        priority: i64,
        apply_to: &str,
        definition: &Table,
    ) -> Result<(Self, Vec<String>), PolicyError> {
        let pattern = Pattern::new(pattern)
            .map_err(|source| PolicyError::Pattern { name: name.into(), source })?;
        let apply_to = match apply_to {
            "" => ApplyTo::All,
            word => ApplyTo::from_word(word).ok_or_else(|| PolicyError::ApplyTo(word.into()))?,
        };
        let (definition, unknown) = PolicyDefinition::new(definition)?;
        Ok((Self { name: name.into(), pattern, priority, apply_to, definition }, unknown))
    }

    /// Its name, unique among the policies (or operator policies) of a tenant.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pattern as written.
    #[must_use]
    pub fn pattern(&self) -> &str {
        self.pattern.text()
    }

    /// Whether it is for this queue or exchange.
    #[must_use]
    pub fn matches(&self, name: &str, kind: PolicyTarget) -> bool {
        self.apply_to.covers(kind) && self.pattern.matches(name)
    }
}

/// What a policy sets; `None` where it says nothing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PolicyDefinition {
    /// `message-ttl`, milliseconds.
    pub message_ttl: Option<u64>,
    /// `expires`: milliseconds without use after which a queue goes, at least 1.
    pub expires: Option<u64>,
    /// `dead-letter-exchange`.
    pub dead_letter_exchange: Option<Box<str>>,
    /// `dead-letter-routing-key`.
    pub dead_letter_routing_key: Option<Box<str>>,
    /// `dead-letter-strategy`: `at-most-once` or `at-least-once`.
    pub dead_letter_strategy: Option<Box<str>>,
    /// `max-length`, messages.
    pub max_length: Option<u64>,
    /// `max-length-bytes`, bytes of bodies.
    pub max_length_bytes: Option<u64>,
    /// `overflow`: `drop-head`, `reject-publish` or `reject-publish-dlx`.
    pub overflow: Option<Box<str>>,
    /// `delivery-limit`; -1 is unlimited.
    pub delivery_limit: Option<i64>,
    /// `consumer-timeout`, milliseconds.
    pub consumer_timeout: Option<u64>,
    /// `max-age` of a stream, an [interval](parse_interval) such as `7D`.
    pub max_age: Option<Box<str>>,
    /// `alternate-exchange`.
    pub alternate_exchange: Option<Box<str>>,
    /// `delayed-retry-type`: `disabled`, `all`, `failed` or `returned`.
    pub delayed_retry_type: Option<Box<str>>,
    /// `delayed-retry-min`, milliseconds.
    pub delayed_retry_min: Option<u64>,
    /// `delayed-retry-max`, milliseconds.
    pub delayed_retry_max: Option<u64>,
    /// The whole definition as it came, to list and export it.
    pub table: Table,
}

impl PolicyDefinition {
    /// Reads a definition; also returns the keys that are not understood.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Empty`], or [`PolicyError::Value`] for the first value its key cannot have.
    pub fn new(table: &Table) -> Result<(Self, Vec<String>), PolicyError> {
        if table.is_empty() {
            return Err(PolicyError::Empty);
        }
        let mut definition = Self { table: table.clone(), ..Self::default() };
        let mut unknown = Vec::new();
        for (key, value) in table.iter() {
            if !definition.set(key, value)? && !is_accepted(key) {
                unknown.push(key.to_owned());
            }
        }
        Ok((definition, unknown))
    }

    /// Returns whether the key is one of ours.
    fn set(&mut self, key: &str, value: &Value) -> Result<bool, PolicyError> {
        match key {
            "message-ttl" => self.message_ttl = count("message-ttl", value)?,
            "expires" => self.expires = Some(positive("expires", value)?),
            "dead-letter-exchange" => {
                self.dead_letter_exchange = name("dead-letter-exchange", value)?;
            }
            "dead-letter-routing-key" => {
                self.dead_letter_routing_key = name("dead-letter-routing-key", value)?;
            }
            "dead-letter-strategy" => {
                self.dead_letter_strategy = word("dead-letter-strategy", value, &STRATEGIES)?;
            }
            "max-length" => self.max_length = count("max-length", value)?,
            "max-length-bytes" => self.max_length_bytes = count("max-length-bytes", value)?,
            "overflow" => self.overflow = word("overflow", value, &OVERFLOWS)?,
            "delivery-limit" => self.delivery_limit = Some(limit("delivery-limit", value)?),
            "consumer-timeout" => self.consumer_timeout = count("consumer-timeout", value)?,
            "max-age" => self.max_age = Some(age("max-age", value)?),
            "alternate-exchange" => self.alternate_exchange = name("alternate-exchange", value)?,
            "delayed-retry-type" => {
                self.delayed_retry_type = word("delayed-retry-type", value, &RETRY_TYPES)?;
            }
            "delayed-retry-min" => self.delayed_retry_min = count("delayed-retry-min", value)?,
            "delayed-retry-max" => self.delayed_retry_max = count("delayed-retry-max", value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The words a key allows, and how an error lists them.
struct Words {
    allowed: &'static [&'static str],
    listed: &'static str,
}

const STRATEGIES: Words =
    Words { allowed: &["at-most-once", "at-least-once"], listed: "at-most-once or at-least-once" };
const OVERFLOWS: Words = Words {
    allowed: &["drop-head", "reject-publish", "reject-publish-dlx"],
    listed: "drop-head, reject-publish or reject-publish-dlx",
};
const RETRY_TYPES: Words = Words {
    allowed: &["disabled", "all", "failed", "returned"],
    listed: "disabled, all, failed or returned",
};

fn count(key: &'static str, value: &Value) -> Result<Option<u64>, PolicyError> {
    let number = value.as_i64().and_then(|number| u64::try_from(number).ok());
    let expected = "a non-negative integer";
    number.map(Some).ok_or(PolicyError::Value { key, expected })
}

fn positive(key: &'static str, value: &Value) -> Result<u64, PolicyError> {
    let number = count(key, value).ok().flatten().filter(|number| *number > 0);
    number.ok_or(PolicyError::Value { key, expected: "a positive integer" })
}

fn limit(key: &'static str, value: &Value) -> Result<i64, PolicyError> {
    let number = value.as_i64().filter(|number| *number >= -1);
    number.ok_or(PolicyError::Value { key, expected: "a non-negative integer, or -1 for no limit" })
}

fn name(key: &'static str, value: &Value) -> Result<Option<Box<str>>, PolicyError> {
    let text = value.as_str().filter(|text| text.len() <= 255);
    let expected = "a string of at most 255 bytes";
    text.map(|text| Some(text.into())).ok_or(PolicyError::Value { key, expected })
}

fn word(key: &'static str, value: &Value, words: &Words) -> Result<Option<Box<str>>, PolicyError> {
    let text = value.as_str().filter(|text| words.allowed.contains(text));
    let expected = words.listed;
    text.map(|text| Some(text.into())).ok_or(PolicyError::Value { key, expected })
}

fn age(key: &'static str, value: &Value) -> Result<Box<str>, PolicyError> {
    let text = value.as_str().filter(|text| parse_interval(text).is_some());
    text.map(Into::into).ok_or(PolicyError::Value { key, expected: "an interval such as 7D" })
}

/// What RabbitMQ understands and is moot here: places in a cluster, ways to use memory, and what other parts of the
/// broker read from [`PolicyDefinition::table`].
fn is_accepted(key: &str) -> bool {
    const KEYS: [&str; 13] = [
        "consumer-disconnected-timeout",
        "federation-upstream",
        "federation-upstream-pattern",
        "federation-upstream-set",
        "initial-cluster-size",
        "max-in-memory-bytes",
        "max-in-memory-length",
        "queue-leader-locator",
        "queue-master-locator",
        "queue-mode",
        "queue-version",
        "target-group-size",
        "unclean-leader-election",
    ];
    key.starts_with("ha-") || key.starts_with("stream-") || KEYS.contains(&key)
}

/// The policies of one tenant.
///
/// Kept in the order in which they win: by priority, the highest first, then by name.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    ordinary: Vec<Policy>,
    operator: Vec<Policy>,
}

impl Policies {
    /// Adds a policy and returns the one of the same name that it replaces.
    pub fn insert(&mut self, policy: Policy) -> Option<Policy> {
        insert(&mut self.ordinary, policy)
    }

    /// As [`Policies::insert`], for an operator's policy.
    pub fn insert_operator(&mut self, policy: Policy) -> Option<Policy> {
        insert(&mut self.operator, policy)
    }

    /// Takes a policy out.
    pub fn remove(&mut self, name: &str) -> Option<Policy> {
        remove(&mut self.ordinary, name)
    }

    /// Takes an operator's policy out.
    pub fn remove_operator(&mut self, name: &str) -> Option<Policy> {
        remove(&mut self.operator, name)
    }

    /// The policies, the winning first.
    pub fn ordinary(&self) -> impl ExactSizeIterator<Item = &Policy> {
        self.ordinary.iter()
    }

    /// The operator's policies, the winning first.
    pub fn operator(&self) -> impl ExactSizeIterator<Item = &Policy> {
        self.operator.iter()
    }

    /// The policy and the operator's policy that apply to a queue or exchange.
    ///
    /// Tries one pattern after the other; ask when something is declared or policies change, not per message.
    #[must_use]
    pub fn effective(&self, name: &str, kind: PolicyTarget) -> (Option<&Policy>, Option<&Policy>) {
        let first =
            |policies: &'_ [Policy]| policies.iter().position(|policy| policy.matches(name, kind));
        let ordinary = first(&self.ordinary).and_then(|at| self.ordinary.get(at));
        let operator = first(&self.operator).and_then(|at| self.operator.get(at));
        (ordinary, operator)
    }
}

fn insert(policies: &mut Vec<Policy>, policy: Policy) -> Option<Policy> {
    let replaced = remove(policies, &policy.name);
    let rank = |policy: &Policy| (std::cmp::Reverse(policy.priority), policy.name.clone());
    let at = policies.partition_point(|other| rank(other) < rank(&policy));
    policies.insert(at, policy);
    replaced
}

fn remove(policies: &mut Vec<Policy>, name: &str) -> Option<Policy> {
    let at = policies.iter().position(|policy| *policy.name == *name)?;
    Some(policies.remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, pattern: &str, priority: i64, apply_to: &str) -> Policy {
        let definition = Table::from_iter([("max-length", 5)]);
        Policy::new(name, pattern, priority, apply_to, &definition).unwrap().0
    }

    fn names<'p>(found: (Option<&'p Policy>, Option<&'p Policy>)) -> [Option<&'p str>; 2] {
        [found.0, found.1].map(|policy| policy.map(Policy::name))
    }

    #[test]
    fn the_highest_priority_wins_then_the_name() {
        let mut policies = Policies::default();
        policies.insert(policy("low", ".*", 0, "all"));
        policies.insert(policy("b", "^q", 5, "all"));
        policies.insert(policy("a", "^q", 5, "all"));
        policies.insert_operator(policy("limits", "", -1, ""));

        let found = |name| names(policies.effective(name, PolicyTarget::ClassicQueue));

        assert_eq!(found("q1"), [Some("a"), Some("limits")]);
        assert_eq!(found("other"), [Some("low"), Some("limits")]);
        assert_eq!(policies.ordinary().map(Policy::name).collect::<Vec<_>>(), ["a", "b", "low"]);
    }

    #[test]
    fn a_policy_is_for_its_kind_only() {
        let mut policies = Policies::default();
        policies.insert(policy("q", "", 0, "queues"));
        policies.insert(policy("c", "", 1, "classic_queues"));
        policies.insert(policy("s", "", 1, "streams"));
        policies.insert(policy("x", "", 9, "exchanges"));

        let found = |kind| names(policies.effective("n", kind))[0];

        assert_eq!(found(PolicyTarget::ClassicQueue), Some("c"));
        assert_eq!(found(PolicyTarget::QuorumQueue), Some("q"));
        assert_eq!(found(PolicyTarget::Stream), Some("s"));
        assert_eq!(found(PolicyTarget::Exchange), Some("x"));
    }

    #[test]
    fn a_policy_of_the_same_name_is_replaced() {
        let mut policies = Policies::default();
        policies.insert(policy("p", "a", 0, "all"));

        let replaced = policies.insert(policy("p", "b", 1, "all")).unwrap();

        assert_eq!(replaced.pattern(), "a");
        assert_eq!(policies.ordinary().map(Policy::pattern).collect::<Vec<_>>(), ["b"]);
        assert!(policies.remove_operator("p").is_none());
        assert!(policies.remove("p").is_some());
        assert_eq!(policies.ordinary().len(), 0);
    }

    #[test]
    fn a_definition_sets_what_it_says() {
        let table = Table::from_iter([
            ("message-ttl", Value::I64(60_000)),
            ("dead-letter-exchange", "dlx".into()),
            ("overflow", "reject-publish".into()),
            ("delivery-limit", Value::I32(-1)),
            ("max-age", "7D".into()),
            ("ha-mode", "all".into()),
            ("queue-mode", "lazy".into()),
            ("max-lenght", Value::I64(1)),
        ]);

        let (policy, unknown) = Policy::new("p", "^(?!amq\\.)", 0, "", &table).unwrap();

        let expected = PolicyDefinition {
            message_ttl: Some(60_000),
            dead_letter_exchange: Some("dlx".into()),
            overflow: Some("reject-publish".into()),
            delivery_limit: Some(-1),
            max_age: Some("7D".into()),
            table,
            ..PolicyDefinition::default()
        };
        assert_eq!(policy.definition, expected);
        assert_eq!(unknown, ["max-lenght"]);
        assert_eq!(policy.apply_to, ApplyTo::All);
        assert!(policy.matches("q", PolicyTarget::Exchange));
        assert!(!policy.matches("amq.topic", PolicyTarget::Exchange));
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for (key, value) in [
            ("message-ttl", Value::I64(-1)),
            ("expires", Value::I64(0)),
            ("max-length", "5".into()),
            ("max-length-bytes", Value::F64(5.0)),
            ("overflow", "explode".into()),
            ("delivery-limit", Value::I64(-2)),
            ("max-age", "7 days".into()),
            ("dead-letter-strategy", "maybe".into()),
            ("alternate-exchange", Value::Void),
            ("delayed-retry-type", "never".into()),
        ] {
            let refused = Policy::new("p", "", 0, "all", &Table::from_iter([(key, value)]));

            assert!(matches!(refused, Err(PolicyError::Value { key: found, .. }) if found == key));
        }
    }

    #[test]
    fn a_policy_needs_a_definition_a_pattern_and_a_known_kind() {
        let definition = Table::from_iter([("max-length", 5)]);

        let empty = Policy::new("p", "", 0, "all", &Table::new()).unwrap_err();
        let kind = Policy::new("p", "", 0, "topics", &definition).unwrap_err();
        let pattern = Policy::new("p", "(", 0, "all", &definition).unwrap_err();

        assert_eq!(empty, PolicyError::Empty);
        assert_eq!(kind, PolicyError::ApplyTo("topics".into()));
        assert_eq!(pattern.to_string(), "invalid pattern of policy `p`");
    }
}
