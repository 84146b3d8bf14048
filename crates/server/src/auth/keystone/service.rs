//! Posthouse's own login at the identity service: one token, made when it is needed, renewed before it ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use model::Timestamp;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::wire::{self, SUBJECT_TOKEN};
use super::{ANSWER_BYTES_MAX, Keystone, Question};
use crate::config::KeystoneAccess;

/// A token is replaced when it has less than this left, so that it does not end between two questions.
const LEFT_MIN: Duration = Duration::from_secs(60);
/// After a login that failed none is tried for so long: identity services lock users that try too often.
const PAUSE: Duration = Duration::from_secs(5);

/// A token of ours. No `Debug`: it is a secret.
pub(super) struct OwnToken {
    pub(super) token: String,
    pub(super) user: String,
    pub(super) expires: Timestamp,
}

pub(super) struct ServiceLogin {
    access: KeystoneAccess,
    state: Mutex<State>,
    /// One login at a time.
    turn: Semaphore,
}

#[derive(Default)]
struct State {
    token: Option<Arc<OwnToken>>,
    failed_at: Option<Instant>,
}

impl std::fmt::Debug for ServiceLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceLogin").field("user", &self.access.user).finish_non_exhaustive()
    }
}

impl ServiceLogin {
    pub(super) fn new(access: &KeystoneAccess) -> Self {
        Self { access: access.clone(), state: Mutex::default(), turn: Semaphore::new(1) }
    }

    /// A token with some time left; `None` if there is none and none can be had now.
    pub(super) async fn token(&self, keystone: &Keystone) -> Option<Arc<OwnToken>> {
        if let Some(token) = self.current(keystone.now()) {
            return Some(token);
        }
        let _turn = self.turn.acquire().await.ok()?;
        // Who waited finds what the one before it got, or that it got none.
        if let Some(token) = self.current(keystone.now()) {
            return Some(token);
        }
        if self.state().failed_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        let token = log_in(keystone, &self.access, &wire::own_project(&self.access)).await;
        let mut state = self.state();
        match token {
            Some(token) => {
                let token = Arc::new(token);
                *state = State { token: Some(Arc::clone(&token)), failed_at: None };
                Some(token)
            }
            None => {
                state.failed_at = Some(Instant::now());
                None
            }
        }
    }

    /// Drops a token that was refused, if it is still the one in use.
    pub(super) fn forget(&self, refused: &Arc<OwnToken>) {
        let mut state = self.state();
        if state.token.as_ref().is_some_and(|token| Arc::ptr_eq(token, refused)) {
            state.token = None;
        }
    }

    /// Logs in with another scope; for trusts.
    pub(super) async fn scoped(&self, keystone: &Keystone, scope: &Value) -> Option<OwnToken> {
        log_in(keystone, &self.access, scope).await
    }

    fn current(&self, now: Timestamp) -> Option<Arc<OwnToken>> {
        let state = self.state();
        state.token.as_ref().filter(|token| token.expires.since(now) > LEFT_MIN).map(Arc::clone)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn log_in(keystone: &Keystone, access: &KeystoneAccess, scope: &Value) -> Option<OwnToken> {
    let question = Question {
        method: Method::POST,
        path: "/auth/tokens?nocatalog",
        headers: &[],
        body: wire::login(access, scope).into(),
    };
    let answer = match keystone.fetcher.ask(&keystone.address, question, ANSWER_BYTES_MAX).await {
        Ok(answer) => answer,
        Err(error) => {
            let error = anyhow::Error::new(error);
            tracing::warn!("cannot log in to the identity service: {error:#}");
            return None;
        }
    };
    if answer.status != StatusCode::CREATED {
        tracing::error!(
            status = %answer.status,
            user = access.user,
            "the identity service does not let us in; check queues.keystone.user, password and project"
        );
        return None;
    }
    let token = answer.headers.get(SUBJECT_TOKEN).and_then(|value| value.to_str().ok());
    match (token, wire::caller(&answer.body)) {
        (Some(token), Ok(own)) => Some(OwnToken {
            token: token.to_owned(),
            user: own.user.map(Into::into).unwrap_or_default(),
            expires: own.expires.unwrap_or_default(),
        }),
        (_, Err(what)) => {
            tracing::error!(what, "the identity service's answer to our login is not understood");
            None
        }
        (None, Ok(_)) => {
            tracing::error!("the identity service let us in without a token");
            None
        }
    }
}
