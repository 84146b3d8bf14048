//! The process around the broker: configuration, logs, listeners, who may come in, what is measured, and the doors.
//!
//! | module | what it is |
//! |---|---|
//! | [`auth`] | who may come in |
//! | [`config`] | what an operator may decide |
//! | [`telemetry`] | logs |

pub mod auth;
pub mod config;
pub mod telemetry;
