//! An AMQP client for one connection and one channel, over `posthouse_amqp`.

mod happened;
mod session;
mod uri;

pub(crate) use happened::{Happened, Received};
pub(crate) use session::Session;
pub(crate) use uri::{Uri, split_place};
