//! Messages over HTTP/1.1: to inboxes with the JSON of django-message-box, and to queues of a Zaqar service.
//!
//! | file | concept |
//! |---|---|
//! | this | addresses, requests, what answers mean |
//! | `connections` | connections that are kept, and how many there may be |

mod connections;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Method, Request, StatusCode};
use serde_json::value::RawValue;
use url::Url;
use uuid::Uuid;

use self::connections::{CONNECTIONS_MAX, Connections};
use super::stream::Peer;
use crate::dialect::Letter;
use crate::error::Error;
use crate::signature::{Secret, now_secs};
use crate::transport::{SendError, Transport};

/// Longest wait that a far end can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long a message lives in a queue, if its sender does not say: the longest that Zaqar allows by default.
const QUEUE_TTL: Duration = Duration::from_secs(14 * 24 * 3600);

/// The shortest life that Zaqar allows.
const QUEUE_TTL_MIN_SECS: u64 = 60;

/// Where requests go, and what is in all of them.
struct Target {
    connections: Connections,
    place: String,
    path: String,
    headers: HeaderMap,
    secret: Option<Secret>,
}

/// An inbox, such as that of django-message-box or [`crate::inbox::door`].
///
/// A message is one `POST` of `{"uuid", "message_source", "message_type", "origin_create_time", "payload"}`; its payload must
/// be JSON, and its content type and headers are not sent. 200 and 201 say that it has arrived, everything else is tried
/// again.
pub struct Inbox(Target);

/// A queue of a Zaqar service. A message is one message in it; its body is the same JSON as an inbox gets.
pub struct Queue(Target);

impl Inbox {
    /// An inbox at an address such as `https://TOKEN@shop.example/inbox/`. A user in it is sent as a bearer token, with
    /// a password as HTTP's basic login. `?cacertfile=` is a PEM file of authorities.
    ///
    /// # Errors
    ///
    /// If the address is none.
    pub fn new(address: &str) -> Result<Self, Error> {
        Ok(Self(Target::new(address)?))
    }

    /// Signs requests as Standard Webhooks says.
    #[must_use]
    pub fn signed(mut self, secret: Secret) -> Self {
        self.0.secret = Some(secret);
        self
    }
}

impl Queue {
    /// A queue at an address such as `http://queues.example:8888/v2/queues/orders`, with what the service wants to know:
    /// `?project=` (`X-Project-ID`), `&token=` (`X-Auth-Token`), `&cacertfile=`.
    ///
    /// # Errors
    ///
    /// If the address is none.
    pub fn new(address: &str) -> Result<Self, Error> {
        let mut target = Target::new(address)?;
        target.path = format!("{}/messages", target.path.trim_end_matches('/'));
        target.header("client-id", &Uuid::new_v4().to_string())?;
        let url = parse(address)?;
        for (name, value) in url.query_pairs() {
            match &*name {
                "project" => target.header("x-project-id", &value)?,
                "token" => target.header("x-auth-token", &value)?,
                _ => {}
            }
        }
        Ok(Self(target))
    }
}

impl Transport for Inbox {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move { self.0.post(letter, document(letter)?).await })
    }

    fn at_once(&self) -> Option<usize> {
        Some(CONNECTIONS_MAX)
    }
}

impl Transport for Queue {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            let ttl = letter.expires_in.unwrap_or(QUEUE_TTL).min(QUEUE_TTL);
            let ttl_secs = ttl.as_secs().max(QUEUE_TTL_MIN_SECS);
            let document = document(letter)?;
            self.0
                .post(letter, format!(r#"{{"messages":[{{"ttl":{ttl_secs},"body":{document}}}]}}"#))
                .await
        })
    }

    fn at_once(&self) -> Option<usize> {
        Some(CONNECTIONS_MAX)
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inbox {}", self.0.place)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue {}{}", self.0.place, self.0.path)
    }
}

fn parse(address: &str) -> Result<Url, Error> {
    Url::parse(address).map_err(|error| Error::Invalid(format!("address over HTTP: {error}")))
}

impl Target {
    fn new(address: &str) -> Result<Self, Error> {
        let url = parse(address)?;
        let (tls, port) = match url.scheme() {
            "http" => (false, 80),
            "https" => (true, 443),
            other => {
                let what = format!("address must begin with http:// or https://, not {other}://");
                return Err(Error::Invalid(what));
            }
        };
        let authorities = url.query_pairs().find(|(name, _)| name == "cacertfile");
        let peer = Peer::new(&url, port, tls, authorities.map(|(_, file)| file.as_ref().into()))?;
        let place = peer.place();
        let path = url.path().to_owned();
        let mut target = Self {
            connections: Connections::new(peer),
            place: place.clone(),
            path,
            headers: HeaderMap::new(),
            secret: None,
        };
        target.header("host", &place)?;
        target.header("content-type", "application/json")?;
        target.header("accept", "application/json")?;
        target.header("user-agent", concat!("posthouse-outbox/", env!("CARGO_PKG_VERSION")))?;
        target.login(&url)?;
        Ok(target)
    }

    fn login(&mut self, url: &Url) -> Result<(), Error> {
        use base64::Engine as _;
        let plain = |text: &str| {
            percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
        };
        let user = plain(url.username());
        let value = match url.password().map(plain) {
            Some(password) => {
                let both =
                    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
                format!("Basic {both}")
            }
            None if user.is_empty() => return Ok(()),
            None => format!("Bearer {user}"),
        };
        self.header("authorization", &value)
    }

    fn header(&mut self, name: &'static str, value: &str) -> Result<(), Error> {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            Error::Invalid(format!("{name} has characters that no header can have"))
        })?;
        value.set_sensitive(matches!(name, "authorization" | "x-auth-token"));
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(())
    }

    async fn post(&self, letter: &Letter, body: String) -> Result<(), SendError> {
        let mut request = Request::builder().method(Method::POST).uri(self.path.as_str());
        if let Some(headers) = request.headers_mut() {
            headers.clone_from(&self.headers);
            self.sign(letter, body.as_bytes(), headers);
        }
        let request = request
            .body(Bytes::from(body).into())
            .map_err(|error| SendError::Refused(format!("no request: {error}")))?;
        let (status, headers, text) = self.connections.send(request).await?;
        if matches!(status, StatusCode::OK | StatusCode::CREATED) {
            return Ok(());
        }
        let error = format!("{} answers {status}: {text}", self.place);
        match retry_after(&headers) {
            Some(wait) => Err(SendError::RetryAfter { wait, error }),
            None => Err(SendError::Retry(error)),
        }
    }

    fn sign(&self, letter: &Letter, body: &[u8], headers: &mut HeaderMap) {
        let Some(secret) = &self.secret else { return };
        let (id, time_secs) = (letter.id.to_string(), now_secs());
        let signature = secret.sign(&id, time_secs, body);
        for (name, value) in [
            ("webhook-id", id),
            ("webhook-timestamp", time_secs.to_string()),
            ("webhook-signature", signature),
        ] {
            // Ids, numbers and base64 are characters that headers can have.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// What the far end asks for, in seconds; its other form, a date, would need a clock that agrees with ours.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let secs = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(secs).min(RETRY_AFTER_MAX))
}

/// The JSON of django-message-box.
fn document(letter: &Letter) -> Result<String, SendError> {
    let payload: &RawValue = serde_json::from_slice(&letter.payload).map_err(|error| {
        SendError::Refused(format!("payload is no JSON, which an inbox wants: {error}"))
    })?;
    let text = |text: &str| serde_json::Value::from(text).to_string();
    Ok(format!(
        r#"{{"uuid":"{}","message_source":{},"message_type":{},"origin_create_time":"{}","payload":{}}}"#,
        letter.id,
        text(&letter.source),
        text(&letter.topic),
        time(letter.created_us),
        payload.get(),
    ))
}

/// Microseconds since 1970 as ISO 8601: `2026-11-21T12:00:00.000000Z`.
fn time(us: i64) -> String {
    let (secs, us) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000));
    let (days, secs) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    // Days since 1 March of year 0; the algorithm of Howard Hinnant's `civil_from_days`.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (
        day_of_year - (153 * shifted + 2) / 5 + 1,
        if shifted < 10 { shifted + 3 } else { shifted - 9 },
    );
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn times_are_written_as_iso_8601() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(1_709_210_096_000_001), "2024-02-29T12:34:56.000001Z");
        assert_eq!(time(4_107_542_399_999_999), "2100-02-28T23:59:59.999999Z");
        assert_eq!(time(-1), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn a_document_is_that_of_django_message_box_and_keeps_the_payload_as_it_is() {
        let mut letter = Letter {
            id: Uuid::nil(),
            source: "a \"shop\"".to_owned(),
            topic: "t".to_owned(),
            key: None,
            content_type: "application/json".to_owned(),
            headers: BTreeMap::new(),
            payload: Bytes::from_static(br#"{"n": 1.50}"#),
            created_us: 0,
            expires_in: None,
            attempt: 1,
        };

        let wanted = r#"{"uuid":"00000000-0000-0000-0000-000000000000","message_source":"a \"shop\"","message_type":"t","origin_create_time":"1970-01-01T00:00:00.000000Z","payload":{"n": 1.50}}"#;
        assert_eq!(document(&letter).unwrap(), wanted);
        letter.payload = Bytes::from_static(b"plain");
        assert!(matches!(document(&letter), Err(SendError::Refused(_))));
    }

    #[test]
    fn a_login_is_in_the_address_and_not_in_what_is_shown() {
        let inbox = Inbox::new("http://canary@[::1]:8000/inbox/?x=1").unwrap();
        assert_eq!(inbox.0.headers["authorization"], "Bearer canary");
        assert_eq!((inbox.0.place.as_str(), inbox.0.path.as_str()), ("[::1]:8000", "/inbox/"));
        assert!(!format!("{inbox:?}").contains("canary"));
        let inbox = Inbox::new("https://user:p%40ss@shop.example/inbox/").unwrap();
        assert_eq!(inbox.0.headers["authorization"], "Basic dXNlcjpwQHNz");

        let queue = Queue::new("http://q.example:8888/v2/queues/orders?project=p&token=t").unwrap();
        assert_eq!(queue.0.path, "/v2/queues/orders/messages");
        assert_eq!(queue.0.headers["x-project-id"], "p");
        assert!(Inbox::new("ftp://x/").is_err());
    }
}
