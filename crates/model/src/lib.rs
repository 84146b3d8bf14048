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
//! | [`exchange`] | exchanges: declaring and redeclaring |
//! | [`routing`] | bindings, and which queues a message goes to |

pub mod argument;
pub mod exchange;
pub mod id;
pub mod message;
pub mod naming;
pub mod routing;
mod slots;
pub mod time;

pub use id::{DedupId, QueueId, Sequence, Ticket};
pub use message::{Address, Message};
pub use time::Timestamp;
