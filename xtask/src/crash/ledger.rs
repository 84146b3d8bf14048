//! The append-only record of what was done and seen, one fact a line, kept outside of what the fault can reach.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

/// A file of facts. Removed by [`Ledger::forget`] when nothing was wrong.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    file: BufWriter<File>,
    began: Instant,
    failure: Option<std::io::Error>,
}

impl Ledger {
    /// Begins a new ledger.
    ///
    /// # Errors
    ///
    /// If the file cannot be made.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("ledger {}", path.display()))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { path: path.to_path_buf(), file, began: Instant::now(), failure: None })
    }

    /// Appends a fact, with the microseconds since the ledger began.
    pub(crate) fn note(&mut self, fact: impl Display) {
        let at = self.began.elapsed().as_micros();
        if let Err(error) = writeln!(self.file, "{at} {fact}") {
            self.failure.get_or_insert(error);
        }
    }

    /// Writes what is buffered and syncs it, before a fault.
    ///
    /// # Errors
    ///
    /// If any fact could not be written: then nothing can be concluded from the run.
    pub(crate) fn sync(&mut self) -> anyhow::Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(error).context("the ledger could not be written");
        }
        self.file.flush().context("the ledger could not be written")?;
        Ok(self.file.get_ref().sync_data()?)
    }

    /// Removes the file: the cycle it tells of was in order.
    ///
    /// # Errors
    ///
    /// If it cannot be removed.
    pub(crate) fn forget(self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(&self.path)?)
    }
}
