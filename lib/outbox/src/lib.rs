//! Transactional outbox and inbox in the application's own database.
//!
//! A message that is sent in a transaction leaves if the transaction commits and never if it does not; a message that is
//! received is handled once, in the transaction of its effects. Nothing but the database is needed.
//!
//! | module | what is there |
//! |---|---|
//! | [`message`] | what is sent |
//! | [`outbox`] | sending it in a transaction; dead letters |
//! | [`relay`], [`schedule`] | what has it delivered, and when it is tried again |
//! | [`inbox`] | the receiving end: claims, and `POST /inbox/` |
//! | [`transport`] | where to, open to others |
//! | [`schema`] | the tables, which programs in other languages use as well |
//! | `dialect`, `postgres`, `mysql`, `sqlite`, `steps`, `plan` | what each database does |
//! | `chain`, `gate` | order within a key; far ends that are away |

mod chain;
mod dialect;
mod gate;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod plan;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod steps;

pub mod error;
pub mod inbox;
pub mod message;
pub mod outbox;
pub mod relay;
pub mod schedule;
pub mod schema;
#[cfg(any(feature = "axum", feature = "http"))]
pub mod signature;
pub mod transport;

pub use dialect::{Counts, DeadLetter, Dialect, Letter, State, Which};
pub use error::{Error, is_conflict};
pub use message::Message;
pub use outbox::{Outbox, OutboxTransaction, Sent};
pub use relay::{Counters, Relay, Settings};
pub use schedule::Schedule;
pub use transport::{Routes, SendError, Transport};
