//! The socket to a broker, with or without TLS.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use posthouse_amqp::Address;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A stream of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Nobody listens there, or the network is down. Trying again makes sense.
    #[error("cannot connect to {place}; is a broker running there?")]
    Connect {
        /// Host and port.
        place: String,
        /// What the system says.
        source: io::Error,
    },
    /// The TLS handshake failed: usually an authority that is not trusted.
    #[error("no TLS with {place}; are its authorities trusted?")]
    Handshake {
        /// Host and port.
        place: String,
        /// What the system or the TLS library says.
        source: io::Error,
    },
    /// The broker wants a certificate and got none, or does not take ours: its authority is another, it has expired. Do
    /// not try again with the same.
    #[error(
        "{place} does not take our TLS certificate, or misses one; see certfile and keyfile in the address"
    )]
    Certificate {
        /// Host and port.
        place: String,
        /// The broker's words.
        source: io::Error,
    },
    /// The host is not a name that a certificate could have.
    #[error("`{0}` is not a name that a certificate could have")]
    Name(String),
    /// A PEM file cannot be read.
    #[error("{path} cannot be used")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The TLS library refuses the configuration.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// A certificate needs its key, and a key its certificate.
    #[error("certfile and keyfile must be given together")]
    Halves,
}

/// Connects.
pub(crate) async fn connect(address: &Address) -> Result<Box<dyn Stream>, TransportError> {
    let place = address.place();
    let failed = |source| TransportError::Connect { place: address.place(), source };
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if !address.tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(address.host.clone())
        .map_err(|_| TransportError::Name(address.host.clone()))?;
    let connector = TlsConnector::from(Arc::new(client_config(address)?));
    let stream = connector.connect(name, stream).await.map_err(|source| {
        match blames_our_certificate(&source) {
            true => TransportError::Certificate { place, source },
            false => TransportError::Handshake { place, source },
        }
    })?;
    Ok(Box::new(stream))
}

/// Whether the peer's alert is about the certificate that we showed or did not show. With TLS 1.3 it comes after our side of
/// the handshake has ended (RFC 8446 §4.4.2.4), with the first bytes that are read.
pub(crate) fn blames_our_certificate(error: &io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::AlertReceived(alert)) = inner else { return false };
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
    )
}

fn client_config(address: &Address) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TransportError::Setup)?;
    let builder = match &address.authorities {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|source| unusable(path, source))?;
            }
            builder.with_root_certificates(roots)
        }
        None => builder.with_platform_verifier().map_err(TransportError::Setup)?,
    };
    match (&address.certificate, &address.key) {
        (Some(certificate), Some(path)) => {
            let chain = certificates(certificate)?;
            let key =
                PrivateKeyDer::from_pem_file(path).map_err(|source| unusable(path, source))?;
            builder.with_client_auth_cert(chain, key).map_err(TransportError::Setup)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(_), None) | (None, Some(_)) => Err(TransportError::Halves),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| unusable(path, source))
}

fn unusable(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> TransportError {
    TransportError::File { path: path.to_owned(), source: Box::new(source) }
}
