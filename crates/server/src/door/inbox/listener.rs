//! The inbox's listeners.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker::Broker;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service as HttpService, service_fn};
use tokio::net::TcpListener;

use super::sender::{Peer, Senders};
use super::service::{Counters, Kept, Service};
use crate::alarms::Alarms;
use crate::auth::Logins;
use crate::auth::jwt::{Jwt, JwtError};
use crate::auth::token_file::{TokenFile, TokenFileError};
use crate::config::{Inbox, TokenAccess};
use crate::http::answer::Answer;
use crate::http::{self, BodyMemory, Bounds, Connections, Secured};

/// Bytes of a request's head, and of a body's part that is read at once.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Headers of a request; clients send a dozen.
const HEADERS_MAX: usize = 64;

/// Why the inbox cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file of tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// JWTs cannot be checked.
    #[error(transparent)]
    Jwt(#[from] JwtError),
}

/// The inbox over HTTP. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Door {
    service: Arc<Service>,
    connections: Connections,
}

impl Door {
    /// An inbox of every tenant, for the users that `logins` knows; `jwts` says which JWTs are taken, if any.
    ///
    /// # Errors
    ///
    /// If the file of tokens or the keys of JWTs cannot be used.
    pub fn open(
        broker: Arc<Broker>,
        alarms: Arc<Alarms>,
        logins: Arc<Logins>,
        options: &Inbox,
        jwts: Option<&TokenAccess>,
        default_tenant: &str,
    ) -> Result<Self, OpenError> {
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
            jwt: jwts.map(Jwt::open).transpose()?,
            default_tenant: default_tenant.to_owned(),
        };
        let service = Service {
            broker,
            alarms,
            senders,
            routes: options.routes.clone(),
            payload_bytes_max: options.message_bytes_max,
            body_timeout: options.body_timeout,
            body_memory: BodyMemory::new(options.body_memory_max),
            counters: Counters::default(),
        };
        Ok(Self { service: Arc::new(service), connections: Connections::new("inbox", bounds) })
    }

    /// Serves a listener for ever; drop the future to stop accepting. May be called for several listeners.
    pub async fn serve(&self, listener: &TcpListener) -> Infallible {
        let door = self.clone();
        let plain = |address| http::Peer { address, is_secured: false, user: None };
        self.connections.serve(listener, |peer, _| door.of(plain(peer))).await
    }

    /// As [`Door::serve`], over TLS.
    pub(crate) async fn serve_tls(&self, listener: &TcpListener, secured: &Secured) -> Infallible {
        let door = self.clone();
        self.connections.serve_tls(listener, secured, move |peer, _| door.of(peer)).await
    }

    /// What answers the requests of one connection.
    fn of(
        &self,
        peer: http::Peer,
    ) -> impl HttpService<Request<Incoming>, Response = Answer, Error = Infallible, Future: Send>
    + Send
    + use<> {
        let service = Arc::clone(&self.service);
        let address = peer.address.ip().to_canonical();
        let peer = Peer { address, is_secured: peer.is_secured, user: peer.user };
        let both = Arc::new((peer, Kept::default()));
        service_fn(move |request| {
            let (service, both) = (Arc::clone(&service), Arc::clone(&both));
            async move {
                let (peer, kept) = &*both;
                Ok(service.answer(request, peer, kept).await)
            }
        })
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
