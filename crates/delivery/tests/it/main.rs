//! The outputs against far ends that answer, hang, lie and refuse.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking"
)]

use delivery::Attempt;

mod forbidden;
mod receiver;
mod relay;
mod runner;
mod smtp;
mod webhook;
mod world;

/// A first attempt.
fn attempt(payload: &'static str) -> Attempt {
    Attempt {
        id: "msg_1".to_owned(),
        number: 1,
        timestamp: 1000,
        payload: payload.into(),
        request: None,
    }
}
