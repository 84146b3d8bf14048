//! AMQP 0-9-1 with RabbitMQ's extensions, without I/O: bytes in, events and bytes out.

mod fields;
mod reader;
mod table_decode;
mod writer;

pub mod capabilities;
pub mod connection;
pub mod encode;
pub mod error;
pub mod event;
pub mod frame;
pub mod method;
pub mod options;
pub mod properties;
pub mod raw_table;
pub mod rewrite;
pub mod sasl;
pub mod table;

pub use connection::Connection;
