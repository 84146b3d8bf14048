//! Addresses of brokers: `amqp://user:password@host:port/vhost?heartbeat=30`, as RabbitMQ's clients write them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a broker is and who wants in.
///
/// What is left out has the usual value: guest, guest, 127.0.0.1, 5672 (5671 with TLS), `/`. Known parameters are
/// `heartbeat` (seconds), `connection_timeout` (milliseconds), `cacertfile`, `certfile`, `keyfile` and
/// `auth_mechanism=external`; others are ignored, because an address is often shared with other clients.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Whether to use TLS.
    pub tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// TCP's.
    pub port: u16,
    /// For the login.
    pub user: String,
    /// For the login; never in the debug form.
    pub password: String,
    /// To be opened after the login.
    pub virtual_host: String,
    /// Seconds; 0 leaves it to the server.
    pub heartbeat_secs: u16,
    /// For connecting and logging in.
    pub connection_timeout: Duration,
    /// Whether to log in with the certificate (SASL EXTERNAL) instead of a password.
    pub external: bool,
    /// PEM file of the authorities to trust instead of the system's.
    pub authorities: Option<PathBuf>,
    /// PEM file of our certificate.
    pub certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub key: Option<PathBuf>,
}

/// Shows no password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.place()).finish()
    }
}

/// Why a text is no address: what it has or must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the address {0}")]
pub struct AddressError(String);

impl Address {
    /// Host and port, as a message shows them.
    #[must_use]
    pub fn place(&self) -> String {
        place(&self.host, self.port)
    }

    fn set(&mut self, pair: &str) -> Result<(), AddressError> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value)?;
        let number = |limit: &str| {
            AddressError(format!("has {name}, which must be a whole number {limit}, not `{value}`"))
        };
        match name {
            "heartbeat" => {
                self.heartbeat_secs = value.parse().map_err(|_| number("of seconds to 65535"))?;
            }
            "connection_timeout" => {
                let timeout_ms = value.parse().map_err(|_| number("of milliseconds"))?;
                self.connection_timeout = Duration::from_millis(timeout_ms);
            }
            "cacertfile" => self.authorities = Some(value.into()),
            "certfile" => self.certificate = Some(value.into()),
            "keyfile" => self.key = Some(value.into()),
            "auth_mechanism" => self.external = value.eq_ignore_ascii_case("external"),
            _ => {}
        }
        Ok(())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let must = || AddressError("must begin with amqp:// or amqps://".to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(must)?;
        let tls = match scheme {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(must()),
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
        let mut address = Self {
            tls,
            host,
            port,
            user,
            password,
            virtual_host: if path.is_empty() { "/".to_owned() } else { decode(path)? },
            heartbeat_secs: 0,
            connection_timeout: Duration::from_secs(10),
            external: false,
            authorities: None,
            certificate: None,
            key: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            address.set(pair)?;
        }
        Ok(address)
    }
}

/// `host:port`, with brackets around an address that has colons.
#[must_use]
pub fn place(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Host, without brackets, and port of `host:port`; 127.0.0.1 and `port` where none is given.
///
/// # Errors
///
/// A port that is none, an open bracket, or `%` without two hexadecimal digits.
pub fn split_place(place: &str, port: u16) -> Result<(String, u16), AddressError> {
    let (host, given) = match place.strip_prefix('[') {
        Some(rest) => {
            let unclosed = || AddressError("has an address in brackets without ]".to_owned());
            let (host, after) = rest.split_once(']').ok_or_else(unclosed)?;
            (host.to_owned(), after.strip_prefix(':'))
        }
        None => {
            let (host, given) =
                place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port)));
            (decode(host)?, given)
        }
    };
    let host = if host.is_empty() { "127.0.0.1".to_owned() } else { host };
    let Some(given) = given.filter(|given| !given.is_empty()) else {
        return Ok((host, port));
    };
    let wrong = |_| AddressError(format!("has the port `{given}`, which must be 0 to 65535"));
    Ok((host, given.parse().map_err(wrong)?))
}

/// Takes `%2f` and the like apart (RFC 3986 §2.1).
fn decode(text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(AddressError("has a % without two hexadecimal digits".to_owned()));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(bytes).map_err(|_| AddressError("is not UTF-8 where decoded".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_left_out_has_its_usual_value() {
        let address = address("amqp://");

        let said = (address.place(), address.user.as_str(), address.password.as_str());
        assert_eq!(said, ("127.0.0.1:5672".to_owned(), "guest", "guest"));
        assert_eq!((address.tls, address.virtual_host.as_str()), (false, "/"));
        assert_eq!(Address::from_str("amqps://broker/").unwrap().port, 5671);
    }

    #[test]
    fn every_part_is_taken_apart_and_decoded() {
        let address = address(
            "amqps://a%40b:p%3Aw:x@[::1]:7/%2fshop?heartbeat=30&cacertfile=/etc/ca.pem&unknown=1",
        );

        assert_eq!((address.user.as_str(), address.password.as_str()), ("a@b", "p:w:x"));
        assert_eq!((address.place(), address.virtual_host.as_str()), ("[::1]:7".into(), "/shop"));
        assert_eq!((address.heartbeat_secs, address.authorities), (30, Some("/etc/ca.pem".into())));
    }

    #[test]
    fn nonsense_is_refused_and_a_password_is_never_shown() {
        for text in [
            "broker",
            "http://b",
            "amqp://h:99999",
            "amqp://%zz",
            "amqp://[::1",
            "amqp://h?heartbeat=x",
        ] {
            assert!(Address::from_str(text).is_err(), "{text}");
        }
        assert!(!format!("{:?}", address("amqp://u:canary@h")).contains("canary"));
    }
}
