//! A small file system of its own: an ext4 image behind a loop device, which can be cut off or filled up.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// `EXT4_IOC_SHUTDOWN` = `XFS_IOC_GOINGDOWN`, with the flag that says: do not write the journal out first.
///
/// The page cache of the file system is as good as gone afterwards, what was synced is there: a power cut. Called by way
/// of Python because the workspace forbids `unsafe` and a request as raw as this has no safe wrapper.
const CUT: &str = "import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))";

/// An image that is mounted.
#[derive(Debug)]
pub(crate) struct Volume {
    image: PathBuf,
    mount: PathBuf,
    is_mounted: bool,
}

impl Volume {
    /// Makes an image of so many MiB and mounts it.
    ///
    /// # Errors
    ///
    /// If this machine does not allow it: no rights, no loop devices, no `mkfs.ext4`. The error says which.
    pub(crate) fn create(folder: &Path, mib: u64) -> anyhow::Result<Self> {
        let (image, mount) = (folder.join("volume.img"), folder.join("volume"));
        std::fs::create_dir_all(&mount)?;
        let file = std::fs::File::create(&image)?;
        file.set_len(mib << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        let mut volume = Self { image, mount, is_mounted: false };
        volume.mount()?;
        Ok(volume)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts the image; its journal is replayed.
    ///
    /// # Errors
    ///
    /// If the mount fails.
    pub(crate) fn mount(&mut self) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))?;
        self.is_mounted = true;
        Ok(())
    }

    /// Cuts the power of the disk: nothing that is not synced will be there after the next mount.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub(crate) fn cut(&self) -> anyhow::Result<()> {
        run(Command::new("python3").args(["-c", CUT]).arg(&self.mount))
    }

    /// Unmounts.
    ///
    /// # Errors
    ///
    /// If somebody still uses it.
    pub(crate) fn unmount(&mut self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(&self.mount))?;
        self.is_mounted = false;
        Ok(())
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    ///
    /// If `df` cannot be asked.
    pub(crate) fn free(&self) -> anyhow::Result<u64> {
        let output =
            Command::new("df").args(["-B1", "--output=avail"]).arg(&self.mount).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().nth(1).and_then(|line| line.trim().parse().ok()).context("df says nothing")
    }

    /// Takes space until so many bytes are left; others take some meanwhile, so it is tried with less and less.
    ///
    /// # Errors
    ///
    /// If no space can be taken.
    pub(crate) fn fill_up_to(&self, left: u64) -> anyhow::Result<()> {
        let mut last = None;
        for less in 0..64_u64 {
            let take = self.free()?.saturating_sub(left + (less << 16));
            ensure!(take > 0, "there is less free than {left} bytes already");
            let mut command = Command::new("fallocate");
            match run(command.args(["-l", &take.to_string()]).arg(self.ballast())) {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
            self.make_room()?;
        }
        Err(last.context("nothing was tried")?)
    }

    /// Gives the space back, if any was taken.
    ///
    /// # Errors
    ///
    /// If the file cannot be removed.
    pub(crate) fn make_room(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.is_mounted && self.unmount().is_err() {
            // A server that is still being killed holds it: the kernel unmounts when it is gone.
            drop(run(Command::new("umount").arg("--lazy").arg(&self.mount)));
        }
    }
}

/// Runs a command; its error output is the error.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("no `{shown}`"))?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
