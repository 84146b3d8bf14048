//! Where the broker learns the time.

use std::fmt::Debug;

use model::Timestamp;

/// A clock that never goes backwards; tests bring one that they move.
pub trait Clock: Send + Sync + Debug {
    /// The time now.
    fn now(&self) -> Timestamp;
}
