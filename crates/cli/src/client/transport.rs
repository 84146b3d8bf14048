//! The socket to a broker, with or without TLS.

use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Uri;

/// A stream of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects to the broker's address.
///
/// # Errors
///
/// What kept it from connecting, with the address and what to look at.
pub(super) async fn connect(uri: &Uri) -> anyhow::Result<Box<dyn Stream>> {
    let place = uri.place();
    let stream = TcpStream::connect((uri.host.as_str(), uri.port)).await.with_context(|| {
        format!("cannot connect to {place}; is a broker running there? (--uri)")
    })?;
    stream.set_nodelay(true).context("socket cannot be set up")?;
    if !uri.tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(uri.host.clone())
        .with_context(|| format!("`{}` is not a name that a certificate could have", uri.host))?;
    let connector = TlsConnector::from(Arc::new(client_config(uri)?));
    let stream = connector.connect(name, stream).await.with_context(|| {
        format!("no TLS with {place}; cacertfile in --uri names the authorities to trust")
    })?;
    Ok(Box::new(stream))
}

fn client_config(uri: &Uri) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?;
    let builder = match &uri.authorities {
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots.add(certificate).with_context(|| format!("cacertfile {}", file.display()))?;
            }
            builder.with_root_certificates(roots)
        }
        None => {
            builder.with_platform_verifier().context("the system's authorities cannot be used")?
        }
    };
    match (&uri.certificate, &uri.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("keyfile {}", key.display()))?;
            builder.with_client_auth_cert(chain, key).context("certfile and keyfile cannot be used")
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(_), None) | (None, Some(_)) => {
            anyhow::bail!("certfile and keyfile must be given together")
        }
    }
}

fn certificates(file: &std::path::Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .with_context(|| format!("certificates in {} cannot be read", file.display()))
}
