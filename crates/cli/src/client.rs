//! An AMQP client for one connection and one channel, over `posthouse_amqp`.

mod happened;
mod session;

pub(crate) use happened::{Happened, Received};
pub(crate) use session::Session;
