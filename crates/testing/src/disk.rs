//! The real disk with a switch: cut off, nothing is written any more, and what was written stays as it is.
//!
//! That is what a killed process leaves: every write that it made, in the order in which it made them, and nothing of
//! what it still had in memory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use store::embedded::{DirectoryGuard, OsVfs, Vfs, VfsFile};

/// The switch; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Switch(Arc<AtomicBool>);

impl Switch {
    /// From now on every call fails.
    pub(crate) fn cut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the process was killed by its test")),
            false => Ok(()),
        }
    }
}

/// A folder behind a switch.
#[derive(Debug)]
pub(crate) struct CutDisk {
    pub(crate) folder: OsVfs,
    pub(crate) switch: Switch,
}

impl CutDisk {
    fn file(&self, file: Arc<dyn VfsFile>) -> Arc<dyn VfsFile> {
        Arc::new(CutFile { file, switch: self.switch.clone() })
    }
}

impl Vfs for CutDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.switch.check()?;
        self.folder.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn VfsFile>> {
        self.switch.check()?;
        Ok(self.file(self.folder.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VfsFile>> {
        self.switch.check()?;
        Ok(self.file(self.folder.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.switch.check()?;
        self.folder.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.switch.check()?;
        self.folder.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.switch.check()?;
        self.folder.sync_dir()
    }

    fn lock(&self) -> io::Result<Box<dyn DirectoryGuard>> {
        self.switch.check()?;
        self.folder.lock()
    }
}

#[derive(Debug)]
struct CutFile {
    file: Arc<dyn VfsFile>,
    switch: Switch,
}

impl VfsFile for CutFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.switch.check()?;
        self.file.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.switch.check()?;
        self.file.read_at(offset, into)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.switch.check()?;
        self.file.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.switch.check()?;
        self.file.allocate(bytes)
    }

    fn set_direct(&self, is_direct: bool) -> io::Result<()> {
        self.switch.check()?;
        self.file.set_direct(is_direct)
    }

    fn size(&self) -> io::Result<u64> {
        self.switch.check()?;
        self.file.size()
    }

    fn written_to(&self) -> io::Result<u64> {
        self.switch.check()?;
        self.file.written_to()
    }
}
