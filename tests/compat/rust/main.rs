//! Clients that others wrote, as far as a Rust test can drive them: lapin, amqp-tools and rabbitmq-c.
//!
//! The Python and Node clients beside this folder have test runners of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a panic is how a test says what went wrong"
)]

mod amqp_tools;
mod installed;
mod lapin_client;
mod rabbitmq_c;
