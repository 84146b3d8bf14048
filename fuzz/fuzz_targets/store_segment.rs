//! A whole segment file; see `store::embedded::fuzz`, whose tests replay the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _sound = store::embedded::fuzz::fuzz_segment(data);
});
