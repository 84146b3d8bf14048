//! Accepts connections, starts their tasks, and stops them at the end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::{Broker, Outbox};
use posthouse_amqp::{Capabilities, ServerOptions, Table, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::alarms::Alarms;
use crate::auth::Logins;
use crate::config::{ClientVerify, Config, ExternalLogin};
use crate::door::amqp::handshake::{self, Peer};
use crate::door::amqp::session::{End, Session};
use crate::listen::{Slots, accept_each};
use crate::tls::{Acceptor, certificate_user};
use crate::vigil::Vigil;

/// Most publishes that one transaction gathers before its commit.
const TRANSACTION_MESSAGES_MAX: usize = 100_000;

/// What a session shares with all others of the door.
#[derive(Debug)]
pub struct Shared {
    pub(crate) broker: Arc<Broker>,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) logins: Arc<Logins>,
    pub(crate) options: Arc<ServerOptions>,
    pub(crate) options_tls: Arc<ServerOptions>,
    pub(crate) limits: Limits,
    external_login: ExternalLogin,
    /// Told of every turn that moved something.
    pub(crate) vigil: Vigil,
    stopping: AtomicBool,
    /// Moves when every session has to look at something: the end of the server, a change of permissions.
    news: AtomicU64,
    sessions: Mutex<HashMap<u64, Arc<Outbox>>>,
}

/// What one connection may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Consumers per channel.
    pub(crate) consumers_per_channel: usize,
    /// Publishes that a transaction gathers.
    pub(crate) transaction_messages: usize,
    /// Deliveries of a channel that wait for their acknowledgement.
    pub(crate) unacked_per_channel: usize,
    /// How long a delivery may stay unsettled where nothing else is said.
    pub(crate) consumer_timeout: Option<Duration>,
}

/// The door.
#[derive(Debug, Clone)]
pub struct Door {
    shared: Arc<Shared>,
    slots: Slots,
}

impl Door {
    /// A door to `broker`.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        alarms: Arc<Alarms>,
        logins: Arc<Logins>,
        config: &Config,
    ) -> Self {
        let options = |mechanisms: &str| {
            Arc::new(ServerOptions {
                channel_max: config.amqp.channel_max,
                frame_max: config.amqp.frame_max,
                heartbeat_secs: u16::try_from(config.amqp.heartbeat.as_secs()).unwrap_or(u16::MAX),
                mechanisms: mechanisms.to_owned(),
                properties: introduction(&config.amqp.product, &config.amqp.version),
                message_bytes_max: config.amqp.message_bytes_max,
                handshake_deadline: config.amqp.handshake_timeout,
            })
        };
        let limits = Limits {
            consumers_per_channel: config.limits.consumers_per_channel_max,
            transaction_messages: TRANSACTION_MESSAGES_MAX,
            unacked_per_channel: config.limits.unacked_per_channel_max,
            consumer_timeout: config.limits.consumer_timeout,
        };
        let shared = Shared {
            broker,
            alarms,
            logins,
            options: options("PLAIN AMQPLAIN"),
            options_tls: options(match config.amqp.tls.verify {
                ClientVerify::None => "PLAIN AMQPLAIN",
                ClientVerify::Optional | ClientVerify::Required => "PLAIN AMQPLAIN EXTERNAL",
            }),
            limits,
            external_login: config.auth.external_login,
            stopping: AtomicBool::new(false),
            vigil: Vigil::new(config.busy_poll, config.processors_awake),
            news: AtomicU64::new(0),
            sessions: Mutex::default(),
        };
        Self { shared: Arc::new(shared), slots: Slots::new(config.amqp.connections_max) }
    }

    /// Serves clear-text connections for ever; drop the future to stop accepting.
    pub async fn serve(&self, listener: &TcpListener) {
        accept_each(listener, &self.slots, |stream, peer, slot| {
            let shared = Arc::clone(&self.shared);
            drop(tokio::spawn(async move {
                serve_stream(stream, Peer { address: peer, tls: false, certificate: None }, shared)
                    .await;
                drop(slot);
            }));
        })
        .await;
    }

    /// Serves TLS connections for ever; drop the future to stop accepting.
    pub async fn serve_tls(&self, listener: &TcpListener, acceptor: Arc<Acceptor>) {
        accept_each(listener, &self.slots, |stream, peer, slot| {
            let (shared, acceptor) = (Arc::clone(&self.shared), Arc::clone(&acceptor));
            drop(tokio::spawn(async move {
                serve_tls_stream(stream, peer, shared, &acceptor).await;
                drop(slot);
            }));
        })
        .await;
    }

    /// Stays awake while traffic is live; for ever.
    pub async fn keep_vigil(&self) {
        self.shared.vigil.keep().await;
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.slots.used()
    }

    /// Has every session look at its permissions again.
    pub fn permissions_changed(&self) {
        self.shared.logins.forget_all();
        self.shared.tell_all();
    }

    /// Closes all connections with 320 and waits until they are gone, at most `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.shared.stopping.store(true, Ordering::Release);
        let deadline = tokio::time::Instant::now() + patience;
        while self.slots.used() > 0 && tokio::time::Instant::now() < deadline {
            self.shared.tell_all();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Shared {
    /// Moves when a session has to look at something.
    pub(crate) fn news(&self) -> u64 {
        self.news.load(Ordering::Acquire)
    }

    /// Whether the server is about to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn tell_all(&self) {
        self.news.fetch_add(1, Ordering::AcqRel);
        for outbox in self.sessions.lock().unwrap_or_else(PoisonError::into_inner).values() {
            outbox.wake();
        }
    }

    fn enlist(&self, id: u64, outbox: Arc<Outbox>) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).insert(id, outbox);
    }

    fn strike(&self, id: u64) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

async fn serve_tls_stream(
    stream: TcpStream,
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: &Acceptor,
) {
    match acceptor.accept(stream).await {
        Ok(stream) => {
            let certificate = certificate_user(&stream, shared.external_login);
            serve_stream(stream, Peer { address, tls: true, certificate }, shared).await;
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::info!(peer = %address, "no TLS: {error:#}");
        }
    }
}

async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    peer: Peer,
    shared: Arc<Shared>,
) {
    let address = peer.address;
    // Boxed, so that the many states of a handshake are not kept for the life of the connection.
    let opened = match Box::pin(handshake::run(stream, peer, Arc::clone(&shared))).await {
        Ok(opened) => opened,
        Err(reason) => {
            tracing::info!(peer = %address, %reason, "connection ended before it was open");
            return;
        }
    };
    let session = Session::new(opened, Arc::clone(&shared));
    let id = session.access.connection().0;
    tracing::debug!(peer = %address, user = session.access.user_name(), "connection open");
    shared.enlist(id, Arc::clone(&session.outbox));
    let end = session.run().await;
    shared.strike(id);
    match end {
        End::Closed => tracing::debug!(peer = %address, "connection closed"),
        End::Io(error) => tracing::debug!(peer = %address, %error, "connection lost"),
        End::Failed(reason) => tracing::info!(peer = %address, %reason, "connection broken off"),
    }
}

/// How the server introduces itself. Only what is honoured is announced.
fn introduction(product: &str, version: &str) -> Table {
    Table::from_iter([
        ("product", Value::from(product)),
        ("version", Value::from(version)),
        ("platform", Value::from("Rust")),
        ("copyright", Value::from("The Posthouse authors")),
        ("information", Value::from("Licensed under Apache-2.0 or MIT")),
        ("cluster_name", Value::from("posthouse")),
        ("capabilities", Value::from(Capabilities::SERVER.to_table())),
    ])
}
