//! What the tests stand on: the real program in a directory of its own, and an AMQP client that hides nothing.
//!
//! The client is written against the specification and shares no code with the program, so that a mistake in one is not
//! repeated in the other. It is synchronous: a test reads from top to bottom.
//!
//! | file | what |
//! |---|---|
//! | [`program`] | starts, kills and restarts `posthouse serve` |
//! | [`database`] | real database servers |
//! | [`disk`] | a disk that can be filled |
//! | [`broker`] | the broker under test: the program, or the one that `POSTHOUSE_TEST_BROKER` names |
//! | [`http`] | an HTTP client for the queue service |
//! | [`rabbitmq`] | Debian's RabbitMQ, to compare with and to talk to |
//! | [`quickest`] | measuring on a busy machine |
//! | [`receiver`] | a receiver of webhooks |
//! | [`frame`] | frames and the arguments of methods, octet by octet |
//! | [`value`] | field tables |
//! | [`message`] | properties and received messages |
//! | [`connection`] | the handshake and what arrives on which channel |
//! | [`channel`] | the verbs: declare, publish, consume, settle |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a panic is how a test says what went wrong"
)]

pub mod broker;
pub mod channel;
pub mod connection;
pub mod database;
pub mod disk;
pub mod frame;
pub mod http;
pub mod message;
pub mod program;
pub mod quickest;
pub mod rabbitmq;
pub mod receiver;
pub mod socket;
pub mod value;

pub use broker::Broker;
pub use channel::{Channel, Confirm, Declared};
pub use connection::{Close, Connection, Login};
pub use disk::SmallDisk;
pub use http::{Http, Reply};
pub use message::{Message, Properties};
pub use program::Program;
pub use quickest::quickest;
pub use receiver::{Answer, Receiver, Webhook};
pub use value::Value;

/// The longest that anything may take before a test gives up; generous, because test machines are busy.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

/// How long to listen before believing that nothing comes.
pub const SILENCE: std::time::Duration = std::time::Duration::from_millis(250);
