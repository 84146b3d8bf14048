//! Outputs: what carries a message out.
//!
//! | file | carries it |
//! |---|---|
//! | `webhook` | as a request over HTTP, also with a Keystone token |
//! | `connection` | TCP and TLS to an address that was judged, and connections kept for the next request |
//! | `smtp`, `smtp_client` | as a mail to the operator's relay |
//!
//! A message for an exchange of the same tenant needs no output: it is moved in one commit.

pub mod connection;
pub mod smtp;
mod smtp_client;
pub mod webhook;

use std::future::Future;

use crate::attempt::{Attempt, Outcome};

/// Carries messages out. An attempt is bounded in time by the output itself, whatever the far end does.
pub trait Output {
    /// What it needs to know of a subscriber.
    type Target;

    /// Makes one attempt. Dropping the future ends it; whether the far end has the message is unknown then.
    fn send(
        &self,
        target: &Self::Target,
        attempt: &Attempt,
    ) -> impl Future<Output = Outcome> + Send;
}
