//! Who sends, and to which tenant.
//!
//! The tenant stands in the path, because an address is all that django-message-box can be told: `/inbox/` is the default
//! one, `/TENANT/inbox/` any. It is not the user's: a second permission of a user must not change where its messages go.
//! A sender is a user of the broker, shown by its password, by its certificate, or by a token or a signature that stands for
//! it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use broker::Broker;
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;

use super::refusal::Refusal;
use crate::auth::Logins;
use crate::auth::grant::Grant;
use crate::auth::jwt::{Checked, Jwt};
use crate::auth::signature::{Signature, Unsigned};
use crate::auth::token_file::{self, TokenFile};
use crate::clock::time_of_day;

/// Bytes of a body whose hash is made at once; a fraction of a millisecond.
const HASHED_HERE_BYTES_MAX: usize = 64 * 1024;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) is_secured: bool,
    /// The user that its certificate stands for.
    pub(super) user: Option<String>,
}

/// What a sender has shown.
#[derive(Debug)]
pub(super) enum Shown {
    /// Who it is.
    User(String),
    /// A signature: who it is turns out with the body.
    Signature(Signature),
}

/// Finds out who sends.
#[derive(Debug)]
pub(super) struct Senders {
    pub(super) broker: Arc<Broker>,
    pub(super) logins: Arc<Logins>,
    /// Where there are tokens.
    pub(super) tokens: Option<TokenFile>,
    /// Where JWTs are taken.
    pub(super) jwt: Option<Jwt>,
    /// The tenant of the path that names none.
    pub(super) default_tenant: String,
}

impl Senders {
    /// The tenant that a path names; `None` if it leads to no inbox.
    pub(super) fn tenant<'a>(&'a self, path: &'a str) -> Option<Cow<'a, str>> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let before = path.strip_suffix("/inbox")?;
        if before.is_empty() {
            return Some(Cow::Borrowed(&self.default_tenant));
        }
        let name = before.strip_prefix('/').filter(|name| !name.contains('/'))?;
        percent_decode_str(name).decode_utf8().ok().filter(|name| !name.is_empty())
    }

    /// The user who sends to `tenant`, by what the request's headers show, or else by the certificate that `peer` has shown.
    ///
    /// # Errors
    ///
    /// 400, 401 and 403. Whether the user may do anything in the tenant is not decided here.
    pub(super) async fn shown(
        &self,
        headers: &HeaderMap,
        tenant: &str,
        peer: &Peer,
    ) -> Result<Shown, Refusal> {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let Some(first) = shown.next() else { return self.without_authorization(headers, peer) };
        if shown.next().is_some() {
            return Err(Refusal::Unreadable("Authorization is there twice.".to_owned()));
        }
        let text = first.to_str().map_err(|_| Refusal::Unknown)?;
        let (scheme, rest) = text.split_once(' ').ok_or(Refusal::Unknown)?;
        let rest = rest.trim();
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => self.by_password(rest, peer).await,
            "bearer" | "token" => self.by_token(rest, tenant, peer.address).await,
            _ => Err(Refusal::Unknown),
        }
        .map(Shown::User)
    }

    fn without_authorization(&self, headers: &HeaderMap, peer: &Peer) -> Result<Shown, Refusal> {
        match Signature::of(headers, time_of_day()) {
            Ok(signature) if self.tokens.is_some() => return Ok(Shown::Signature(signature)),
            Err(Unsigned::Missing) => {}
            Ok(_) | Err(Unsigned::Broken | Unsigned::Untimely) => return Err(self.unknown()),
        }
        let user = peer.user.as_ref().ok_or(Refusal::Unknown)?;
        if self.logins.may_come_from(user, peer.address) {
            return Ok(Shown::User(user.clone()));
        }
        Err(Refusal::Forbidden("The certificate's user may not come from here.".to_owned()))
    }

    /// The user who has signed this body.
    ///
    /// # Errors
    ///
    /// 401 and 403.
    pub(super) async fn signer(
        &self,
        signature: Signature,
        body: Bytes,
        tenant: &str,
        peer: &Peer,
    ) -> Result<String, Refusal> {
        let signers = self
            .tokens
            .as_ref()
            .map(|file| file.signers(tenant, time_of_day()))
            .unwrap_or_default();
        let bytes = body.len();
        let find =
            move || signers.into_iter().find(|signer| signature.is_by(&signer.secret, &body));
        let found = match bytes <= HASHED_HERE_BYTES_MAX {
            true => find(),
            // A hash of many bytes would keep others waiting.
            false => tokio::task::spawn_blocking(find).await.unwrap_or_default(),
        };
        let signer = found.ok_or_else(|| self.unknown())?;
        self.stands_for(&signer.grant, tenant, peer.address)
    }

    /// Somebody who has shown something wrong.
    fn unknown(&self) -> Refusal {
        self.broker.counters.logins_failed.add(1);
        Refusal::Unknown
    }

    /// RFC 7617: base64 of user, colon, password.
    async fn by_password(&self, encoded: &str, peer: &Peer) -> Result<String, Refusal> {
        let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| Refusal::Unknown)?;
        let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Refusal::Unknown)?;
        let (user, password) = decoded.split_at_checked(colon).ok_or(Refusal::Unknown)?;
        let user = std::str::from_utf8(user).map_err(|_| Refusal::Unknown)?;
        if !self.logins.may_send_passwords(peer.address, peer.is_secured) {
            let what = "Passwords are not taken over a connection without TLS from here.";
            return Err(Refusal::Forbidden(what.to_owned()));
        }
        let password = password.get(1..).unwrap_or_default();
        // A slow hash takes long, and its states need not be in every request's future.
        match Box::pin(self.logins.is_right(user, password, peer.address)).await {
            true => Ok(user.to_owned()),
            false => Err(self.unknown()),
        }
    }

    async fn by_token(&self, token: &str, tenant: &str, peer: IpAddr) -> Result<String, Refusal> {
        let now = time_of_day();
        let grant = match &self.jwt {
            // What begins like a token of ours is never tried as anything else.
            Some(jwt) if !token.starts_with(token_file::PREFIX) => {
                match jwt.check(token, now).await {
                    Checked::Good(grant) => Some(grant),
                    Checked::Bad => None,
                    Checked::Unknown => {
                        let what = "The keys of tokens cannot be had now.";
                        return Err(Refusal::Unavailable(what.to_owned()));
                    }
                }
            }
            _ => self.tokens.as_ref().and_then(|file| file.grant(token, now)),
        };
        let grant = grant.ok_or_else(|| self.unknown())?;
        self.stands_for(&grant, tenant, peer)
    }

    /// The user that a token or a secret stands for in a tenant.
    fn stands_for(&self, grant: &Grant, tenant: &str, peer: IpAddr) -> Result<String, Refusal> {
        let refuse = |what: &str| Err(Refusal::Forbidden(what.to_owned()));
        let Ok(caller) = grant.caller(Some(tenant)) else {
            return refuse("The token is not for this tenant.");
        };
        match caller.user {
            None => refuse("The token stands for no user."),
            Some(user) if !self.logins.may_come_from(&user, peer) => {
                refuse("The token's user may not come from here.")
            }
            Some(user) => Ok(user.into()),
        }
    }
}
