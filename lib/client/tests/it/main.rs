//! What an application sees of its client, on a Posthouse in this process and, where it must work there too, on RabbitMQ.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::panic,
    reason = "a panic is how a test says what went wrong"
)]

mod batches;
mod blocking;
#[path = "../../../outbox/tests/it/broken_commit.rs"]
mod broken_commit;
mod broker;
mod certificates;
mod consuming;
mod crashes;
mod cutter;
// The databases of the outbox's tests are those of the transactions.
#[allow(dead_code, reason = "the outbox's tests use the rest")]
#[path = "../../../outbox/tests/it/server.rs"]
mod database;
mod http_requests;
mod later;
mod layers;
mod ordering;
mod pausing;
mod publishing;
mod rabbitmq;
mod rpc;
mod stopping;
mod tls;
mod topology;
mod transactions;
