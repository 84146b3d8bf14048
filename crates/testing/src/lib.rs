//! A real Posthouse in the process of a test: port 0, a clock that the test moves, a crash at a word.
//!
//! Nothing is imitated: the server is the one of `posthouse serve`, the disk is a temporary folder, clients connect over
//! TCP. What differs is the time, which jumps when the test says so, and the end, which may be that of `kill -9`.
//!
//! | file | what |
//! |---|---|
//! | [`TestBus`] | starts, moves the time, crashes, starts again |
//! | [`TestQueue`] | what is in a queue, without taking it |
//! | [`Recorder`] | what was published |
//!
//! ```
//! use posthouse_client::prelude::*;
//! use posthouse_testing::TestBus;
//!
//! async fn fails() -> Result<Ack, Fail> {
//!     Err(Fail::retry("stock down"))
//! }
//!
//! # #[tokio::main(flavor = "multi_thread", worker_threads = 2)]
//! # async fn main() {
//! let bus = TestBus::start().await;
//! let app = bus.serve(Router::new().queue("shipping", consume(fails))).await;
//! bus.client().publish_to("", "shipping", "order 7").await.unwrap();
//!
//! bus.advance(std::time::Duration::from_secs(3600)).await;
//!
//! bus.assert_attempts(&app, "shipping", 8);
//! bus.queue("shipping.dead").assert_one().assert_reason("stock down");
//! # }
//! ```

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a test says what went wrong"
)]

mod bus;
mod clock;
mod disk;
mod queue;
mod recorder;
mod server_thread;

pub use bus::TestBus;
pub use queue::{TestMessage, TestQueue};
pub use recorder::Recorder;
