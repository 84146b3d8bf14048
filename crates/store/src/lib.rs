//! Where messages, leases and definitions are kept: two contracts and their drivers.
//!
//! | file | concept |
//! |---|---|
//! | [`pool`] | the contract for messages and leases |
//! | [`catalog`] | the contract for definitions |
//! | [`watch`] | the durable watermark, and hints that something is ready |
//! | [`memory`] | the driver that is the executable specification |
//! | [`embedded`] | the driver for one machine: a segmented log |
//! | [`error`] | what can go wrong, and whether trying again makes sense |

pub mod catalog;
pub mod embedded;
pub mod error;
pub mod memory;
pub mod pool;
pub mod watch;

pub use catalog::{Catalog, Definition, DefinitionChange};
pub use embedded::Embedded;
pub use error::{ErrorKind, StoreError};
pub use memory::Memory;
pub use pool::{
    Capabilities, Change, Commit, Due, Handout, Hold, Lease, LeaseRequest, Leased, Pending, Pool,
    QueueKind, QueueStats, ReadRequest, Receipt, Sequences, Settlement, Stored, Target, Targets,
};
pub use watch::Watch;
