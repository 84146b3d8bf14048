//! See `crates/server/src/door/zaqar/mod.rs`.

#[path = "../../../../crates/server/src/door/zaqar/fuzz.rs"]
pub mod fuzz;
#[path = "../../../../crates/server/src/door/zaqar/json/mod.rs"]
mod json;
mod socket;
