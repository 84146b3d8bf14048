//! Connections of an HTTP listener: accepted, bounded, served, ended.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Answer;
use super::patience::Patient;
use crate::config::ExternalLogin;
use crate::listen::{Slot, Slots, accept_each};
use crate::tls::{Acceptor, certificate_user};

/// What connections may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How many may be open over all listeners; further ones are closed at once.
    pub(crate) connections_max: usize,
    /// Between two requests, for a request's head, and for a client to take something of an answer.
    pub(crate) idle_timeout: Duration,
    /// Bytes of a request's head, and of a body's part that is read at once.
    pub(crate) buffer_bytes_max: usize,
    /// Headers of a request.
    pub(crate) headers_max: usize,
}

/// How connections of a listener are secured.
#[derive(Debug, Clone)]
pub(crate) struct Secured {
    pub(crate) acceptor: Arc<Acceptor>,
    /// What the user of a client's certificate is called.
    pub(crate) external_login: ExternalLogin,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) is_secured: bool,
    /// The user that its certificate stands for.
    pub(crate) user: Option<String>,
}

/// The connections of one service. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    /// Whose they are, for the log.
    name: &'static str,
    bounds: Bounds,
    slots: Slots,
    /// Says true when the server ends.
    stopping: watch::Sender<bool>,
}

impl Connections {
    /// None yet.
    pub(crate) fn new(name: &'static str, bounds: Bounds) -> Self {
        let slots = Slots::new(bounds.connections_max);
        Self { name, bounds, slots, stopping: watch::Sender::new(false) }
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.slots.used()
    }

    /// Becomes true when the server ends; for what outlives its request.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Serves a listener for ever; drop the future to stop accepting. May be called for several listeners.
    ///
    /// `each` makes the service of one connection from its peer and its place, which is free again when the connection
    /// is over and nobody else has it any more.
    pub(crate) async fn serve<S>(
        &self,
        listener: &TcpListener,
        mut each: impl FnMut(SocketAddr, Arc<Slot>) -> S,
    ) -> Infallible
    where
        S: Service<Request<Incoming>, Response = Answer, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        accept_each(listener, &self.slots, |stream, peer, slot| {
            let slot = Arc::new(slot);
            let service = each(peer, Arc::clone(&slot));
            drop(tokio::spawn(self.clone().serve_one(stream, peer, service, slot)));
        })
        .await
    }

    /// As [`Connections::serve`], over TLS.
    pub(crate) async fn serve_tls<S>(
        &self,
        listener: &TcpListener,
        secured: &Secured,
        each: impl Fn(Peer, Arc<Slot>) -> S + Clone + Send + 'static,
    ) -> Infallible
    where
        S: Service<Request<Incoming>, Response = Answer, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        accept_each(listener, &self.slots, |stream, address, slot| {
            let (connections, secured) = (self.clone(), secured.clone());
            let (each, slot) = (each.clone(), Arc::new(slot));
            drop(tokio::spawn(async move {
                let stream = match secured.acceptor.accept(stream).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        let error = anyhow::Error::new(error);
                        tracing::debug!(service = connections.name, peer = %address, "{error:#}");
                        return;
                    }
                };
                let user = certificate_user(&stream, secured.external_login);
                let service = each(Peer { address, is_secured: true, user }, Arc::clone(&slot));
                connections.serve_one(stream, address, service, slot).await;
            }));
        })
        .await
    }

    /// Asks connections to end after the request that they are at, and waits for them at most `patience`.
    pub(crate) async fn stop(&self, patience: Duration) {
        self.stopping.send_replace(true);
        let ended = async {
            while self.slots.used() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(patience, ended).await.is_err() {
            tracing::warn!(service = self.name, connections = self.open(), "connections were cut");
        }
    }

    async fn serve_one<I, S>(self, stream: I, peer: SocketAddr, service: S, slot: Arc<Slot>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Answer, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.bounds.idle_timeout)
            .max_buf_size(self.bounds.buffer_bytes_max)
            .max_headers(self.bounds.headers_max)
            .serve_connection(TokioIo::new(Patient::new(stream, self.bounds.idle_timeout)), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let mut stopping = self.stopping.subscribe();
        // The guard that waiting returns must not live while the connection ends.
        let stop = async { drop(stopping.wait_for(|stopping| *stopping).await) };
        let served = tokio::select! {
            biased;
            served = connection.as_mut() => served,
            () = stop => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(service = self.name, %error, %peer, "HTTP connection ended");
        }
        drop(slot);
    }
}
