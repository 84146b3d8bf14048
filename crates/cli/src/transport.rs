//! The socket to a server, with or without TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use posthouse_amqp::Address;
use posthouse_amqp::address::place;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Who is connected to, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Whether to use TLS.
    pub(crate) tls: bool,
    /// Name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// PEM file of the authorities to trust instead of the system's.
    pub(crate) authorities: Option<PathBuf>,
    /// PEM files of our certificate and of its key.
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl Peer {
    /// Host and port as a message shows them.
    pub(crate) fn place(&self) -> String {
        place(&self.host, self.port)
    }
}

impl From<&Address> for Peer {
    fn from(address: &Address) -> Self {
        Self {
            tls: address.tls,
            host: address.host.clone(),
            port: address.port,
            authorities: address.authorities.clone(),
            certificate: address.certificate.clone(),
            key: address.key.clone(),
        }
    }
}

/// A stream of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to a server's address, which `option` of the command line has said.
///
/// # Errors
///
/// What kept it from connecting, with the address and what to look at.
pub(crate) async fn connect(peer: &Peer, option: &str) -> anyhow::Result<Box<dyn Stream>> {
    let place = peer.place();
    let stream = TcpStream::connect((peer.host.as_str(), peer.port)).await.with_context(|| {
        format!("cannot connect to {place}; is a server running there? ({option})")
    })?;
    stream.set_nodelay(true).context("socket cannot be set up")?;
    if !peer.tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(peer.host.clone())
        .with_context(|| format!("`{}` is not a name that a certificate could have", peer.host))?;
    let connector = TlsConnector::from(Arc::new(client_config(peer)?));
    let stream = connector
        .connect(name, stream)
        .await
        .with_context(|| format!("no TLS with {place}; are its authorities trusted? ({option})"))?;
    Ok(Box::new(stream))
}

fn client_config(peer: &Peer) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?;
    let builder = match &peer.authorities {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .with_context(|| format!("authorities {}", file.display()))?;
            }
            builder.with_root_certificates(roots)
        }
        None => {
            builder.with_platform_verifier().context("the system's authorities cannot be used")?
        }
    };
    match (&peer.certificate, &peer.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("key {}", key.display()))?;
            builder.with_client_auth_cert(chain, key).context("certificate and key cannot be used")
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(_), None) | (None, Some(_)) => {
            anyhow::bail!("certificate and key must be given together")
        }
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .with_context(|| format!("certificates in {} cannot be read", file.display()))
}
