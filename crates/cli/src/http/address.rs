//! Addresses of queue services: `http://host:8888`, with a path where one is mounted below another.

use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use posthouse_amqp::address::split_place;

use crate::transport::Peer;

/// Zaqar's port.
const PORT: u16 = 8888;

/// Everything but what RFC 3986 §2.3 calls unreserved is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Where a queue service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) peer: Peer,
    /// What stands before `/v2`: empty, or begins with a slash and ends without one.
    pub(crate) prefix: String,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("must begin with http:// or https://")?;
        let (tls, port) = match scheme {
            "http" => (false, PORT),
            "https" => (true, 443),
            other => return Err(format!("must begin with http:// or https://, not {other}://")),
        };
        if rest.contains(['?', '#']) {
            return Err("must end with its path, without ? and #".to_owned());
        }
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        if place.contains('@') {
            return Err("must not hold a user; --token says who asks".to_owned());
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must have a path without spaces; write %20".to_owned());
        }
        let (host, port) = split_place(place, port).map_err(|error| error.to_string())?;
        let peer = Peer { tls, host, port, authorities: None, certificate: None, key: None };
        // What discovery shows is accepted as well: http://host:8888/v2/.
        let path = path.trim_matches('/');
        let path = path
            .strip_suffix("v2")
            .filter(|rest| rest.is_empty() || rest.ends_with('/'))
            .unwrap_or(path);
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { peer, prefix })
    }
}

/// A name as one segment of a path, or as a value in a query.
pub(crate) fn segment(name: &str) -> String {
    utf8_percent_encode(name, ENCODED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (bool, String, String) {
        let address: Address = text.parse().unwrap();
        (address.peer.tls, address.peer.place(), address.prefix)
    }

    #[test]
    fn what_is_left_out_has_its_usual_value() {
        assert_eq!(parts("http://queues"), (false, "queues:8888".to_owned(), String::new()));
        assert_eq!(parts("https://queues/"), (true, "queues:443".to_owned(), String::new()));
    }

    #[test]
    fn the_path_is_kept_and_a_version_at_its_end_is_not() {
        for (text, prefix) in [
            ("http://h:1/v2", ""),
            ("http://h:1/v2/", ""),
            ("http://h:1/messaging/v2/", "/messaging"),
            ("http://h:1/messaging", "/messaging"),
            ("http://h:1/rev2", "/rev2"),
        ] {
            assert_eq!(parts(text).2, prefix, "{text}");
        }
        assert_eq!(parts("http://[::1]:7/x").1, "[::1]:7");
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in
            ["h", "amqp://h", "http://u:p@h", "http://h:99999", "http://h/?a", "http://h/a b"]
        {
            assert!(Address::from_str(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(segment("a.b-c_1"), "a.b-c_1");
        assert_eq!(segment("../x?y#\u{e9} "), "..%2Fx%3Fy%23%C3%A9%20");
    }
}
