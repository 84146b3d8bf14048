//! AMQP 0-9-1 with RabbitMQ's extensions, without I/O: bytes in, events and bytes out.
//!
//! A [`Connection`] is one end, server or client. It has no socket, no clock, no thread and no logging; its owner reads,
//! writes and tells the time. What it does not know either: exchanges, queues and permissions. Whether a queue exists is
//! for the owner to say, and to answer with [`Connection::close_channel`].
//!
//! | module | what is there |
//! |---|---|
//! | [`connection`], [`options`], [`event`] | the state machine, what it is given, what it tells |
//! | [`encode`] | the frames of the hot path: deliver, content, ack, nack |
//! | [`method`], [`frame`], [`error`] | every method in one table, frames, reply codes |
//! | [`properties`], [`rewrite`] | message properties: reading, peeking, changing |
//! | [`table`], [`raw_table`] | field tables: as values, and as received |
//! | [`http_header`] | a header of a message in a request that the message becomes |
//! | [`sasl`], [`capabilities`] | logins, and what a peer understands |
//!
//! ```
//! use std::{sync::Arc, time::Instant};
//!
//! use posthouse_amqp::{Connection, event::Event, options::ServerOptions, sasl::Credentials};
//!
//! /// Takes what the socket gave, appends what it should get, and says whether to go on reading.
//! fn handle(connection: &mut Connection, now: Instant, mut input: &[u8], out: &mut Vec<u8>) -> bool {
//!     while let Some(event) = connection.handle_bytes(now, &mut input, out) {
//!         match event {
//!             Event::Authenticate { response, .. } => match Credentials::from_plain(response) {
//!                 Ok(credentials) if credentials.login == "guest" => connection.authenticated(out),
//!                 _ => drop(connection.refuse("Login was refused", out)),
//!             },
//!             Event::Open { .. } => connection.opened(out),
//!             Event::Publish { publish, content, .. } => {
//!                 assert_eq!((&*publish.routing_key, &*content.body), ("q", &b"hello"[..]));
//!             }
//!             _ => {}
//!         }
//!     }
//!     !connection.is_finished()
//! }
//!
//! let mut connection = Connection::server(Arc::new(ServerOptions::default()), Instant::now());
//! let mut out = Vec::new();
//! assert!(handle(&mut connection, Instant::now(), b"AMQP\x00\x00\x09\x01", &mut out));
//! assert_eq!(out[..4], [1, 0, 0, 0], "a method on channel 0: connection.start");
//! ```

mod channel;
mod content;
mod fields;
mod handshake;
mod reader;
mod snippet;
mod table_decode;
mod timers;
mod writer;

pub mod address;
pub mod capabilities;
pub mod connection;
pub mod encode;
pub mod error;
pub mod event;
pub mod frame;
pub mod http_header;
pub mod method;
pub mod options;
pub mod properties;
pub mod raw_table;
pub mod rewrite;
pub mod sasl;
pub mod table;

pub use address::{Address, AddressError};
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
