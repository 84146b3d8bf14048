//! Which broker is at the other end, and what it is known not to do.
//!
//! AMQP has no way to ask for most of what brokers do beyond it: what a broker does not know it takes, and does nothing
//! about. So a feature whose absence would not be seen until messages are lost or go in circles is refused here.

use std::fmt;

use posthouse_amqp::raw_table::{RawTable, ValueRef};

/// A broker, as it introduced itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Broker {
    /// Such as `Posthouse` or `RabbitMQ`; empty if it did not say.
    pub product: String,
    /// In the broker's own form. Posthouse says which RabbitMQ it follows.
    pub version: String,
    /// What it runs on. Only RabbitMQ itself runs on Erlang, whatever others call themselves.
    platform: String,
}

/// A feature that the broker does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{feature}` needs {needs}; this broker is {broker}")]
#[non_exhaustive]
pub struct Unsupported {
    /// What was asked for: the name of the function.
    pub feature: &'static str,
    /// What has it.
    pub needs: &'static str,
    /// What this broker is.
    pub broker: Broker,
}

/// What not every broker does, and would not say that it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Refused messages wait in their queue.
    RetryInQueue,
    /// The second message with an id is dropped.
    Dedupe,
}

impl Feature {
    const fn name(self) -> &'static str {
        match self {
            Self::RetryInQueue => "retry_in_queue",
            Self::Dedupe => "dedupe",
        }
    }

    const fn needs(self) -> &'static str {
        match self {
            Self::RetryInQueue => "Posthouse, or RabbitMQ from 4.3",
            Self::Dedupe => "Posthouse",
        }
    }

    fn is_in_rabbitmq(self, version: (u32, u32)) -> bool {
        match self {
            Self::RetryInQueue => version >= (4, 3),
            Self::Dedupe => false,
        }
    }
}

impl Broker {
    pub(crate) fn of(properties: RawTable<'_>) -> Self {
        let text = |name| match properties.get(name) {
            Ok(Some(ValueRef::LongString(text))) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        Self { product: text("product"), version: text("version"), platform: text("platform") }
    }

    /// Whether it has a feature; a broker of which nothing is known may.
    pub(crate) fn must_have(&self, feature: Feature) -> Result<(), Unsupported> {
        let is_rabbitmq = self.product == "RabbitMQ" && self.platform.starts_with("Erlang");
        let mut numbers = self.version.split('.').map_while(|number| number.parse().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if !is_rabbitmq || feature.is_in_rabbitmq(version) {
            return Ok(());
        }
        let (feature, needs, broker) = (feature.name(), feature.needs(), self.clone());
        Err(Unsupported { feature, needs, broker })
    }
}

/// As people write it: `RabbitMQ 3.10.8`.
impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.product, self.version)
    }
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::table::Table;

    use super::*;

    fn broker(product: &str, version: &str, platform: &str) -> Broker {
        let said = [("product", product), ("version", version), ("platform", platform)];
        Broker::of(RawTable::from_bytes(&Table::from_iter(said).to_entries().unwrap()))
    }

    #[test]
    fn only_a_rabbitmq_that_is_too_old_is_known_to_lack_something() {
        let lacks = |product, version, platform| {
            let broker = broker(product, version, platform);
            [Feature::RetryInQueue, Feature::Dedupe]
                .map(|feature| broker.must_have(feature).is_err())
        };

        assert_eq!(lacks("RabbitMQ", "3.10.8", "Erlang/OTP 25.2.3"), [true, true]);
        assert_eq!(lacks("RabbitMQ", "4.2.1", "Erlang/OTP 27"), [true, true]);
        assert_eq!(lacks("RabbitMQ", "4.3.0-beta.1", "Erlang/OTP 27"), [false, true]);
        assert_eq!(lacks("RabbitMQ", "10.0", "Erlang/OTP 31"), [false, true]);
        // Posthouse says what its operator wants clients to be told.
        assert_eq!(lacks("RabbitMQ", "3.10.8", "Rust"), [false, false]);
        assert_eq!(lacks("Posthouse", "3.13.7", "Rust"), [false, false]);
        assert_eq!(Broker::of(RawTable::default()), Broker::default());
    }

    #[test]
    fn what_is_missing_and_where_is_said() {
        let old = broker("RabbitMQ", "3.10.8", "Erlang/OTP 25.2.3");

        let error = old.must_have(Feature::RetryInQueue).unwrap_err();

        let text = "`retry_in_queue` needs Posthouse, or RabbitMQ from 4.3; this broker is RabbitMQ 3.10.8";
        assert_eq!(error.to_string(), text);
    }
}
