//! Files with secrets: read only if nobody else can read them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Permission bits that a file with secrets must not have: writing by the group, anything by others. The group may read,
/// because that is how a service gets at a file of root's.
const FORBIDDEN_BITS: u32 = 0o027;

/// Why a file with a secret was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// It cannot be read.
    #[error("file {} cannot be read", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others could read or change it.
    #[error(
        "file {} has mode {mode:04o}, so that others can read or change it; do chmod 0600 {}",
        .path.display(),
        .path.display()
    )]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is larger than such a file can be.
    #[error("file {} must be at most {max} bytes", .path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The limit, in bytes.
        max: u64,
    },
}

/// Reads a file of at most `bytes_max` with a secret in it.
///
/// # Errors
///
/// Every [`SecretFileError`]. The mode is looked at on the open file, so that it is the one that is read.
pub fn read(path: &Path, bytes_max: u64) -> Result<String, SecretFileError> {
    let failed = |source| SecretFileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    check_mode(path, file.metadata().map_err(failed)?.mode())?;
    let mut text = String::new();
    file.take(bytes_max + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > bytes_max {
        return Err(SecretFileError::TooLarge { path: path.to_owned(), max: bytes_max });
    }
    Ok(text)
}

/// Whether a file with this mode may have a secret in it.
///
/// # Errors
///
/// [`SecretFileError::Open`].
pub fn check_mode(path: &Path, mode: u32) -> Result<(), SecretFileError> {
    let mode = mode & 0o7777;
    if mode & FORBIDDEN_BITS == 0 {
        return Ok(());
    }
    Err(SecretFileError::Open { path: path.to_owned(), mode })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_can_read_or_change_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "s").unwrap();

        for (mode, good) in [
            (0o600, true),
            (0o400, true),
            (0o640, true),
            (0o644, false),
            (0o660, false),
            (0o604, false),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let outcome = read(&path, 10);
            assert_eq!(outcome.is_ok(), good, "{mode:o}: {outcome:?}");
        }
    }

    #[test]
    fn a_file_too_large_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "12345").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();

        assert_eq!(read(&path, 5).unwrap(), "12345");
        assert!(matches!(read(&path, 4), Err(SecretFileError::TooLarge { max: 4, .. })));
    }
}
