//! Bodies of requests: refused by their length before they are read, read within a time, never kept beyond a bound.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, EXPECT, HeaderMap};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much of a refused body is read and thrown away, so that the client reads the answer instead of a reset.
const DRAIN_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Bytes of each body that [`BodyMemory`] does not count: every connection has such a buffer in any case, and small bodies
/// must come through while large ones take all there is.
const UNCOUNTED_BYTES: u64 = 64 * 1024;

/// Memory for all bodies of a door that are being read or worked on. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct BodyMemory(Arc<Semaphore>);

impl BodyMemory {
    /// So many bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self(Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS))))
    }

    fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.0).try_acquire_many_owned(bytes).ok()
    }
}

/// What a body has of a memory, until it is dropped.
#[derive(Debug)]
struct Share {
    memory: BodyMemory,
    reserved: Option<OwnedSemaphorePermit>,
}

/// A body that nobody has read yet.
#[derive(Debug)]
pub(crate) struct Unread {
    incoming: Incoming,
    /// Boxed: every request of every door has room for it, and most have none.
    share: Option<Box<Share>>,
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
    /// There is no memory for it while so many others are being read.
    NoMemory,
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
        let waits = headers.contains_key(EXPECT);
        Self { incoming, share: None, length, timeout, waits }
    }

    /// The same, in a memory that it shares. What it takes of it is counted as it comes, never as it is announced, and
    /// is free again when this is dropped.
    pub(crate) fn within(mut self, memory: &BodyMemory) -> Self {
        self.share = Some(Box::new(Share { memory: memory.clone(), reserved: None }));
        self
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
        let collected = match tokio::time::timeout(timeout, self.collect(bytes_max)).await {
            Ok(collected) => collected,
            Err(_) => Err(BodyError::Late(timeout)),
        };
        if collected.is_err()
            && let Some(share) = &mut self.share
        {
            share.reserved = None;
        }
        if let Err(BodyError::TooLarge | BodyError::NoMemory) = collected {
            self.drain().await;
        }
        collected
    }

    /// All frames together, until they are too much; one frame alone is not copied.
    async fn collect(&mut self, bytes_max: u64) -> Result<Bytes, BodyError> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|error| {
                tracing::debug!(%error, "a request's body ended early");
                BodyError::Broken
            })?;
            let Ok(data) = frame.into_data() else { continue };
            let bytes = (first.len() + all.len() + data.len()) as u64;
            if bytes > bytes_max {
                return Err(BodyError::TooLarge);
            }
            self.reserve(bytes)?;
            if first.is_empty() && all.is_empty() {
                first = data;
                continue;
            }
            all.extend_from_slice(&std::mem::take(&mut first));
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// Has memory for so many bytes in all.
    fn reserve(&mut self, bytes: u64) -> Result<(), BodyError> {
        let Some(share) = &mut self.share else { return Ok(()) };
        let has = share.reserved.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wants = bytes.saturating_sub(UNCOUNTED_BYTES).saturating_sub(has as u64);
        if wants == 0 {
            return Ok(());
        }
        let more = share.memory.take(wants).ok_or(BodyError::NoMemory)?;
        match &mut share.reserved {
            Some(reserved) => reserved.merge(more),
            None => share.reserved = Some(more),
        }
        Ok(())
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
