//! Trusts: a user lets Posthouse act for them later, when a `trust+https://` subscription delivers.
//!
//! Zaqar's way: the trust is made with the user's token when they subscribe, from the user to Posthouse's own user, with
//! the roles of that token; at a delivery Posthouse logs in with the trust as scope and shows that token.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use hyper::{Method, StatusCode};
use model::Timestamp;
use serde_json::{Value, json};

use super::wire::TOKEN;
use super::{ANSWER_BYTES_MAX, Keystone, Question};
use crate::auth::Caller;
use crate::iso_time;

/// Tokens of trusts that are kept; when full, all are forgotten, which costs a login each.
const TOKENS_MAX: usize = 10_000;
/// A token is replaced when it has less than this left: a delivery may take so long.
const LEFT_MIN: Duration = Duration::from_secs(60);
/// How often a trust is asked for that ends at the same microsecond as another one of its user.
const TRIES_MAX: u32 = 3;
/// Longest id of a trust.
const ID_BYTES_MAX: usize = 128;

/// The name of a trust at the identity service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrustId(Box<str>);

impl TrustId {
    /// An id as it was stored; `None` if it is none.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (plain && (1..=ID_BYTES_MAX).contains(&text.len())).then(|| Self(text.into()))
    }

    /// As it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why there is no trust or no token of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The identity service cannot be asked now; trying again later makes sense.
    #[error("the identity service cannot be asked now")]
    Unavailable,
    /// It refuses: the trust is gone, the token may not make trusts, or the user has lost the roles.
    #[error("the identity service refuses the trust")]
    Refused,
}

/// Tokens of trusts that are in use.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<TrustId, (Arc<str>, Timestamp)>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(***)")
    }
}

impl Keystone {
    /// Makes a trust from `caller`, who showed `token`, to Posthouse, good until `expires`.
    ///
    /// # Errors
    ///
    /// Every [`TrustError`].
    pub async fn create_trust(
        &self,
        caller: &Caller,
        token: &str,
        expires: Timestamp,
    ) -> Result<TrustId, TrustError> {
        let own = self.service.token(self).await.ok_or(TrustError::Unavailable)?;
        let roles: Vec<_> = caller.roles.iter().map(|role| json!({ "name": role })).collect();
        let mut tries = 0;
        loop {
            let body = json!({"trust": {
                "trustor_user_id": caller.user,
                "trustee_user_id": own.user,
                "project_id": caller.project,
                "impersonation": true,
                "roles": roles,
                "expires_at": format!("{}.{:06}Z", iso_time::format(expires), microsecond()),
            }});
            let question = Question {
                method: Method::POST,
                path: "/OS-TRUST/trusts",
                headers: &[(TOKEN, token)],
                body: body.to_string().into(),
            };
            let answer = self.answer(question).await?;
            tries += 1;
            match answer.status {
                StatusCode::CREATED => return made(&answer.body),
                StatusCode::CONFLICT if tries < TRIES_MAX => {}
                status => {
                    tracing::info!(%status, "a trust was refused");
                    return Err(refusal(status));
                }
            }
        }
    }

    /// A token with which Posthouse acts for the user who made the trust; with at least a minute left.
    ///
    /// # Errors
    ///
    /// [`TrustError::Unavailable`]: the trust may be gone as well, as a login does not say which.
    pub async fn trust_token(&self, trust: &TrustId) -> Result<Arc<str>, TrustError> {
        if let Some(token) = self.kept_token(trust) {
            return Ok(token);
        }
        let scope = json!({"OS-TRUST:trust": {"id": trust.as_str()}});
        let own = self.service.scoped(self, &scope).await.ok_or(TrustError::Unavailable)?;
        let token: Arc<str> = own.token.into();
        let mut tokens = self.trusts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(trust.clone(), (Arc::clone(&token), own.expires));
        Ok(token)
    }

    /// Forgets the token of a trust, after a peer refused it: the next delivery gets a new one.
    pub fn forget_trust_token(&self, trust: &TrustId) {
        self.trusts.0.lock().unwrap_or_else(PoisonError::into_inner).remove(trust);
    }

    /// Ends a trust, with a token of itself; for subscriptions that are deleted.
    ///
    /// # Errors
    ///
    /// Every [`TrustError`]. A trust that is gone already is a success.
    pub async fn delete_trust(&self, trust: &TrustId) -> Result<(), TrustError> {
        let token = self.trust_token(trust).await?;
        let path = format!("/OS-TRUST/trusts/{}", trust.as_str());
        let question = Question {
            method: Method::DELETE,
            path: &path,
            headers: &[(TOKEN, &token)],
            body: bytes::Bytes::new(),
        };
        let answer = self.answer(question).await?;
        self.forget_trust_token(trust);
        match answer.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
            status => Err(refusal(status)),
        }
    }

    fn kept_token(&self, trust: &TrustId) -> Option<Arc<str>> {
        let tokens = self.trusts.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, expires) = tokens.get(trust)?;
        (expires.since(self.now()) > LEFT_MIN).then(|| Arc::clone(token))
    }

    async fn answer(
        &self,
        question: Question<'_>,
    ) -> Result<super::super::fetch::Answer, TrustError> {
        self.fetcher.ask(&self.address, question, ANSWER_BYTES_MAX).await.map_err(|error| {
            let error = anyhow::Error::new(error);
            tracing::warn!("the identity service cannot be asked: {error:#}");
            TrustError::Unavailable
        })
    }
}

/// Any microsecond of a second: to Keystone, trusts of one user that end at the same one are the same, and it refuses the
/// second.
fn microsecond() -> u32 {
    let mut random = [0; 4];
    match rand::fill(&mut random) {
        Ok(()) => u32::from_le_bytes(random) % 1_000_000,
        // All are alike then: two within a second conflict, and the second one's caller hears that and tries again.
        Err(_) => 0,
    }
}

fn made(answer: &[u8]) -> Result<TrustId, TrustError> {
    let body: Value = serde_json::from_slice(answer).map_err(|_| TrustError::Refused)?;
    let id = body.pointer("/trust/id").and_then(Value::as_str);
    id.and_then(TrustId::new).ok_or(TrustError::Refused)
}

fn refusal(status: StatusCode) -> TrustError {
    if status.is_server_error() { TrustError::Unavailable } else { TrustError::Refused }
}
