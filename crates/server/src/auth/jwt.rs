//! JSON Web Tokens of an issuer whose public keys are known (RFC 7519, RFC 8725).
//!
//! What is taken: signatures of the configured algorithms, by a key of the same kind, for our audience, with an end that
//! is not over. Never `none`, and HMAC only by keys that are symmetric and come from a file. The keys are in
//! [`key_set`](super::key_set).

use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, Validation};
use model::Timestamp;
use serde_json::Value;

use super::TOKEN_BYTES_MAX;
use super::grant::Grant;
use super::key_set::{KeySet, KeySetError};
use super::token_cache::{CacheLimits, Known, TokenCache, TokenId};
use crate::config::TokenAccess;

/// How far the issuer's clock may be off, in seconds.
const SKEW_SECS: u64 = 60;
/// How long a token that was found good is not looked at again: signatures are slow, keys may be withdrawn.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Tokens remembered.
const ENTRIES_MAX: usize = 10_000;
/// Longest name of a project, user or role, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Most projects or roles of a token.
const LIST_MAX: usize = 1000;

/// Checks JWTs.
#[derive(Debug)]
pub struct Jwt {
    keys: Arc<KeySet>,
    validation: Validation,
    project_claim: Vec<String>,
    roles_claim: Vec<String>,
    cache: TokenCache<Arc<Grant>>,
}

/// What came of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// It is good.
    Good(Arc<Grant>),
    /// It is not.
    Bad,
    /// There are no keys yet.
    Unknown,
}

/// Why JWTs cannot be checked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// A signature algorithm is not one that we check.
    #[error(
        "queues.token.algorithms: `{0}` is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA, HS256, HS384, HS512"
    )]
    Algorithm(String),
    /// No algorithm is left.
    #[error("queues.token.algorithms must not be empty")]
    NoAlgorithm,
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

impl Jwt {
    /// Reads the keys from their file; from an address they are fetched when the first token comes.
    ///
    /// # Errors
    ///
    /// Every [`JwtError`].
    pub fn open(access: &TokenAccess) -> Result<Self, JwtError> {
        let mut algorithms = Vec::new();
        for name in &access.algorithms {
            let algorithm = name.parse::<Algorithm>().ok();
            algorithms.push(algorithm.ok_or_else(|| JwtError::Algorithm(name.clone()))?);
        }
        let first = *algorithms.first().ok_or(JwtError::NoAlgorithm)?;
        let mut validation = Validation::new(first);
        validation.algorithms = algorithms;
        validation.leeway = SKEW_SECS;
        validation.validate_nbf = true;
        validation.set_audience(&[&access.audience]);
        let mut required = vec!["exp", "aud"];
        if !access.issuer.is_empty() {
            validation.set_issuer(&[&access.issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let limits =
            CacheLimits { good: REMEMBERED, bad: Duration::ZERO, entries_max: ENTRIES_MAX };
        let path = |claim: &str| claim.split('.').map(ToOwned::to_owned).collect();
        Ok(Self {
            keys: KeySet::open(access)?,
            validation,
            project_claim: path(&access.project_claim),
            roles_claim: path(&access.roles_claim),
            cache: TokenCache::new(limits),
        })
    }

    /// What a token is good for. Waits for keys where there are none, or none of its name. Cancel-safe.
    pub async fn check(&self, token: &str, now: Timestamp) -> Checked {
        if token.len() > TOKEN_BYTES_MAX {
            return Checked::Bad;
        }
        let id = TokenId::of("jwt", token);
        if let Some(Known::Good(grant)) = self.cache.known(&id, Instant::now()) {
            let current = grant.expires.is_none_or(|expires| now < expires);
            return if current { Checked::Good(grant) } else { Checked::Bad };
        }
        let Ok(header) = jsonwebtoken::decode_header(token) else { return Checked::Bad };
        // RFC 7515 §4.1.11: what must be understood and is not makes the token bad.
        if header.crit.is_some() || !self.validation.algorithms.contains(&header.alg) {
            return Checked::Bad;
        }
        let Some(keys) = self.keys.candidates(header.kid.as_deref(), header.alg).await else {
            return Checked::Unknown;
        };
        for key in keys {
            // The list of the token's own algorithm only: the library wants all of a list to be of the key's kind.
            let mut validation = self.validation.clone();
            validation.algorithms = vec![header.alg];
            let decoded = jsonwebtoken::decode::<Value>(token, &key, &validation);
            let Ok(decoded) = decoded else { continue };
            // The library rounds; the clock of the caller decides.
            let current = |grant: &Grant| grant.expires.is_some_and(|expires| now < expires);
            let grant = self.grant(&decoded.claims).filter(current);
            let Some(grant) = grant.map(Arc::new) else { return Checked::Bad };
            let lifetime = grant.expires.unwrap_or(now).since(now);
            self.cache.put_good(id, Arc::clone(&grant), lifetime, Instant::now());
            return Checked::Good(grant);
        }
        Checked::Bad
    }

    /// What verified claims grant; `None` if they do not say it in a way that is understood.
    fn grant(&self, claims: &Value) -> Option<Grant> {
        let projects = match at(claims, &self.project_claim)? {
            Value::String(project) => vec![name(project)?],
            Value::Array(projects) => names(projects)?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
        };
        // An issuer that means every project says so in our file of tokens, not by a name that somebody chose.
        if projects.is_empty() || projects.iter().any(|project| **project == *"*") {
            return None;
        }
        let roles = match at(claims, &self.roles_claim) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(roles)) => names(roles)?,
            Some(Value::String(roles)) => roles.split_whitespace().map(Into::into).collect(),
            Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => return None,
        };
        let user = match claims.get("sub") {
            None => None,
            Some(Value::String(user)) => Some(name(user)?),
            Some(_) => return None,
        };
        Some(Grant { projects, user, roles, expires: Some(end(claims.get("exp")?)?) })
    }
}

/// The end with the skew, so that it agrees with what the library lets pass.
fn end(exp: &Value) -> Option<Timestamp> {
    let secs = match exp.as_u64() {
        Some(secs) => secs,
        // RFC 7519 §2: a date may have a fraction; what is left of its second is given away.
        None => exp.as_f64().filter(|secs| *secs >= 0.0 && *secs < 1e12).map(whole)?,
    };
    Some(Timestamp(secs.saturating_add(SKEW_SECS).saturating_mul(1000)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the caller has checked that it is positive and small"
)]
fn whole(secs: f64) -> u64 {
    secs as u64
}

fn at<'a>(claims: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(claims, |value, name| value.get(name))
}

fn names(values: &[Value]) -> Option<Vec<Box<str>>> {
    let few = values.len() <= LIST_MAX;
    few.then(|| values.iter().map(|value| name(value.as_str()?)).collect()).flatten()
}

fn name(text: &str) -> Option<Box<str>> {
    let plain = (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.contains(char::is_control);
    plain.then(|| text.into())
}

#[cfg(test)]
mod tests;
