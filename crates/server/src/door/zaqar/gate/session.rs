//! A WebSocket connection's login: good once is not good for ever.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Gate, Refusal};
use crate::auth::{Caller, Credentials};

/// How often a login is looked at again. What is remembered of a token is up to 10 s old then, so a revoked token is out
/// within 15 s.
const RECHECK: Duration = Duration::from_secs(5);
/// How soon again when nobody can be asked.
const RETRY: Duration = Duration::from_secs(1);
/// How long a connection goes on when nobody can be asked; then it ends, as a new one would not be let in either.
const UNCHECKED_MAX: Duration = Duration::from_secs(15);

/// Who is on a connection, and what they showed.
pub struct Session {
    token: Box<str>,
    project: Option<Box<str>>,
    peer: IpAddr,
    caller: Arc<Caller>,
}

/// Why a connection is closed with 4003.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The token's time is over.
    #[error("Authentication expired.")]
    Expired,
    /// It is not good any more, or not for this project.
    #[error("Authentication revoked.")]
    Revoked,
    /// For too long nobody could be asked.
    #[error("Authentication cannot be checked.")]
    Unchecked,
}

impl Gate {
    /// Logs a connection in (WebSocket's `authenticate`); hand the session to [`Gate::until_invalid`].
    ///
    /// # Errors
    ///
    /// Every [`Refusal`].
    pub async fn log_in(&self, shown: &Credentials<'_>) -> Result<Session, Refusal> {
        let caller = self.admit(shown).await?;
        Ok(Session {
            token: shown.token.unwrap_or_default().into(),
            project: shown.project.map(Into::into),
            peer: shown.peer,
            caller,
        })
    }

    /// Waits until the session's login is not good any more: expired to the second, revoked within 15 s. Without
    /// authentication it never ends. Cancel-safe: call it again to go on.
    pub async fn until_invalid(&self, session: &Session) -> SessionEnd {
        if !self.asks_who() {
            return std::future::pending().await;
        }
        let mut caller = Arc::clone(&session.caller);
        let mut checked = Instant::now();
        let mut pause = RECHECK;
        loop {
            let left = caller.expires.map_or(Duration::MAX, |end| end.since((self.clock)()));
            tokio::time::sleep(pause.min(left)).await;
            if !caller.is_current((self.clock)()) {
                return SessionEnd::Expired;
            }
            match self.admit(&session.shown()).await {
                Ok(again) if again.project == session.caller.project => {
                    (caller, checked, pause) = (again, Instant::now(), RECHECK);
                }
                Err(Refusal::Unavailable) if checked.elapsed() < UNCHECKED_MAX => pause = RETRY,
                Err(Refusal::Unavailable) => return SessionEnd::Unchecked,
                Ok(_) | Err(_) => return SessionEnd::Revoked,
            }
        }
    }
}

impl Session {
    /// Who it is, with the rights at the time of the login.
    #[must_use]
    pub fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }

    /// What was shown, for asking again.
    #[must_use]
    pub fn shown(&self) -> Credentials<'_> {
        Credentials {
            token: Some(&self.token),
            project: self.project.as_deref(),
            ..Credentials::none(self.peer)
        }
    }
}

impl fmt::Debug for Session {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("caller", &self.caller).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::Path;

    use super::*;
    use crate::auth::token_file::{self, Entries, Entry};
    use crate::config::{Config, Sources};
    use crate::iso_time;

    fn write(path: &Path, tokens: Vec<Entry>) {
        Entries { tokens }.write(path).unwrap();
    }

    fn entry(sha256: &str, expires: Option<String>) -> Entry {
        Entry {
            name: "t".to_owned(),
            sha256: sha256.to_owned(),
            secret: None,
            projects: vec!["p".to_owned()],
            user: None,
            roles: Vec::new(),
            expires,
        }
    }

    fn gate(path: &Path) -> Gate {
        let set =
            vec!["queues.auth=token".to_owned(), format!("queues.token.tokens={}", path.display())];
        let config = Config::load(&Sources { set, ..Sources::default() }).unwrap();
        Gate::open(&config.queue_access).unwrap()
    }

    fn shown(token: &str) -> Credentials<'_> {
        Credentials { token: Some(token), ..Credentials::none(IpAddr::V4(Ipv4Addr::LOCALHOST)) }
    }

    #[tokio::test]
    async fn a_session_ends_when_its_token_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let (token, sha256) = token_file::make_token().unwrap();
        write(&path, vec![entry(&sha256, None)]);
        let gate = gate(&path);
        let session = gate.log_in(&shown(&token)).await.unwrap();
        write(&path, Vec::new());

        let end = tokio::time::timeout(Duration::from_secs(15), gate.until_invalid(&session));

        assert_eq!(end.await, Ok(SessionEnd::Revoked));
    }

    #[tokio::test]
    async fn a_session_ends_with_its_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let (token, sha256) = token_file::make_token().unwrap();
        let soon = (crate::clock::time_of_day()).after(Duration::from_secs(5));
        write(&path, vec![entry(&sha256, Some(iso_time::format(soon)))]);
        let gate = gate(&path);
        let session = gate.log_in(&shown(&token)).await.unwrap();

        let end = tokio::time::timeout(Duration::from_secs(60), gate.until_invalid(&session));

        assert_eq!(end.await, Ok(SessionEnd::Expired));
        assert!(!format!("{session:?}").contains(&token));
    }
}
