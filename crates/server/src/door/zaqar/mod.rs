//! Zaqar's queue service.

pub mod gate;
pub mod policy;
pub mod sealing;
pub mod signed_url;

pub use crate::iso_time;
