//! Who asks, and what a request brought to prove it.

use std::fmt;
use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use model::Timestamp;

/// Longest token, in bytes; Keystone's are 255 by its own promise, JWTs are longer.
pub const TOKEN_BYTES_MAX: usize = 8192;

/// Somebody who was let in: a project's, with roles.
///
/// Handed about as `Arc<Caller>`, because one login makes many requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The tenant whose resources there are for this caller; there are no others.
    pub project: Box<str>,
    /// Who, where that is known.
    pub user: Option<Box<str>>,
    /// What policies look at; compared without regard to case, as oslo.policy does.
    pub roles: Vec<Box<str>>,
    /// When what was shown stops being good; `None` is never.
    pub expires: Option<Timestamp>,
}

impl Caller {
    /// Whether the caller has this role, in any case of letters.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own.eq_ignore_ascii_case(role))
    }

    /// Whether what was shown is still good at `now`.
    #[must_use]
    pub fn is_current(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// What a request or a WebSocket message brought. Borrowed: nothing is kept but the token's hash.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// `X-Auth-Token`, or what stands behind `Authorization: Bearer`.
    pub token: Option<&'a str>,
    /// `X-Service-Token`: a service that acts for the user and vouches for a token that has just expired.
    pub service_token: Option<&'a str>,
    /// `X-Project-Id` as sent. Believed only where authentication is off; otherwise it chooses among the projects of the
    /// token.
    pub project: Option<&'a str>,
    /// `X-User-Id` as sent. Believed only where authentication is off.
    pub user: Option<&'a str>,
    /// `X-Roles` as sent. Believed only where authentication is off.
    pub roles: Option<&'a str>,
    /// The socket's peer; never what a header claims.
    pub peer: IpAddr,
}

impl<'a> Credentials<'a> {
    /// Nothing but the peer.
    #[must_use]
    pub fn none(peer: IpAddr) -> Self {
        Self { token: None, service_token: None, project: None, user: None, roles: None, peer }
    }

    /// What the headers of an HTTP request bring.
    ///
    /// # Errors
    ///
    /// [`AmbiguousCredentials`] if a header that matters is there twice, is not printable text, or two tokens differ:
    /// what one program reads as the first and another as the last must not decide who somebody is.
    pub fn from_headers(
        headers: &'a HeaderMap,
        peer: IpAddr,
    ) -> Result<Self, AmbiguousCredentials> {
        let own = single(headers, &TOKEN)?;
        let bearer = single(headers, &AUTHORIZATION)?.and_then(bearer);
        let token = match (own, bearer) {
            (Some(own), Some(bearer)) if own != bearer => return Err(AmbiguousCredentials),
            (own, bearer) => own.or(bearer),
        };
        Ok(Self {
            token,
            service_token: single(headers, &SERVICE_TOKEN)?,
            project: single(headers, &PROJECT)?,
            user: single(headers, &USER)?,
            roles: single(headers, &ROLES)?,
            peer,
        })
    }
}

impl fmt::Debug for Credentials<'_> {
    /// Without tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("token", &self.token.map(|_| "***"))
            .field("service_token", &self.service_token.map(|_| "***"))
            .field("project", &self.project)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Two headers say different things about who asks, or one cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the headers that say who asks contradict each other")]
pub struct AmbiguousCredentials;

const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SERVICE_TOKEN: HeaderName = HeaderName::from_static("x-service-token");
const PROJECT: HeaderName = HeaderName::from_static("x-project-id");
const USER: HeaderName = HeaderName::from_static("x-user-id");
const ROLES: HeaderName = HeaderName::from_static("x-roles");

fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, AmbiguousCredentials> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(AmbiguousCredentials);
    }
    // Projects may have any name: UTF-8 is let through, other bytes are not.
    std::str::from_utf8(first.as_bytes()).map(Some).map_err(|_| AmbiguousCredentials)
}

/// RFC 6750: the scheme in any case. Other schemes are no token of ours and say nothing.
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_token_comes_in_either_header() {
        let own = headers(&[("x-auth-token", "t"), ("x-project-id", "p")]);
        let bearer = headers(&[("authorization", "bearer t")]);
        let basic = headers(&[("authorization", "Basic dTpw")]);

        assert_eq!(Credentials::from_headers(&own, PEER).unwrap().token, Some("t"));
        assert_eq!(Credentials::from_headers(&own, PEER).unwrap().project, Some("p"));
        assert_eq!(Credentials::from_headers(&bearer, PEER).unwrap().token, Some("t"));
        assert_eq!(Credentials::from_headers(&basic, PEER).unwrap().token, None);
    }

    #[test]
    fn headers_that_contradict_each_other_are_refused() {
        for pairs in [
            &[("x-auth-token", "a"), ("x-auth-token", "b")][..],
            &[("x-auth-token", "a"), ("authorization", "Bearer b")],
            &[("x-project-id", "a"), ("x-project-id", "a")],
        ] {
            let headers = headers(pairs);
            assert!(Credentials::from_headers(&headers, PEER).is_err(), "{pairs:?}");
        }
    }

    #[test]
    fn tokens_are_not_in_the_debug_form() {
        let headers = headers(&[("x-auth-token", "canary-1"), ("x-service-token", "canary-2")]);

        let shown = format!("{:?}", Credentials::from_headers(&headers, PEER).unwrap());

        assert!(!shown.contains("canary"), "{shown}");
    }
}
