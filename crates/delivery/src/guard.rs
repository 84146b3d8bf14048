//! What may be called: a URL is parsed once, its port looked up in a list, and every address of its name is judged.
//!
//! The connection then goes to the address that was judged and not to the name, so that nobody can answer differently the
//! second time. One forbidden address among a name's answers refuses the whole name: honest names do not point into
//! private networks, and rebinding does.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use url::{Host, Url};

use crate::address::Addresses;

/// Longest URL, in bytes: what clients and servers agree on.
pub const URL_BYTES_MAX: usize = 2048;

/// Most addresses that a name may have.
pub const ADDRESSES_MAX: usize = 64;

/// Why something may not be called. The texts name neither addresses nor networks: a tenant could map what is behind
/// the broker with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// Not a URL.
    #[error("not a URL")]
    Unreadable,
    /// Longer than [`URL_BYTES_MAX`].
    #[error("the URL is longer than 2048 bytes")]
    TooLong,
    /// Neither http nor https.
    #[error("only http and https URLs may be called")]
    Scheme,
    /// Not a port of the list.
    #[error("this port may not be called")]
    Port,
    /// An address that is not public and not allowed.
    #[error("this address may not be called")]
    Address,
    /// More than [`ADDRESSES_MAX`] addresses.
    #[error("this name has more than 64 addresses")]
    TooManyAddresses,
    /// The name has none.
    #[error("this name has no address")]
    NoAddress,
}

/// Ports as an operator writes them: `443` or `8000-8999`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(RangeInclusive<u16>);

/// A text is not a port or a range of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port or a range of ports such as 8000-8999")]
pub struct PortsError(String);

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let wrong = || PortsError(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let (first, last) = (port(first).ok_or_else(wrong)?, port(last).ok_or_else(wrong)?);
        if first > last {
            return Err(wrong());
        }
        Ok(Self(first..=last))
    }
}

/// What may be called.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Judges addresses.
    pub addresses: Addresses,
    /// Ports that may be called.
    pub ports: Vec<Ports>,
}

/// A URL that may be called as far as it can be told without asking for addresses.
#[derive(Clone)]
pub struct Destination {
    url: Url,
    host: Host<String>,
    port: u16,
}

impl Guard {
    /// Parses a URL and checks what can be checked without asking for addresses.
    ///
    /// # Errors
    ///
    /// [`Forbidden`] for anything but http and https, ports that are not listed, and addresses that are not allowed.
    pub fn parse(&self, text: &str) -> Result<Destination, Forbidden> {
        if text.len() > URL_BYTES_MAX {
            return Err(Forbidden::TooLong);
        }
        // The parser drops tabs and line ends silently; who writes them wants something else to be read.
        if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(Forbidden::Unreadable);
        }
        let mut url = Url::parse(text).map_err(|_| Forbidden::Unreadable)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Forbidden::Scheme);
        }
        url.set_fragment(None);
        let host = url.host().ok_or(Forbidden::Unreadable)?.to_owned();
        let port = url.port_or_known_default().ok_or(Forbidden::Port)?;
        if !self.ports.iter().any(|ports| ports.0.contains(&port)) {
            return Err(Forbidden::Port);
        }
        let destination = Destination { url, host, port };
        if let Some(address) = destination.literal() {
            self.judge(&[address])?;
        }
        Ok(destination)
    }

    /// Judges all addresses that a name has, at every attempt anew.
    ///
    /// # Errors
    ///
    /// [`Forbidden`] if there is none, there are too many, or any of them may not be called.
    pub fn judge(&self, addresses: &[IpAddr]) -> Result<(), Forbidden> {
        if addresses.is_empty() {
            return Err(Forbidden::NoAddress);
        }
        if addresses.len() > ADDRESSES_MAX {
            return Err(Forbidden::TooManyAddresses);
        }
        if addresses.iter().all(|address| self.addresses.allows(*address)) {
            Ok(())
        } else {
            Err(Forbidden::Address)
        }
    }
}

impl Destination {
    /// The URL, without fragment.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether the connection is TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name or address, as certificates have it (no brackets).
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        }
    }

    /// The address, if the URL has one instead of a name.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Domain(_) => None,
            Host::Ipv4(address) => Some(IpAddr::V4(*address)),
            Host::Ipv6(address) => Some(IpAddr::V6(*address)),
        }
    }

    /// What stands in the request's `host` header: the port only if it is not the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.url.port() {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.to_string(),
        }
    }

    /// Path and query, as the request line has them.
    #[must_use]
    pub fn path(&self) -> String {
        match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        }
    }

    /// Where a connection to one of its addresses goes.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> SocketAddr {
        SocketAddr::new(address.to_canonical(), self.port)
    }
}

/// Without user, password and query, which may be secret.
impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.url.scheme(), self.authority(), self.url.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let ports = ["80", "443", "8000-8999"].map(|text| text.parse().unwrap()).to_vec();
        Guard { addresses: Addresses::default(), ports }
    }

    fn refusal(text: &str) -> Forbidden {
        guard().parse(text).unwrap_err()
    }

    #[test]
    fn a_public_url_passes_and_keeps_its_parts() {
        let destination = guard().parse("HTTPS://Example.COM:8443/a/b?c=d#e").unwrap();

        assert!(destination.is_tls());
        assert_eq!(destination.host(), "example.com");
        assert_eq!(destination.authority(), "example.com:8443");
        assert_eq!((destination.port(), destination.path()), (8443, "/a/b?c=d".to_owned()));
        assert_eq!(guard().parse("http://example.com:80").unwrap().authority(), "example.com");
        assert_eq!(guard().parse("http://[2606:4700::1]/").unwrap().host(), "2606:4700::1");
    }

    #[test]
    fn every_way_to_write_a_loopback_address_is_refused() {
        for host in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "0",
            "127.0.0.1.",
            "１２７.０.０.１",
            "①②⑦.0.0.1",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[::]",
            "user:pass@127.0.0.1",
            "example.com@127.0.0.1",
        ] {
            assert_eq!(refusal(&format!("http://{host}/")), Forbidden::Address, "{host}");
        }
    }

    #[test]
    fn other_schemes_and_ports_and_unclean_text_are_refused() {
        for text in ["ftp://example.com/", "file:///etc/passwd", "gopher://x/", "javascript:1"] {
            assert_eq!(refusal(text), Forbidden::Scheme, "{text}");
        }
        for text in ["http://example.com:22/", "http://example.com:0/", "https://example.com:9000"]
        {
            assert_eq!(refusal(text), Forbidden::Port, "{text}");
        }
        for text in
            ["", "example.com", "http://", "http://exa\tmple.com/", "http://a.com/\r\nX: y", " x"]
        {
            assert_eq!(refusal(text), Forbidden::Unreadable, "{text}");
        }
        assert_eq!(
            refusal(&format!("http://example.com/{}", "a".repeat(2048))),
            Forbidden::TooLong
        );
    }

    #[test]
    fn one_forbidden_address_refuses_the_whole_name() {
        let [good, bad]: [IpAddr; 2] =
            ["8.8.8.8".parse().unwrap(), "169.254.169.254".parse().unwrap()];

        assert_eq!(guard().judge(&[good, good]), Ok(()));
        assert_eq!(guard().judge(&[good, bad]), Err(Forbidden::Address));
        assert_eq!(guard().judge(&[]), Err(Forbidden::NoAddress));
        assert_eq!(guard().judge(&[good; 65]), Err(Forbidden::TooManyAddresses));
    }

    #[test]
    fn a_destination_shows_no_secrets() {
        let destination = guard().parse("https://user:secret@example.com/p?token=t").unwrap();

        assert_eq!(format!("{destination:?}"), "https://example.com/p");
    }

    #[test]
    fn ports_are_read_and_nonsense_is_named() {
        for bad in ["", "0", "65536", "9-8", "a", "80,81", "-1"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad}");
        }
    }
}
