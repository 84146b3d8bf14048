//! Connections that are kept, and how many there may be.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

use crate::transport::SendError;
use crate::transport::stream::Peer;

/// Requests at once to one far end.
pub(super) const CONNECTIONS_MAX: usize = 16;

/// Bytes of an answer that are read; a longer one costs its connection.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an answer that go into an error.
const EXCERPT_BYTES_MAX: usize = 300;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection is trusted; servers close theirs after some time.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// The connections to one far end.
pub(super) struct Connections {
    peer: Peer,
    idle: Mutex<Vec<(SendRequest<Full<Bytes>>, Instant)>>,
    slots: Semaphore,
}

impl Connections {
    pub(super) fn new(peer: Peer) -> Self {
        Self { peer, idle: Mutex::default(), slots: Semaphore::new(CONNECTIONS_MAX) }
    }

    /// Sends a request; returns the answer's status and headers and the beginning of its body.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, HeaderMap, String), SendError> {
        let unavailable =
            |what: String| SendError::Unavailable(format!("{}: {what}", self.peer.place()));
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(|_| unavailable("no more connections".to_owned()))?;
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => self.connect().await.map_err(unavailable)?,
        };
        // Whether it arrived is not known, so it counts as an attempt: it may be what the far end does not survive.
        let lost = |error: &dyn std::fmt::Display| {
            SendError::Retry(format!("{}: connection lost: {error}", self.peer.place()))
        };
        let response = connection.send_request(request).await.map_err(|error| lost(&error))?;
        let (status, headers, text, is_whole) = read(response).await;
        if is_whole {
            self.idle().push((connection, Instant::now()));
        }
        Ok((status, headers, text))
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle();
        idle.retain(|(connection, since)| connection.is_ready() && since.elapsed() < IDLE_MAX);
        idle.pop().map(|(connection, _)| connection)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, self.peer.connect()).await {
            Ok(stream) => stream.map_err(|error| format!("cannot connect: {error}"))?,
            Err(_) => return Err(format!("no answer within {CONNECT_TIMEOUT:?}")),
        };
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // It ends when the far end closes or when its sender is dropped.
        drop(tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection over HTTP ended");
            }
        }));
        Ok(sender)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(SendRequest<Full<Bytes>>, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Status, headers, the beginning of the body, and whether all of it was read.
async fn read(response: Response<hyper::body::Incoming>) -> (StatusCode, HeaderMap, String, bool) {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let (bytes, is_whole) = match body {
        Ok(body) => (body.to_bytes(), true),
        Err(_) => (Bytes::new(), false),
    };
    let excerpt = bytes.get(..bytes.len().min(EXCERPT_BYTES_MAX)).unwrap_or_default();
    let text = String::from_utf8_lossy(excerpt).into_owned();
    (head.status, head.headers, text, is_whole)
}
