//! Producers and consumers for Posthouse and RabbitMQ: declared next to the code that uses them, in the shape of axum.
//!
//! | what | where |
//! |---|---|
//! | connect, publish, declare, ask | [`Client`], [`Options`], [`Message`], [`Publish`], [`Broker`] |
//! | exchanges, queues, bindings; plan, apply, diff | [`Topology`], [`Plan`] |
//! | handlers | [`consume`], [`consume_batch`], [`rpc`], [`http_consumer`]; [`Router`], [`serve`], [`App`] |
//! | what handlers take | [`State`], [`Meta`], [`Typed`], [`Json`], [`Csv`], [`Batch`], [`Extension`], [`Delivery`] |
//! | what handlers return | [`Ack`], [`Reply`], [`Fail`], [`Outcome`], [`RpcError`], [`Later`] |
//! | a transaction per message (features `postgres`, `mysql`, `sqlite`) | `Tx` |
//! | calls | [`Client::call`], [`Call::gather_for`] |
//! | around handlers | [`layers`] |
//! | what is seen of it | [`Metrics`], [`TraceContext`] |
//!
//! ```no_run
//! use posthouse_client::prelude::*;
//!
//! #[derive(serde::Deserialize)]
//! struct OrderPlaced {
//!     id: u64,
//! }
//!
//! async fn ship(meta: Meta, Typed(order): Typed<OrderPlaced>) -> Result<Ack, Fail> {
//!     if order.id == 0 {
//!         return Err(Fail::dead("no such order"));
//!     }
//!     println!("order {}, attempt {}", order.id, meta.attempt);
//!     Ok(Ack)
//! }
//!
//! # async fn example() -> posthouse_client::Result<()> {
//! let routes = Router::new()
//!     .exchange(Exchange::topic("events"))
//!     .queue("shipping", consume(ship).bind("events", "orders.placed.#"));
//! posthouse_client::serve("amqp://localhost", routes).await
//! # }
//! ```

mod backoff;
mod batch;
mod broker;
mod calls;
mod client;
mod codec;
mod consumer;
mod delivery;
mod drain;
mod error;
mod extract;
mod handler;
mod http_consumer;
mod inbox;
mod intake;
mod later;
pub mod layers;
mod link;
mod message;
mod metrics;
mod options;
mod outcome;
mod outgoing;
mod plan;
pub mod prelude;
mod publish;
mod question;
mod router;
mod rpc;
mod serve;
mod session;
mod settlements;
mod topology;
mod trace;
mod transport;
#[cfg(feature = "outbox")]
mod tx;
mod worker;

pub use backoff::Backoff;
pub use batch::{Batch, BatchHandler};
pub use broker::{Broker, Unsupported};
pub use client::{Client, QueueLength};
pub use codec::{CodecError, Format, from_csv, to_csv};
pub use consumer::{BoxError, Consumer, DeliveryService, consume, consume_batch};
pub use delivery::{ATTEMPT_HEADER, Delivery, Meta};
pub use error::{AskError, ConnectError, Error, PublishError, Result};
pub use extract::{
    Body, Csv, Extension, FromDelivery, FromParts, FromState, Json, State, Typed, ViaDelivery,
    ViaParts,
};
pub use handler::Handler;
pub use http_consumer::{Deadline, HttpConsumer, Principal, http_consumer};
pub use later::{Held, Later, TooLate};
pub use message::{Message, Request};
pub use metrics::{Metrics, QueueLabel};
pub use options::Options;
pub use outcome::{Ack, Answer, Fail, IntoOutcome, Outcome, Reply};
pub use outgoing::Confirm;
pub use plan::{Difference, Part, Plan};
pub use posthouse_amqp::properties::Properties;
pub use posthouse_amqp::table::{Table, Value};
pub use publish::{Publish, Published};
pub use router::Router;
pub use rpc::{Call, CallError, FromReply, Gather, Replies, RpcError, rpc};
pub use serve::{App, Serve, serve};
pub use topology::{Binding, Exchange, Queue, Topology, TopologyError};
pub use trace::{TraceContext, TraceError};
pub use transport::TransportError;
#[cfg(feature = "outbox")]
pub use tx::Tx;
pub use worker::{QUEUE_HEADER, REASON_HEADER};
