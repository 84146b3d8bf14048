//! What doors can rely on, asked of the broker itself.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod claims;
mod crowd;
mod pools;
mod queues;
mod subscriptions;
mod world;
