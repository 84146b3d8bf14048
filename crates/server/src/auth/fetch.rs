//! A small HTTP client for questions to identity services: one connection per question, one deadline over all of it, and
//! answers bounded before they are believed. It follows no redirects, knows no proxies and keeps no cookies.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Asks questions over HTTP.
#[derive(Clone)]
pub struct Fetcher {
    tls: TlsConnector,
    timeout: Duration,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Where to ask: scheme, host, port, and the path before everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    https: bool,
    host: String,
    port: u16,
    path: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// As sent; redirects are not followed.
    pub status: StatusCode,
    /// As sent.
    pub headers: HeaderMap,
    /// At most as long as asked for.
    pub body: Bytes,
}

/// Why there is no answer. The address is in the text, the question is not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// What is configured is no address.
    #[error("`{0}` is not an address such as \"https://host:5000/v3\"")]
    Address(String),
    /// The authorities cannot be used.
    #[error("authorities in {} cannot be used", .path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS cannot be set up at all.
    #[error("TLS cannot be used")]
    Tls(#[source] rustls::Error),
    /// The peer cannot be reached, or its certificate is not good.
    #[error("{peer} cannot be reached")]
    Connect {
        /// Host and port.
        peer: String,
        /// What the system or TLS said.
        #[source]
        source: std::io::Error,
    },
    /// The peer does not speak HTTP, or went away.
    #[error("{peer} did not answer")]
    Http {
        /// Host and port.
        peer: String,
        /// What is wrong.
        #[source]
        source: hyper::Error,
    },
    /// The question cannot be sent: a token with bytes that no header may have.
    #[error("the question cannot be sent")]
    Question,
    /// The answer is longer than allowed.
    #[error("{peer} answered more than {max} bytes")]
    TooLong {
        /// Host and port.
        peer: String,
        /// What was allowed.
        max: usize,
    },
    /// It took too long.
    #[error("{peer} took longer than {limit:?}")]
    Late {
        /// Host and port.
        peer: String,
        /// The deadline.
        limit: Duration,
    },
}

impl Address {
    /// Reads an `http://` or `https://` address without user, query and fragment; a slash at its end is dropped.
    ///
    /// # Errors
    ///
    /// [`FetchError::Address`].
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let bad = || FetchError::Address(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(bad()),
        };
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || uri.query().is_some() || text.contains('#') {
            return Err(bad());
        }
        Ok(Self {
            https,
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if https { 443 } else { 80 }),
            path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The same place with this path behind it, unless it ends so already.
    #[must_use]
    pub fn with_ending(mut self, ending: &str) -> Self {
        if !self.path.ends_with(ending) {
            self.path.push_str(ending);
        }
        self
    }

    /// Whether what is sent there can be read on a network: neither TLS nor this machine.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        let local = match self.host.parse() {
            Ok(ip) => super::is_loopback(ip),
            Err(_) => self.host == "localhost",
        };
        !self.https && !local
    }

    fn peer(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl Fetcher {
    /// A client that trusts the authorities of the PEM file `ca`, or those of the system, and gives up after `timeout`.
    /// Certificates are always checked; there is no switch.
    ///
    /// # Errors
    ///
    /// [`FetchError::Authorities`] and [`FetchError::Tls`].
    pub fn new(ca: Option<&Path>, timeout: Duration) -> Result<Self, FetchError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(FetchError::Tls)?;
        let builder = match ca {
            Some(path) => builder.with_root_certificates(authorities(path)?),
            None => builder.with_platform_verifier().map_err(FetchError::Tls)?,
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), timeout })
    }

    /// Asks, and reads an answer of at most `bytes_max`. Cancel-safe: the connection is closed.
    ///
    /// # Errors
    ///
    /// Every [`FetchError`] about peers. Statuses that are no success are answers.
    pub async fn ask(
        &self,
        address: &Address,
        question: Question<'_>,
        bytes_max: usize,
    ) -> Result<Answer, FetchError> {
        let exchange = async {
            let peer = address.peer();
            let request = question.request(address, &peer).ok_or(FetchError::Question)?;
            let connect = |source| FetchError::Connect { peer: peer.clone(), source };
            let stream =
                TcpStream::connect((address.host.as_str(), address.port)).await.map_err(connect)?;
            if !address.https {
                return send(stream, request, &peer, bytes_max).await;
            }
            let name = ServerName::try_from(address.host.clone())
                .map_err(|_| FetchError::Address(address.host.clone()))?;
            let stream = self.tls.connect(name, stream).await.map_err(connect)?;
            send(stream, request, &peer, bytes_max).await
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(FetchError::Late { peer: address.peer(), limit: self.timeout }),
        }
    }
}

/// What to ask.
#[derive(Clone)]
pub struct Question<'a> {
    /// The method.
    pub method: Method,
    /// Behind the address's own path.
    pub path: &'a str,
    /// Besides those of every question; values that are secrets.
    pub headers: &'a [(HeaderName, &'a str)],
    /// JSON, or nothing.
    pub body: Bytes,
}

impl Question<'_> {
    fn request(&self, address: &Address, peer: &str) -> Option<Request<Full<Bytes>>> {
        let target = format!("{}{}", address.path, self.path);
        let target = if target.is_empty() { "/".to_owned() } else { target };
        let mut request =
            Request::builder().method(self.method.clone()).uri(target).header(HOST, peer);
        request = request.header(ACCEPT, "application/json");
        if !self.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in self.headers {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone())).ok()
    }
}

impl fmt::Debug for Question<'_> {
    /// Without headers and body, which have secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

async fn send<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    peer: &str,
    bytes_max: usize,
) -> Result<Answer, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |source| FetchError::Http { peer: peer.to_owned(), source };
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let (head, body) = response.into_parts();
        let body = read(body, peer, bytes_max).await?;
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    // The connection moves only while it is polled; when it ends first the exchange says how.
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

async fn read(mut body: Incoming, peer: &str, max: usize) -> Result<Bytes, FetchError> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| FetchError::Http { peer: peer.to_owned(), source })?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > max {
            return Err(FetchError::TooLong { peer: peer.to_owned(), max });
        }
        read.extend_from_slice(&data);
    }
    Ok(read.freeze())
}

fn authorities(path: &Path) -> Result<RootCertStore, FetchError> {
    let bad = |source: Box<dyn std::error::Error + Send + Sync>| FetchError::Authorities {
        path: path.to_owned(),
        source,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| bad(e.into()))? {
        let certificate = certificate.map_err(|e| bad(e.into()))?;
        roots.add(certificate).map_err(|e| bad(e.into()))?;
    }
    if roots.is_empty() {
        return Err(bad("there is no certificate in it".into()));
    }
    Ok(roots)
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::listen::bind;

    /// Answers every connection with what `answer` makes of the request's head and body.
    pub(in crate::auth) fn peer(
        answer: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> (String, tokio::task::JoinHandle<()>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let mut request = String::new();
                    let mut buffer = [0; 4096];
                    while !complete(&request) {
                        let count = stream.read(&mut buffer).await.unwrap();
                        if count == 0 {
                            return;
                        }
                        request.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
                    }
                    stream.write_all(answer(&request).as_bytes()).await.unwrap();
                });
            }
        });
        (address, serving)
    }

    fn complete(request: &str) -> bool {
        let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        body.len() >= length.unwrap_or(0)
    }

    /// An answer with a length.
    pub(in crate::auth) fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
    }

    fn fetcher(timeout: Duration) -> Fetcher {
        let roots = RootCertStore::empty();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Fetcher { tls: TlsConnector::from(Arc::new(config)), timeout }
    }

    const GET: Question<'static> =
        Question { method: Method::GET, path: "/x", headers: &[], body: Bytes::new() };

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_limit_and_redirects_are_answers() {
        let (url, _serving) = peer(|request| {
            assert!(request.starts_with("GET /v3/x HTTP/1.1\r\n"), "{request}");
            answer("302 Found", "location: /y\r\n", "12345")
        });
        let address = Address::parse(&format!("{url}/v3/")).unwrap();
        let fetcher = fetcher(Duration::from_secs(20));

        let answer = fetcher.ask(&address, GET, 5).await.unwrap();
        let refused = fetcher.ask(&address, GET, 4).await.unwrap_err();

        assert_eq!((answer.status, &answer.body[..]), (StatusCode::FOUND, &b"12345"[..]));
        assert!(matches!(refused, FetchError::TooLong { max: 4, .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_silent_peer_is_given_up_and_an_absent_one_is_named() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address =
            Address::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let fetcher = fetcher(Duration::from_millis(50));

        let late = fetcher.ask(&address, GET, 10).await.unwrap_err();
        drop(listener);
        let absent = fetcher.ask(&address, GET, 10).await.unwrap_err();

        assert!(matches!(late, FetchError::Late { .. }), "{late}");
        assert!(matches!(absent, FetchError::Connect { .. }), "{absent}");
    }

    #[tokio::test]
    async fn endless_heads_and_bodies_are_bounded() {
        let (url, _serving) =
            peer(|_| format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(1 << 20)));
        let address = Address::parse(&url).unwrap();

        let refused = fetcher(Duration::from_secs(20)).ask(&address, GET, 10).await.unwrap_err();

        assert!(matches!(refused, FetchError::Http { .. }), "{refused}");
    }

    #[test]
    fn addresses_are_read_strictly() {
        let address = Address::parse("https://[::1]:35357/identity/").unwrap();

        assert_eq!(address.clone().with_ending("/v3").path, "/identity/v3");
        assert_eq!(address.peer(), "[::1]:35357");
        assert!(!address.is_exposed());
        assert!(Address::parse("http://10.0.0.1:5000").unwrap().is_exposed());
        assert!(!Address::parse("http://127.0.0.1:5000").unwrap().is_exposed());
        assert_eq!(Address::parse("https://k/v3").unwrap().with_ending("/v3").path, "/v3");
        for bad in ["", "keystone", "ftp://k", "http://u:p@k/", "https://k/?q", "https://", "/v3"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
