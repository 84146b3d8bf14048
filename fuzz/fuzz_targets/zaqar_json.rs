//! JSON of the queue service's clients; see `crates/server/src/door/zaqar/fuzz.rs`, whose tests replay the
//! corpus.
#![no_main]

#[allow(dead_code, reason = "the server uses more of it, and each target calls one of the checks")]
mod door;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let holds = door::zaqar::fuzz::fuzz_json(data);
    assert!(holds.is_ok(), "{holds:?}");
});
