//! What can go wrong, one small type per operation.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::Unsupported;
use crate::transport::TransportError;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text is no address. Do not try again.
    #[error(transparent)]
    Address(#[from] posthouse_amqp::AddressError),
    /// There is no socket to the broker. Trying again makes sense.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The broker said no, in its words: login, virtual host, limits.
    #[error("the broker refused the connection: {code} {text}")]
    Refused {
        /// AMQP's reply code.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The broker closed the socket without a word, as some do after a wrong password.
    #[error("the broker closed the connection without a word, as after a refused login")]
    Silent,
    /// The socket broke.
    #[error("the connection was lost")]
    Lost(#[source] std::io::Error),
    /// The broker did not answer in time.
    #[error("the broker did not answer within {0:?}")]
    Timeout(Duration),
}

/// Why a message was not accepted for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// No queue is there for it: a binding is missing, or the routing key is wrong. The message is nowhere.
    #[error("no queue takes messages for `{routing_key}` of exchange `{exchange}`: {text}")]
    Unroutable {
        /// The exchange, empty for the default one.
        exchange: Arc<str>,
        /// The routing key.
        routing_key: Arc<str>,
        /// The broker's words.
        text: Arc<str>,
    },
    /// The broker did not take it: a queue is full and rejects publishers. Trying again later makes sense.
    #[error("the broker refused the message; a queue is full, or the broker failed")]
    Refused,
    /// The broker closed the channel because of this message: no such exchange, no permission, too large.
    #[error("the broker does not take such messages: {code} {text}")]
    Rejected {
        /// AMQP's reply code.
        code: u16,
        /// The broker's words.
        text: Arc<str>,
    },
    /// The broker is away and the buffer for that time is full. The message was not taken.
    #[error("the broker is away and {messages} messages ({bytes} bytes) wait for it already")]
    BufferFull {
        /// How many wait.
        messages: usize,
        /// Their size.
        bytes: usize,
    },
    /// No confirm in time. If `sent` is false the message has been withdrawn and will not arrive; otherwise it may have
    /// arrived.
    #[error("no confirm within {within:?}; the message {}", if *.sent { "may have arrived" } else { "was withdrawn" })]
    Timeout {
        /// How long was waited.
        within: Duration,
        /// Whether it had been written to a connection.
        sent: bool,
    },
    /// No confirm in time, as [`PublishError::Timeout`], and the broker had said that it takes no messages for now: it is
    /// low on memory or disk.
    #[error("the broker takes no messages for now ({reason}); no confirm within {within:?}; the message {}", if *.sent { "may have arrived" } else { "was withdrawn" })]
    Blocked {
        /// The broker's words.
        reason: Arc<str>,
        /// How long was waited.
        within: Duration,
        /// Whether it had been written to a connection.
        sent: bool,
    },
    /// The client was closed. If the message was sent before, it may have arrived.
    #[error("the client is closed")]
    Closed,
    /// The message cannot be written: a name has more than 255 bytes, or the headers do not fit a frame.
    #[error("the message cannot be encoded: {0}")]
    Encode(Arc<str>),
    /// The broker would not keep what the message is promised. It was not sent.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

impl PublishError {
    /// Whether the same message may be accepted later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Refused | Self::BufferFull { .. } | Self::Timeout { .. } | Self::Blocked { .. }
        )
    }
}

/// Why the broker did not do what was asked on a channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// It said no, in its words.
    #[error("{question}: {code} {text}")]
    Refused {
        /// What was asked.
        question: String,
        /// AMQP's reply code.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The connection was lost before the answer; it may have been done. Trying again makes sense.
    #[error("the connection was lost before the broker answered")]
    Lost,
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// No answer in time.
    #[error("the broker did not answer within {0:?}")]
    Timeout(Duration),
    /// A name has more than 255 bytes, or arguments do not fit a frame.
    #[error("{0} cannot be encoded")]
    Encode(String),
}

/// Anything that starting or serving can end with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A message was not accepted.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The broker refused something else.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// A topology is not what the code says.
    #[error(transparent)]
    Topology(#[from] crate::topology::TopologyError),
    /// A consumer wants what the broker does not do.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A consumer of batches wants an order by key, which batches do not keep: what fails of one is tried again later, and
    /// the next message of its key is not held up. Take the messages of that queue one by one.
    #[error("the consumer of `{queue}` takes batches, which keep no order by key")]
    OrderedBatch {
        /// The consumer's queue.
        queue: String,
    },
}

/// What most functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
