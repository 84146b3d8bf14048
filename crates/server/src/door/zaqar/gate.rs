//! Who is let in, and what they may do there: the one place that the queue service asks.

use std::sync::Arc;

use model::Timestamp;

use super::policy::{Policy, PolicyError, Rule};
use super::signed_url::{NotSigned, Shown, Signer};
use crate::auth::{Caller, Credentials};
use crate::config::{AuthMode, PolicyChoice, QueueAccess};

/// Longest project id, in characters, as in Zaqar.
pub const PROJECT_CHARS_MAX: usize = 256;

/// Body of a 401, as Keystone's middleware sends it.
pub const UNAUTHORIZED_BODY: &str = "{\"error\": {\"code\": 401, \"title\": \"Unauthorized\", \"message\": \
     \"The request you have made requires authentication.\"}}";

/// Lets callers in, and decides what they may.
#[derive(Debug)]
pub struct Gate {
    identity: Identity,
    policy: Policy,
    signer: Signer,
}

/// How callers show who they are.
#[derive(Debug)]
enum Identity {
    /// They do not: headers are believed.
    Claimed,
}

/// Why somebody was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// 401: no token, or none that is good. With [`Gate::challenge`] and [`UNAUTHORIZED_BODY`].
    #[error("the request needs authentication")]
    Unauthorized,
    /// 503: whether the token is good cannot be found out now.
    #[error("the token cannot be checked now")]
    Unavailable,
    /// 403: the token is good, but not for the project that the request names.
    #[error("the token is not for this project")]
    ForeignProject,
    /// 400 `Project-Id Missing`: nothing says which project.
    #[error("the project is not named")]
    ProjectMissing,
    /// 400 `Empty project header not allowed`.
    #[error("the project's name is empty")]
    ProjectEmpty,
}

impl Refusal {
    /// Whether it is about who the caller is, which is answered before everything else; what is about the project has
    /// its place behind `Client-ID`.
    #[must_use]
    pub fn is_about_identity(&self) -> bool {
        match self {
            Self::Unauthorized | Self::Unavailable | Self::ForeignProject => true,
            Self::ProjectMissing | Self::ProjectEmpty => false,
        }
    }
}

/// Why there is no gate. The server does not start without.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// The policy file.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The way of authentication is not there.
    #[error("queues.auth must be \"none\"; the others are not there yet")]
    Mode,
}

impl Gate {
    /// A gate as configured; reads policy and token files.
    ///
    /// # Errors
    ///
    /// Every [`GateError`].
    pub fn open(access: &QueueAccess) -> Result<Self, GateError> {
        let identity = match access.mode {
            AuthMode::None => Identity::Claimed,
            AuthMode::Keystone | AuthMode::Token => return Err(GateError::Mode),
        };
        let policy = match &access.policy {
            PolicyChoice::Zaqar => Policy::zaqar(),
            PolicyChoice::Open => Policy::open(),
            PolicyChoice::File(path) => Policy::from_file(path)?,
        };
        Ok(Self { identity, policy, signer: Signer::new(&access.signed_url) })
    }

    /// Whether callers must show who they are. Where not, WebSocket's `authenticate` is answered with success.
    #[must_use]
    pub fn asks_who(&self) -> bool {
        match self.identity {
            Identity::Claimed => false,
        }
    }

    /// Lets a caller in by what the request brought. Cancel-safe. Suspends only where somebody else has to be asked.
    ///
    /// # Errors
    ///
    /// Every [`Refusal`].
    pub async fn admit(&self, shown: &Credentials<'_>) -> Result<Arc<Caller>, Refusal> {
        match &self.identity {
            Identity::Claimed => claimed(shown).map(Arc::new),
        }
    }

    /// Lets a caller in by a pre-signed URL, whatever else the request brought, for `method` on `path` only. Such a
    /// caller has no roles.
    ///
    /// # Errors
    ///
    /// [`NotSigned`]: the answer is 404.
    pub fn admit_signed(
        &self,
        shown: &Shown<'_>,
        method: &str,
        path: &str,
        now: Timestamp,
    ) -> Result<Arc<Caller>, NotSigned> {
        self.signer.verify(shown, method, path, now)?;
        Ok(Arc::new(Caller { project: shown.project.into(), ..Caller::default() }))
    }

    /// Makes and checks pre-signed URLs.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Whether `caller` may do what `rule` names, in the caller's own project. Pure.
    #[must_use]
    pub fn allow(&self, caller: &Caller, rule: Rule) -> bool {
        self.policy.allows(rule, caller)
    }

    /// `WWW-Authenticate` of a 401.
    #[must_use]
    pub fn challenge(&self) -> &str {
        match self.identity {
            Identity::Claimed => "Bearer",
        }
    }
}

/// Where nobody has to show who they are the headers are believed.
fn claimed(shown: &Credentials<'_>) -> Result<Caller, Refusal> {
    let project = shown.project.ok_or(Refusal::ProjectMissing)?;
    if project.trim().is_empty() {
        return Err(Refusal::ProjectEmpty);
    }
    let roles = shown.roles.unwrap_or_default().split(',').map(str::trim);
    Ok(Caller {
        project: project.into(),
        user: shown.user.filter(|user| !user.is_empty()).map(Into::into),
        roles: roles.filter(|role| !role.is_empty()).map(Into::into).collect(),
        expires: None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::config::{Config, Sources};

    fn gate(set: &[&str]) -> Gate {
        let set = set.iter().map(|&pair| pair.to_owned()).collect();
        let config = Config::load(&Sources { set, ..Sources::default() }).unwrap();
        Gate::open(&config.queue_access).unwrap()
    }

    fn nothing() -> Credentials<'static> {
        Credentials::none(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    #[tokio::test]
    async fn without_authentication_the_headers_are_believed() {
        let gate = gate(&[]);
        let shown = Credentials {
            project: Some("p"),
            user: Some("ann"),
            roles: Some("reader, Admin,"),
            ..nothing()
        };

        let caller = gate.admit(&shown).await.unwrap();

        assert_eq!((&*caller.project, caller.user.as_deref()), ("p", Some("ann")));
        assert!(gate.allow(&caller, Rule::PoolsCreate));
        assert_eq!(gate.admit(&nothing()).await, Err(Refusal::ProjectMissing));
        let empty = Credentials { project: Some(""), ..nothing() };
        assert_eq!(gate.admit(&empty).await, Err(Refusal::ProjectEmpty));
    }

    #[test]
    fn a_signed_caller_has_no_roles_and_may_only_what_was_signed() {
        let gate = gate(&["queues.signed_url.secret=s"]);
        let (now, expires) = (Timestamp(1_000_000), Timestamp(2_000_000));
        let paths = ["/v2/queues/q/messages".to_owned()];
        let signed = gate.signer().sign(&paths, &["GET".to_owned()], "p", expires, now).unwrap();
        let shown = Shown {
            signature: &signed.signature,
            expires: &signed.expires,
            methods: vec!["GET"],
            paths: vec![&signed.paths[0]],
            project: "p",
        };

        let caller = gate.admit_signed(&shown, "GET", &paths[0], now).unwrap();

        assert_eq!(&*caller.project, "p");
        assert!(!gate.allow(&caller, Rule::PoolsCreate));
        assert!(gate.admit_signed(&shown, "GET", "/v2/queues/r/messages", now).is_err());
    }
}
