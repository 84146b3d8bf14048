//! The door for fuzzing: the reader as a function of bytes, and what must hold of it.
//!
//! The target of `cargo fuzz` includes this file; the tests replay its corpus.

use crate::Received;

/// A document that is taken is written so that it is read again as the same. False for what is no message.
///
/// # Errors
///
/// What does not hold.
pub(crate) fn fuzz_document(body: &[u8]) -> Result<bool, String> {
    let read = match Received::read(body) {
        Ok(read) => read,
        Err(problem) => {
            let said = problem.to_json();
            let is_json = serde_json::from_str::<serde_json::Value>(&said).is_ok();
            return if is_json { Ok(false) } else { Err(format!("no JSON: {said}")) };
        }
    };
    let written = read.to_json();
    let again =
        Received::read(written.as_bytes()).map_err(|error| format!("{written}: {error}"))?;
    let parts = |message: &Received| {
        let (source, topic) = (message.source.clone(), message.topic.clone());
        (message.id, source, topic, message.origin_create_time.clone(), message.payload.to_string())
    };
    match parts(&read) == parts(&again) {
        true => Ok(true),
        false => Err(format!("{written} is read as {again:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn corpus() -> Vec<Vec<u8>> {
        let folder = [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", "inbox_document"];
        let inputs = std::fs::read_dir(folder.iter().collect::<PathBuf>()).expect("the corpus");
        inputs.map(|input| std::fs::read(input.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn the_corpus_holds_and_has_inputs_that_are_taken() {
        let taken = corpus().iter().filter(|input| fuzz_document(input).unwrap()).count();

        assert!(taken > 4, "{taken}");
    }

    #[test]
    fn every_truncation_of_a_document_is_refused() {
        for input in corpus().iter().filter(|input| fuzz_document(input).unwrap()) {
            let length = input.trim_ascii_end().len();
            for cut in 0..length {
                assert_eq!(fuzz_document(&input[..cut]), Ok(false));
            }
        }
    }

    /// Flips, cuts and repeats what is known to be taken: deeper than bytes that are all chance.
    #[test]
    fn changed_inputs_of_the_corpus_hold_as_well() {
        let mut random = testkit::random::Random::new(1);
        for input in corpus() {
            for _ in 0..1000 {
                fuzz_document(&random.changed(&input)).unwrap();
            }
        }
    }
}
