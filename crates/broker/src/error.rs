//! Why the broker refuses: data for the doors, which word it in their own protocol's terms.

use store::StoreError;

/// What a name in an error is the name of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
    /// A tenant.
    Tenant,
    /// A user.
    User,
    /// A pool.
    Pool,
    /// A flavor.
    Flavor,
}

impl Kind {
    /// The word for it in texts.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Queue => "queue",
            Self::Tenant => "tenant",
            Self::User => "user",
            Self::Pool => "pool",
            Self::Flavor => "flavor",
        }
    }
}

/// Why an operation was refused. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It does not exist in this tenant.
    #[error("no {} '{name}'", kind.word())]
    NotFound {
        /// What.
        kind: Kind,
        /// Its name.
        name: Box<str>,
    },
    /// The user lacks a permission.
    #[error("{verb} access to {} '{name}' refused for user '{user}'", kind.word())]
    AccessRefused {
        /// `configure`, `write` or `read`.
        verb: &'static str,
        /// On what.
        kind: Kind,
        /// Its name.
        name: Box<str>,
        /// Who asked.
        user: Box<str>,
    },
    /// A topic permission does not match the routing key.
    #[error(
        "{verb} access to topic '{routing_key}' in exchange '{exchange}' refused for user '{user}'"
    )]
    TopicRefused {
        /// `write` or `read`.
        verb: &'static str,
        /// The routing key.
        routing_key: Box<str>,
        /// The topic exchange.
        exchange: Box<str>,
        /// Who asked.
        user: Box<str>,
    },
    /// The name is reserved for the broker's own.
    #[error("{} name '{name}' contains reserved prefix 'amq.*'", kind.word())]
    ReservedName {
        /// What.
        kind: Kind,
        /// The name.
        name: Box<str>,
    },
    /// A system exchange cannot be deleted.
    #[error("deletion of system exchange '{0}' not allowed")]
    SystemExchange(Box<str>),
    /// The default exchange cannot be declared, bound or deleted.
    #[error("operation not permitted on the default exchange")]
    DefaultExchange,
    /// Clients may not publish to an internal exchange.
    #[error("cannot publish to internal exchange '{0}'")]
    InternalExchange(Box<str>),
    /// The queue belongs to another connection.
    #[error("cannot obtain exclusive access to locked queue '{0}'")]
    Locked(Box<str>),
    /// The queue has an exclusive consumer, or others if exclusiveness was asked for.
    #[error("queue '{0}' in exclusive use")]
    ExclusiveUse(Box<str>),
    /// It exists with other properties; the text names the first that differs.
    #[error("{0}")]
    Inequivalent(String),
    /// An argument or property is not valid; the text names it and the reason.
    #[error("{0}")]
    Invalid(String),
    /// A message's encoded properties or headers cannot be read; the text says why.
    #[error("{0}")]
    Malformed(String),
    /// The exchange type is not known.
    #[error("unknown exchange type '{0}'")]
    UnknownExchangeType(Box<str>),
    /// A limit of the tenant or user is reached; the text names it.
    #[error("{0}")]
    LimitReached(String),
    /// Deletion only if unused, and it is used.
    #[error("{} '{name}' in use", kind.word())]
    InUse {
        /// What.
        kind: Kind,
        /// Its name.
        name: Box<str>,
    },
    /// Deletion only if empty, and it is not.
    #[error("queue '{0}' not empty")]
    NotEmpty(Box<str>),
    /// The feature is not offered for this kind of queue; the text says which.
    #[error("{0}")]
    Unsupported(String),
    /// The store refused or failed.
    #[error("the store refused")]
    Store(#[from] StoreError),
}

impl BrokerError {
    pub(crate) fn not_found(kind: Kind, name: &str) -> Self {
        Self::NotFound { kind, name: name.into() }
    }
}
