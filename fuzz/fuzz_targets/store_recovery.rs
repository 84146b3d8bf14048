//! Recovery of a whole directory; see `check_recovery` in `crates/store/tests/it/fuzzed.rs`, which replays the corpus.
#![no_main]

#[path = "../../crates/store/tests/it/fuzzed.rs"]
#[allow(dead_code, reason = "the tests of the same file are not built here")]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::check_recovery(data));
