//! Test support that production code cannot reach.
//!
//! | file | concept |
//! |---|---|
//! | [`conformance`] | what every store must do, a behaviour a function |
//! | [`store`] | short words for talking to a store in tests |
//! | [`disk`] | a disk that loses, tears and refuses what a seed says |
//! | [`random`] | a small seeded generator |

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "test support panics where what is tested is wrong"
)]

pub mod conformance;
pub mod disk;
pub mod random;
pub mod store;
