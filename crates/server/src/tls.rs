//! TLS for listeners: certificates from PEM files, client certificates if wanted, and who such a certificate stands for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::config::{ClientVerify, ExternalLogin, Tls};

/// Handshakes at the same time; the others wait. Each is a millisecond of signing, so more would only make all late.
const HANDSHAKES_MAX: usize = 64;

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or is not PEM of the kind wanted. Correct path or file.
    #[error("{what} file {} cannot be used", .path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::Error,
    },
    /// The file has no certificate. Was the key's file given instead?
    #[error("{what} file {} has no certificate", .path.display())]
    Empty {
        /// What the file is for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// Certificates and key do not belong together or are not supported.
    #[error("certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
    /// The authorities of clients cannot be used.
    #[error("client authorities cannot be used")]
    Authorities(#[source] rustls::server::VerifierBuilderError),
    /// The peer did not finish the handshake in time.
    #[error("TLS handshake took longer than {0:?}")]
    Late(Duration),
    /// The handshake failed: wrong protocol, no common version, or a certificate that was refused.
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
}

/// Does the server's side of handshakes; certificates can be replaced while it runs.
#[derive(Debug)]
pub struct Acceptor {
    options: Tls,
    current: RwLock<Arc<ServerConfig>>,
    handshakes: Semaphore,
}

impl Acceptor {
    /// Reads certificate, key and authorities. Blocks for the time of reading small files.
    ///
    /// # Errors
    ///
    /// Every [`TlsError`] but those of a handshake.
    pub fn load(options: &Tls) -> Result<Self, TlsError> {
        let config = server_config(options)?;
        Ok(Self {
            options: options.clone(),
            current: RwLock::new(Arc::new(config)),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
        })
    }

    /// Reads the files again, for handshakes from now on; open connections stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Acceptor::load`]; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = server_config(&self.options)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        Ok(())
    }

    /// Does the handshake within the time configured, waiting included. Cancel-safe: the connection is closed.
    ///
    /// # Errors
    ///
    /// [`TlsError::Late`] and [`TlsError::Handshake`]; the connection is closed.
    pub async fn accept(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, TlsError> {
        let limit = self.options.handshake_timeout;
        let handshake = async {
            let _permit = self.handshakes.acquire().await;
            let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
            TlsAcceptor::from(config).accept(stream).await
        };
        match tokio::time::timeout(limit, handshake).await {
            Ok(accepted) => accepted.map_err(TlsError::Handshake),
            Err(_) => Err(TlsError::Late(limit)),
        }
    }
}

/// The user that the peer's verified certificate stands for; `None` without certificate or without such a name.
#[must_use]
pub fn certificate_user(stream: &TlsStream<TcpStream>, login: ExternalLogin) -> Option<String> {
    let (_, connection) = stream.get_ref();
    user_of(connection.peer_certificates()?.first()?, login)
}

fn user_of(certificate: &CertificateDer<'_>, login: ExternalLogin) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = match login {
        ExternalLogin::DistinguishedName => Some(distinguished_name(certificate.subject())?),
        // The last one is the most specific one.
        ExternalLogin::CommonName => {
            certificate.subject().iter_common_name().last()?.as_str().ok().map(ToOwned::to_owned)
        }
        ExternalLogin::SanDns | ExternalLogin::SanEmail | ExternalLogin::SanUri => {
            alternative_name(&certificate, login)
        }
    };
    name.filter(|name| !name.is_empty())
}

fn alternative_name(certificate: &X509Certificate<'_>, login: ExternalLogin) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match (login, name) {
        (ExternalLogin::SanDns, GeneralName::DNSName(name))
        | (ExternalLogin::SanEmail, GeneralName::RFC822Name(name))
        | (ExternalLogin::SanUri, GeneralName::URI(name)) => Some((*name).to_owned()),
        _ => None,
    })
}

/// A name as RFC 4514 writes it (RFC 2253 before): the last part first, `CN=worker,O=Example`.
fn distinguished_name(name: &X509Name<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for relative in name.iter_rdn() {
        let attributes: Option<Vec<_>> = relative.iter().map(attribute).collect();
        parts.push(attributes?.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let oid = attribute.attr_type();
    let registry = x509_parser::objects::oid_registry();
    let key = x509_parser::objects::oid2abbrev(oid, registry)
        .map_or_else(|_| oid.to_id_string(), ToOwned::to_owned);
    Some(format!("{key}={}", escape(attribute.as_str().ok()?)))
}

/// RFC 4514 §2.4.
fn escape(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut escaped = String::with_capacity(value.len());
    for (index, c) in value.chars().enumerate() {
        let special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\')
            || (index == 0 && matches!(c, ' ' | '#'))
            || (index == last && c == ' ');
        match c {
            '\0' => escaped.push_str("\\00"),
            c if special => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

fn server_config(options: &Tls) -> Result<ServerConfig, TlsError> {
    let (certificate, key) = (path(options.certificate.as_deref()), path(options.key.as_deref()));
    let chain = certificates("certificate", certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File {
        what: "key",
        path: key.to_owned(),
        source,
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?;
    let builder = match client_verifier(options, provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    builder.with_single_cert(chain, key).map_err(TlsError::Unusable)
}

fn client_verifier(
    options: &Tls,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    if options.verify == ClientVerify::None {
        return Ok(None);
    }
    let mut authorities = RootCertStore::empty();
    for certificate in certificates("client_ca", path(options.client_ca.as_deref()))? {
        authorities.add(certificate).map_err(TlsError::Unusable)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider);
    let builder = match options.verify {
        ClientVerify::Optional => builder.allow_unauthenticated(),
        ClientVerify::Required | ClientVerify::None => builder,
    };
    builder.build().map(Some).map_err(TlsError::Authorities)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| TlsError::File { what, path: path.to_owned(), source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { what, path: path.to_owned() });
    }
    Ok(certificates)
}

/// Configuration checks that paths are there; an empty one is reported as a file that cannot be read.
fn path(path: Option<&Path>) -> &Path {
    path.unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::listen::bind;

    /// A folder with an authority, a server's and a client's certificate.
    struct Pki {
        folder: tempfile::TempDir,
    }

    impl Pki {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let ca_key = KeyPair::generate().unwrap();
            let mut ca = CertificateParams::new(Vec::new()).unwrap();
            ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pki = Self { folder };
            pki.write("ca.pem", &ca.self_signed(&ca_key).unwrap().pem());
            let issuer = Issuer::new(ca, ca_key);
            let mut server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            server.distinguished_name.push(DnType::CommonName, "server");
            let mut client = CertificateParams::new(vec!["worker.example".to_owned()]).unwrap();
            client.distinguished_name = rcgen::DistinguishedName::new();
            client.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
            client.distinguished_name.push(DnType::CommonName, "worker");
            client
                .subject_alt_names
                .push(SanType::URI("spiffe://example/worker".try_into().unwrap()));
            client
                .subject_alt_names
                .push(SanType::Rfc822Name("worker@example.org".try_into().unwrap()));
            for (name, params) in [("server", server), ("client", client)] {
                let key = KeyPair::generate().unwrap();
                pki.write(&format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
                pki.write(&format!("{name}.key"), &key.serialize_pem());
            }
            pki
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn options(&self, verify: ClientVerify) -> Tls {
            Tls {
                listen: Vec::new(),
                certificate: Some(self.path("server.pem")),
                key: Some(self.path("server.key")),
                client_ca: Some(self.path("ca.pem")),
                verify,
                handshake_timeout: Duration::from_secs(5),
            }
        }

        fn client(&self, with_certificate: bool) -> TlsConnector {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
            let provider = Arc::new(aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            let config = if with_certificate {
                let chain = certificates("client", &self.path("client.pem")).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.path("client.key")).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            } else {
                builder.with_no_client_auth()
            };
            TlsConnector::from(Arc::new(config))
        }
    }

    /// Lets a client in or not; on success the user of its certificate.
    async fn handshake(
        pki: &Pki,
        verify: ClientVerify,
        with_certificate: bool,
    ) -> Result<Option<String>, TlsError> {
        let acceptor = Acceptor::load(&pki.options(verify)).unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let connector = pki.client(with_certificate);
        let client = tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = connector.connect(name, stream).await?;
            stream.write_all(b"x").await?;
            stream.read_u8().await
        });
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await?;
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        let user = certificate_user(&stream, ExternalLogin::CommonName);
        drop(stream);
        drop(client.await.unwrap());
        Ok(user)
    }

    #[tokio::test]
    async fn a_client_certificate_is_asked_for_as_configured() {
        let pki = Pki::new();

        assert_eq!(handshake(&pki, ClientVerify::None, true).await.unwrap(), None);
        assert_eq!(handshake(&pki, ClientVerify::Optional, false).await.unwrap(), None);
        assert_eq!(
            handshake(&pki, ClientVerify::Optional, true).await.unwrap().as_deref(),
            Some("worker")
        );
        assert_eq!(
            handshake(&pki, ClientVerify::Required, true).await.unwrap().as_deref(),
            Some("worker")
        );
        let refused = handshake(&pki, ClientVerify::Required, false).await.unwrap_err();
        assert!(matches!(refused, TlsError::Handshake(_)));
    }

    #[test]
    fn a_certificate_stands_for_the_user_that_is_configured() {
        let pki = Pki::new();
        let certificate = CertificateDer::from_pem_file(pki.path("client.pem")).unwrap();
        let user = |login| user_of(&certificate, login).unwrap();

        assert_eq!(user(ExternalLogin::DistinguishedName), "CN=worker,O=Example\\, Inc.");
        assert_eq!(user(ExternalLogin::CommonName), "worker");
        assert_eq!(user(ExternalLogin::SanDns), "worker.example");
        assert_eq!(user(ExternalLogin::SanUri), "spiffe://example/worker");
        assert_eq!(user(ExternalLogin::SanEmail), "worker@example.org");
    }

    #[test]
    fn names_are_escaped_so_that_none_can_pass_for_another() {
        assert_eq!(escape("a,CN=admin"), "a\\,CN=admin");
        assert_eq!(escape(" #x "), "\\ #x\\ ");
        assert_eq!(escape("a\0b"), "a\\00b");
    }

    #[test]
    fn a_bad_file_is_named() {
        let pki = Pki::new();
        let mut options = pki.options(ClientVerify::None);
        options.certificate = Some(pki.path("server.key"));

        let error = Acceptor::load(&options).unwrap_err();

        assert!(error.to_string().ends_with("server.key has no certificate"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_cut_off() {
        let pki = Pki::new();
        let acceptor = Acceptor::load(&pki.options(ClientVerify::None)).unwrap();
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let _silent = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();

        let error = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap_err();

        assert!(matches!(error, TlsError::Late(_)));
    }

    #[test]
    fn a_reload_with_bad_files_changes_nothing() {
        let pki = Pki::new();
        let acceptor = Acceptor::load(&pki.options(ClientVerify::None)).unwrap();
        let before = Arc::clone(&acceptor.current.read().unwrap());
        pki.write("server.pem", "nonsense");

        assert!(acceptor.reload().is_err());

        assert!(Arc::ptr_eq(&before, &acceptor.current.read().unwrap()));
    }
}
