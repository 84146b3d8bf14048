//! What things are called and what should happen to them.
//!
//! Pure: no I/O, no clock, no async, no randomness. Time is an argument. The types of this crate are not `Serialize`:
//! wire and disk formats live where they are written and convert.
//!
//! | file | concept |
//! |---|---|
//! | [`id`] | identities: queue, sequence, ticket |
//! | [`time`] | points in time, as milliseconds since 1970 |
//! | [`message`] | the envelope that travels through Posthouse |
//! | [`permission`] | what a user may do with queues and exchanges |
//! | [`policy`] | settings given to queues and exchanges by pattern |
//! | [`quota`] | how much a tenant or a user may have open |
//! | [`publish_rules`] | what the properties of a published message ask for |
//! | [`decision`] | what becomes of a message that leaves its queue |
//! | [`death`] | what a dead letter tells about its past |
//! | [`stream_offset`] | where in a stream a consumer begins |

pub mod death;
pub mod decision;
pub mod id;
pub mod message;
mod pattern;
pub mod permission;
pub mod policy;
mod property_bytes;
pub mod publish_rules;
pub mod quota;
pub mod stream_offset;
pub mod time;

pub use id::{DedupId, QueueId, Sequence, Ticket};
pub use message::{Address, Message};
pub use time::Timestamp;
