//! See `crates/server/src/door/zaqar/socket/mod.rs`.

#[path = "../../../../../crates/server/src/door/zaqar/socket/msgpack.rs"]
pub mod msgpack;
