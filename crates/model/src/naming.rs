//! Names: their limits, and how texts for people and clients speak of a thing.

use std::fmt;

/// Most bytes of a name or routing key: what a short string of AMQP 0-9-1 can carry.
pub const NAME_BYTES_MAX: usize = 255;

/// What every name that only the server may give begins with.
pub const RESERVED_PREFIX: &str = "amq.";

/// What permissions and topic permissions call the exchange whose name is empty.
pub const DEFAULT_EXCHANGE_ALIAS: &str = "amq.default";

/// Whether only the server may give this name.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED_PREFIX)
}

/// The kinds of named things in a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
}

impl Kind {
    /// `queue` or `exchange`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
        }
    }
}

/// One named thing of a tenant. Prints as RabbitMQ's texts have it: `queue 'q' in vhost 'v'`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Named {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: Box<str>,
    /// Whose it is.
    pub tenant: Box<str>,
}

impl Named {
    /// A queue of a tenant.
    #[must_use]
    pub fn queue(name: &str, tenant: &str) -> Self {
        Self { kind: Kind::Queue, name: name.into(), tenant: tenant.into() }
    }

    /// An exchange of a tenant.
    #[must_use]
    pub fn exchange(name: &str, tenant: &str) -> Self {
        Self { kind: Kind::Exchange, name: name.into(), tenant: tenant.into() }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind.as_str(), self.name, self.tenant)
    }
}

/// Why a client may not give a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It begins with `amq.`. AMQP: 403.
    #[error("{} name '{name}' contains reserved prefix 'amq.*'", kind.as_str())]
    Reserved {
        /// What was to be named.
        kind: Kind,
        /// The name.
        name: Box<str>,
    },
    /// It is longer than [`NAME_BYTES_MAX`]. AMQP cannot send such a name.
    #[error("{} name must be at most {NAME_BYTES_MAX} bytes, not {bytes}", kind.as_str())]
    TooLong {
        /// What was to be named.
        kind: Kind,
        /// Its length.
        bytes: usize,
    },
}

/// Checks a name that a client wants to give to something new.
///
/// # Errors
///
/// [`NameError`] if it is reserved or too long.
pub fn check_new(kind: Kind, name: &str) -> Result<(), NameError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { kind, bytes: name.len() });
    }
    if is_reserved(name) {
        return Err(NameError::Reserved { kind, name: name.into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_give_a_reserved_name() {
        let refused = check_new(Kind::Queue, "amq.foo").expect_err("reserved");

        assert_eq!(refused.to_string(), "queue name 'amq.foo' contains reserved prefix 'amq.*'");
        assert_eq!(check_new(Kind::Exchange, "amqp"), Ok(()));
    }
}
