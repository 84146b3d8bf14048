//! Every file operation of the driver, as one small trait, so that tests can fail, tear, reorder and cut any of them.
//!
//! A [`Vfs`] is one directory without subdirectories. Nothing is durable before [`VfsFile::sync_data`] (contents) or
//! [`Vfs::sync_dir`] (names) has succeeded.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, fdatasync, flock};

/// One directory of files.
pub trait Vfs: Send + Sync + Debug {
    /// Names of all files.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes an empty file, or empties the one of that name.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn VfsFile>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn VfsFile>>;

    /// Gives a file another name, replacing what had it.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; who has it open may still use it.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn sync_dir(&self) -> io::Result<()>;

    /// Keeps every other process out of the directory until the guard is dropped.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if somebody else is in.
    fn lock(&self) -> io::Result<Box<dyn DirectoryGuard>>;
}

/// Holds a directory; see [`Vfs::lock`].
pub trait DirectoryGuard: Send + Sync + Debug {}

/// One open file.
pub trait VfsFile: Send + Sync + Debug {
    /// Writes at an offset; may write less than asked.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Reads from an offset; 0 at the end of the file.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Makes contents and length durable. After a failure nothing more may be concluded about the file.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn sync_data(&self) -> io::Result<()>;

    /// Reserves space for the first `bytes` bytes, which read as zero where nothing was written.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn size(&self) -> io::Result<u64>;
}

/// Writes everything, going on after a short or interrupted write.
///
/// # Errors
///
/// The first real failure; what was written before it is written.
pub fn write_all_at(file: &dyn VfsFile, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                bytes = bytes.get(written..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills `into` as far as the file goes; returns how many bytes there were.
///
/// # Errors
///
/// The first real failure.
pub fn read_up_to(file: &dyn VfsFile, mut offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..)
        && !rest.is_empty()
    {
        match file.read_at(offset, rest) {
            Ok(0) => break,
            Ok(read) => {
                filled += read;
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A directory of the operating system.
#[derive(Debug)]
pub struct OsVfs {
    path: PathBuf,
    directory: File,
}

impl OsVfs {
    /// Name of the file that [`Vfs::lock`] locks.
    pub const LOCK_NAME: &'static str = "lock";

    /// The directory at `path`, made if it is not there.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    pub fn new(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Self::existing(path)
    }

    /// The directory at `path`, which must be there.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    pub fn existing(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), directory: File::open(path)? })
    }
}

impl Vfs for OsVfs {
    fn list(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path)?;
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn VfsFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(OsFile(options.open(self.path.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VfsFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn DirectoryGuard>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(self.path.join(Self::LOCK_NAME))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(OsLock { _held: file }))
    }
}

/// The lock lives as long as the open file, also when the process is killed.
#[derive(Debug)]
struct OsLock {
    _held: File,
}

impl DirectoryGuard for OsLock {}

#[derive(Debug)]
struct OsFile(File);

impl VfsFile for OsFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(into, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(fdatasync(&self.0)?)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            // File systems without it take the space when they are written.
            Err(rustix::io::Errno::OPNOTSUPP) => self.0.set_len(bytes),
            other => Ok(other?),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
