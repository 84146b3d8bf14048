//! See `check_table` in `lib/amqp/tests/it/fuzzed.rs`, which replays the corpus as a normal test.
#![no_main]

#[path = "../../lib/amqp/tests/it/fuzzed.rs"]
#[allow(dead_code, reason = "each target calls one of the checks")]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::check_table(data));
