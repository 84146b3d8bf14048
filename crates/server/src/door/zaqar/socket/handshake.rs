//! From an HTTP request to a WebSocket (RFC 6455 §4.2), and from which pages browsers may make one.
//!
//! No extension is ever agreed on: compressed frames let a few bytes become many before anybody was let in.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, Version};

/// What the key is hashed with (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The one version of the protocol.
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// Bytes of a key before they were encoded.
const KEY_BYTES: usize = 16;

/// Pages that browsers may connect from, beside those of the service's own host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins {
    all: bool,
    /// In lower case.
    allowed: Vec<String>,
}

/// Why there is no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// 400.
    #[error(
        "a WebSocket needs GET over HTTP/1.1, `Connection: Upgrade` and a `Sec-WebSocket-Key` of 16 bytes"
    )]
    Handshake,
    /// 426, with the version that would do.
    #[error("WebSocket's version must be 13")]
    Version,
    /// 403.
    #[error("pages of this origin may not connect; see queues.websocket_origins")]
    Origin,
}

impl Origins {
    /// `*` is every page; anything else an origin such as `https://dashboard.example.org`.
    pub(crate) fn new(allowed: &[String]) -> Self {
        Self {
            all: allowed.iter().any(|origin| origin == "*"),
            allowed: allowed.iter().map(|origin| origin.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether a connection may be made that brings these headers.
    ///
    /// Programs send no `Origin`, or the service's own; browsers send the page's and cannot lie.
    fn admit(&self, headers: &HeaderMap) -> bool {
        if self.all || !headers.contains_key(ORIGIN) {
            return true;
        }
        let (Some(origin), host) = (single(headers, &ORIGIN), single(headers, &HOST)) else {
            return false;
        };
        let origin = origin.to_ascii_lowercase();
        self.allowed.contains(&origin)
            || origin.split_once("://").is_some_and(|(scheme, place)| {
                host.is_some_and(|host| same_place(scheme, place, &host.to_ascii_lowercase()))
            })
    }
}

/// Whether an origin's place is the `Host` of the request, a port left out being the scheme's.
fn same_place(scheme: &str, place: &str, host: &str) -> bool {
    let port = match scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => return false,
    };
    let plain = |text: &str| text.strip_suffix(port).unwrap_or(text).to_owned();
    plain(place) == plain(host)
}

/// Whether a request wants to become a WebSocket, rightly or not.
pub(crate) fn asks<B>(request: &Request<B>) -> bool {
    has_token(request.headers(), &UPGRADE, "websocket")
}

/// The headers of the answer 101.
///
/// # Errors
///
/// Every [`Refused`].
pub(crate) fn accept<B>(
    request: &Request<B>,
    origins: &Origins,
) -> Result<[(HeaderName, HeaderValue); 3], Refused> {
    let headers = request.headers();
    let right = *request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && has_token(headers, &CONNECTION, "upgrade");
    let key = single(headers, &SEC_WEBSOCKET_KEY).filter(|key| right && is_key(key));
    let key = key.ok_or(Refused::Handshake)?;
    if single(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(Refused::Version);
    }
    if !origins.admit(headers) {
        return Err(Refused::Origin);
    }
    let accepted = HeaderValue::from_str(&accept_key(key)).map_err(|_| Refused::Handshake)?;
    Ok([
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_ACCEPT, accepted),
    ])
}

impl Refused {
    /// The status of the answer.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Handshake => 400,
            Self::Version => 426,
            Self::Origin => 403,
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Handshake => "Bad WebSocket handshake",
            Self::Version => "Upgrade Required",
            Self::Origin => "Origin not allowed",
        }
    }

    /// A header that the answer needs.
    pub(crate) fn header(self) -> Option<(HeaderName, HeaderValue)> {
        (self == Self::Version).then_some((SEC_WEBSOCKET_VERSION, VERSION))
    }
}

fn is_key(key: &str) -> bool {
    BASE64_STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES)
}

fn accept_key(key: &str) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    BASE64_STANDARD.encode(hash.as_ref())
}

/// A header that is there once and is text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?.trim();
    values.next().is_none().then_some(value)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        let usual = [
            ("host", "queues.example.org:8888"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in usual.iter().chain(change) {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        request
    }

    fn outcome(change: &[(&str, &str)], origins: &[&str]) -> Result<(), Refused> {
        let origins: Vec<_> = origins.iter().map(|&origin| origin.to_owned()).collect();
        accept(&request(change), &Origins::new(&origins)).map(drop)
    }

    #[test]
    fn the_key_of_the_standard_is_answered_as_there() {
        assert!(asks(&request(&[])));
        let headers = accept(&request(&[]), &Origins::default()).unwrap();

        assert_eq!(headers[2].1, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_wrong_handshake_is_refused() {
        for change in [
            &[("connection", "close")][..],
            &[("sec-websocket-key", "short")],
            &[("sec-websocket-key", "")],
        ] {
            assert_eq!(outcome(change, &[]), Err(Refused::Handshake), "{change:?}");
        }
        assert_eq!(outcome(&[("sec-websocket-version", "8")], &[]), Err(Refused::Version));
        assert!(!asks(&request(&[("upgrade", "h2c")])));
    }

    #[test]
    fn pages_of_the_own_host_and_programs_may_connect_and_others_must_be_named() {
        for origin in ["http://queues.example.org:8888", "https://QUEUES.example.org:8888"] {
            assert_eq!(outcome(&[("origin", origin)], &[]), Ok(()), "{origin}");
        }
        for origin in [
            "http://queues.example.org",
            "http://queues.example.org:8888.evil.example",
            "http://evil.example",
            "null",
            "",
        ] {
            assert_eq!(outcome(&[("origin", origin)], &[]), Err(Refused::Origin), "{origin}");
        }
        let named = ["https://Dashboard.example.org"];
        assert_eq!(outcome(&[("origin", "https://dashboard.example.org")], &named), Ok(()));
        assert_eq!(
            outcome(&[("origin", "http://dashboard.example.org")], &named),
            Err(Refused::Origin)
        );
        assert_eq!(outcome(&[("origin", "null")], &["*"]), Ok(()));
        let usual_port = [("origin", "https://h"), ("host", "h:443")];
        assert_eq!(outcome(&usual_port, &[]), Ok(()));
    }
}
