//! Bodies of requests, as Zaqar takes them: with a length, and JSON.

use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::HeaderMap;

use crate::door::zaqar::json::{Raw, check};
use crate::door::zaqar::problem::Problem;
use crate::http::{self, BodyError};

/// A body that nobody has read yet.
#[derive(Debug)]
pub(super) struct Unread(http::Unread);

/// A body that was read.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Bytes,
    given: bool,
}

impl Unread {
    pub(super) fn new(incoming: Incoming, headers: &HeaderMap, timeout: Duration) -> Self {
        Self(http::Unread::new(incoming, headers, timeout))
    }

    /// What the client says that it sends. Without it, in HTTP's chunks, the body counts as absent, as in Zaqar.
    pub(super) fn length(&self) -> Option<u64> {
        self.0.length()
    }

    /// Reads it all; `too_large` is the refusal for more than `bytes_max`.
    ///
    /// # Errors
    ///
    /// `too_large`, 408 if it does not come in time, 400 if it ends early.
    pub(super) async fn read(
        mut self,
        bytes_max: u32,
        too_large: impl FnOnce() -> Problem,
    ) -> Result<Body, Problem> {
        if self.length().is_none() {
            self.drain().await;
            return Ok(Body { bytes: Bytes::new(), given: false });
        }
        let bytes = self.read_any(bytes_max.into(), too_large).await?;
        Ok(Body { bytes, given: true })
    }

    /// Reads it all, with a length or in HTTP's chunks, whatever it is.
    ///
    /// # Errors
    ///
    /// As [`Unread::read`].
    pub(super) async fn read_any(
        &mut self,
        bytes_max: u64,
        too_large: impl FnOnce() -> Problem,
    ) -> Result<Bytes, Problem> {
        match self.0.read(bytes_max).await {
            Ok(bytes) => Ok(bytes),
            Err(BodyError::TooLarge) => Err(too_large()),
            Err(BodyError::Broken) => Err(Problem::body("Request body could not be read.")),
            Err(BodyError::NoMemory) => Err(Problem::new(
                503,
                "Service temporarily unavailable",
                "Too many large bodies are being read. Please try again in a few seconds.",
            )),
            Err(BodyError::Late(timeout)) => Err(Problem::new(
                408,
                "Request Timeout",
                format!("The body did not come within {} seconds.", timeout.as_secs_f32()),
            )),
        }
    }

    /// Reads and throws away what the client is sending, up to a bound and within the time for bodies.
    pub(super) async fn drain(&mut self) {
        self.0.drain().await;
    }
}

impl Body {
    /// The document of a body that must be there.
    ///
    /// # Errors
    ///
    /// 400 if it is not there or no JSON document.
    pub(super) fn document(&self) -> Result<Raw<'_>, Problem> {
        if !self.given {
            return Err(Problem::body("Request body can not be empty"));
        }
        check(&self.bytes).map_err(Problem::unparsable)
    }

    /// The document of a body that may be left out.
    ///
    /// # Errors
    ///
    /// 400 if it is there and no JSON document.
    pub(super) fn optional_document(&self) -> Result<Option<Raw<'_>>, Problem> {
        if self.bytes.is_empty() { Ok(None) } else { self.document().map(Some) }
    }
}
