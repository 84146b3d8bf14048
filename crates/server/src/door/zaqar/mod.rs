//! Zaqar's queue service.

pub mod gate;
pub mod iso_time;
pub mod policy;
pub mod signed_url;
