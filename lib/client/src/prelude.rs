//! What most programs use.

pub use crate::{
    Ack, App, Backoff, Batch, Client, Csv, Delivery, Exchange, Fail, Format, Json, Message, Meta,
    Options, Outcome, Queue, Reply, Request, Router, RpcError, State, Topology, Typed, consume,
    consume_batch, http_consumer, rpc, serve,
};
#[cfg(feature = "outbox")]
pub use crate::{FromState, Tx};
