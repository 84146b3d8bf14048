//! Test support that production code cannot reach.
//!
//! | file | concept |
//! |---|---|
//! | [`conformance`] | what every store must do, a behaviour a function |
//! | [`store`] | short words for talking to a store in tests |
//! | [`disk`] | a disk that loses, tears and refuses what a seed says |
//! | [`random`] | a small seeded generator |

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test support: a broken expectation is a failed test"
)]

pub mod conformance;
pub mod disk;
pub mod random;
pub mod store;
