//! Documents of django-message-box; see `lib/message-box/src/fuzz.rs`, whose tests replay the corpus.
#![no_main]

#[path = "../../lib/message-box/src/fuzz.rs"]
mod fuzz;

use posthouse_message_box::Received;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let holds = fuzz::fuzz_document(data);
    assert!(holds.is_ok(), "{holds:?}");
});
