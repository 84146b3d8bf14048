//! The inbox: `POST /inbox/` takes django-message-box's JSON and publishes it.
//!
//! A request is a publish by a user of the broker in a tenant, with its rights and limits. 201 leaves when the message is
//! durable, or was: its id is the publish's `x-dedup-id`. Nobody is handed a message before it is durable, so that no
//! crash makes one that somebody has seen new again.
//!
//! | file | concept |
//! |---|---|
//! | [`listener`] | the listeners |
//! | `service` | a request's way: the checks in their order, then the publish |
//! | `sender` | who sends, and to which tenant |
//! | [`route`] | which exchange or queue takes which message |
//! | `message` | what a document becomes |
//! | `refusal` | answers other than 201 |

pub mod listener;
mod message;
mod refusal;
pub mod route;
mod sender;
mod service;

pub use service::Counters;
pub(crate) use service::HEAD_BYTES_MAX;
