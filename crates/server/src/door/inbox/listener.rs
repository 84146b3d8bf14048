//! The inbox's listeners.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker::Broker;
use hyper::service::service_fn;
use tokio::net::TcpListener;

use super::sender::Senders;
use super::service::{Counters, Kept, Service};
use crate::alarms::Alarms;
use crate::auth::Logins;
use crate::auth::token_file::{TokenFile, TokenFileError};
use crate::config::Inbox;
use crate::http::{Bounds, Connections};

/// Bytes of a request's head, and of a body's part that is read at once.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Headers of a request; clients send a dozen.
const HEADERS_MAX: usize = 64;

/// The inbox over HTTP. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    service: Arc<Service>,
    connections: Connections,
}

impl Door {
    /// An inbox of every tenant, for the users that `logins` knows.
    ///
    /// # Errors
    ///
    /// If the file of tokens cannot be used.
    pub fn open(
        broker: Arc<Broker>,
        alarms: Arc<Alarms>,
        logins: Arc<Logins>,
        options: &Inbox,
        default_tenant: &str,
    ) -> Result<Self, TokenFileError> {
        let bounds = Bounds {
            connections_max: options.connections_max,
            idle_timeout: options.idle_timeout,
            buffer_bytes_max: BUFFER_BYTES_MAX,
            headers_max: HEADERS_MAX,
        };
        let senders = Senders {
            broker: Arc::clone(&broker),
            logins,
            tokens: options.tokens.as_deref().map(Path::new).map(TokenFile::open).transpose()?,
            default_tenant: default_tenant.to_owned(),
        };
        let service = Service {
            broker,
            alarms,
            senders,
            routes: options.routes.clone(),
            payload_bytes_max: options.message_bytes_max,
            body_timeout: options.body_timeout,
            counters: Counters::default(),
        };
        Ok(Self { service: Arc::new(service), connections: Connections::new("inbox", bounds) })
    }

    /// Serves a listener for ever; drop the future to stop accepting. May be called for several listeners.
    pub async fn serve(&self, listener: &TcpListener) -> Infallible {
        self.connections
            .serve(listener, |peer, _| {
                let service = Arc::clone(&self.service);
                let (peer, kept) = (peer.ip().to_canonical(), Arc::new(Kept::default()));
                service_fn(move |request| {
                    let (service, kept) = (Arc::clone(&service), Arc::clone(&kept));
                    async move { Ok::<_, Infallible>(service.answer(request, peer, &kept).await) }
                })
            })
            .await
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.service.counters
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.open()
    }

    /// Asks connections to end after the request that they are at, and waits for them at most `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.connections.stop(patience).await;
    }
}
