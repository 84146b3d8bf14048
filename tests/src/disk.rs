//! A small disk of its own, which a test can fill up and empty again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tempfile::TempDir;

/// A file system in memory; it is gone with this value.
#[derive(Debug)]
pub struct SmallDisk {
    mount: TempDir,
}

impl SmallDisk {
    /// Mounts one of so many MiB. `None`, said on standard error, where this user may not mount.
    ///
    /// # Panics
    ///
    /// If there is no temporary directory.
    #[must_use]
    pub fn mount(mib: u32) -> Option<Self> {
        let mount = TempDir::new().expect("a temporary directory");
        let options = format!("size={mib}m");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "posthouse-test"]).arg(mount.path());
        let mounted = command.stdin(Stdio::null()).stderr(Stdio::null()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: a disk that can be filled needs the right to mount one");
            return None;
        }
        Some(Self { mount })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Takes all space that is left.
    ///
    /// # Panics
    ///
    /// If it cannot be taken.
    pub fn fill(&self) {
        let ballast = File::create(self.ballast()).expect("a file");
        let mut taken = 0;
        // Somebody else may take some in between.
        for _ in 0..1000 {
            let disk = statvfs(self.path()).expect("its figures");
            let free = disk.f_bavail * disk.f_frsize;
            if free == 0 {
                return;
            }
            if fallocate(&ballast, FallocateFlags::empty(), taken, free).is_ok() {
                taken += free;
            }
        }
        panic!("the disk cannot be filled");
    }

    /// Gives back what [`Self::fill`] took.
    ///
    /// # Panics
    ///
    /// If it took nothing.
    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("the file that fills it");
    }

    fn ballast(&self) -> PathBuf {
        self.mount.path().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has a file open keeps it until then.
        drop(Command::new("umount").arg("--lazy").arg(self.mount.path()).status());
    }
}
