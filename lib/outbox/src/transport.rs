//! Where messages go: transports, and which message takes which.

#[cfg(feature = "amqp")]
pub mod amqp;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "stream")]
mod stream;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;

use crate::dialect::Letter;
#[cfg(feature = "stream")]
use crate::error::Error;
use crate::gate::Gate;

/// Sends messages somewhere.
///
/// `send` returns `Ok` only when the far end has taken the message for good: a broker's confirm, a 201. It is called for
/// many messages at once, but for those of one key one after the other. It may be called again for a message that was
/// sent: the relay may have died before it could note that. So the far end should recognise ids that it has seen.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Sends a message. Dropped when it takes longer than [`crate::Settings::send_timeout`].
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>>;

    /// How many messages it sends at once; `None`, as if not said, is any number. Further ones wait for their turn untried, and
    /// that time is not part of [`crate::Settings::send_timeout`]. Asked once.
    fn at_once(&self) -> Option<usize> {
        None
    }
}

/// Why a message was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Failed; to be tried again as the schedule says.
    #[error("{0}")]
    Retry(String),
    /// Failed; the far end says when to try again. It counts as an attempt.
    #[error("{error}")]
    RetryAfter {
        /// How long to wait.
        wait: Duration,
        /// Why.
        error: String,
    },
    /// The far end will never take this message; it is given up at once.
    #[error("{0}")]
    Refused(String),
    /// Nobody is there. That is not the message's fault and counts as no attempt; the transport rests a little.
    #[error("{0}")]
    Unavailable(String),
}

impl Transport for Box<dyn Transport> {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        (**self).send(letter)
    }

    fn at_once(&self) -> Option<usize> {
        (**self).at_once()
    }
}

/// The transport that an address names: `amqp://…` is a broker, `http://…/v2/queues/NAME` a queue of a Zaqar service, any
/// other `http://…` an inbox; with an s at the scheme's end over TLS. See [`amqp::Amqp::new`], [`http::Inbox::new`] and
/// [`http::Queue::new`].
///
/// # Errors
///
/// If no transport of this build has such addresses, or the address is none.
#[cfg(feature = "stream")]
pub fn open(address: &str) -> Result<Box<dyn Transport>, Error> {
    match address.split_once("://").map(|(scheme, _)| scheme) {
        #[cfg(feature = "amqp")]
        Some("amqp" | "amqps") => Ok(Box::new(amqp::Amqp::new(address)?)),
        #[cfg(feature = "http")]
        Some("http" | "https") if is_inbox(address) => Ok(Box::new(http::Inbox::new(address)?)),
        #[cfg(feature = "http")]
        Some("http" | "https") => Ok(Box::new(http::Queue::new(address)?)),
        // The address may have a password, so it is not repeated.
        _ => Err(Error::Invalid(
            "where to must be an address that begins with amqp://, amqps://, http:// or https://"
                .to_owned(),
        )),
    }
}

/// Whether an address names an inbox, as [`open`] understands it: the one far end that takes signed requests
/// ([`http::Inbox::signed`]).
#[cfg(feature = "http")]
#[must_use]
pub fn is_inbox(address: &str) -> bool {
    let is_http = address.starts_with("http://") || address.starts_with("https://");
    is_http && !address.contains("/queues/")
}

/// Which message takes which transport: the first route that fits.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    routes: Vec<Route>,
}

#[derive(Debug, Clone)]
struct Route {
    source: Pattern,
    topic: Pattern,
    exit: Exit,
}

/// A transport and whether it rests.
#[derive(Debug, Clone)]
pub(crate) struct Exit {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) gate: Arc<Gate>,
    /// Who sends holds one; `None` if any number may.
    pub(crate) turns: Option<Arc<Semaphore>>,
}

impl Exit {
    fn new(transport: impl Transport) -> Self {
        let turns = transport.at_once().map(|most| most.clamp(1, Semaphore::MAX_PERMITS));
        let turns = turns.map(|most| Arc::new(Semaphore::new(most)));
        Self { transport: Arc::new(transport), gate: Arc::new(Gate::default()), turns }
    }
}

impl Routes {
    /// Everything to one transport.
    #[must_use]
    pub fn all(transport: impl Transport) -> Self {
        Self::default().to("*", "*", transport)
    }

    /// Messages of a source and topic to a transport. `*` at the end of either stands for any rest: `orders.*`.
    #[must_use]
    pub fn to(mut self, source: &str, topic: &str, transport: impl Transport) -> Self {
        let (source, topic) = (Pattern::new(source), Pattern::new(topic));
        self.routes.push(Route { source, topic, exit: Exit::new(transport) });
        self
    }

    /// The transport of a message.
    pub(crate) fn exit(&self, source: &str, topic: &str) -> Option<&Exit> {
        let fits = |route: &&Route| route.source.fits(source) && route.topic.fits(topic);
        self.routes.iter().find(fits).map(|route| &route.exit)
    }

    /// Whether a transport's far end was away the last time.
    pub(crate) fn is_doubtful(&self) -> bool {
        let now = Instant::now();
        self.routes.iter().any(|route| route.exit.gate.is_doubtful(now))
    }

    /// How long until some transport does not rest; `None` if one does not now.
    pub(crate) fn rest(&self) -> Option<Duration> {
        let mut shortest: Option<Duration> = None;
        for route in &self.routes {
            let rest = route.exit.gate.rest()?;
            shortest = Some(shortest.map_or(rest, |shortest| shortest.min(rest)));
        }
        shortest
    }
}

/// A text, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exactly(String),
    Beginning(String),
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self::Beginning(beginning.to_owned()),
            None => Self::Exactly(text.to_owned()),
        }
    }

    pub(crate) fn fits(&self, text: &str) -> bool {
        match self {
            Self::Exactly(whole) => text == whole,
            Self::Beginning(beginning) => text.starts_with(beginning.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Named;

    impl Transport for Named {
        fn send<'a>(&'a self, _: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
            Box::pin(async { Ok(()) })
        }
    }

    #[test]
    fn the_first_route_that_fits_is_taken() {
        let routes = Routes::default().to("shop", "orders.*", Named).to("shop", "stock", Named);

        assert!(routes.exit("shop", "orders.placed").is_some());
        assert!(routes.exit("shop", "stock").is_some());
        assert!(routes.exit("shop", "stock.low").is_none());
        assert!(routes.exit("bar", "stock").is_none());
        assert!(routes.rest().is_none());
    }
}
