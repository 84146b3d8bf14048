//! Protocol transcripts: bytes in, events and bytes out.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod bombs;
mod client;
mod content;
mod corpus;
mod frames;
mod fuzzed;
mod handshake;
mod heartbeat;
mod peer;
mod round_trip;
mod truncation;
