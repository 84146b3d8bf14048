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

use rustix::fs::{
    FallocateFlags, FlockOperation, FsWord, OFlags, SeekFrom, fallocate, fcntl_getfl, fcntl_setfl,
    fdatasync, flock, fstatfs, seek,
};

/// ext4, XFS and tmpfs: where the kernel looks for data in its page cache too when it is asked for the next one.
///
/// Elsewhere, as on ZFS before 2.2.2, what was written a moment ago could be taken for a hole.
const TELL_HOLES: [FsWord; 3] = [0xEF53, 0x5846_5342, 0x0102_1994];

/// What is written past the page cache begins and ends at multiples of this, and so should what is written through it: of a
/// block that is written in part the kernel first reads the rest.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// A disk takes zeros from where they are, which must be the beginning of a block, too.
#[repr(align(4096))]
struct Zeros([u8; 256 * 1024]);

static ZEROS: Zeros = Zeros([0; 256 * 1024]);

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

    /// Has everybody's writes to this open file go past the page cache from now on, or through it again. Where that is
    /// possible at all, some file systems fail such writes all the same.
    ///
    /// # Errors
    ///
    /// As the operating system says; [`io::ErrorKind::Unsupported`] where there is no page cache.
    fn set_direct(&self, _is_direct: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Length in bytes.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn size(&self) -> io::Result<u64>;

    /// Where that which may have been written ends: what follows was only allocated, and reads as zero. The length, where
    /// the file system does not tell.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn written_to(&self) -> io::Result<u64> {
        self.size()
    }
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

/// Writes zeros from one offset to another, so that later syncs need not allocate. Nobody else may write to the file
/// meanwhile.
///
/// They go past the page cache where they can: filling it would cost as much as all that is written there later.
///
/// # Errors
///
/// The first real failure.
pub(crate) fn write_zeros(file: &dyn VfsFile, from: u64, to: u64) -> io::Result<()> {
    let is_whole = [from, to].iter().all(|place| place.is_multiple_of(BLOCK_BYTES as u64));
    if !is_whole || file.set_direct(true).is_err() {
        return write_zero_pieces(file, from, to);
    }
    let written = write_zero_pieces(file, from, to);
    file.set_direct(false)?;
    // A file system that has no such way says so late, and in its own words. A real failure comes again.
    written.or_else(|_| write_zero_pieces(file, from, to))
}

fn write_zero_pieces(file: &dyn VfsFile, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let piece = usize::try_from(to - from).unwrap_or(usize::MAX).min(ZEROS.0.len());
        write_all_at(file, from, ZEROS.0.get(..piece).unwrap_or_default())?;
        from += piece as u64;
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
    tells_holes: bool,
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
        let directory = File::open(path)?;
        let tells_holes = TELL_HOLES.contains(&fstatfs(&directory)?.f_type);
        Ok(Self { path: path.to_owned(), directory, tells_holes })
    }

    fn file(&self, file: File) -> Arc<dyn VfsFile> {
        Arc::new(OsFile { file, tells_holes: self.tells_holes })
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
        Ok(self.file(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VfsFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(self.file(file))
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
struct OsFile {
    file: File,
    tells_holes: bool,
}

impl VfsFile for OsFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(into, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(fdatasync(&self.file)?)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // File systems without it take the space when they are written.
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(bytes),
            other => Ok(other?),
        }
    }

    fn set_direct(&self, is_direct: bool) -> io::Result<()> {
        let mut flags = fcntl_getfl(&self.file)?;
        flags.set(OFlags::DIRECT, is_direct);
        Ok(fcntl_setfl(&self.file, flags)?)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn written_to(&self) -> io::Result<u64> {
        let size = self.size()?;
        if !self.tells_holes {
            return Ok(size);
        }
        // The file's own position, which this moves, is used by nobody.
        let mut end = 0;
        while end < size {
            match seek(&self.file, SeekFrom::Data(end)) {
                Ok(data) => end = seek(&self.file, SeekFrom::Hole(data))?,
                Err(rustix::io::Errno::NXIO) => return Ok(end),
                Err(_) => return Ok(size),
            }
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_never_taken_for_a_hole() {
        let folder = tempfile::tempdir().unwrap();
        let vfs = OsVfs::new(folder.path()).unwrap();
        let file = vfs.create("one").unwrap();
        file.allocate(4 << 20).unwrap();
        let places: [u64; 3] = [0, 1_000_000, 3_000_000];
        for place in places {
            write_all_at(file.as_ref(), place, b"something").unwrap();

            // In the page cache, and on the disk.
            assert!(file.written_to().unwrap() >= place + 9);
            file.sync_data().unwrap();
            assert!(file.written_to().unwrap() >= place + 9);
        }
        assert!(file.written_to().unwrap() <= file.size().unwrap());
    }

    #[test]
    fn zeros_replace_what_was_there_and_nothing_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let vfs = OsVfs::new(folder.path()).unwrap();
        let whole = (64 * 1024, 512 * 1024);
        let broken = (64 * 1024 + 1, 512 * 1024 - 1);
        for (from, to) in [whole, broken] {
            let file = vfs.create("one").unwrap();
            let mut expected = vec![b'x'; 1024 * 1024];
            write_all_at(file.as_ref(), 0, &expected).unwrap();

            write_zeros(file.as_ref(), from as u64, to as u64).unwrap();

            expected[from..to].fill(0);
            // Through the page cache again, and in parts of blocks.
            write_all_at(file.as_ref(), to as u64 - 100, b"something").unwrap();
            expected[to - 100..to - 91].copy_from_slice(b"something");
            let mut found = vec![b'?'; expected.len() + 1];
            let length = read_up_to(file.as_ref(), 0, &mut found).unwrap();
            assert!(found[..length] == expected, "zeros from {from} to {to}");
        }
    }
}
