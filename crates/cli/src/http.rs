//! An HTTP client for queue services (OpenStack Zaqar's API, version 2), for one connection.
//!
//! It knows how to ask and how answers say what is wrong; which requests there are is the commands' business.

mod address;
mod answer;
mod connection;
mod members;
mod message;
mod page;

pub(crate) use address::{Address, segment};
pub(crate) use answer::{Answer, printable};
pub(crate) use connection::{Connection, Service};
pub(crate) use members::members;
pub(crate) use message::{Messages, show};
pub(crate) use page::{Link, Pages};
