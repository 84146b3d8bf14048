//! Standard output, and the end of whoever reads it.

use std::fmt;
use std::io::{self, StdoutLock, Write};

/// Whoever read our output has gone, as `head` does; nothing is wrong.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed by its reader")
    }
}

impl std::error::Error for ReaderGone {}

/// Writes to standard output and hands every line over at once.
#[derive(Debug)]
pub(crate) struct Printer {
    out: StdoutLock<'static>,
}

impl Printer {
    pub(crate) fn new() -> Self {
        Self { out: io::stdout().lock() }
    }

    /// Writes a line and hands it over.
    ///
    /// # Errors
    ///
    /// [`ReaderGone`], or what the system says.
    pub(crate) fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.write(line.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes bytes as they are and hands them over.
    ///
    /// # Errors
    ///
    /// As [`Printer::line`].
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.write(bytes)?;
        self.out.flush().map_err(explain)
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.out.write_all(bytes).map_err(explain)
    }
}

fn explain(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => anyhow::Error::new(ReaderGone),
        _ => anyhow::Error::new(error).context("standard output cannot be written"),
    }
}
