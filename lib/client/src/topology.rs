//! Exchanges, queues and bindings, declared next to the code that uses them.
//!
//! Nothing is created but what stands in a [`Topology`], and nothing is ever deleted or changed: a queue that exists with
//! other arguments is an error that says so. [`crate::plan`] shows what would happen.

use std::fmt;
use std::time::Duration;

use posthouse_amqp::table::{Table, Value};

use crate::error::AskError;

/// An exchange. Durable unless said otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) durable: bool,
    pub(crate) auto_delete: bool,
    pub(crate) internal: bool,
    pub(crate) arguments: Table,
}

impl Exchange {
    /// An exchange of any type.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: kind.into(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Table::new(),
        }
    }

    /// Routes by the whole key.
    #[must_use]
    pub fn direct(name: impl Into<String>) -> Self {
        Self::new(name, "direct")
    }

    /// Routes by patterns: `orders.*.placed`, `orders.#`.
    #[must_use]
    pub fn topic(name: impl Into<String>) -> Self {
        Self::new(name, "topic")
    }

    /// Routes to everybody.
    #[must_use]
    pub fn fanout(name: impl Into<String>) -> Self {
        Self::new(name, "fanout")
    }

    /// Holds messages with the header `x-delay` back, then routes them as `kind` does. Posthouse; RabbitMQ with its
    /// plug-in.
    #[must_use]
    pub fn delayed(name: impl Into<String>, kind: &str) -> Self {
        Self::new(name, "x-delayed-message").argument("x-delayed-type", text(kind))
    }

    /// Gone after a restart of the broker.
    #[must_use]
    pub const fn transient(mut self) -> Self {
        self.durable = false;
        self
    }

    /// Gone with its last binding.
    #[must_use]
    pub const fn auto_delete(mut self) -> Self {
        self.auto_delete = true;
        self
    }

    /// With one more argument.
    #[must_use]
    pub fn argument(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name, value);
        self
    }
}

/// A queue. Durable unless said otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    pub(crate) name: String,
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) arguments: Table,
}

impl Queue {
    /// A durable queue of the broker's default type.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: Table::new(),
        }
    }

    /// Replicated in RabbitMQ; counts failed deliveries.
    #[must_use]
    pub fn quorum(self) -> Self {
        self.argument("x-queue-type", text("quorum"))
    }

    /// Gone after a restart of the broker.
    #[must_use]
    pub const fn transient(mut self) -> Self {
        self.durable = false;
        self
    }

    /// For this connection only, and gone with it; made again on the next one.
    #[must_use]
    pub const fn exclusive(mut self) -> Self {
        (self.exclusive, self.durable) = (true, false);
        self
    }

    /// Gone with its last consumer.
    #[must_use]
    pub const fn auto_delete(mut self) -> Self {
        self.auto_delete = true;
        self
    }

    /// Messages live so long, in whole milliseconds.
    #[must_use]
    pub fn message_ttl(self, ttl: Duration) -> Self {
        self.argument("x-message-ttl", millis(ttl))
    }

    /// At most so many ready messages; publishers beyond are refused.
    #[must_use]
    pub fn max_length(self, messages: u32) -> Self {
        self.argument("x-max-length", i64::from(messages))
            .argument("x-overflow", text("reject-publish"))
    }

    /// What is rejected or expires goes to this exchange, with this key.
    #[must_use]
    pub fn dead_letter_to(self, exchange: &str, key: &str) -> Self {
        self.argument("x-dead-letter-exchange", text(exchange))
            .argument("x-dead-letter-routing-key", text(key))
    }

    /// With one more argument.
    #[must_use]
    pub fn argument(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name, value);
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What an exchange is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Queue(String),
    Exchange(String),
}

/// A binding.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    pub(crate) target: Target,
    pub(crate) exchange: String,
    pub(crate) key: String,
    pub(crate) arguments: Table,
}

impl Binding {
    /// Messages of an exchange with such a key enter the queue.
    #[must_use]
    pub fn new(queue: &str, exchange: &str, key: &str) -> Self {
        Self {
            target: Target::Queue(queue.to_owned()),
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            arguments: Table::new(),
        }
    }

    /// Messages of `exchange` with such a key go to `destination` as well.
    #[must_use]
    pub fn exchange(destination: &str, exchange: &str, key: &str) -> Self {
        Self { target: Target::Exchange(destination.to_owned()), ..Self::new("", exchange, key) }
    }

    /// With one more argument, as headers exchanges need.
    #[must_use]
    pub fn argument(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name, value);
        self
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Target::Queue(target) | Target::Exchange(target)) = &self.target;
        write!(f, "binding of `{target}` to `{}` with `{}`", self.exchange, self.key)
    }
}

/// Exchanges, queues and bindings that belong together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Topology {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) bindings: Vec<Binding>,
}

/// What keeps a topology from being what the code says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The code says two things of one name.
    #[error("{what} `{name}` is declared twice, differently")]
    Twice {
        /// Exchange or queue.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The broker has something else under that name, or does not allow it. Nothing was changed after that.
    #[error("the broker has it otherwise")]
    Refused(#[source] AskError),
    /// The broker was not asked, or did not answer.
    #[error("the topology could not be compared")]
    Ask(#[source] AskError),
}

impl Topology {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With an exchange. The default exchange and names that begin with `amq.` are there anyway.
    #[must_use]
    pub fn exchange(mut self, exchange: Exchange) -> Self {
        self.exchanges.push(exchange);
        self
    }

    /// With a queue.
    #[must_use]
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queues.push(queue);
        self
    }

    /// With a binding of a queue.
    #[must_use]
    pub fn bind(self, queue: &str, exchange: &str, key: &str) -> Self {
        self.binding(Binding::new(queue, exchange, key))
    }

    /// With any binding.
    #[must_use]
    pub fn binding(mut self, binding: Binding) -> Self {
        self.bindings.push(binding);
        self
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.exchanges.is_empty() && self.queues.is_empty() && self.bindings.is_empty()
    }

    /// Both together. What is said twice the same counts once.
    ///
    /// # Errors
    ///
    /// [`TopologyError::Twice`] if they differ about a name.
    pub fn merge(mut self, other: Self) -> Result<Self, TopologyError> {
        for exchange in other.exchanges {
            match self.exchanges.iter().find(|known| known.name == exchange.name) {
                None => self.exchanges.push(exchange),
                Some(known) if *known == exchange => {}
                Some(_) => {
                    return Err(TopologyError::Twice { what: "exchange", name: exchange.name });
                }
            }
        }
        for queue in other.queues {
            match self.queues.iter().find(|known| known.name == queue.name) {
                None => self.queues.push(queue),
                Some(known) if *known == queue => {}
                Some(_) => return Err(TopologyError::Twice { what: "queue", name: queue.name }),
            }
        }
        for binding in other.bindings {
            if !self.bindings.contains(&binding) {
                self.bindings.push(binding);
            }
        }
        Ok(self)
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value::LongString(text.as_bytes().to_vec())
}

/// Whole milliseconds as the type that brokers take.
pub(crate) fn millis(duration: Duration) -> Value {
    Value::I64(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_twice_the_same_counts_once_and_a_contradiction_is_refused() {
        let one = Topology::new().queue(Queue::new("q")).bind("q", "amq.topic", "a");

        let both = one.clone().merge(one.clone()).unwrap();
        assert_eq!(both, one);

        let other = Topology::new().queue(Queue::new("q").quorum());
        assert!(matches!(one.merge(other), Err(TopologyError::Twice { what: "queue", .. })));
    }
}
