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

pub mod id;
pub mod message;
pub mod time;

pub use id::{DedupId, QueueId, Sequence, Ticket};
pub use message::{Address, Message};
pub use time::Timestamp;
