//! Where messages, leases and definitions are kept: two contracts and their drivers.
//!
//! | file | concept |
//! |---|---|
//! | [`pool`] | the contract for messages and leases |
//! | [`catalog`] | the contract for definitions |
//! | [`watch`] | the durable watermark, and hints that something is ready |
//! | [`memory`] | the driver that is the executable specification |
//! | [`embedded`] | the driver for one machine: a segmented log |
//! | [`pools`] | several pools as one |
//! | [`open`](mod@open) | from a location to a driver |
//! | [`error`] | what can go wrong, and whether trying again makes sense |
//!
//! `contract.md` beside this file tells how PostgreSQL, Redis and JetStream would satisfy the contracts.

pub mod catalog;
pub mod embedded;
pub mod error;
pub mod memory;
pub mod open;
pub mod pool;
pub mod pools;
pub mod watch;

pub use catalog::{Catalog, Definition, DefinitionChange};
pub use embedded::Embedded;
pub use error::{ErrorKind, StoreError};
pub use memory::Memory;
pub use open::{Opened, open};
pub use pool::{
    Admission, Capabilities, Change, Claim, Claimed, Commit, Condition, Due, Extended, Handout,
    Hold, Lease, LeaseRequest, Leased, Pending, Pool, QueueKind, QueueStats, ReadRequest, Receipt,
    Removal, Sequences, Settlement, Stored, Target, Targets, Which,
};
pub use pools::Pools;
pub use watch::Watch;
