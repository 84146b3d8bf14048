//! Tests of the store through its contract, on real and on simulated disks.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are tests, too"
)]

mod conformance;
mod crashes;
mod damage;
mod equivalence;
mod fuzzed;
mod pools;
mod spilled;
mod threads;
mod world;
