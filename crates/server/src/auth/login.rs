//! Logins of the broker's users with their passwords, the same at every door.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use broker::Broker;

use super::backoff::BackOff;
use super::verifier::{Verdict, Verifier};
use super::{hash_text, is_loopback, password_allowed, stored_hash};
use crate::config::PlainWithoutTls;

/// A user that exists for trying things out, and only from this machine.
const GUEST: &str = "guest";

/// Checks passwords of users, and slows guessing down. One for all doors: who guesses at one waits at all.
#[derive(Debug)]
pub struct Logins {
    broker: Arc<Broker>,
    verifier: Verifier,
    back_off: BackOff,
    plain_without_tls: PlainWithoutTls,
}

impl Logins {
    /// For the users of `broker`; passwords cross connections without TLS where `plain_without_tls` says so.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        verifier: Verifier,
        plain_without_tls: PlainWithoutTls,
    ) -> Self {
        Self { broker, verifier, back_off: BackOff::default(), plain_without_tls }
    }

    /// Whether a password may cross a connection from `peer`.
    pub(crate) fn may_send_passwords(&self, peer: IpAddr, tls: bool) -> bool {
        let allowed = password_allowed(self.plain_without_tls, tls, peer);
        if !allowed {
            tracing::warn!(%peer, "password refused on a connection without TLS");
        }
        allowed
    }

    /// Whether a user may come from `peer` at all.
    pub(crate) fn may_come_from(&self, user: &str, peer: IpAddr) -> bool {
        let allowed = user != GUEST || is_loopback(peer);
        if !allowed {
            tracing::warn!(%peer, "user guest can only connect from this machine");
        }
        allowed
    }

    /// Whether `password` is the user's. Costs a slow hash, but for one that was right a moment ago, and for somebody
    /// who waits after many wrong ones. Cancel-safe.
    pub(crate) async fn is_right(&self, user: &str, password: &[u8], peer: IpAddr) -> bool {
        if !self.may_come_from(user, peer) {
            return false;
        }
        let known = self.broker.users.get(user);
        let hash =
            known.as_ref().and_then(|user| user.password_hash.as_deref()).and_then(stored_hash);
        if self.verifier.is_known(user, password, hash.as_ref()) {
            return true;
        }
        if !self.back_off.admit(peer, user, Instant::now()) {
            self.broker.counters.logins_throttled.add(1);
            tracing::debug!(%peer, user, "password not looked at after many wrong ones");
            return false;
        }
        let verdict = self.verifier.verify(user, password, hash.as_ref()).await;
        if verdict == Verdict::Refused {
            return false;
        }
        self.back_off.forgive(peer, user);
        if verdict == Verdict::AcceptedWeak {
            self.strengthen(user, password).await;
        }
        true
    }

    /// Forgets which passwords were right; to be called on any change of a user.
    pub(crate) fn forget_all(&self) {
        self.verifier.forget_all();
    }

    /// A good login with an imported hash: from now on it is a strong one.
    async fn strengthen(&self, name: &str, password: &[u8]) {
        let Ok(hash) = self.verifier.hash(password).await else { return };
        let Some(user) = self.broker.users.get(name) else { return };
        let mut user = broker::User::clone(&user);
        user.password_hash = Some(hash_text(&hash).into());
        if let Err(error) = self.broker.put_user(user) {
            tracing::warn!(user = name, %error, "cannot keep the stronger password hash");
        }
    }
}
