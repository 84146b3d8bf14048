//! Addresses of brokers: `amqp://user:password@host:port/vhost?heartbeat=30`, as RabbitMQ's clients write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::transport::Peer;

/// Where a broker is and who wants in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Uri {
    pub(crate) peer: Peer,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) virtual_host: String,
    /// Seconds; 0 leaves it to the server.
    pub(crate) heartbeat_secs: u16,
    /// For connecting and logging in.
    pub(crate) connection_timeout: Duration,
    /// Whether to log in with the certificate (SASL EXTERNAL) instead of a password.
    pub(crate) external: bool,
}

/// Shows no password.
impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uri")
            .field("host", &self.peer.host)
            .field("port", &self.peer.port)
            .finish_non_exhaustive()
    }
}

impl FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("must begin with amqp:// or amqps://")?;
        let tls = match scheme {
            "amqp" => false,
            "amqps" => true,
            other => return Err(format!("must begin with amqp:// or amqps://, not {other}://")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, authority),
        };
        let (user, password) = match credentials {
            Some(credentials) => {
                let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
                (decode(user)?, decode(password)?)
            }
            None => ("guest".to_owned(), "guest".to_owned()),
        };
        let (host, port) = split_place(place, if tls { 5671 } else { 5672 })?;
        let virtual_host = if path.is_empty() { "/".to_owned() } else { decode(path)? };
        let peer = Peer { tls, host, port, authorities: None, certificate: None, key: None };
        let mut uri = Self {
            peer,
            user,
            password,
            virtual_host,
            heartbeat_secs: 0,
            connection_timeout: Duration::from_secs(10),
            external: false,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            uri.set(pair)?;
        }
        Ok(uri)
    }
}

impl Uri {
    fn set(&mut self, pair: &str) -> Result<(), String> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value)?;
        let number = |limit: &str| format!("{name} must be a whole number {limit}, not `{value}`");
        match name {
            "heartbeat" => {
                self.heartbeat_secs = value.parse().map_err(|_| number("of seconds to 65535"))?;
            }
            "connection_timeout" => {
                let timeout_ms = value.parse().map_err(|_| number("of milliseconds"))?;
                self.connection_timeout = Duration::from_millis(timeout_ms);
            }
            "cacertfile" => self.peer.authorities = Some(value.into()),
            "certfile" => self.peer.certificate = Some(value.into()),
            "auth_mechanism" => self.external = value.eq_ignore_ascii_case("external"),
            "keyfile" => self.peer.key = Some(value.into()),
            // Others mean something to other clients; an address is often shared with them.
            _ => {}
        }
        Ok(())
    }
}

/// Host, without brackets, and port of `host:port`; `port` where none is given.
pub(crate) fn split_place(place: &str, port: u16) -> Result<(String, u16), String> {
    let (host, given) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) =
                rest.split_once(']').ok_or("an address in brackets must end with ]")?;
            (host.to_owned(), after.strip_prefix(':'))
        }
        None => {
            let (host, given) =
                place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)));
            (decode(host)?, given)
        }
    };
    let host = if host.is_empty() { "127.0.0.1".to_owned() } else { host };
    match given.filter(|given| !given.is_empty()) {
        Some(given) => {
            let port =
                given.parse().map_err(|_| format!("port must be 0 to 65535, not `{given}`"))?;
            Ok((host, port))
        }
        None => Ok((host, port)),
    }
}

/// Takes `%2f` and the like apart (RFC 3986 §2.1).
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(format!("% must be followed by two hexadecimal digits in `{text}`"));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| format!("`{text}` is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_left_out_has_its_usual_value() {
        let uri = uri("amqp://");

        let said = (
            uri.peer.tls,
            uri.peer.place(),
            uri.user.as_str(),
            uri.password.as_str(),
            uri.virtual_host.as_str(),
        );
        assert_eq!(said, (false, "127.0.0.1:5672".to_owned(), "guest", "guest", "/"));
        assert_eq!(Uri::from_str("amqps://broker/").unwrap().peer.port, 5671);
    }

    #[test]
    fn every_part_is_taken_apart_and_decoded() {
        let uri = uri(
            "amqps://a%40b:p%3Aw:x@[::1]:7/%2fshop?heartbeat=30&cacertfile=/etc/ca.pem&unknown=1",
        );

        assert_eq!((uri.user.as_str(), uri.password.as_str()), ("a@b", "p:w:x"));
        assert_eq!((uri.peer.place(), uri.virtual_host.as_str()), ("[::1]:7".to_owned(), "/shop"));
        assert_eq!((uri.heartbeat_secs, uri.peer.authorities), (30, Some("/etc/ca.pem".into())));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in [
            "broker",
            "http://broker",
            "amqp://h:99999",
            "amqp://%zz",
            "amqp://[::1",
            "amqp://h?heartbeat=x",
        ] {
            assert!(Uri::from_str(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_in_the_debug_form() {
        assert!(!format!("{:?}", uri("amqp://u:canary@h")).contains("canary"));
    }
}
