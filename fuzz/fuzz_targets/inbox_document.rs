//! Documents of django-message-box: what is read is written so that it is read again.
#![no_main]

use posthouse_message_box::Received;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(received) = Received::read(data) {
        let written = received.to_json();
        let again = Received::read(written.as_bytes()).expect("what was written");
        assert_eq!(again.to_json(), written);
    }
});
