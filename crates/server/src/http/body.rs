//! Bodies of requests: refused by their length before they are read, read within a time, never kept beyond a bound.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, EXPECT, HeaderMap};

/// How much of a refused body is read and thrown away, so that the client reads the answer instead of a reset.
const DRAIN_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A body that nobody has read yet.
#[derive(Debug)]
pub(crate) struct Unread {
    incoming: Incoming,
    length: Option<u64>,
    timeout: Duration,
    /// The client waits to be told to send it (`Expect: 100-continue`).
    waits: bool,
}

/// Why a body was not read.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// It has more bytes than it may. What came of it was thrown away.
    TooLarge,
    /// It did not come within this time.
    Late(Duration),
    /// It ended early, or is not what HTTP allows.
    Broken,
}

impl Unread {
    /// The body of a request with these headers; it may take `timeout` to come.
    pub(crate) fn new(incoming: Incoming, headers: &HeaderMap, timeout: Duration) -> Self {
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.trim().parse().ok());
        Self { incoming, length, timeout, waits: headers.contains_key(EXPECT) }
    }

    /// What the client says that it sends; `None` in HTTP's chunks, and where there is no body.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Reads it all, with or without a length.
    ///
    /// # Errors
    ///
    /// [`BodyError`].
    pub(crate) async fn read(&mut self, bytes_max: u64) -> Result<Bytes, BodyError> {
        if self.length.is_some_and(|length| length > bytes_max) {
            self.drain().await;
            return Err(BodyError::TooLarge);
        }
        let timeout = self.timeout;
        let collecting = collect(&mut self.incoming, bytes_max);
        match tokio::time::timeout(timeout, collecting).await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => {
                self.drain().await;
                Err(BodyError::TooLarge)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "a request's body ended early");
                Err(BodyError::Broken)
            }
            Err(_) => Err(BodyError::Late(timeout)),
        }
    }

    /// Reads and throws away what the client is sending, up to a bound and within the time for bodies.
    pub(crate) async fn drain(&mut self) {
        // Who waits is not asked to send what nobody wants.
        if self.waits || self.incoming.is_end_stream() {
            return;
        }
        let draining = async {
            let mut drained = 0_u64;
            while let Some(Ok(frame)) = self.incoming.frame().await {
                drained += frame.data_ref().map_or(0, |data| data.len() as u64);
                if drained > DRAIN_BYTES_MAX {
                    break;
                }
            }
        };
        // Over the bound or time the connection is closed by whoever serves it, as its body is not over.
        drop(tokio::time::timeout(self.timeout, draining).await);
    }
}

/// All frames together, or `None` as soon as they are too much; one frame alone is not copied.
async fn collect(incoming: &mut Incoming, bytes_max: u64) -> Result<Option<Bytes>, hyper::Error> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if (first.len() + all.len() + data.len()) as u64 > bytes_max {
            return Ok(None);
        }
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    Ok(Some(if all.is_empty() { first } else { all.freeze() }))
}
