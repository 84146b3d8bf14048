//! The JSON of django-message-box, which its outboxes send and inboxes take: `{"uuid", "message_source", "message_type",
//! "origin_create_time", "payload"}`.
//!
//! Only the document: [`Received::read`] has an error per field, in the words of Django REST framework, and
//! [`Received::to_json`] is what an inbox answers. No I/O.

mod document;
#[cfg(test)]
mod fuzz;

pub use document::{NAME_BYTES_MAX, Problem, Received};
