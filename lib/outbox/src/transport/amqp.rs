//! Messages to an AMQP 0-9-1 broker: a message is sent when the broker has confirmed it and some queue has taken it.
//!
//! | file | concept |
//! |---|---|
//! | this | addresses, what a message becomes, when to connect |
//! | `driver` | one connection: publishes out, confirms and returns in |

mod driver;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use posthouse_amqp::properties::Properties;
use posthouse_amqp::raw_table::RawTable;
use posthouse_amqp::sasl::Credentials;
use posthouse_amqp::table::{Table, Value};
use posthouse_amqp::{Capabilities, ClientOptions};
use tokio::sync::{Mutex, mpsc, oneshot};
use url::Url;

use self::driver::{Driver, Publish};
use super::stream::Peer;
use crate::dialect::Letter;
use crate::error::Error;
use crate::transport::{SendError, Transport};

/// How long connecting and logging in may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Publishes that wait for the connection's task; the relay's own bounds are far lower.
const QUEUED_MAX: usize = 1024;

/// What a persistent message is called.
const PERSISTENT: u8 = 2;

/// A broker, one connection, one channel in confirm mode.
///
/// A message goes to an exchange with its topic as the routing key, persistent and mandatory. Its properties: `message-id`
/// is its id, `type` its topic, `app-id` its source, `timestamp` when it was sent by the application, `expiration` the rest
/// of its time. Its headers are those of the application, and `x-dedup-id` with its id: Posthouse recognises by it what
/// was sent twice.
pub struct Amqp {
    place: Arc<Place>,
    connection: Mutex<Link>,
}

struct Place {
    peer: Peer,
    options: ClientOptions,
    exchange: String,
    routing_key: Option<String>,
}

#[derive(Default)]
struct Link {
    publishes: Option<mpsc::Sender<Publish>>,
    failed: Option<(Instant, String)>,
}

impl Amqp {
    /// A broker at `amqp://user:password@host:port/vhost?exchange=events`, or `amqps://` for TLS. Does not connect yet.
    ///
    /// The virtual host is `/` if there is none. After `?`: `exchange`, if not the default one; `routing_key`, if not the
    /// topic; `heartbeat` in seconds; `cacertfile`, a PEM file of authorities.
    ///
    /// # Errors
    ///
    /// If the address is none.
    pub fn new(address: &str) -> Result<Self, Error> {
        let invalid = |what: String| Error::Invalid(format!("address of the broker: {what}"));
        let url = Url::parse(address).map_err(|error| invalid(error.to_string()))?;
        let (tls, port) = match url.scheme() {
            "amqp" => (false, 5672),
            "amqps" => (true, 5671),
            other => {
                return Err(invalid(format!(
                    "must begin with amqp:// or amqps://, not {other}://"
                )));
            }
        };
        let (mut exchange, mut routing_key, mut authorities, mut heartbeat_secs) =
            (String::new(), None, None, 0);
        for (name, value) in url.query_pairs() {
            match &*name {
                "exchange" => exchange = value.into_owned(),
                "routing_key" => routing_key = Some(value.into_owned()),
                "cacertfile" => authorities = Some(value.as_ref().into()),
                "heartbeat" => {
                    heartbeat_secs = value.parse().map_err(|_| {
                        invalid(format!("heartbeat must be seconds, not `{value}`"))
                    })?;
                }
                // Others mean something to other clients; an address is often shared with them.
                _ => {}
            }
        }
        for name in [Some(&exchange), routing_key.as_ref()].into_iter().flatten() {
            if name.len() > crate::message::NAME_BYTES_MAX {
                return Err(invalid("names must be at most 255 bytes".to_owned()));
            }
        }
        let peer = Peer::new(&url, port, tls, authorities)?;
        let options = options(&url, heartbeat_secs).map_err(invalid)?;
        let place = Arc::new(Place { peer, options, exchange, routing_key });
        Ok(Self { place, connection: Mutex::new(Link::default()) })
    }

    /// The way to the connection's task; connects if there is none.
    async fn publishes(&self) -> Result<mpsc::Sender<Publish>, SendError> {
        let asked = Instant::now();
        let mut link = self.connection.lock().await;
        if let Some(publishes) = link.publishes.as_ref().filter(|publishes| !publishes.is_closed())
        {
            return Ok(publishes.clone());
        }
        if let Some((at, error)) = &link.failed
            && *at >= asked
        {
            // Somebody tried while we waited for our turn.
            return Err(SendError::Unavailable(error.clone()));
        }
        let opening = Driver::connect(&self.place.peer, self.place.options.clone());
        let opened = match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(format!("no answer within {CONNECT_TIMEOUT:?}")),
        };
        match opened {
            Ok(driver) => {
                let (publishes, queue) = mpsc::channel(QUEUED_MAX);
                // It ends when the connection does, or when nobody can publish any more.
                drop(tokio::spawn(driver.run(queue)));
                *link = Link { publishes: Some(publishes.clone()), failed: None };
                Ok(publishes)
            }
            Err(error) => {
                let error = format!("{}: {error}", self.place.peer.place());
                *link = Link { publishes: None, failed: Some((Instant::now(), error.clone())) };
                Err(SendError::Unavailable(error))
            }
        }
    }

    fn publish(
        &self,
        letter: &Letter,
        answer: oneshot::Sender<Result<(), SendError>>,
    ) -> Result<Publish, SendError> {
        let refused = |what: &dyn fmt::Display| SendError::Refused(format!("{what}"));
        let id = letter.id.to_string();
        let mut headers = Table::default();
        for (name, value) in &letter.headers {
            headers.insert(name.as_str(), Value::LongString(value.clone().into_bytes()));
        }
        headers.insert("x-dedup-id", Value::LongString(id.clone().into_bytes()));
        let headers = headers.to_entries().map_err(|error| refused(&error))?;
        let expiration = letter.expires_in.map(|left| left.as_millis().max(1).to_string());
        let mut properties = Vec::with_capacity(128 + headers.len());
        Properties {
            content_type: Some(&letter.content_type),
            headers: Some(RawTable::from_bytes(&headers)),
            delivery_mode: Some(PERSISTENT),
            expiration: expiration.as_deref(),
            message_id: Some(&id),
            timestamp: u64::try_from(letter.created_us / 1_000_000).ok(),
            kind: Some(&letter.topic),
            app_id: Some(letter.source.as_str()).filter(|source| !source.is_empty()),
            ..Properties::default()
        }
        .encode(&mut properties)
        .map_err(|error| refused(&error))?;
        let place = Arc::clone(&self.place);
        let routing_key = place.routing_key.as_ref().unwrap_or(&letter.topic).clone();
        Ok(Publish {
            id,
            exchange: place.exchange.clone(),
            routing_key,
            properties,
            payload: letter.payload.clone(),
            answer,
        })
    }
}

impl Transport for Amqp {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            let publishes = self.publishes().await?;
            let (answer, answered) = oneshot::channel();
            let publish = self.publish(letter, answer)?;
            let lost = || SendError::Retry("connection to the broker was lost".to_owned());
            // The connection ended before it took the message, which was not tried then.
            let untaken = || SendError::Unavailable("connection to the broker ended".to_owned());
            publishes.send(publish).await.map_err(|_| untaken())?;
            answered.await.unwrap_or_else(|_| Err(lost()))
        })
    }
}

/// Shows no password.
impl fmt::Debug for Amqp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "amqp {} exchange `{}`", self.place.peer.place(), self.place.exchange)
    }
}

fn options(url: &Url, heartbeat_secs: u16) -> Result<ClientOptions, String> {
    let plain = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded.map(|text| text.into_owned()).map_err(|_| format!("`{text}` is not UTF-8"))
    };
    let (user, password) = match (url.username(), url.password()) {
        ("", None) => ("guest".to_owned(), "guest".to_owned()),
        (user, password) => (plain(user)?, plain(password.unwrap_or_default())?),
    };
    let path = url.path().strip_prefix('/').unwrap_or_default();
    let mut properties = Table::from_iter([("capabilities", Capabilities::CLIENT.to_table())]);
    for (name, value) in [
        ("product", "posthouse-outbox"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("platform", "Rust"),
    ] {
        properties.insert(name, Value::LongString(value.as_bytes().to_vec()));
    }
    Ok(ClientOptions {
        response: Credentials { login: &user, password: password.as_bytes() }.to_plain(),
        virtual_host: if path.is_empty() { "/".to_owned() } else { plain(path)? },
        properties,
        heartbeat_secs,
        handshake_deadline: CONNECT_TIMEOUT,
        ..ClientOptions::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_and_as_whom() {
        let amqp = Amqp::new(
            "amqp://a%40b:p%3Aw@[::1]:7/%2fshop?exchange=events&routing_key=k&heartbeat=30&other=1",
        )
        .unwrap();

        let place = &amqp.place;
        assert_eq!((place.peer.place().as_str(), place.exchange.as_str()), ("[::1]:7", "events"));
        assert_eq!(place.routing_key.as_deref(), Some("k"));
        assert_eq!(
            (place.options.virtual_host.as_str(), place.options.heartbeat_secs),
            ("/shop", 30)
        );
        assert_eq!(place.options.response, b"\0a@b\0p:w");
        assert!(!format!("{amqp:?}").contains("p:w"));
    }

    #[test]
    fn what_is_left_out_has_its_usual_value() {
        let amqp = Amqp::new("amqp://localhost").unwrap();

        assert_eq!(amqp.place.peer.place(), "localhost:5672");
        assert_eq!(amqp.place.options.virtual_host, "/");
        assert_eq!(amqp.place.options.response, b"\0guest\0guest");
        for nonsense in ["localhost", "http://localhost", "amqp://h?heartbeat=x", "amqp://h:99999"]
        {
            assert!(Amqp::new(nonsense).is_err(), "{nonsense}");
        }
    }

    #[tokio::test]
    async fn what_a_connection_ended_before_it_was_handed_over_was_not_tried() {
        let amqp = Amqp::new("amqp://localhost").unwrap();
        let letter = Letter {
            id: uuid::Uuid::nil(),
            source: "shop".to_owned(),
            topic: "topic".to_owned(),
            key: None,
            content_type: "text/plain".to_owned(),
            headers: std::collections::BTreeMap::new(),
            payload: bytes::Bytes::new(),
            created_us: 0,
            expires_in: None,
            attempt: 1,
        };
        let (publishes, mut queue) = mpsc::channel(1);
        publishes.try_send(amqp.publish(&letter, oneshot::channel().0).unwrap()).ok().unwrap();
        *amqp.connection.lock().await = Link { publishes: Some(publishes), failed: None };

        // The second one waits for room when the connection ends.
        let ends = async { queue.close() };
        let (sent, ()) = futures_util::future::join(amqp.send(&letter), ends).await;

        assert!(matches!(sent, Err(SendError::Unavailable(_))), "{sent:?}");
    }
}
