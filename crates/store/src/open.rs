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

/// Opens the store at a location: `memory:`, or the path of a data directory from the root on, with or without `file:`
/// before it.
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
    if !Path::new(path).is_absolute() {
        let what = match path.split_once(':') {
            Some((scheme, _)) => format!("there is no store for `{scheme}`"),
            None => format!("`{path}` is no path from the root on"),
        };
        let text = format!("{what}; use the whole path of a data directory, or `memory:`");
        return Err(StoreError::new(ErrorKind::Unsupported, text));
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
        for (location, named) in [
            ("postgres://localhost/x", "`postgres`"),
            ("localhost:27017", "`localhost`"),
            ("file:relative", "`relative`"),
            ("relative", "`relative`"),
            ("", "``"),
        ] {
            let refused = open(location, Options::default()).expect_err("not yet");

            assert_eq!(refused.kind, ErrorKind::Unsupported);
            assert!(refused.text.contains(named), "{refused}");
        }
    }

    #[test]
    fn memory_and_directories_are_opened() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = format!("file:{}", directory.path().display());

        assert!(open("memory:", Options::default()).expect("opened").embedded.is_none());
        assert!(open(&path, Options::default()).expect("opened").embedded.is_some());
    }
}
