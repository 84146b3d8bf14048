//! What a command is given to send: a file or standard input, whole or line by line.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

use anyhow::Context;

/// Largest line or file: what a broker takes at most.
const BODY_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Opens a file, or standard input where there is none or it is called `-`.
///
/// # Errors
///
/// If the file cannot be read.
pub(crate) fn open(file: Option<&Path>) -> anyhow::Result<Box<dyn Read>> {
    match file.filter(|file| file.as_os_str() != "-") {
        Some(file) => {
            let opened = File::open(file)
                .with_context(|| format!("file {} cannot be read", file.display()))?;
            Ok(Box::new(opened))
        }
        None => Ok(Box::new(io::stdin())),
    }
}

/// All of it.
///
/// # Errors
///
/// If it cannot be read, or is too long.
pub(crate) fn whole(file: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    open(file)?.take(BODY_BYTES_MAX + 1).read_to_end(&mut body).context("body cannot be read")?;
    anyhow::ensure!(body.len() as u64 <= BODY_BYTES_MAX, "body must be at most 512 MiB");
    Ok(body)
}

/// A line without its end, `None` at the end of the input.
///
/// # Errors
///
/// If it cannot be read, or is too long.
pub(crate) fn next_line(input: &mut impl BufRead) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.take(BODY_BYTES_MAX + 2).read_until(b'\n', &mut line).context("line cannot be read")?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    anyhow::ensure!(line.len() as u64 <= BODY_BYTES_MAX, "a line must be at most 512 MiB");
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let mut input = &b"a\r\n\n b \nlast"[..];

        let lines: Vec<_> = std::iter::from_fn(|| next_line(&mut input).unwrap()).collect();

        assert_eq!(lines, [&b"a"[..], b"", b" b ", b"last"]);
    }
}
