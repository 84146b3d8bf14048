//! The process around the broker: configuration, logs, listeners, who may come in, what is measured, and the doors.
//!
//! | module | what it is |
//! |---|---|
//! | [`alarms`] | publishers are blocked while memory or disk run low |
//! | [`auth`] | who may come in |
//! | [`clock`] | the time, for the broker |
//! | [`config`] | what an operator may decide |
//! | [`definitions`] | RabbitMQ's definitions files |
//! | [`delivery`] | messages of subscriptions leave |
//! | [`door`] | the doors |
//! | [`figures`] | the broker's numbers for the metrics |
//! | `http` | what every HTTP listener shares |
//! | [`iso_time`] | times as Zaqar and Keystone write them |
//! | [`listen`] | listening sockets |
//! | [`metrics`] | what is measured, and where Prometheus reads it |
//! | [`run`] | the life of the process |
//! | [`telemetry`] | logs |
//! | [`tls`] | encrypted listeners |

pub mod alarms;
pub mod auth;
pub mod clock;
pub mod config;
pub mod definitions;
pub mod delivery;
pub mod door;
pub mod figures;
mod http;
pub mod iso_time;
pub mod listen;
pub mod metrics;
mod processors;
pub mod run;
pub mod telemetry;
pub mod tls;
mod vigil;
