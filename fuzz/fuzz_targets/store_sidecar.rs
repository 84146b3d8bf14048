//! The entries of a sidecar; see `store::embedded::fuzz`, whose tests replay the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _sound = store::embedded::fuzz::fuzz_sidecar(data);
});
