//! What a binding says, and why it is refused.

use std::cmp::Ordering;
use std::sync::Arc;

use posthouse_amqp::error::EncodeError;
use posthouse_amqp::table::{Table, Value};

use super::destination::{Destination, ExchangeSlot};
use crate::exchange::ExchangeKind;
use crate::naming::Named;

/// Where a binding leads, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BindingEnd {
    /// A queue.
    Queue(Arc<str>),
    /// Another exchange.
    Exchange(Arc<str>),
}

/// A binding to be made or removed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BindingRequest<'a> {
    /// The exchange that messages come from.
    pub source: &'a str,
    /// Where they go.
    pub destination: &'a BindingEnd,
    /// Routing key, pattern or weight; at most 255 bytes.
    pub routing_key: &'a str,
    /// Arguments, part of the binding's identity.
    pub arguments: &'a Table,
}

/// A binding that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// The exchange that messages come from.
    pub source: Arc<str>,
    /// Where they go.
    pub destination: BindingEnd,
    /// Routing key, pattern or weight.
    pub routing_key: Arc<str>,
    pub(super) arguments: Option<Arc<BindingArguments>>,
}

impl Binding {
    /// Arguments as declared.
    #[must_use]
    pub fn arguments(&self) -> &Table {
        static NONE: Table = Table::new();
        self.arguments.as_ref().map_or(&NONE, |arguments| &arguments.table)
    }
}

/// Why a binding is refused. The sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// An end does not exist. AMQP: 404.
    #[error("no {0}")]
    NotFound(Named),
    /// An end is the default exchange, whose bindings are its own business. AMQP: 403.
    #[error("operation not permitted on the default exchange")]
    DefaultExchange,
    /// The exchange cannot make sense of the binding. AMQP: 406.
    #[error("{0}")]
    Invalid(String),
    /// The arguments have no encoding, so they cannot have come over a wire. AMQP: 406.
    #[error("invalid binding arguments")]
    Arguments(#[from] EncodeError),
}

/// How the arguments of a headers binding combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeaderMatch {
    /// One suffices.
    pub(super) any: bool,
    /// Whether headers that begin with `x-` count.
    pub(super) with_x: bool,
}

/// The arguments of a binding, if it has any.
#[derive(Debug)]
pub(super) struct BindingArguments {
    pub(super) table: Table,
    pub(super) mode: HeaderMatch,
    /// Encoded in the order of names and with one width of integers: what makes two tables the same.
    identity: Box<[u8]>,
}

impl BindingArguments {
    /// `None` for an empty table.
    pub(super) fn new(table: &Table) -> Result<Option<Arc<Self>>, EncodeError> {
        if table.is_empty() {
            return Ok(None);
        }
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_unstable_by_key(|(name, _)| *name);
        let same_width = entries
            .into_iter()
            .map(|(name, value)| (name, value.as_i64().map_or_else(|| value.clone(), Value::I64)));
        let identity = same_width.collect::<Table>().to_entries()?.into_boxed_slice();
        let mode = header_match(table).unwrap_or(HeaderMatch { any: false, with_x: false });
        Ok(Some(Arc::new(Self { table: table.clone(), mode, identity })))
    }
}

impl PartialEq for BindingArguments {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for BindingArguments {}

impl PartialOrd for BindingArguments {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BindingArguments {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity.cmp(&other.identity)
    }
}

/// Everything that makes a binding this one; sorted so that what belongs together lies together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BindingId {
    pub(super) source: ExchangeSlot,
    pub(super) destination: Destination,
    pub(super) key: Arc<str>,
    pub(super) arguments: Option<Arc<BindingArguments>>,
}

/// Whether an exchange of this kind understands the binding.
pub(super) fn check(kind: ExchangeKind, key: &str, arguments: &Table) -> Result<(), BindError> {
    match kind {
        ExchangeKind::Direct | ExchangeKind::Fanout | ExchangeKind::Topic => Ok(()),
        ExchangeKind::Headers => header_match(arguments).map(drop).map_err(BindError::Invalid),
        ExchangeKind::ConsistentHash => weight(key).map(drop).map_err(BindError::Invalid),
    }
}

/// The weight that a binding key of a hash exchange gives.
pub(super) fn weight(key: &str) -> Result<u32, String> {
    match key.parse::<i64>().map(u32::try_from) {
        Ok(Ok(0)) => Err("The binding key must be greater than 0".into()),
        Ok(Ok(weight)) => Ok(weight),
        Ok(Err(_)) if key.starts_with('-') => Err("The binding key must be greater than 0".into()),
        Ok(Err(_)) => Err(format!("The binding key must be at most {}", u32::MAX)),
        Err(_) => Err(format!("The binding key must be an integer: <<\"{key}\">>")),
    }
}

fn header_match(arguments: &Table) -> Result<HeaderMatch, String> {
    let Some(value) = arguments.get("x-match") else {
        return Ok(HeaderMatch { any: false, with_x: false });
    };
    if !matches!(value, Value::LongString(_)) {
        return Err(format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            value.type_name(),
            crate::argument::shown(value)
        ));
    }
    match value.as_str() {
        Some("all") => Ok(HeaderMatch { any: false, with_x: false }),
        Some("any") => Ok(HeaderMatch { any: true, with_x: false }),
        Some("all-with-x") => Ok(HeaderMatch { any: false, with_x: true }),
        Some("any-with-x") => Ok(HeaderMatch { any: true, with_x: true }),
        _ => Err(format!(
            "Invalid x-match field value <<\"{}\">>; expected all, any, all-with-x, or any-with-x",
            crate::argument::shown(value)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(kind: ExchangeKind, key: &str, arguments: &Table) -> String {
        check(kind, key, arguments).expect_err("refused").to_string()
    }

    #[test]
    fn an_unknown_way_to_match_headers_is_refused_in_the_words_of_rabbitmq() {
        let with = |value: Value| Table::from_iter([("x-match", value)]);

        assert_eq!(
            refusal(ExchangeKind::Headers, "", &with("zz".into())),
            "Invalid x-match field value <<\"zz\">>; expected all, any, all-with-x, or any-with-x"
        );
        assert_eq!(
            refusal(ExchangeKind::Headers, "", &with(Value::I32(1))),
            "Invalid x-match field type signedint (value 1); expected longstr"
        );
        assert_eq!(check(ExchangeKind::Headers, "", &with("any-with-x".into())), Ok(()));
    }

    #[test]
    fn a_weight_is_a_positive_number() {
        let none = Table::new();
        let refused = |key| refusal(ExchangeKind::ConsistentHash, key, &none);

        assert_eq!(refused("a"), "The binding key must be an integer: <<\"a\">>");
        assert_eq!(refused("0"), "The binding key must be greater than 0");
        assert_eq!(refused("-3"), "The binding key must be greater than 0");
        assert_eq!(refused("4294967296"), "The binding key must be at most 4294967295");
        assert_eq!(check(ExchangeKind::ConsistentHash, "20", &none), Ok(()));
    }

    #[test]
    fn arguments_are_the_same_in_any_order_and_width() {
        let one = Table::from_iter([("a", Value::I8(1)), ("b", Value::Bool(true))]);
        let other = Table::from_iter([("b", Value::Bool(true)), ("a", Value::I64(1))]);

        assert_eq!(BindingArguments::new(&one), BindingArguments::new(&other));
        assert_ne!(BindingArguments::new(&one), BindingArguments::new(&Table::new()));
    }
}
