//! The outputs against far ends that answer, hang, lie and refuse.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking"
)]

mod forbidden;
mod receiver;
mod relay;
mod runner;
mod smtp;
mod webhook;
mod world;
