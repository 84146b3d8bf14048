//! Who is let in, and what they may do there: the one place that the queue service asks.

mod session;

use std::sync::Arc;

use model::Timestamp;

use super::policy::{Policy, PolicyError, Rule};
use super::sealing::{KeyRing, KeyRingError};
use super::signed_url::{NotSigned, Shown, Signer};
use crate::auth::fetch::FetchError;
use crate::auth::grant::{Grant, Misfit};
use crate::auth::jwt::{Checked, Jwt, JwtError};
use crate::auth::keystone::{Keystone, Verdict};
use crate::auth::token_file::{self, TokenFile, TokenFileError};
use crate::auth::{Caller, Clock, Credentials};
use crate::clock::time_of_day;
use crate::config::{AuthMode, KeystoneAccess, PolicyChoice, QueueAccess, TokenAccess};

pub use session::{Session, SessionEnd};

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
    key_ring: Option<KeyRing>,
    challenge: String,
    clock: Clock,
}

/// How callers show who they are.
#[derive(Debug)]
enum Identity {
    /// They do not: headers are believed.
    Claimed,
    /// By a token that the identity service knows.
    Keystone(Arc<Keystone>),
    /// By a token of ours, or a JWT.
    Tokens(Box<Tokens>),
}

/// Where tokens without OpenStack come from.
#[derive(Debug)]
struct Tokens {
    file: Option<TokenFile>,
    jwt: Option<Jwt>,
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
    /// The identity service's address or authorities.
    #[error("the identity service cannot be used")]
    Keystone(#[source] FetchError),
    /// The keys of messages at rest.
    #[error(transparent)]
    KeyRing(#[from] KeyRingError),
    /// The file of tokens.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// The keys of JWTs.
    #[error("JWTs cannot be checked")]
    Jwt(#[from] JwtError),
}

impl Gate {
    /// A gate as configured; reads policy, tokens and keys from their files. Asks nobody yet.
    ///
    /// # Errors
    ///
    /// Every [`GateError`].
    pub fn open(access: &QueueAccess) -> Result<Self, GateError> {
        let identity = match access.mode {
            AuthMode::None => Identity::Claimed,
            AuthMode::Keystone => {
                let keystone = Keystone::new(&access.keystone, time_of_day);
                Identity::Keystone(keystone.map_err(GateError::Keystone)?)
            }
            AuthMode::Token => Identity::Tokens(Box::new(Tokens::open(&access.token)?)),
        };
        let policy = match &access.policy {
            PolicyChoice::Zaqar => Policy::zaqar(),
            PolicyChoice::Open => Policy::open(),
            PolicyChoice::File(path) => Policy::from_file(path)?,
        };
        let challenge = match access.mode {
            AuthMode::Keystone => keystone_challenge(&access.keystone),
            AuthMode::None | AuthMode::Token => "Bearer realm=\"posthouse\"".to_owned(),
        };
        let (signer, clock) = (Signer::new(&access.signed_url), time_of_day as Clock);
        let key_ring = KeyRing::parse(access.encryption_keys.reveal())?;
        Ok(Self { identity, policy, signer, key_ring, challenge, clock })
    }

    /// Whether callers must show who they are. Where not, WebSocket's `authenticate` is answered with success.
    #[must_use]
    pub fn asks_who(&self) -> bool {
        !matches!(self.identity, Identity::Claimed)
    }

    /// Lets a caller in by what the request brought. Cancel-safe. Suspends only where somebody else has to be asked.
    ///
    /// With Keystone the project is the token's, whatever `X-Project-Id` says, as its middleware does it; with tokens
    /// of ours and JWTs the header chooses among the token's projects.
    ///
    /// # Errors
    ///
    /// Every [`Refusal`].
    pub async fn admit(&self, shown: &Credentials<'_>) -> Result<Arc<Caller>, Refusal> {
        match &self.identity {
            Identity::Claimed => claimed(shown).map(Arc::new),
            Identity::Keystone(keystone) => {
                let token = shown.token.ok_or(Refusal::Unauthorized)?;
                // Asking takes kilobytes, which every request's future would have whether somebody is asked or not.
                let asking = keystone.verdict(token, shown.service_token, shown.peer);
                match Box::pin(asking).await {
                    Verdict::Caller(caller) => Ok(caller),
                    Verdict::Unscoped => Err(Refusal::ProjectMissing),
                    Verdict::Bad => Err(Refusal::Unauthorized),
                    Verdict::Unknown => Err(Refusal::Unavailable),
                }
            }
            Identity::Tokens(tokens) => {
                let token = shown.token.ok_or(Refusal::Unauthorized)?;
                let grant = Box::pin(tokens.grant(token, (self.clock)())).await?;
                grant.caller(shown.project).map(Arc::new).map_err(|misfit| match misfit {
                    Misfit::Foreign => Refusal::ForeignProject,
                    Misfit::Unnamed => Refusal::ProjectMissing,
                })
            }
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
        let expires = crate::iso_time::parse(shown.expires);
        Ok(Arc::new(Caller { project: shown.project.into(), expires, ..Caller::default() }))
    }

    /// Makes and checks pre-signed URLs.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Keys of messages at rest; `None` where no message is encrypted.
    #[must_use]
    pub fn key_ring(&self) -> Option<&KeyRing> {
        self.key_ring.as_ref()
    }

    /// The identity service, for trusts; `None` where there is none.
    #[must_use]
    pub fn keystone(&self) -> Option<&Arc<Keystone>> {
        match &self.identity {
            Identity::Keystone(keystone) => Some(keystone),
            Identity::Claimed | Identity::Tokens(_) => None,
        }
    }

    /// Whether `caller` may do what `rule` names, in the caller's own project. Pure.
    #[must_use]
    pub fn allow(&self, caller: &Caller, rule: Rule) -> bool {
        self.policy.allows(rule, caller)
    }

    /// `WWW-Authenticate` of a 401.
    #[must_use]
    pub fn challenge(&self) -> &str {
        &self.challenge
    }
}

/// As Keystone's middleware says it. What could break out of the quotes is left out.
fn keystone_challenge(access: &KeystoneAccess) -> String {
    let uri = if access.public_url.is_empty() { &access.url } else { &access.public_url };
    let plain: String = uri.chars().filter(|c| c.is_ascii_graphic() && *c != '"').collect();
    format!("Keystone uri=\"{plain}\"")
}

impl Tokens {
    fn open(access: &TokenAccess) -> Result<Self, GateError> {
        let file = access.tokens.as_deref().map(TokenFile::open).transpose()?;
        let jwt = (!access.jwks.is_empty()).then(|| Jwt::open(access)).transpose()?;
        Ok(Self { file, jwt })
    }

    async fn grant(&self, token: &str, now: Timestamp) -> Result<Arc<Grant>, Refusal> {
        // What begins like a token of ours is never tried as anything else.
        if token.starts_with(token_file::PREFIX) {
            let grant = self.file.as_ref().and_then(|file| file.grant(token, now));
            return grant.ok_or(Refusal::Unauthorized);
        }
        let Some(jwt) = &self.jwt else { return Err(Refusal::Unauthorized) };
        match jwt.check(token, now).await {
            Checked::Good(grant) => Ok(grant),
            Checked::Bad => Err(Refusal::Unauthorized),
            Checked::Unknown => Err(Refusal::Unavailable),
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

    #[tokio::test]
    async fn with_tokens_the_headers_choose_a_project_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let (token, sha256) = token_file::make_token().unwrap();
        let entry = token_file::Entry {
            name: "t".to_owned(),
            sha256,
            secret: None,
            projects: vec!["p".to_owned()],
            user: None,
            roles: vec!["reader".to_owned()],
            expires: None,
        };
        token_file::Entries { tokens: vec![entry] }.write(&path).unwrap();
        let tokens = format!("queues.token.tokens={}", path.display());
        let gate = gate(&["queues.auth=token", &tokens]);
        let shown = Credentials {
            token: Some(&token),
            user: Some("root"),
            roles: Some("admin"),
            ..nothing()
        };

        let caller = gate.admit(&shown).await.unwrap();

        assert_eq!((&*caller.project, caller.user.as_deref()), ("p", None));
        assert!(!gate.allow(&caller, Rule::PoolsCreate));
        let foreign = Credentials { project: Some("other"), ..shown };
        assert_eq!(gate.admit(&foreign).await, Err(Refusal::ForeignProject));
        for wrong in [None, Some(""), Some("pht_x"), Some("a.b.c")] {
            let shown = Credentials { token: wrong, project: Some("p"), ..nothing() };
            assert_eq!(gate.admit(&shown).await, Err(Refusal::Unauthorized), "{wrong:?}");
        }
    }

    #[test]
    fn a_client_without_token_is_told_where_to_get_one() {
        let gate = gate(&[
            "queues.auth=keystone",
            "queues.keystone.url=http://127.0.0.1:1/v3",
            "queues.keystone.public_url=https://identity.example\"",
            "queues.keystone.user=u",
            "queues.keystone.password=p",
        ]);

        assert_eq!(gate.challenge(), "Keystone uri=\"https://identity.example\"");
        assert!(gate.asks_who());
    }
}
