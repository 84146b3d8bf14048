//! AMQP 0-9-1 with RabbitMQ's extensions, without I/O: bytes in, events and bytes out.

mod channel;
mod content;
mod fields;
mod handshake;
mod reader;
mod snippet;
mod table_decode;
mod timers;
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

pub use capabilities::Capabilities;
pub use connection::Connection;
pub use encode::{
    body_frame_head, body_frames, encode_ack, encode_body, encode_content_header, encode_deliver,
    encode_nack,
};
pub use error::{Close, Failure, ReplyCode};
pub use event::{Content, Event};
pub use method::Method;
pub use options::{ClientOptions, ServerOptions};
pub use raw_table::RawTable;
pub use table::{Table, Value};
