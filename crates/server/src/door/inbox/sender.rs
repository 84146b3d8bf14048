//! Who sends, and to which tenant.
//!
//! The tenant stands in the path, because an address is all that django-message-box can be told: `/inbox/` is the default
//! one, `/TENANT/inbox/` any. It is not the user's: a second permission of a user must not change where its messages go.
//! A sender is a user of the broker, shown by its password or by a token that stands for it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use broker::Broker;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;

use super::refusal::Refusal;
use crate::auth::Logins;
use crate::auth::token_file::TokenFile;
use crate::clock::time_of_day;

/// Finds out who sends.
#[derive(Debug)]
pub(super) struct Senders {
    pub(super) broker: Arc<Broker>,
    pub(super) logins: Arc<Logins>,
    /// Where there are tokens.
    pub(super) tokens: Option<TokenFile>,
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

    /// The user who sends to `tenant`, by what the request's headers show.
    ///
    /// # Errors
    ///
    /// 400, 401 and 403. Whether the user may do anything in the tenant is not decided here.
    pub(super) async fn user(
        &self,
        headers: &HeaderMap,
        tenant: &str,
        peer: IpAddr,
    ) -> Result<String, Refusal> {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let Some(first) = shown.next() else { return Err(Refusal::Unknown) };
        if shown.next().is_some() {
            return Err(Refusal::Unreadable("Authorization is there twice.".to_owned()));
        }
        let text = first.to_str().map_err(|_| Refusal::Unknown)?;
        let (scheme, rest) = text.split_once(' ').ok_or(Refusal::Unknown)?;
        let rest = rest.trim();
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => self.by_password(rest, peer).await,
            "bearer" | "token" => self.by_token(rest, tenant, peer),
            _ => Err(Refusal::Unknown),
        }
    }

    /// RFC 7617: base64 of user, colon, password.
    async fn by_password(&self, encoded: &str, peer: IpAddr) -> Result<String, Refusal> {
        let decoded = BASE64_STANDARD.decode(encoded).map_err(|_| Refusal::Unknown)?;
        let colon = decoded.iter().position(|byte| *byte == b':').ok_or(Refusal::Unknown)?;
        let (user, password) = decoded.split_at_checked(colon).ok_or(Refusal::Unknown)?;
        let user = std::str::from_utf8(user).map_err(|_| Refusal::Unknown)?;
        if !self.logins.may_send_passwords(peer, false) {
            let what = "Passwords are not taken over a connection without TLS from here.";
            return Err(Refusal::Forbidden(what.to_owned()));
        }
        let password = password.get(1..).unwrap_or_default();
        // A slow hash takes long, and its states need not be in every request's future.
        match Box::pin(self.logins.is_right(user, password, peer)).await {
            true => Ok(user.to_owned()),
            false => {
                self.broker.counters.logins_failed.add(1);
                Err(Refusal::Unknown)
            }
        }
    }

    fn by_token(&self, token: &str, tenant: &str, peer: IpAddr) -> Result<String, Refusal> {
        let found = self.tokens.as_ref().and_then(|file| file.grant(token, time_of_day()));
        let Some(grant) = found else {
            self.broker.counters.logins_failed.add(1);
            return Err(Refusal::Unknown);
        };
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
