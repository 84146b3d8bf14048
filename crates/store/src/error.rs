//! What can go wrong in a store, and whether trying again makes sense.

/// What a caller can do about a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store will not take this now (disk full, backend away); nothing has changed. Try again later.
    Unavailable,
    /// The store stopped for good after a failure that it must not survive (a failed sync). Restart the server.
    Poisoned,
    /// What the request names does not exist (queue, lease). Do not retry.
    NotFound,
    /// Stored bytes do not match their checksum. The record is quarantined; do not retry.
    Damaged,
    /// The driver cannot do this at all. Do not retry.
    Unsupported,
}

/// Why a store refused or failed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct StoreError {
    /// What the caller can do.
    pub kind: ErrorKind,
    /// What happened, where, with names and limits.
    pub text: String,
    /// The cause below, if any.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// An error without a deeper cause.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), source: None }
    }

    /// An error caused by another.
    pub fn caused(
        kind: ErrorKind,
        text: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, text: text.into(), source: Some(source.into()) }
    }

    /// Whether the same call may succeed later without anybody's help.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.kind == ErrorKind::Unavailable
    }
}
