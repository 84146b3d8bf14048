//! From a location to a driver: the only place that knows all drivers.

use std::path::Path;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::embedded::{Embedded, Options};
use crate::error::{ErrorKind, StoreError};
use crate::memory::Memory;
use crate::pool::Pool;

/// A store that was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Messages and leases.
    pub pool: Arc<dyn Pool>,
    /// Definitions.
    pub catalog: Arc<dyn Catalog>,
    /// The driver, if it is the embedded one, for what only that one can tell.
    pub embedded: Option<Arc<Embedded>>,
}

/// Opens the store at a location: `memory:`, or the path of a data directory, with or without `file:` before it.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] for a location of another kind; otherwise as [`Embedded::open`].
pub fn open(location: &str, options: Options) -> Result<Opened, StoreError> {
    if location == "memory:" {
        let memory = Arc::new(Memory::new());
        return Ok(Opened { pool: Arc::clone(&memory) as _, catalog: memory, embedded: None });
    }
    let path = location.strip_prefix("file:").unwrap_or(location);
    if let Some((scheme, _)) = path.split_once("://") {
        return Err(StoreError::new(
            ErrorKind::Unsupported,
            format!("there is no store for `{scheme}`; use a data directory, or `memory:`"),
        ));
    }
    let embedded = Arc::new(Embedded::open(Path::new(path), options)?);
    Ok(Opened {
        pool: Arc::clone(&embedded) as _,
        catalog: Arc::clone(&embedded) as _,
        embedded: Some(embedded),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_of_an_unknown_kind_is_refused_in_words() {
        let refused = open("postgres://localhost/x", Options::default()).expect_err("not yet");

        assert_eq!(refused.kind, ErrorKind::Unsupported);
        assert!(refused.text.contains("`postgres`"), "{refused}");
    }

    #[test]
    fn memory_and_directories_are_opened() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = format!("file:{}", directory.path().display());

        assert!(open("memory:", Options::default()).expect("opened").embedded.is_none());
        assert!(open(&path, Options::default()).expect("opened").embedded.is_some());
    }
}
