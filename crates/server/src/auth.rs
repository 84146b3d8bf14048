//! Who may come in: passwords, certificates, and where from.
//!
//! What somebody may do once inside is not decided here but by the broker's permissions.

pub mod backoff;
pub mod caller;
pub mod fetch;
pub mod grant;
pub mod jwt;
pub mod key_set;
pub mod keystone;
pub mod login;
pub mod password;
pub mod secret_file;
pub mod signature;
pub mod token_cache;
pub mod token_file;
pub mod verifier;

use std::net::IpAddr;

use model::Timestamp;

use crate::config::PlainWithoutTls;

pub use backoff::BackOff;
pub use caller::{AmbiguousCredentials, Caller, Credentials, TOKEN_BYTES_MAX};
pub use login::Logins;
pub use password::{PasswordError, PasswordHash};
pub use verifier::{Verdict, Verifier};

/// The time of day as others see it: tokens end by their makers' clocks, so it must not be one that never jumps.
pub type Clock = fn() -> Timestamp;

/// Whether a peer is on this machine: 127.0.0.0/8, `::1`, or a v4 loopback address mapped into v6.
///
/// `guest` may come from nowhere else. Must be given the address of the socket's peer, never one that a proxy protocol
/// or a header claims.
#[must_use]
pub fn is_loopback(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// Whether a password may cross this connection.
#[must_use]
pub fn password_allowed(rule: PlainWithoutTls, tls: bool, peer: IpAddr) -> bool {
    tls || match rule {
        PlainWithoutTls::Always => true,
        PlainWithoutTls::Loopback => is_loopback(peer),
        PlainWithoutTls::Never => false,
    }
}

/// A password hash as the broker keeps it: algorithm, space, hash, as definitions files write the two.
pub(crate) fn hash_text(hash: &PasswordHash) -> String {
    let (text, algorithm) = hash.to_definitions();
    format!("{algorithm} {text}")
}

/// Reads what [`hash_text`] wrote; `None` for what cannot be a hash.
pub(crate) fn stored_hash(text: &str) -> Option<PasswordHash> {
    let (algorithm, hash) = text.split_once(' ')?;
    PasswordHash::from_definitions(hash, algorithm).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised_in_every_spelling() {
        let peers = [
            "127.0.0.1",
            "127.8.9.1",
            "::1",
            "::ffff:127.0.0.1",
            "10.0.0.1",
            "::ffff:10.0.0.1",
            "::",
            "fe80::1",
        ];

        let local = peers.map(|peer| is_loopback(peer.parse().unwrap()));

        assert_eq!(local, [true, true, true, true, false, false, false, false]);
    }

    #[test]
    fn passwords_cross_clear_text_only_where_the_rule_says_so() {
        let (near, far) = ("127.0.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let allowed = |rule| {
            [(false, near), (false, far), (true, far)]
                .map(|(tls, peer)| password_allowed(rule, tls, peer))
        };

        assert_eq!(allowed(PlainWithoutTls::Always), [true, true, true]);
        assert_eq!(allowed(PlainWithoutTls::Loopback), [true, false, true]);
        assert_eq!(allowed(PlainWithoutTls::Never), [false, false, true]);
    }
}
