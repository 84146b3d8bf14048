//! OpenStack's identity service: whose a token is.
//!
//! A token is asked about with Posthouse's own token (`GET /v3/auth/tokens`), at most once at a time, and what comes out
//! is believed for a short while ([`token_cache`](super::token_cache)). When the service cannot be asked, what is remembered stays good to
//! its end and everything else is refused with "not now": never let in because nobody answers.

mod service;
mod trust;
mod wire;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use model::Timestamp;
use tokio::sync::{Semaphore, watch};

use super::fetch::{Address, FetchError, Fetcher, Question};
use super::token_cache::{CacheLimits, Known, TokenCache, TokenId};
use super::{Caller, Clock, TOKEN_BYTES_MAX};
use crate::config::KeystoneAccess;

use service::ServiceLogin;
pub use trust::{TrustError, TrustId};
use wire::{SUBJECT_TOKEN, TOKEN};

/// Questions at the same time; the identity service is slow and shared, more would only make all late.
const QUESTIONS_MAX: usize = 64;
/// Tokens that are asked about or wait to be; more are refused with "not now".
const FLIGHTS_MAX: usize = 4096;
/// Largest answer about a token. Without its catalogue one is about 1 KiB; roles and groups make it longer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Role of services that may vouch for a user's token that has just expired.
const SERVICE_ROLE: &str = "service";

/// What the identity service says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is this caller's.
    Caller(Arc<Caller>),
    /// It is good, but for no project.
    Unscoped,
    /// It is not good.
    Bad,
    /// It cannot be found out now.
    Unknown,
}

/// Asks the identity service.
#[derive(Debug)]
pub struct Keystone {
    address: Address,
    fetcher: Fetcher,
    service: ServiceLogin,
    cache: TokenCache<Arc<Caller>>,
    flights: Mutex<HashMap<TokenId, watch::Receiver<Option<Verdict>>>>,
    questions: Semaphore,
    timeout: Duration,
    trusts: trust::Tokens,
    clock: Clock,
}

impl Keystone {
    /// A client of the identity service. It is not asked yet: it may come up later.
    ///
    /// # Errors
    ///
    /// [`FetchError`] for an address or authorities that cannot be used.
    pub fn new(access: &KeystoneAccess, clock: Clock) -> Result<Arc<Self>, FetchError> {
        let address = Address::parse(&access.url)?.with_ending("/v3");
        if address.is_exposed() {
            tracing::warn!(
                url = access.url,
                "tokens and a password go to the identity service in clear text"
            );
        }
        let limits = CacheLimits {
            good: access.cache,
            bad: access.negative_cache,
            entries_max: access.cache_entries_max,
        };
        Ok(Arc::new(Self {
            fetcher: Fetcher::new(access.ca.as_deref(), access.timeout)?,
            service: ServiceLogin::new(access),
            cache: TokenCache::new(limits),
            flights: Mutex::new(HashMap::new()),
            questions: Semaphore::new(QUESTIONS_MAX),
            timeout: access.timeout,
            trusts: trust::Tokens::default(),
            address,
            clock,
        }))
    }

    /// Whose token it is. With a service token of a user with the role `service` the user's token may have expired a
    /// while ago (Keystone: `allow_expired_window`), so that long work of a service can end.
    ///
    /// Returns at once for what is remembered. Cancel-safe: a question that runs goes on for those who ask next.
    pub async fn verdict(
        self: &Arc<Self>,
        token: &str,
        service_token: Option<&str>,
        peer: IpAddr,
    ) -> Verdict {
        let Some(service_token) = service_token else {
            return self.look_up(token, Kind::User, peer).await;
        };
        match self.look_up(service_token, Kind::User, peer).await {
            Verdict::Caller(service) if service.has_role(SERVICE_ROLE) => {
                self.look_up(token, Kind::Vouched, peer).await
            }
            // The service is somebody, but nobody who may vouch.
            Verdict::Caller(_) | Verdict::Unscoped => self.look_up(token, Kind::User, peer).await,
            refused @ (Verdict::Bad | Verdict::Unknown) => refused,
        }
    }

    async fn look_up(self: &Arc<Self>, token: &str, kind: Kind, peer: IpAddr) -> Verdict {
        let printable = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.is_empty() || token.len() > TOKEN_BYTES_MAX || !printable {
            return Verdict::Bad;
        }
        let id = TokenId::of(kind.purpose(), token);
        if let Some(verdict) = self.remembered(&id) {
            return verdict;
        }
        if self.cache.is_suspicious(peer, Instant::now()) {
            return Verdict::Unknown;
        }
        let Some(mut flight) = self.flight(id, token, kind, peer) else { return Verdict::Unknown };
        let landed = flight.wait_for(Option::is_some).await;
        landed.ok().and_then(|verdict| verdict.clone()).unwrap_or(Verdict::Unknown)
    }

    fn remembered(&self, id: &TokenId) -> Option<Verdict> {
        match self.cache.known(id, Instant::now())? {
            Known::Good(caller) if caller.project.is_empty() => Some(Verdict::Unscoped),
            // The clock decides, whatever is remembered.
            Known::Good(caller) if !caller.is_current((self.clock)()) => Some(Verdict::Bad),
            Known::Good(caller) => Some(Verdict::Caller(caller)),
            Known::Bad => Some(Verdict::Bad),
        }
    }

    /// The question about this token that runs, or a new one; `None` if too many run.
    fn flight(
        self: &Arc<Self>,
        id: TokenId,
        token: &str,
        kind: Kind,
        peer: IpAddr,
    ) -> Option<watch::Receiver<Option<Verdict>>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = flights.get(&id) {
            return Some(running.clone());
        }
        if flights.len() >= FLIGHTS_MAX {
            return None;
        }
        let (landing, flight) = watch::channel(None);
        flights.insert(id, flight.clone());
        drop(flights);
        let (this, token) = (Arc::clone(self), token.to_owned());
        // A task of its own, so that who asked first may go away. It ends by the deadlines of its questions.
        drop(tokio::spawn(async move {
            let departure = Departure { keystone: &this, id };
            let verdict = this.ask(&token, kind).await;
            this.remember(id, &verdict, peer);
            drop(departure);
            landing.send_replace(Some(verdict));
        }));
        Some(flight)
    }

    fn remember(&self, id: TokenId, verdict: &Verdict, peer: IpAddr) {
        let now = Instant::now();
        match verdict {
            Verdict::Caller(caller) => {
                let left = caller.expires.map_or(Duration::MAX, |end| end.since((self.clock)()));
                // Longer than any cache, and short enough to be added to a moment.
                let left = left.min(Duration::from_secs(86_400));
                self.cache.put_good(id, Arc::clone(caller), left, now);
            }
            Verdict::Unscoped => {
                self.cache.put_good(id, Arc::default(), Duration::from_secs(1), now);
            }
            Verdict::Bad => self.cache.put_bad(id, peer, now),
            Verdict::Unknown => {}
        }
    }

    /// Asks, with a new token of our own if the one we have is refused.
    async fn ask(&self, token: &str, kind: Kind) -> Verdict {
        let Ok(Ok(_permit)) = tokio::time::timeout(self.timeout, self.questions.acquire()).await
        else {
            tracing::warn!("the identity service is too slow for all who ask");
            return Verdict::Unknown;
        };
        for _ in 0..2 {
            let Some(own) = self.service.token(self).await else { return Verdict::Unknown };
            let question = Question {
                method: Method::GET,
                path: kind.path(),
                headers: &[(TOKEN, &own.token), (SUBJECT_TOKEN, token)],
                body: Bytes::new(),
            };
            let answer = match self.fetcher.ask(&self.address, question, ANSWER_BYTES_MAX).await {
                Ok(answer) => answer,
                Err(error) => {
                    let error = anyhow::Error::new(error);
                    tracing::warn!("the identity service cannot be asked: {error:#}");
                    return Verdict::Unknown;
                }
            };
            match answer.status {
                StatusCode::OK => return self.judge(&answer.body, kind),
                StatusCode::NOT_FOUND => return Verdict::Bad,
                StatusCode::UNAUTHORIZED => self.service.forget(&own),
                status => {
                    tracing::error!(
                        %status,
                        "the identity service does not answer about tokens; has our user the right to ask?"
                    );
                    return Verdict::Unknown;
                }
            }
        }
        tracing::error!("the identity service refuses tokens that it has just given us");
        Verdict::Unknown
    }

    fn judge(&self, body: &[u8], kind: Kind) -> Verdict {
        let now = (self.clock)();
        match wire::caller(body) {
            Ok(mut caller) => {
                if kind == Kind::Vouched && !caller.is_current(now) {
                    caller.expires = None;
                }
                if !caller.is_current(now) {
                    return Verdict::Bad;
                }
                if caller.project.is_empty() {
                    return Verdict::Unscoped;
                }
                Verdict::Caller(Arc::new(caller))
            }
            Err(what) => {
                tracing::error!(
                    what,
                    "the identity service's answer about a token is not understood"
                );
                Verdict::Unknown
            }
        }
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// Which question about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Is it good?
    User,
    /// Was it good a while ago?
    Vouched,
}

impl Kind {
    fn purpose(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Vouched => "vouched",
        }
    }

    /// The catalogue of services is long and not needed.
    fn path(self) -> &'static str {
        match self {
            Self::User => "/auth/tokens?nocatalog",
            Self::Vouched => "/auth/tokens?nocatalog&allow_expired=1",
        }
    }
}

/// Takes a flight out of the table, also when its task ends by a panic: who asks next must not wait for it.
struct Departure<'a> {
    keystone: &'a Keystone,
    id: TokenId,
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        self.keystone.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
