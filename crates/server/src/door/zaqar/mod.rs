//! Zaqar's queue service: its HTTP API, on the same engine and the same queues as every other door.
//!
//! | file | concept |
//! |---|---|
//! | [`http`] | connections, requests, answers |
//! | `socket` | the same over WebSocket, and notifications |
//! | [`route`] | the one table of what is answered |
//! | [`operation`] | what can be done, for every wire of this door |
//! | `request` | what requests ask for, checked against the limits |
//! | `metadata`, `patch`, `retry_policy` | what clients say about a queue, and how they change it |
//! | `identity` | client ids, names, ids of messages |
//! | `problem` | refusals in Zaqar's words |
//! | `json`, `query` | texts from the wire, checked and read in place |
//! | [`gate`], [`policy`], [`signed_url`] | who is let in, and what they may |
//! | [`sealing`] | bodies encrypted at rest |

#[cfg(test)]
mod fuzz;
pub mod gate;
pub mod http;
mod identity;
mod json;
mod metadata;
pub mod operation;
mod patch;
pub mod policy;
mod problem;
mod query;
mod request;
mod retry_policy;
pub mod route;
pub mod sealing;
pub mod signed_url;
mod socket;

pub use crate::iso_time;
