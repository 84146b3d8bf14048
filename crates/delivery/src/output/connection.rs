//! Connections: TCP and TLS to an address that was judged, kept for the next request to the same place.
//!
//! A connection that is kept is found by its address, not by its name: a name that points elsewhere by now does not find
//! it, and an address that may no longer be called is not asked for.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::client::WantsClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::guard::Destination;

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Longest time until one address accepts a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection is kept without a request: shorter than what servers usually wait.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// Connections kept to one place.
const IDLE_PER_PLACE_MAX: usize = 8;

/// Connections kept to all places: as many as attempts run at once by default, some 20 KiB each, for 20 s.
const IDLE_TOTAL_MAX: usize = 1024;

/// A connection on which requests can be made.
pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// Where a connection goes: address, name, and whether it is TLS.
type Place = (SocketAddr, String, bool);

/// TLS as a client.
#[derive(Clone)]
pub struct Tls {
    /// Made when it is needed first: the system's authorities take some megabytes, and most servers never call out.
    connector: Arc<OnceLock<TlsConnector>>,
    protocol: Option<&'static [u8]>,
}

/// TLS cannot be used: the system's or the operator's authorities are unreadable.
#[derive(Debug, thiserror::Error)]
#[error("authorities for outgoing TLS cannot be used")]
pub struct TlsError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Tls {
    /// Trusts the authorities of a PEM file, or, without one, those of the system. `protocol` is what ALPN offers.
    ///
    /// # Errors
    ///
    /// [`TlsError`] if they cannot be read.
    pub fn new(ca: Option<&Path>, protocol: Option<&'static [u8]>) -> Result<Self, TlsError> {
        let tls = Self { connector: Arc::default(), protocol };
        if let Some(path) = ca {
            let roots = authorities(path)?;
            let connector =
                tls.connector_of(|builder| Ok(builder.with_root_certificates(roots)))?;
            drop(tls.connector.set(connector));
        }
        Ok(tls)
    }

    fn connector(&self) -> Result<&TlsConnector, TlsError> {
        if let Some(connector) = self.connector.get() {
            return Ok(connector);
        }
        let connector = self.connector_of(BuilderVerifierExt::with_platform_verifier)?;
        Ok(self.connector.get_or_init(|| connector))
    }

    fn connector_of(
        &self,
        verifier: impl FnOnce(
            ConfigBuilder<ClientConfig, WantsVerifier>,
        )
            -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error>,
    ) -> Result<TlsConnector, TlsError> {
        let wrong = |error: rustls::Error| TlsError(Box::new(error));
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let mut config = verifier(builder).map_err(wrong)?.with_no_client_auth();
        config.alpn_protocols = self.protocol.into_iter().map(<[u8]>::to_vec).collect();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// Makes a stream a TLS one; the certificate must be the name's.
    ///
    /// # Errors
    ///
    /// If the certificate is not good or the peer does not speak TLS.
    pub(crate) async fn wrap(
        &self,
        name: &str,
        stream: TcpStream,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let connector = self.connector().map_err(io::Error::other)?;
        connector.connect(name, stream).await
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| TlsError(Box::new(error)))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| TlsError(Box::new(error)))?;
        store.add(certificate).map_err(|error| TlsError(Box::new(error)))?;
    }
    if store.is_empty() {
        return Err(TlsError(format!("no certificate in {}", path.display()).into()));
    }
    Ok(store)
}

/// The first of some addresses that accepts a connection.
///
/// # Errors
///
/// What the last one said.
pub(crate) async fn connect(addresses: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok((stream, *address));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Connections that wait for their next request.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    places: HashMap<Place, Vec<(Sender, Instant)>>,
    count: usize,
}

impl Idle {
    /// A connection to one of the addresses, if one waits.
    pub(crate) fn take(
        &self,
        addresses: &[SocketAddr],
        destination: &Destination,
    ) -> Option<(Sender, SocketAddr)> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let Kept { places, count } = &mut *kept;
        for address in addresses {
            let place = (*address, destination.host(), destination.is_tls());
            let Some(senders) = places.get_mut(&place) else { continue };
            while let Some((sender, since)) = senders.pop() {
                *count -= 1;
                if since.elapsed() < IDLE_MAX && sender.is_ready() {
                    return Some((sender, *address));
                }
            }
            places.remove(&place);
        }
        None
    }

    /// Keeps a connection for the next request, unless enough are kept.
    pub(crate) fn keep(&self, sender: Sender, address: SocketAddr, destination: &Destination) {
        if sender.is_closed() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.count >= IDLE_TOTAL_MAX {
            kept.drop_old();
        }
        if kept.count >= IDLE_TOTAL_MAX {
            return;
        }
        let place = (address, destination.host(), destination.is_tls());
        let senders = kept.places.entry(place).or_default();
        if senders.len() < IDLE_PER_PLACE_MAX {
            senders.push((sender, Instant::now()));
            kept.count += 1;
        }
    }

    /// Closes what nobody used for a while.
    pub(crate) fn drop_old(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).drop_old();
    }
}

impl Kept {
    fn drop_old(&mut self) {
        self.places.retain(|_, senders| {
            senders.retain(|(sender, since)| since.elapsed() < IDLE_MAX && !sender.is_closed());
            !senders.is_empty()
        });
        self.count = self.places.values().map(Vec::len).sum();
    }
}

/// A new connection to one of the addresses.
///
/// # Errors
///
/// If none accepts, the certificate is not good, or the peer does not speak HTTP.
pub(crate) async fn open(
    addresses: &[SocketAddr],
    destination: &Destination,
    tls: &Tls,
) -> io::Result<(Sender, SocketAddr)> {
    let (stream, address) = connect(addresses).await?;
    let sender = if destination.is_tls() {
        handshake(tls.wrap(&destination.host(), stream).await?).await
    } else {
        handshake(stream).await
    };
    Ok((sender.map_err(io::Error::other)?, address))
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> hyper::Result<Sender> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await?;
    // Ends with its sender: nothing else keeps it.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "connection to a webhook ended");
        }
    });
    Ok(sender)
}
