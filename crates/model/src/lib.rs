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
//! | [`naming`] | names, their limits, and how texts speak of things |
//! | [`argument`] | checking arguments, and comparing them |
//! | [`exchange`], [`queue`], [`queue_arguments`] | declaring and redeclaring |
//! | [`settings`] | what holds for a queue: its arguments and the policies that match |
//! | [`policy`] | policies of users and operators |
//! | [`routing`] | bindings, and which queues a message goes to |
//! | [`publish_rules`] | what a message's own properties ask for |
//! | [`decision`], [`death`] | what becomes of a refused or expired message, and the history it carries |
//! | [`permission`], [`quota`] | who may do what, and how much |
//! | [`stream_offset`] | where a stream is read from |

pub mod argument;
pub mod death;
pub mod decision;
pub mod exchange;
pub mod id;
pub mod message;
pub mod naming;
mod pattern;
pub mod permission;
pub mod policy;
mod property_bytes;
pub mod publish_rules;
pub mod queue;
pub mod queue_arguments;
pub mod quota;
pub mod routing;
pub mod settings;
mod slots;
pub mod stream_offset;
pub mod time;

pub use id::{ClaimId, DedupId, NotAnId, QueueId, Sequence, SubscriptionId, Ticket};
pub use message::{Address, Message};
pub use queue::{Overflow, QueueDefinition, QueueOptions, QueueType, Setback};
pub use settings::QueueSettings;
pub use time::Timestamp;
