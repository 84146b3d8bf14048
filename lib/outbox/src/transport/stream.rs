//! The socket to a far end, with or without TLS.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::error::Error;

/// A stream of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Who is connected to, and how.
#[derive(Clone)]
pub(crate) struct Peer {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Peer {
    /// The host of an address, with TLS if `tls`; trusted are the authorities in a PEM file, or the system's.
    pub(crate) fn new(
        url: &Url,
        port: u16,
        tls: bool,
        authorities: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let host = match url.host() {
            None | Some(Host::Domain("")) => "127.0.0.1".to_owned(),
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
        };
        let port = url.port().unwrap_or(port);
        if !tls {
            return Ok(Self { host, port, tls: None });
        }
        let name = ServerName::try_from(host.clone()).map_err(|_| {
            Error::Invalid(format!("`{host}` is not a name that a certificate could have"))
        })?;
        let config = client_config(authorities)?;
        Ok(Self { host, port, tls: Some((TlsConnector::from(Arc::new(config)), name)) })
    }

    /// Host and port as a message shows them.
    pub(crate) fn place(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Connects. The caller limits the time.
    pub(crate) async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
        }
    }
}

/// Names no secret; a peer has none.
impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.place())
    }
}

fn client_config(authorities: Option<PathBuf>) -> Result<ClientConfig, Error> {
    let invalid = |what: &str, error: &dyn std::fmt::Display| {
        Error::Invalid(format!("{what} cannot be used: {error}"))
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid("TLS", &error))?;
    let Some(file) = authorities else {
        let builder = builder
            .with_platform_verifier()
            .map_err(|error| invalid("the system's authorities", &error))?;
        return Ok(builder.with_no_client_auth());
    };
    let what = format!("the authorities in {}", file.display());
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(&file).map_err(|error| invalid(&what, &error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| invalid(&what, &error))?;
        roots.add(certificate).map_err(|error| invalid(&what, &error))?;
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
