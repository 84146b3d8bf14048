//! The queue service over WebSocket: Zaqar's actions, and notifications as they come.
//!
//! | file | concept |
//! |---|---|
//! | `handshake` | from an HTTP request to a socket; from which pages, by `Origin` |
//! | `frames` | the socket: messages in, messages out, both bounded |
//! | `session` | one connection: its turns, the order of answers, its end |
//! | `login` | who a connection acts for |
//! | `envelope` | what surrounds requests and answers |
//! | `msgpack` | binary frames, as JSON and back |
//! | `action` | what can be asked, and the form that each request must have |
//! | `perform`, `show` | from actions to operations, and what they come to as bodies |
//! | `subscribe`, `pool` | the actions on subscriptions, and on pools and flavors |
//! | `push`, `attachment` | notifications of the queues that a connection subscribed to |

mod action;
mod attachment;
mod envelope;
mod frames;
mod handshake;
mod login;
pub(super) mod msgpack;
mod perform;
mod pool;
mod push;
mod session;
mod show;
mod subscribe;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use model::Timestamp;
use store::Watch;
use tokio::sync::watch;

use super::gate::Gate;
use super::operation::Operations;
use crate::listen::Slot;
use attachment::Attachments;
use handshake::{Origins, Refused};
use session::Session;

pub(super) use handshake::asks;

/// Bytes of a request beside what it posts: its headers and names.
const ENVELOPE_BYTES: usize = 64 * 1024;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    operations: Arc<Operations>,
    gate: Arc<Gate>,
    origins: Origins,
    attachments: Attachments,
    admin_mode: bool,
    /// The home document, as JSON.
    home: Bytes,
    message_bytes_max: usize,
    /// How long a peer may be silent before it is asked whether it is there.
    ping_interval: Duration,
    /// How long a peer may take nothing of what it is sent.
    write_timeout: Duration,
}

impl Shared {
    pub(super) fn new(
        operations: Arc<Operations>,
        gate: Arc<Gate>,
        admin_mode: bool,
        home: Bytes,
    ) -> Self {
        let limits = operations.limits();
        let largest = limits.max_messages_post_size.max(limits.max_queue_metadata);
        Self {
            origins: Origins::new(&limits.websocket_origins),
            attachments: Attachments::default(),
            admin_mode,
            home,
            message_bytes_max: usize::try_from(largest).unwrap_or(0) + ENVELOPE_BYTES,
            ping_interval: limits.websocket_ping,
            write_timeout: limits.idle_timeout,
            gate,
            operations,
        }
    }

    fn now(&self) -> Timestamp {
        self.operations.now()
    }

    fn watch(&self) -> &Watch {
        self.operations.watch()
    }
}

/// Answers a request that [`asks`] for a WebSocket; if it may have one, a task serves it, which keeps `slot`.
pub(super) fn upgrade(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
    peer: IpAddr,
    slot: Arc<Slot>,
    stopping: watch::Receiver<bool>,
) -> Response<Full<Bytes>> {
    let headers = match handshake::accept(&request, &shared.origins) {
        Ok(headers) => headers,
        Err(refused) => return refuse(refused),
    };
    let upgrading = hyper::upgrade::on(&mut request);
    let shared = Arc::clone(shared);
    drop(tokio::spawn(async move {
        match upgrading.await {
            Ok(upgraded) => {
                let session = Session::new(TokioIo::new(upgraded), shared, peer).await;
                session.run(stopping).await;
            }
            Err(error) => tracing::debug!(%error, %peer, "no WebSocket came of a request"),
        }
        drop(slot);
    }));
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend(headers.map(|(name, value)| (Some(name), value)));
    response
}

fn refuse(refused: Refused) -> Response<Full<Bytes>> {
    let problem =
        super::problem::Problem::new(refused.status(), refused.title(), refused.to_string());
    let mut response = Response::new(Full::new(problem.to_json().into()));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.extend(refused.header().map(|(name, value)| (Some(name), value)));
    response
}
