//! Doors for fuzzing: what reads texts and frames of this door's clients, as functions of bytes.
//!
//! The targets of `cargo fuzz` include this file and what it needs, and nothing else of the server. Each returns whether the input was taken, or what does not hold of it; it must not
//! panic, hang or allocate more than a small multiple of the input.

use serde::de::IgnoredAny;

use super::json::{Flaw, Raw, check, check_value, write};
use super::socket::msgpack;

/// Most that the JSON of a frame may be, as on a socket.
const JSON_BYTES_MAX: usize = 1024 * 1024;

/// A JSON document: another reader takes it, too, each part of it is a value again, and strings survive being written.
///
/// # Errors
///
/// What does not hold.
pub(crate) fn fuzz_json(document: &[u8]) -> Result<bool, String> {
    let Ok(whole) = check(document) else { return Ok(false) };
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(document) {
        return Err(format!("serde_json refuses it: {error}"));
    }
    let mut waiting = vec![whole];
    while let Some(value) = waiting.pop() {
        match check_value(value.text().as_bytes()) {
            Ok(again) if again == value => {}
            other => return Err(format!("{:?} is {other:?} by itself", value.text())),
        }
        let _looked_at = (value.is_truthy(), value.integer(), value.boolean());
        if let Some(text) = value.string() {
            same_string(&text)?;
        }
        for (name, value) in value.members() {
            same_string(&name)?;
            waiting.push(value);
        }
        waiting.extend(value.items());
    }
    // A number may be too large for a float, and is infinite in MessagePack then.
    match msgpack::to_json(&msgpack::from_json(whole.text()), usize::MAX) {
        Ok(_) | Err(msgpack::Flaw::Number) => Ok(true),
        Err(flaw) => Err(format!("its MessagePack cannot be read: {flaw}")),
    }
}

fn same_string(text: &str) -> Result<(), String> {
    let mut written = Vec::new();
    write::string(&mut written, text);
    match check_value(&written).map(Raw::string) {
        Ok(Some(again)) if again == text => Ok(()),
        other => Err(format!("{text:?} is written and read as {other:?}")),
    }
}

/// A binary frame: what is taken is JSON, and the JSON comes back the same by way of MessagePack.
///
/// # Errors
///
/// What does not hold.
pub(crate) fn fuzz_msgpack(frame: &[u8]) -> Result<bool, String> {
    let Ok(json) = msgpack::to_json(frame, JSON_BYTES_MAX) else { return Ok(false) };
    // MessagePack has whole numbers of 64 bits without a sign, of which this door's JSON has half.
    match check_value(&json) {
        Ok(_) | Err(Flaw::IntegerTooLarge) => {}
        Err(Flaw::Malformed) => return Err(format!("no JSON: {}", String::from_utf8_lossy(&json))),
    }
    let Ok(text) = std::str::from_utf8(&json) else { return Err("no UTF-8".to_owned()) };
    match msgpack::to_json(&msgpack::from_json(text), usize::MAX) {
        Ok(again) if again == json => Ok(true),
        Ok(again) => Err(format!("{text} comes back as {}", String::from_utf8_lossy(&again))),
        Err(flaw) => Err(format!("{text} does not come back: {flaw}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    type Check = fn(&[u8]) -> Result<bool, String>;

    /// Target of `fuzz/`, and what it calls.
    const TARGETS: [(&str, Check); 2] =
        [("zaqar_json", fuzz_json), ("zaqar_msgpack", fuzz_msgpack)];

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder: PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", target].iter().collect();
        let inputs = std::fs::read_dir(folder).expect("the corpus is committed");
        inputs.map(|input| std::fs::read(input.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn the_corpus_of_every_target_holds_and_has_inputs_that_are_taken() {
        for (target, check) in TARGETS {
            let taken = corpus(target).iter().filter(|input| check(input).unwrap()).count();

            assert!(taken > 3, "{target}");
        }
    }

    /// Flips, cuts and repeats what is known to be taken: deeper than bytes that are all chance.
    #[test]
    fn changed_inputs_of_the_corpus_hold_as_well() {
        let mut random = testkit::random::Random::new(1);
        for (target, check) in TARGETS {
            for input in corpus(target) {
                for _ in 0..1000 {
                    check(&random.changed(&input)).unwrap();
                }
            }
        }
    }
}
