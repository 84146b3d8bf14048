//! The broker's refusals in AMQP's terms: reply code and the text that clients compare.
//!
//! Here, and only here, a tenant is a virtual host.

use broker::{BrokerError, Kind};
use posthouse_amqp::ReplyCode;

/// A reply code, and the text without the code's name in front.
pub(crate) type Refusal = (ReplyCode, String);

/// What a refusal of the broker is on the wire.
pub(crate) fn refusal(error: &BrokerError, tenant: &str) -> Refusal {
    let here = format!("in vhost '{tenant}'");
    match error {
        BrokerError::NotFound { kind: Kind::Tenant, name } => {
            (ReplyCode::NotAllowed, format!("vhost {name} not found"))
        }
        BrokerError::NotFound { kind, name } => {
            (ReplyCode::NotFound, format!("no {} '{name}' {here}", kind.word()))
        }
        BrokerError::AccessRefused { kind: Kind::Tenant, name, user, .. } => {
            (ReplyCode::NotAllowed, format!("access to vhost '{name}' refused for user '{user}'"))
        }
        BrokerError::AccessRefused { verb, kind, name, user } => (
            ReplyCode::AccessRefused,
            format!("{verb} access to {} '{name}' {here} refused for user '{user}'", kind.word()),
        ),
        BrokerError::TopicRefused { verb, routing_key, exchange, user } => (
            ReplyCode::AccessRefused,
            format!(
                "{verb} access to topic '{routing_key}' in exchange '{exchange}' {here} refused for user '{user}'"
            ),
        ),
        BrokerError::ReservedName { kind, name } => (
            ReplyCode::AccessRefused,
            format!("{} name '{name}' contains reserved prefix 'amq.*'", kind.word()),
        ),
        BrokerError::SystemExchange(name) => (
            ReplyCode::AccessRefused,
            format!("deletion of system exchange '{name}' {here} not allowed"),
        ),
        BrokerError::DefaultExchange => {
            (ReplyCode::AccessRefused, "operation not permitted on the default exchange".to_owned())
        }
        BrokerError::InternalExchange(name) => (
            ReplyCode::AccessRefused,
            format!("cannot publish to internal exchange '{name}' {here}"),
        ),
        BrokerError::Locked(name) => (
            ReplyCode::ResourceLocked,
            format!(
                "cannot obtain exclusive access to locked queue '{name}' {here}. It could be originally declared on \
                 another connection or the exclusive property value does not match that of the original declaration."
            ),
        ),
        BrokerError::ExclusiveUse(name) => {
            (ReplyCode::AccessRefused, format!("queue '{name}' {here} in exclusive use"))
        }
        BrokerError::InUse { kind, name } => {
            (ReplyCode::PreconditionFailed, format!("{} '{name}' {here} in use", kind.word()))
        }
        BrokerError::NotEmpty(name) => {
            (ReplyCode::PreconditionFailed, format!("queue '{name}' {here} not empty"))
        }
        BrokerError::Malformed(text) => (ReplyCode::SyntaxError, text.clone()),
        // As RabbitMQ 4: the channel goes, not the connection.
        BrokerError::UnknownExchangeType(kind) => {
            (ReplyCode::PreconditionFailed, format!("unknown exchange type '{kind}'"))
        }
        BrokerError::Inequivalent(text)
        | BrokerError::Invalid(text)
        | BrokerError::LimitReached(text) => (ReplyCode::PreconditionFailed, text.clone()),
        BrokerError::Unsupported(text) => (ReplyCode::NotImplemented, text.clone()),
        // Nothing has changed, and the same may succeed later: no reason to end the connection.
        BrokerError::Store(error) if error.retryable() => {
            (ReplyCode::PreconditionFailed, error.to_string())
        }
        BrokerError::Store(error) => (ReplyCode::InternalError, error.to_string()),
    }
}
