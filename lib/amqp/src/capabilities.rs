//! RabbitMQ's `capabilities`: what a peer understands beyond AMQP 0-9-1.

use crate::{
    raw_table::{RawTable, ValueRef},
    table::{Table, TableError, Value},
};

macro_rules! capabilities {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// What a peer announced in the `capabilities` of its properties.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Capabilities {
            $($(#[$doc])* pub $field: bool,)*
        }

        impl Capabilities {
            /// The value of `capabilities` in a properties table.
            #[must_use]
            pub fn to_table(&self) -> Table {
                let all = [$(($name, self.$field)),*];
                all.into_iter().filter(|(_, there)| *there).map(|(name, _)| (name, Value::Bool(true))).collect()
            }

            fn set(&mut self, name: &str, there: bool) {
                match name {
                    $($name => self.$field = there,)*
                    _ => {}
                }
            }
        }
    };
}

capabilities! {
    /// `confirm.select`.
    publisher_confirms = "publisher_confirms",
    /// `exchange.bind`.
    exchange_exchange_bindings = "exchange_exchange_bindings",
    /// `basic.nack`.
    basic_nack = "basic.nack",
    /// The server may send `basic.cancel`.
    consumer_cancel_notify = "consumer_cancel_notify",
    /// The server may send `connection.blocked`.
    connection_blocked = "connection.blocked",
    /// `x-priority` of a consumer.
    consumer_priorities = "consumer_priorities",
    /// A refused login is answered with `connection.close`.
    authentication_failure_close = "authentication_failure_close",
    /// Prefetch counts are per consumer unless global.
    per_consumer_qos = "per_consumer_qos",
    /// `amq.rabbitmq.reply-to`.
    direct_reply_to = "direct_reply_to",
}

impl Capabilities {
    /// All that a server of RabbitMQ 3.10 announces.
    pub const SERVER: Self = Self {
        publisher_confirms: true,
        exchange_exchange_bindings: true,
        basic_nack: true,
        consumer_cancel_notify: true,
        connection_blocked: true,
        consumer_priorities: true,
        authentication_failure_close: true,
        per_consumer_qos: true,
        direct_reply_to: true,
    };

    /// What a client of this crate understands.
    pub const CLIENT: Self = Self {
        consumer_priorities: false,
        per_consumer_qos: false,
        direct_reply_to: false,
        ..Self::SERVER
    };

    /// Reads `capabilities` from a peer's properties; none if there are none.
    ///
    /// # Errors
    ///
    /// [`TableError`] if the properties cannot be read so far.
    pub fn of(properties: RawTable<'_>) -> Result<Self, TableError> {
        let mut capabilities = Self::default();
        let Some(ValueRef::Table(announced)) = properties.get("capabilities")? else {
            return Ok(capabilities);
        };
        for entry in announced {
            let (name, value) = entry?;
            capabilities.set(name, value.as_bool().unwrap_or(false));
        }
        Ok(capabilities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(properties: &Table) -> Result<Capabilities, TableError> {
        Capabilities::of(RawTable::from_bytes(&properties.to_entries().expect("encodes")))
    }

    #[test]
    fn what_is_announced_is_understood() {
        let unknown = ("from the future", Value::Bool(true));
        let known = ("basic.nack", Value::Bool(true));
        let denied = ("connection.blocked", Value::Bool(false));
        let announced = Table::from_iter([unknown, known, denied]);

        let capabilities = of(&Table::from_iter([("capabilities", announced)]));

        assert_eq!(capabilities, Ok(Capabilities { basic_nack: true, ..Default::default() }));
    }

    #[test]
    fn capabilities_that_are_no_table_are_none() {
        assert_eq!(of(&Table::new()), Ok(Capabilities::default()));
        let number = Table::from_iter([("capabilities", 1_u8)]);
        assert_eq!(of(&number), Ok(Capabilities::default()));
    }
}
