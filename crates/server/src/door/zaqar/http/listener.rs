//! Connections of the queue service: accepted, bounded, served, ended.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::service::Service;
use crate::door::zaqar::gate::Gate;
use crate::door::zaqar::operation::Operations;
use crate::door::zaqar::socket;
use crate::listen::{Slot, Slots, accept_each};

/// Bytes of a request's head, and of a body's part that is read at once. A signed URL with all its paths is a few KiB.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Headers of a request; clients send a dozen.
const HEADERS_MAX: usize = 64;

/// The queue service over HTTP. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    service: Arc<Service>,
    sockets: Arc<socket::Shared>,
    slots: Slots,
    idle_timeout: Duration,
    /// Says true when the server ends.
    stopping: watch::Sender<bool>,
}

impl Door {
    /// A door over these operations, guarded by `gate`.
    #[must_use]
    pub fn new(operations: Arc<Operations>, gate: Arc<Gate>, admin_mode: bool) -> Self {
        let limits = operations.limits();
        let (slots, idle_timeout) = (Slots::new(limits.connections_max), limits.idle_timeout);
        let service =
            Arc::new(Service::new(Arc::clone(&operations), Arc::clone(&gate), admin_mode));
        let home = service.documents().home_json();
        let sockets = Arc::new(socket::Shared::new(operations, gate, admin_mode, home));
        Self { service, sockets, slots, idle_timeout, stopping: watch::Sender::new(false) }
    }

    /// Serves a listener for ever; drop the future to stop accepting. May be called for several listeners.
    pub async fn serve(&self, listener: &TcpListener) -> Infallible {
        accept_each(listener, &self.slots, |stream, peer, slot| {
            drop(tokio::spawn(self.clone().serve_connection(stream, peer, slot)));
        })
        .await
    }

    /// Asks connections to end after the request that they are at, and waits for them at most `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.stopping.send_replace(true);
        let ended = async {
            while self.slots.used() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(patience, ended).await.is_err() {
            tracing::warn!(
                connections = self.slots.used(),
                "connections of the queue service were cut"
            );
        }
    }

    async fn serve_connection(self, stream: TcpStream, peer: SocketAddr, slot: Slot) {
        let (service, peer) = (Arc::clone(&self.service), canonical(peer.ip()));
        // A WebSocket outlives the connection that it was, and keeps its place.
        let slot = Arc::new(slot);
        let (sockets, stop) = (&self.sockets, &self.stopping);
        let answering = service_fn(|request| {
            let service = Arc::clone(&service);
            let upgraded = match socket::asks(&request) {
                true => Err(socket::upgrade(
                    sockets,
                    request,
                    peer,
                    Arc::clone(&slot),
                    stop.subscribe(),
                )),
                false => Ok(request),
            };
            async move {
                Ok::<_, Infallible>(match upgraded {
                    Ok(request) => service.answer(request, peer).await,
                    Err(response) => response,
                })
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle_timeout)
            .max_buf_size(BUFFER_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .pipeline_flush(true)
            .serve_connection(TokioIo::new(stream), answering)
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
            tracing::debug!(%error, %peer, "connection of the queue service ended");
        }
    }
}

/// An IPv4 address is one, also when it comes through a socket of both kinds.
fn canonical(peer: IpAddr) -> IpAddr {
    peer.to_canonical()
}
