//! Queues: what a declaration says, whether it is allowed, and whether it says the same again.

use std::sync::Arc;

use posthouse_amqp::table::Table;

use crate::argument::{ArgumentError, Arguments, Inequivalent};
use crate::naming::Named;
use crate::queue_arguments::{QueueArguments, parse, said_word};

/// What a queue type's users rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum QueueType {
    /// Every feature but delivery limits by default.
    #[default]
    Classic,
    /// Durable, counts deliveries, and parks what was delivered too often.
    Quorum,
    /// Read by position, without taking.
    Stream,
}

const TYPES: &[(&str, QueueType)] = &[
    ("classic", QueueType::Classic),
    ("quorum", QueueType::Quorum),
    ("stream", QueueType::Stream),
];

impl QueueType {
    /// The name on the wire.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    /// The type of a name on the wire.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        TYPES.iter().find(|(name, _)| *name == word).map(|(_, queue_type)| *queue_type)
    }
}

/// What a full queue does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overflow {
    /// Takes it, and pushes its oldest out.
    #[default]
    DropHead,
    /// Refuses it.
    RejectPublish,
    /// Refuses it, and dead-letters it.
    RejectPublishDlx,
}

pub(crate) const OVERFLOWS: &[(&str, Overflow)] = &[
    ("drop-head", Overflow::DropHead),
    ("reject-publish", Overflow::RejectPublish),
    ("reject-publish-dlx", Overflow::RejectPublishDlx),
];

impl Overflow {
    /// The mode of a name on the wire.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        OVERFLOWS.iter().find(|(name, _)| *name == word).map(|(_, mode)| *mode)
    }
}

/// Which deliveries that did not end well wait before the next: the words are RabbitMQ 4.3's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RetryType {
    /// None.
    #[default]
    Disabled,
    /// All.
    All,
    /// Those that failed, see [`Setback::Failed`].
    Failed,
    /// Those that were given back, see [`Setback::Returned`].
    Returned,
}

/// Why a delivery comes back to its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Setback {
    /// Its holder rejected it, held it for too long, or was lost.
    Failed,
    /// Its holder gave it back and blames nobody (AMQP: `basic.nack`).
    Returned,
}

pub(crate) const RETRY_TYPES: &[(&str, RetryType)] = &[
    ("disabled", RetryType::Disabled),
    ("all", RetryType::All),
    ("failed", RetryType::Failed),
    ("returned", RetryType::Returned),
];

impl RetryType {
    /// The type of a name on the wire.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        RETRY_TYPES.iter().find(|(name, _)| *name == word).map(|(_, retry)| *retry)
    }
}

/// What a declaration says.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDefinition {
    /// At most 255 bytes.
    pub name: Arc<str>,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it belongs to one connection.
    pub exclusive: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// Argument `x-queue-type`, or its tenant's default if it can be of that type.
    pub queue_type: QueueType,
    /// Arguments that mean something; `None` if there are none, which is the most common kind of queue.
    pub arguments: Option<Box<QueueArguments>>,
    /// All arguments as declared, for listing and comparing.
    pub declared: Option<Box<Table>>,
}

/// What a client says about a queue besides its name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueueOptions {
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it belongs to one connection.
    pub exclusive: bool,
    /// Whether it goes with its last consumer.
    pub auto_delete: bool,
    /// Arguments.
    pub arguments: Table,
}

/// Arguments that a redeclaration must repeat.
const COMPARED: &[&str] = &[
    "x-message-ttl",
    "x-expires",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-single-active-consumer",
    "x-delivery-limit",
    "x-delayed-retry-type",
    "x-delayed-retry-min",
    "x-delayed-retry-max",
    "x-consumer-timeout",
    "x-max-age",
];

impl QueueDefinition {
    /// The definition that a declaration asks for. Does not check the name, see [`crate::naming::check_new`].
    ///
    /// # Errors
    ///
    /// [`ArgumentError`] if an argument is wrong or not for that type of queue.
    pub fn new(
        tenant: &str,
        name: Arc<str>,
        default_type: QueueType,
        options: QueueOptions,
    ) -> Result<Self, ArgumentError> {
        let of = Named::queue(&name, tenant);
        let arguments = Arguments { table: &options.arguments, of: &of };
        let queue_type = match said_word(&arguments, "x-queue-type", TYPES, "queue type")? {
            Some(queue_type) => queue_type,
            None if can_be(default_type, &options) => default_type,
            None => QueueType::Classic,
        };
        check_type(queue_type, &options, &of)?;
        let parsed = parse(&arguments)?;
        let plain = parsed == QueueArguments::default();
        let QueueOptions { durable, exclusive, auto_delete, arguments } = options;
        Ok(Self {
            name,
            durable,
            exclusive,
            auto_delete,
            queue_type,
            arguments: (!plain).then(|| Box::new(parsed)),
            declared: (!arguments.is_empty()).then(|| Box::new(arguments)),
        })
    }

    /// A durable classic queue without arguments.
    #[must_use]
    pub fn plain(name: &str) -> Self {
        Self {
            name: name.into(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            queue_type: QueueType::Classic,
            arguments: None,
            declared: None,
        }
    }

    /// Whether it is a stream.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.queue_type == QueueType::Stream
    }

    /// All arguments as declared.
    #[must_use]
    pub fn arguments_table(&self) -> &Table {
        static NONE: Table = Table::new();
        self.declared.as_deref().unwrap_or(&NONE)
    }

    /// Whether declaring it again like this changes nothing. The type of queue may be left out or differ, as in
    /// RabbitMQ with relaxed checks: what a client written for another type asks for still works.
    ///
    /// # Errors
    ///
    /// [`Inequivalent`] with the first difference.
    pub fn check_equivalent(
        &self,
        tenant: &str,
        received: &QueueOptions,
    ) -> Result<(), Inequivalent> {
        let of = Named::queue(&self.name, tenant);
        Inequivalent::check_property("durable", &of, &self.durable, &received.durable)?;
        Inequivalent::check_property("auto_delete", &of, &self.auto_delete, &received.auto_delete)?;
        for argument in COMPARED {
            Inequivalent::check_argument(
                argument,
                &of,
                self.arguments_table(),
                &received.arguments,
            )?;
        }
        Ok(())
    }
}

/// Arguments that a stream cannot have, as its messages stay where they are.
const NOT_FOR_STREAMS: &[&str] = &[
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delayed-retry-max",
    "x-delayed-retry-min",
    "x-delayed-retry-type",
    "x-delivery-limit",
    "x-expires",
    "x-max-length",
    "x-max-priority",
    "x-message-ttl",
    "x-overflow",
    "x-single-active-consumer",
];

/// Arguments that only a stream can have.
const FOR_STREAMS: &[&str] =
    &["x-max-age", "x-stream-filter-size-bytes", "x-stream-max-segment-size-bytes"];

/// Whether a queue whose client did not name a type can be of this one; a tenant's default gives way where it cannot.
fn can_be(queue_type: QueueType, options: &QueueOptions) -> bool {
    check_type(queue_type, options, &Named::queue("", "")).is_ok()
}

/// What a type cannot be.
fn check_type(
    queue_type: QueueType,
    options: &QueueOptions,
    of: &Named,
) -> Result<(), ArgumentError> {
    let (module, forbidden) = match queue_type {
        QueueType::Classic => ("rabbit_classic_queue", FOR_STREAMS),
        QueueType::Quorum => ("rabbit_quorum_queue", FOR_STREAMS),
        QueueType::Stream => ("rabbit_stream_queue", NOT_FOR_STREAMS),
    };
    let property = match queue_type {
        QueueType::Classic => None,
        QueueType::Stream if options.auto_delete => Some("auto-delete"),
        QueueType::Quorum | QueueType::Stream if options.exclusive => Some("exclusive-owner"),
        QueueType::Quorum | QueueType::Stream if !options.durable => Some("non-durable"),
        QueueType::Quorum | QueueType::Stream => None,
    };
    let argument = forbidden.iter().find(|name| options.arguments.get(name).is_some());
    match (argument, property) {
        (Some(argument), _) => Err(ArgumentError::NotForType {
            argument: (*argument).into(),
            of: of.clone(),
            queue_type: module,
        }),
        (None, Some(property)) => Err(ArgumentError::InvalidProperty { property, of: of.clone() }),
        (None, None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::table::Value;

    use super::*;
    use crate::queue_arguments::age_secs;

    fn declare(
        arguments: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<QueueDefinition, ArgumentError> {
        let options = QueueOptions {
            durable: true,
            arguments: arguments.into_iter().collect(),
            ..QueueOptions::default()
        };
        QueueDefinition::new("v", "q".into(), QueueType::Classic, options)
    }

    fn refusal(argument: &'static str, value: impl Into<Value>) -> String {
        declare([(argument, value.into())]).expect_err("refused").to_string()
    }

    #[test]
    fn bad_arguments_are_refused_in_the_words_that_clients_compare() {
        let invalid = |argument: &str, fault: &str| {
            format!("invalid arg '{argument}' for queue 'q' in vhost 'v': {fault}")
        };

        assert_eq!(
            refusal("x-message-ttl", "a"),
            invalid("x-message-ttl", "\"expected integer, got longstr\"")
        );
        assert_eq!(
            refusal("x-message-ttl", Value::I32(-1)),
            invalid("x-message-ttl", "{value_negative,-1}")
        );
        assert_eq!(refusal("x-expires", Value::I32(0)), invalid("x-expires", "{value_zero,0}"));
        assert_eq!(
            refusal("x-max-priority", Value::I32(300)),
            invalid("x-max-priority", "{max_value_exceeded,300}")
        );
        assert_eq!(refusal("x-overflow", "foo"), invalid("x-overflow", "invalid_overflow"));
        assert_eq!(
            refusal("x-queue-mode", "foo"),
            invalid("x-queue-mode", "\"unsupported queue mode 'foo'\"")
        );
        assert_eq!(
            refusal("x-dead-letter-routing-key", "k"),
            invalid("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined")
        );
        assert_eq!(
            refusal("x-dead-letter-exchange", Value::I32(1)),
            "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost 'v'"
        );
    }

    #[test]
    fn a_redeclaration_may_use_another_width_but_not_another_value() {
        let queue = declare([("x-message-ttl", Value::I32(1))]).expect("valid");
        let again = |value| QueueOptions {
            durable: true,
            arguments: [("x-message-ttl", value)].into_iter().collect(),
            ..QueueOptions::default()
        };

        assert_eq!(queue.check_equivalent("v", &again(Value::I64(1))), Ok(()));
        assert_eq!(
            queue.check_equivalent("v", &again(Value::I32(2))).expect_err("differs").to_string(),
            "inequivalent arg 'x-message-ttl' for queue 'q' in vhost 'v': received '2' but current is '1'"
        );
    }

    #[test]
    fn what_means_nothing_here_must_still_be_right() {
        let invalid = |argument: &str, fault: &str| {
            format!("invalid arg '{argument}' for queue 'q' in vhost 'v': {fault}")
        };

        for (argument, value, fault) in [
            ("x-queue-type", Value::from("foo"), "\"unsupported queue type 'foo'\""),
            ("x-queue-type", Value::I32(1), "{unacceptable_type,signedint}"),
            ("x-queue-version", Value::I32(3), "\"unsupported queue version '3'\""),
            ("x-dead-letter-strategy", "foo".into(), "invalid_dlx_strategy"),
            ("x-queue-leader-locator", "foo".into(), "invalid_queue_locator_arg"),
            ("x-quorum-initial-group-size", Value::I32(0), "{value_zero,0}"),
            ("x-max-in-memory-length", Value::I64(-1), "{value_negative,-1}"),
            ("x-single-active-consumer", "a".into(), "{unacceptable_type,longstr}"),
            ("x-expires", Value::I64(315_360_000_001), "{value_too_large,315360000001}"),
            ("x-max-priority", Value::I32(-2), "{value_negative,-2}"),
        ] {
            assert_eq!(refusal(argument, value), invalid(argument, fault));
        }
        let hints = [
            ("x-queue-mode", Value::from("lazy")),
            ("x-queue-version", Value::I32(2)),
            ("x-queue-master-locator", "min-masters".into()),
            ("x-quorum-initial-group-size", Value::I32(3)),
            ("x-queue-leader-locator", "balanced".into()),
            ("x-member-placement-tag", "ssd".into()),
            ("x-anything", Value::Void),
        ];
        assert_eq!(declare(hints).expect("taken").arguments, None);
    }

    #[test]
    fn every_width_of_integer_is_an_integer() {
        for value in [
            Value::I8(5),
            Value::U8(5),
            Value::I16(5),
            Value::U16(5),
            Value::I32(5),
            Value::U32(5),
            Value::I64(5),
        ] {
            let queue = declare([("x-max-length", value)]).expect("valid");
            assert_eq!(queue.arguments.expect("some").max_length, Some(5));
        }
    }

    #[test]
    fn types_have_arguments_of_their_own() {
        let of_type = |name: &str, argument| {
            let refused = declare([("x-queue-type", name.into()), (argument, "1h".into())]);
            refused.expect_err("refused").to_string()
        };

        assert_eq!(
            of_type("stream", "x-expires"),
            "invalid arg 'x-expires' for queue 'q' in vhost 'v' of queue type rabbit_stream_queue"
        );
        assert_eq!(
            of_type("quorum", "x-max-age"),
            "invalid arg 'x-max-age' for queue 'q' in vhost 'v' of queue type rabbit_quorum_queue"
        );
        let stream = [("x-queue-type", "stream".into()), ("x-max-age", "1h".into())];
        assert_eq!(
            declare(stream).expect("valid").arguments.expect("some").max_age_secs,
            Some(3600)
        );
        let aged = declare([("x-queue-type", "stream".into()), ("x-max-age", "0s".into())]);
        assert_eq!(
            aged.expect_err("refused").to_string(),
            "invalid arg 'x-max-age' for queue 'q' in vhost 'v': invalid_max_age"
        );
    }

    #[test]
    fn a_quorum_queue_is_durable_and_shared() {
        let quorum = |durable, exclusive| {
            let arguments = [("x-queue-type", "quorum")].into_iter().collect();
            let options = QueueOptions { durable, exclusive, arguments, auto_delete: true };
            QueueDefinition::new("v", "q".into(), QueueType::Classic, options)
                .map(|queue| queue.queue_type)
                .map_err(|error| error.to_string())
        };

        assert_eq!(quorum(true, false), Ok(QueueType::Quorum));
        assert_eq!(
            quorum(false, false),
            Err("invalid property 'non-durable' for queue 'q' in vhost 'v'".into())
        );
        assert_eq!(
            quorum(true, true),
            Err("invalid property 'exclusive-owner' for queue 'q' in vhost 'v'".into())
        );
    }

    #[test]
    fn a_default_type_gives_way_where_it_cannot_be() {
        let declared = |durable, arguments: Table| {
            let options = QueueOptions { durable, arguments, ..QueueOptions::default() };
            let queue = QueueDefinition::new("v", "q".into(), QueueType::Stream, options);
            queue.expect("valid").queue_type
        };
        let limited = [("x-max-length", 5)].into_iter().collect();

        assert_eq!(declared(true, Table::new()), QueueType::Stream);
        assert_eq!(declared(false, Table::new()), QueueType::Classic);
        assert_eq!(declared(true, limited), QueueType::Classic);
    }

    #[test]
    fn a_redeclaration_names_what_differs() {
        let queue = declare([("x-max-length", Value::I32(5))]).expect("valid");
        let difference = |options: QueueOptions| {
            queue.check_equivalent("v", &options).expect_err("differs").to_string()
        };
        let durable = |arguments: &[(&str, Value)]| QueueOptions {
            durable: true,
            arguments: arguments.iter().cloned().collect(),
            ..QueueOptions::default()
        };

        assert_eq!(
            difference(QueueOptions::default()),
            "inequivalent arg 'durable' for queue 'q' in vhost 'v': \
             received 'false' but current is 'true'"
        );
        assert_eq!(
            difference(QueueOptions { auto_delete: true, ..durable(&[]) }),
            "inequivalent arg 'auto_delete' for queue 'q' in vhost 'v': \
             received 'true' but current is 'false'"
        );
        assert_eq!(
            difference(durable(&[])),
            "inequivalent arg 'x-max-length' for queue 'q' in vhost 'v': \
             received none but current is the value '5' of type 'signedint'"
        );
        assert_eq!(
            difference(durable(&[("x-max-length", Value::I8(5)), ("x-expires", Value::I32(1))])),
            "inequivalent arg 'x-expires' for queue 'q' in vhost 'v': \
             received the value '1' of type 'signedint' but current is none"
        );
        let other_type = [("x-max-length", Value::I64(5)), ("x-queue-type", "quorum".into())];
        assert_eq!(queue.check_equivalent("v", &durable(&other_type)), Ok(()));
    }

    #[test]
    fn ages_have_one_unit() {
        assert_eq!(age_secs("7D"), Some(604_800));
        assert_eq!(age_secs("7"), None);
        assert_eq!(age_secs("99999999999999999999Y"), None);
    }
}
