//! The queue service's listeners.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use tokio::net::TcpListener;

use super::service::Service;
use crate::door::zaqar::gate::Gate;
use crate::door::zaqar::operation::Operations;
use crate::door::zaqar::socket;
use crate::http::{Bounds, Connections};

/// Bytes of a request's head, and of a body's part that is read at once. A signed URL with all its paths is a few KiB.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Headers of a request; clients send a dozen.
const HEADERS_MAX: usize = 64;

/// The queue service over HTTP. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    service: Arc<Service>,
    sockets: Arc<socket::Shared>,
    connections: Connections,
}

impl Door {
    /// A door over these operations, guarded by `gate`.
    #[must_use]
    pub fn new(operations: Arc<Operations>, gate: Arc<Gate>, admin_mode: bool) -> Self {
        let limits = operations.limits();
        let bounds = Bounds {
            connections_max: limits.connections_max,
            idle_timeout: limits.idle_timeout,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            headers_max: HEADERS_MAX,
        };
        let service =
            Arc::new(Service::new(Arc::clone(&operations), Arc::clone(&gate), admin_mode));
        let home = service.documents().home_json();
        let sockets = Arc::new(socket::Shared::new(operations, gate, admin_mode, home));
        Self { service, sockets, connections: Connections::new("queues", bounds) }
    }

    /// Serves a listener for ever; drop the future to stop accepting. May be called for several listeners.
    pub async fn serve(&self, listener: &TcpListener) -> Infallible {
        self.connections
            .serve(listener, |peer, slot| {
                let door = self.clone();
                // An IPv4 address is one, also when it comes through a socket of both kinds.
                let peer = peer.ip().to_canonical();
                service_fn(move |request| {
                    let service = Arc::clone(&door.service);
                    // A WebSocket outlives the connection that it was, and keeps its place.
                    let upgraded = match socket::asks(&request) {
                        true => Err(socket::upgrade(
                            &door.sockets,
                            request,
                            peer,
                            Arc::clone(&slot),
                            door.connections.stopping(),
                        )),
                        false => Ok(request),
                    };
                    async move {
                        Ok::<_, Infallible>(match upgraded {
                            Ok(request) => service.answer(request, peer).await,
                            Err(response) => response,
                        })
                    }
                })
            })
            .await
    }

    /// Asks connections to end after the request that they are at, and waits for them at most `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.connections.stop(patience).await;
    }
}
