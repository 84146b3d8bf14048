//! Bodies of requests: refused by their length before they are read, read within a time, never kept beyond a bound.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, EXPECT, HeaderMap};

use crate::door::zaqar::json::{Raw, check};
use crate::door::zaqar::problem::Problem;

/// How much of a refused body is read and thrown away, so that the client reads the answer instead of a reset.
const DRAIN_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A body that nobody has read yet.
#[derive(Debug)]
pub(super) struct Unread {
    incoming: Incoming,
    /// What the client says that it sends. Without it, in HTTP's chunks, the body counts as absent, as in Zaqar.
    length: Option<u64>,
    timeout: Duration,
    /// The client waits to be told to send it (`Expect: 100-continue`).
    waits: bool,
}

/// A body that was read.
#[derive(Debug)]
pub(super) struct Body {
    bytes: Bytes,
    given: bool,
}

impl Unread {
    pub(super) fn new(incoming: Incoming, headers: &HeaderMap, timeout: Duration) -> Self {
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.trim().parse().ok());
        Self { incoming, length, timeout, waits: headers.contains_key(EXPECT) }
    }

    /// What the client says that it sends.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
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
        let Some(length) = self.length else {
            self.drain().await;
            return Ok(Body { bytes: Bytes::new(), given: false });
        };
        if length > u64::from(bytes_max) {
            self.drain().await;
            return Err(too_large());
        }
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, collect(&mut self.incoming)).await {
            Ok(Ok(bytes)) => Ok(Body { bytes, given: true }),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a request's body ended early");
                Err(Problem::body("Request body could not be read."))
            }
            Err(_) => Err(Problem::new(
                408,
                "Request Timeout",
                format!("The body did not come within {} seconds.", timeout.as_secs_f32()),
            )),
        }
    }

    /// Reads and throws away what the client is sending, up to a bound and within the time for bodies.
    pub(super) async fn drain(&mut self) {
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

/// All frames together; one frame alone is not copied. The length was checked, and hyper gives no more than that.
async fn collect(incoming: &mut Incoming) -> Result<Bytes, hyper::Error> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.is_empty() && all.is_empty() {
            first = data;
            continue;
        }
        all.extend_from_slice(&std::mem::take(&mut first));
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
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
