//! The grammar of a record behind its checksum, of every kind; see `store::embedded::fuzz`, whose tests replay the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _sound = store::embedded::fuzz::fuzz_record_input(data);
});
