//! Webhooks: a request for each message, to an address that was judged a moment ago.
//!
//! There are no redirects, no proxies and no cookies. An answer's head may have 16 KiB, of its body 64 KiB are read, or as
//! much as somebody who waits for it may get, and all of an attempt has one deadline. Every status that is not 2xx is a
//! failure, but for a message that is a request of its own: what its answer says is told in `request`.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, http};

use crate::answer::Answer;
use crate::attempt::{Attempt, Blame, Failure, Outcome};
use crate::guard::{Destination, Guard};
use crate::options::Headers;
use crate::output::Output;
use crate::output::connection::{Idle, Sender, Tls, open};
use crate::request::{Said, Terms, retry_after, said};
use crate::resolve::{ResolveError, Resolver};
use crate::sign::{Secret, signature};

/// Most bytes that are read of an answer's body, only to use the connection again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long an answer's body is waited for when the head has said all.
const ANSWER_WAIT: Duration = Duration::from_millis(250);

/// Longest time that an attempt may be configured to take.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// A token for a Keystone trust.
pub type TokenFuture<'a> = Pin<Box<dyn Future<Output = Result<String, TokenError>> + Send + 'a>>;

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no token for the trust: {0}")]
pub struct TokenError(pub String);

/// Gives tokens for Keystone trusts.
pub trait TokenSource: Send + Sync + fmt::Debug {
    /// A token for a trust, from a cache if there is one.
    fn token<'a>(&'a self, trust_id: &'a str) -> TokenFuture<'a>;
}

/// Who gets a request.
#[derive(Debug, Clone)]
pub struct WebhookTarget {
    /// Where.
    pub destination: Destination,
    /// Headers that the subscription adds.
    pub headers: Headers,
    /// Secrets that sign, the newest first.
    pub secrets: Vec<Secret>,
    /// The Keystone trust whose token goes with the request.
    pub trust_id: Option<Box<str>>,
}

/// Sends webhooks.
#[derive(Debug)]
pub struct Webhook {
    /// What may be called.
    pub guard: Arc<Guard>,
    resolver: Resolver,
    tls: Tls,
    timeout: Duration,
    tokens: Option<Arc<dyn TokenSource>>,
    /// Hosts that tokens may be sent to.
    trust_hosts: Vec<String>,
    idle: Idle,
    user_agent: HeaderValue,
}

impl Webhook {
    /// An attempt takes at most `timeout`.
    #[must_use]
    pub fn new(guard: Arc<Guard>, resolver: Resolver, tls: Tls, timeout: Duration) -> Self {
        Self {
            guard,
            resolver,
            tls,
            timeout: timeout.min(TIMEOUT_MAX),
            tokens: None,
            trust_hosts: Vec::new(),
            idle: Idle::default(),
            user_agent: HeaderValue::from_static("Posthouse"),
        }
    }

    /// Sends tokens of Keystone trusts to these hosts.
    #[must_use]
    pub fn with_tokens(mut self, tokens: Arc<dyn TokenSource>, hosts: Vec<String>) -> Self {
        self.tokens = Some(tokens);
        self.trust_hosts = hosts;
        self
    }

    /// Closes connections that nobody used for a while; to be called now and then.
    pub fn drop_idle(&self) {
        self.idle.drop_old();
    }

    async fn attempt(&self, target: &WebhookTarget, attempt: &Attempt) -> Outcome {
        let token = match &target.trust_id {
            None => None,
            Some(trust_id) => match self.token(&target.destination, trust_id).await {
                Ok(token) => Some(token),
                Err(outcome) => return outcome,
            },
        };
        let head = match self.head(target, attempt, token.as_deref()) {
            Ok(head) => head,
            Err(error) => return Outcome::Hopeless(format!("the request cannot be made: {error}")),
        };
        let destination = &target.destination;
        let addresses = match self.resolver.addresses(destination, &self.guard).await {
            Ok(addresses) => addresses,
            Err(error @ ResolveError::Unknown(_)) => return Outcome::endpoint(error.to_string()),
            Err(ResolveError::Forbidden(forbidden)) => {
                tracing::info!(?destination, reason = %forbidden, "webhook not called");
                return Outcome::endpoint(forbidden.to_string());
            }
        };
        if let Some((sender, address)) = self.idle.take(&addresses, destination)
            && let Ok(outcome) = self.exchange(sender, address, destination, &head, attempt).await
        {
            return outcome;
        }
        // There was none, or it was closed while the request was on its way: once more on a new one.
        let (sender, address) = match open(&addresses, destination, &self.tls).await {
            Ok(opened) => opened,
            Err(error) => return unreachable_because(&error),
        };
        match self.exchange(sender, address, destination, &head, attempt).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::endpoint(text_of(&error)),
        }
    }

    async fn exchange(
        &self,
        mut sender: Sender,
        address: SocketAddr,
        destination: &Destination,
        head: &http::request::Parts,
        attempt: &Attempt,
    ) -> hyper::Result<Outcome> {
        let payload: Bytes = attempt.payload.clone();
        let request = Request::from_parts(head.clone(), Full::new(payload));
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let (outcome, is_whole) = match &attempt.request {
            Some(own) => outcome_of_own(response, own.terms).await,
            None => (outcome_of(&response), drained(response).await),
        };
        if is_whole {
            self.idle.keep(sender, address, destination);
        }
        Ok(outcome)
    }

    async fn token(&self, destination: &Destination, trust_id: &str) -> Result<String, Outcome> {
        let host = destination.host();
        if !self.trust_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(&host)) {
            let text = "tokens may not be sent to this host; see delivery.trust_hosts";
            return Err(Outcome::Hopeless(text.to_owned()));
        }
        let Some(tokens) = &self.tokens else {
            return Err(Outcome::Hopeless("no Keystone is configured".to_owned()));
        };
        tokens.token(trust_id).await.map_err(|error| Outcome::endpoint(error.to_string()))
    }

    fn head(
        &self,
        target: &WebhookTarget,
        attempt: &Attempt,
        token: Option<&str>,
    ) -> http::Result<http::request::Parts> {
        let destination = &target.destination;
        let own = attempt.request.as_deref();
        let path = own.and_then(|own| own.path.as_ref()).map(ToString::to_string);
        let path = path.unwrap_or_else(|| destination.path());
        let request = Request::builder().method(Method::POST).uri(path).body(())?;
        let (mut head, ()) = request.into_parts();
        let headers = &mut head.headers;
        headers.insert(HOST, HeaderValue::try_from(destination.authority())?);
        headers.insert(USER_AGENT, self.user_agent.clone());
        if own.is_none() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(value) = basic(destination) {
            headers.insert(AUTHORIZATION, HeaderValue::try_from(value)?);
        }
        for (name, value) in &target.headers {
            headers.insert(HeaderName::try_from(&**name)?, HeaderValue::try_from(&**value)?);
        }
        if let Some(own) = own {
            for (name, value) in &own.headers {
                headers.insert(name.clone(), value.clone());
            }
        }
        headers.insert("webhook-id", HeaderValue::try_from(&attempt.id)?);
        headers.insert("webhook-timestamp", HeaderValue::from(attempt.timestamp));
        if !target.secrets.is_empty() {
            let value =
                signature(&target.secrets, &attempt.id, attempt.timestamp, &attempt.payload);
            headers.insert("webhook-signature", HeaderValue::try_from(value)?);
        }
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(token)?;
            value.set_sensitive(true);
            headers.insert("x-auth-token", value);
        }
        Ok(head)
    }
}

impl Output for Webhook {
    type Target = WebhookTarget;

    async fn send(&self, target: &WebhookTarget, attempt: &Attempt) -> Outcome {
        match tokio::time::timeout(self.timeout, self.attempt(target, attempt)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::silence(format!("no answer within {:?}", self.timeout)),
        }
    }
}

/// `user:password@` of a URL.
fn basic(destination: &Destination) -> Option<String> {
    let url = destination.url();
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let decode = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let mut pair = decode(url.username());
    pair.push(b':');
    pair.extend(decode(url.password().unwrap_or_default()));
    Some(format!("Basic {}", STANDARD.encode(pair)))
}

/// What came of a message that is a request of its own, and whether the connection is of further use.
async fn outcome_of_own(response: Response<Incoming>, terms: Terms) -> (Outcome, bool) {
    let said = said(response.status(), response.headers(), terms);
    let outcome = match (said, terms.answer_bytes_max) {
        (Said::Done, Some(bytes_max)) => return answer_of(response, bytes_max).await,
        (Said::Later(until), _) => Outcome::Later(until),
        (Said::Done, None) | (Said::Forget, _) => Outcome::Delivered,
        (Said::Dead, _) => Outcome::Hopeless(failure_of(&response).reason),
        (Said::Retry, _) => Outcome::Failed(failure_of(&response)),
    };
    (outcome, drained(response).await)
}

/// Reads what somebody waits for, all of it or nothing.
async fn answer_of(response: Response<Incoming>, bytes_max: usize) -> (Outcome, bool) {
    let (head, body) = response.into_parts();
    match Limited::new(body, bytes_max).collect().await {
        Ok(body) => {
            let answer = Answer::new(&head.headers, body.to_bytes());
            let answered = answer.map(|answer| Outcome::Answered(Box::new(answer)));
            (answered.unwrap_or(Outcome::Delivered), true)
        }
        Err(error) if error.is::<LengthLimitError>() => {
            let reason = format!("its answer has more than {bytes_max} bytes");
            (Outcome::failed(reason, Blame::Message), false)
        }
        Err(_) => (Outcome::endpoint("its answer broke off"), false),
    }
}

fn outcome_of(response: &Response<Incoming>) -> Outcome {
    let status = response.status();
    if status.is_success() {
        return Outcome::Delivered;
    }
    Outcome::Failed(failure_of(response))
}

fn failure_of(response: &Response<Incoming>) -> Failure {
    let status = response.status();
    let not_well = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    Failure {
        reason: format!("HTTP status {}", status.as_u16()),
        blame: if not_well { Blame::Endpoint } else { Blame::Message },
        retry_after: retry_after(response.headers(), SystemTime::now()),
    }
}

/// Reads an answer's body; false if the connection is of no use any more.
async fn drained(response: Response<Incoming>) -> bool {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
    matches!(tokio::time::timeout(ANSWER_WAIT, body).await, Ok(Ok(_)))
}

/// Says no more than the tenant may know of what is behind an address.
fn unreachable_because(error: &std::io::Error) -> Outcome {
    match error.kind() {
        std::io::ErrorKind::TimedOut => Outcome::silence("nothing accepts a connection"),
        std::io::ErrorKind::ConnectionRefused => Outcome::endpoint("connection refused"),
        std::io::ErrorKind::InvalidData => Outcome::endpoint("its certificate is not good"),
        _ => Outcome::endpoint("cannot be reached"),
    }
}

fn text_of(error: &hyper::Error) -> &'static str {
    if error.is_parse() || error.is_parse_too_large() {
        "its answer cannot be read"
    } else {
        "the connection ended before an answer"
    }
}
