//! Exchanges: what a declaration says, whether it is allowed, and whether it says the same again.

use std::fmt;
use std::sync::Arc;

use posthouse_amqp::table::{Table, Value};

use crate::argument::{ArgumentError, Arguments, Inequivalent};
use crate::naming::Named;

/// How an exchange chooses destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// Routing key equals binding key.
    Direct,
    /// All.
    Fanout,
    /// Routing key fits the binding's pattern.
    Topic,
    /// Headers fit the binding's arguments.
    Headers,
    /// One of all, by a hash of the routing key or a header; binding keys are weights.
    ConsistentHash,
}

impl ExchangeKind {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
        }
    }

    /// The kind of a name on the wire.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let kinds = [Self::Direct, Self::Fanout, Self::Topic, Self::Headers, Self::ConsistentHash];
        kinds.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The name on the wire of an exchange that honours `x-delay`.
pub const DELAYED: &str = "x-delayed-message";

/// The type of an exchange. Prints as its name on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExchangeType {
    /// How it chooses destinations.
    pub kind: ExchangeKind,
    /// Whether it honours the header `x-delay`; declared as `x-delayed-message`, its kind as `x-delayed-type`.
    pub delayed: bool,
}

impl ExchangeType {
    /// A type that does not delay.
    #[must_use]
    pub const fn plain(kind: ExchangeKind) -> Self {
        Self { kind, delayed: false }
    }
}

impl fmt::Display for ExchangeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.delayed { DELAYED } else { self.kind.as_str() })
    }
}

/// Why an exchange cannot be declared so. The sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// There is no such type. RabbitMQ 3.10 closes the connection (503), newer ones the channel (406).
    #[error("unknown exchange type '{0}'")]
    UnknownType(Box<str>),
    /// An argument cannot be used. AMQP: 406.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
}

/// What a declaration says.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeDefinition {
    /// At most 255 bytes; empty for the default exchange.
    pub name: Arc<str>,
    /// How it routes.
    pub exchange_type: ExchangeType,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes when its last binding as source goes.
    pub auto_delete: bool,
    /// Whether clients cannot publish to it.
    pub internal: bool,
    /// All arguments as declared, for listing and comparing.
    pub arguments: Table,
    /// Argument `alternate-exchange`: where messages go that it has no destination for. Beats the policy's.
    pub alternate: Option<Arc<str>>,
}

/// What a client says about an exchange besides its name and type.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExchangeOptions {
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes when its last binding as source goes.
    pub auto_delete: bool,
    /// Whether clients cannot publish to it.
    pub internal: bool,
    /// Arguments.
    pub arguments: Table,
}

impl ExchangeDefinition {
    /// The definition that a declaration asks for. Does not check the name, see [`crate::naming::check_new`].
    ///
    /// # Errors
    ///
    /// [`ExchangeError`] if the type is unknown or an argument wrong.
    pub fn new(
        tenant: &str,
        name: Arc<str>,
        type_name: &str,
        options: ExchangeOptions,
    ) -> Result<Self, ExchangeError> {
        let of = Named::exchange(&name, tenant);
        let arguments = Arguments { table: &options.arguments, of: &of };
        let exchange_type = parse_type(type_name, &arguments)?;
        let alternate = arguments.exchange_name(ALTERNATE_EXCHANGE)?.map(Arc::from);
        if exchange_type.kind == ExchangeKind::ConsistentHash {
            check_hash_arguments(&arguments)?;
        }
        let ExchangeOptions { durable, auto_delete, internal, arguments } = options;
        Ok(Self { name, exchange_type, durable, auto_delete, internal, arguments, alternate })
    }

    /// The exchanges that every tenant has from the start: the default one and those of `amq.`. All durable.
    #[must_use]
    pub fn predeclared() -> Vec<Self> {
        let durable = |name: &str, kind, internal| Self {
            name: name.into(),
            exchange_type: ExchangeType::plain(kind),
            durable: true,
            auto_delete: false,
            internal,
            arguments: Table::new(),
            alternate: None,
        };
        vec![
            durable("", ExchangeKind::Direct, false),
            durable("amq.direct", ExchangeKind::Direct, false),
            durable("amq.fanout", ExchangeKind::Fanout, false),
            durable("amq.headers", ExchangeKind::Headers, false),
            durable("amq.match", ExchangeKind::Headers, false),
            durable("amq.rabbitmq.trace", ExchangeKind::Topic, true),
            durable("amq.topic", ExchangeKind::Topic, false),
        ]
    }

    /// Whether declaring it again like this changes nothing. Compares what was sent before it is checked, as a client
    /// that errs twice hears of the difference first.
    ///
    /// # Errors
    ///
    /// [`Inequivalent`] with the first difference.
    pub fn check_equivalent(
        &self,
        tenant: &str,
        type_name: &str,
        received: &ExchangeOptions,
    ) -> Result<(), Inequivalent> {
        let of = Named::exchange(&self.name, tenant);
        let current_type = self.exchange_type.to_string();
        Inequivalent::check_property("type", &of, current_type.as_str(), type_name)?;
        Inequivalent::check_property("durable", &of, &self.durable, &received.durable)?;
        Inequivalent::check_property("auto_delete", &of, &self.auto_delete, &received.auto_delete)?;
        Inequivalent::check_property("internal", &of, &self.internal, &received.internal)?;
        for argument in [ALTERNATE_EXCHANGE, DELAYED_TYPE, HASH_HEADER] {
            Inequivalent::check_argument(argument, &of, &self.arguments, &received.arguments)?;
        }
        Ok(())
    }

    /// The header whose value is hashed instead of the routing key.
    #[must_use]
    pub fn hash_header(&self) -> Option<&str> {
        self.arguments.get(HASH_HEADER).and_then(Value::as_str).filter(|name| !name.is_empty())
    }
}

/// Whether there is a type of this name; unlike arguments it is checked before anything is looked up.
#[must_use]
pub fn is_type(name: &str) -> bool {
    name == DELAYED || ExchangeKind::from_name(name).is_some()
}

const ALTERNATE_EXCHANGE: &str = "alternate-exchange";
const DELAYED_TYPE: &str = "x-delayed-type";
const HASH_HEADER: &str = "hash-header";
const HASH_PROPERTY: &str = "hash-property";

fn parse_type(name: &str, arguments: &Arguments<'_>) -> Result<ExchangeType, ExchangeError> {
    if name != DELAYED {
        let kind =
            ExchangeKind::from_name(name).ok_or_else(|| ExchangeError::UnknownType(name.into()))?;
        return Ok(ExchangeType::plain(kind));
    }
    let kind = arguments.table.get(DELAYED_TYPE).and_then(Value::as_str);
    let kind = kind.and_then(ExchangeKind::from_name).ok_or_else(|| {
        let text = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
        ArgumentError::Said(text.into())
    })?;
    Ok(ExchangeType { kind, delayed: true })
}

fn check_hash_arguments(arguments: &Arguments<'_>) -> Result<(), ArgumentError> {
    arguments.text(HASH_HEADER)?;
    if let Some(property) = arguments.table.get(HASH_PROPERTY) {
        let property = crate::argument::shown(property);
        return Err(ArgumentError::Said(format!("Unsupported property: {property}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declare(type_name: &str, arguments: Table) -> Result<ExchangeDefinition, ExchangeError> {
        let options = ExchangeOptions { arguments, ..ExchangeOptions::default() };
        ExchangeDefinition::new("v", "x".into(), type_name, options)
    }

    fn arguments(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Table {
        entries.into_iter().collect()
    }

    fn refusal(type_name: &str, arguments: Table) -> String {
        declare(type_name, arguments).expect_err("refused").to_string()
    }

    #[test]
    fn an_unknown_type_is_named() {
        assert_eq!(refusal("zzz", Table::new()), "unknown exchange type 'zzz'");
        assert!(is_type("x-delayed-message") && is_type("topic") && !is_type("zzz"));
    }

    #[test]
    fn a_delayed_exchange_routes_as_its_argument_says() {
        let delayed =
            declare(DELAYED, arguments([("x-delayed-type", "topic".into())])).expect("valid");

        assert_eq!(delayed.exchange_type.kind, ExchangeKind::Topic);
        assert_eq!(delayed.exchange_type.to_string(), "x-delayed-message");
        assert_eq!(
            refusal(DELAYED, Table::new()),
            "Invalid argument, 'x-delayed-type' must be an existing exchange type"
        );
        assert!(declare(DELAYED, arguments([("x-delayed-type", DELAYED.into())])).is_err());
    }

    #[test]
    fn an_alternate_exchange_must_be_a_string() {
        assert_eq!(
            refusal("direct", arguments([("alternate-exchange", Value::I32(1))])),
            "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost 'v'"
        );
    }

    #[test]
    fn a_redeclaration_must_say_the_same() {
        let there = declare("direct", Table::new()).expect("valid");
        let difference = |type_name: &str, options: &ExchangeOptions| {
            there.check_equivalent("v", type_name, options).map_err(|error| error.to_string())
        };
        let durable = ExchangeOptions { durable: true, ..ExchangeOptions::default() };
        let alternate = ExchangeOptions {
            arguments: arguments([("alternate-exchange", "y".into())]),
            ..ExchangeOptions::default()
        };

        assert_eq!(difference("direct", &ExchangeOptions::default()), Ok(()));
        assert_eq!(
            difference("fanout", &ExchangeOptions::default()),
            Err("inequivalent arg 'type' for exchange 'x' in vhost 'v': \
                 received 'fanout' but current is 'direct'"
                .into())
        );
        assert_eq!(
            difference("direct", &durable),
            Err("inequivalent arg 'durable' for exchange 'x' in vhost 'v': \
                 received 'true' but current is 'false'"
                .into())
        );
        assert_eq!(
            difference("direct", &alternate),
            Err("inequivalent arg 'alternate-exchange' for exchange 'x' in vhost 'v': \
                 received the value 'y' of type 'longstr' but current is none"
                .into())
        );
    }
}
