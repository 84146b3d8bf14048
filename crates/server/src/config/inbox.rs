//! The inbox.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use super::{Tls, checks};
use crate::door::inbox::HEAD_BYTES_MAX;
use crate::door::inbox::route::Route;

/// Largest payload that an operator may allow: a document is read whole into memory, and copied.
const MESSAGE_BYTES_CEILING: u64 = 64 * 1024 * 1024;

/// Most memory that an operator may allow for bodies.
const BODY_MEMORY_CEILING: u64 = 1024 * 1024 * 1024 * 1024;

/// The inbox.
#[derive(Debug, Clone)]
pub struct Inbox {
    /// HTTP listeners; empty is off.
    pub listen: Vec<SocketAddr>,
    /// The TLS listeners.
    pub tls: Tls,
    /// Where messages go: the first that fits. There is one if it listens anywhere.
    pub routes: Vec<Route>,
    /// File of hashed tokens, made by `posthouse token`.
    pub tokens: Option<PathBuf>,
    /// Whether JWTs are taken as well, those of `queues.token`.
    pub jwt: bool,
    /// Over all its listeners.
    pub connections_max: usize,
    /// Between two requests, and for a request's head.
    pub idle_timeout: Duration,
    /// From a request's head to the end of its body.
    pub body_timeout: Duration,
    /// Bytes of the largest payload.
    pub message_bytes_max: u64,
    /// Bytes of all bodies that are being read; at least one of the largest fits.
    pub body_memory_max: u64,
}

impl Inbox {
    /// Whether there is one.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.listen.is_empty() || !self.tls.listen.is_empty()
    }
}

pub(super) fn read(r: &mut Reader<'_>) -> Inbox {
    let second = Duration::from_secs(1);
    let texts = r.texts("inbox.routes");
    let mut routes = Vec::with_capacity(texts.len());
    for text in texts {
        match text.parse::<Route>() {
            Ok(route) => routes.push(route),
            Err(what) => r.refuse("inbox.routes", &what),
        }
    }
    let inbox = Inbox {
        listen: r.addresses("inbox.listen"),
        tls: checks::read_tls(r, "inbox.tls"),
        routes,
        tokens: r.path("inbox.tokens"),
        jwt: read_jwt(r),
        connections_max: r.number("inbox.connections_max", 1..=10_000_000),
        idle_timeout: r.duration("inbox.idle_timeout", second..=second * 3600),
        body_timeout: r.duration("inbox.body_timeout", second / 10..=second * 600),
        message_bytes_max: r.bytes("inbox.message_bytes_max", 1..=MESSAGE_BYTES_CEILING),
        body_memory_max: r.bytes("inbox.body_memory_max", 1..=BODY_MEMORY_CEILING),
    };
    if inbox.body_memory_max < inbox.message_bytes_max + HEAD_BYTES_MAX {
        let what = "must be at least inbox.message_bytes_max and 8 KiB: otherwise a message of that \
                    size could never come";
        r.refuse("inbox.body_memory_max", what);
    }
    if inbox.is_open() && inbox.routes.is_empty() {
        let what = "must be set where inbox.listen is, such as [\"*/* = queue inbox\"]: without \
                    routes no message could be taken";
        r.refuse("inbox.routes", what);
    }
    inbox
}

/// JWTs are checked as those of the queue service.
fn read_jwt(r: &mut Reader<'_>) -> bool {
    let taken = r.switch("inbox.jwt");
    for key in ["queues.token.jwks", "queues.token.audience"] {
        if taken && r.text(key).is_empty() {
            r.refuse(key, "must be set where inbox.jwt is");
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Sources};

    fn load(set: &[&str]) -> Result<Config, String> {
        let set = set.iter().map(|&pair| pair.to_owned()).collect();
        Config::load(&Sources { set, ..Sources::default() }).map_err(|error| error.to_string())
    }

    #[test]
    fn an_inbox_needs_routes_and_says_what_is_wrong_with_them() {
        assert!(load(&[]).unwrap().inbox.listen.is_empty());
        let refused = load(&["inbox.listen=127.0.0.1:0"]).unwrap_err();
        assert!(refused.contains("inbox.routes"), "{refused}");
        let refused = load(&["inbox.routes=a/b = cupboard c, d"]).unwrap_err();
        assert!(refused.contains("cupboard") && refused.contains("not `d`"), "{refused}");
        let good = load(&["inbox.listen=127.0.0.1:0", "inbox.routes=a/b = queue c, */* = queue d"]);
        assert_eq!(good.unwrap().inbox.routes.len(), 2);
    }
}
