//! The process around the broker: configuration, logs, listeners, who may come in, what is measured, and the doors.
//!
//! | module | what it is |
//! |---|---|
//! | [`alarms`] | publishers are blocked while memory or disk run low |
//! | [`auth`] | who may come in |
//! | [`config`] | what an operator may decide |
//! | [`listen`] | listening sockets |
//! | [`metrics`] | what is measured, and where Prometheus reads it |
//! | [`telemetry`] | logs |
//! | [`tls`] | encrypted listeners |

pub mod alarms;
pub mod auth;
pub mod config;
pub mod listen;
pub mod metrics;
pub mod telemetry;
pub mod tls;
