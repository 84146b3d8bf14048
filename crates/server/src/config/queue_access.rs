//! Who may use the queue service, as an operator decides it.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;
use super::reader::Reader;

/// Longest that a token which was found good may be believed without asking again: revocation reaches live connections
/// within 15 s only if this is not longer than 10 s; more is the operator's decision.
const CACHE_MAX: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(86_400);

/// Who may use the queue service.
#[derive(Debug, Clone)]
pub struct QueueAccess {
    /// How callers show who they are.
    pub mode: AuthMode,
    /// Whether a listener may face a network although nobody shows who they are.
    pub unauthenticated_anywhere: bool,
    /// Who may do what.
    pub policy: PolicyChoice,
    /// Whether pools, flavors and health are shown.
    pub admin_mode: bool,
    /// Where tokens are asked about, with [`AuthMode::Keystone`].
    pub keystone: KeystoneAccess,
    /// What tokens are good, with [`AuthMode::Token`].
    pub token: TokenAccess,
    /// Pre-signed URLs.
    pub signed_url: SignedUrls,
    /// Keys of messages at rest, newest first; empty: none is encrypted.
    pub encryption_keys: Secret,
}

/// How callers show who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// They do not: the project is the one that the header names.
    None,
    /// By a token of OpenStack's identity service.
    Keystone,
    /// By a token from a file of ours, or a JWT.
    Token,
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyChoice {
    /// Zaqar's defaults.
    Zaqar,
    /// Everybody everything.
    Open,
    /// What a file says; Zaqar's defaults for the rest.
    File(PathBuf),
}

/// The identity service.
#[derive(Debug, Clone)]
pub struct KeystoneAccess {
    /// Its address, with or without `/v3`.
    pub url: String,
    /// The address that clients without a token are told; empty: `url`.
    pub public_url: String,
    /// Posthouse's own user there.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// The domain of that user.
    pub user_domain: String,
    /// The project that it works in.
    pub project: String,
    /// The domain of that project.
    pub project_domain: String,
    /// PEM file of authorities; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// For one question, connecting included.
    pub timeout: Duration,
    /// How long a good token is believed.
    pub cache: Duration,
    /// How long a bad one is refused without asking.
    pub negative_cache: Duration,
    /// How many tokens are remembered.
    pub cache_entries_max: usize,
}

/// Tokens without OpenStack.
#[derive(Debug, Clone)]
pub struct TokenAccess {
    /// File of hashed tokens, made by `posthouse token`.
    pub tokens: Option<PathBuf>,
    /// File or address of the keys that JWTs are signed with; empty: none are taken.
    pub jwks: String,
    /// PEM file of authorities for that address; `None`: those of the system.
    pub jwks_ca: Option<PathBuf>,
    /// How often the keys are read again.
    pub jwks_refresh: Duration,
    /// The audience that a JWT must name.
    pub audience: String,
    /// The issuer that it must name; empty: any.
    pub issuer: String,
    /// Signature algorithms that are taken.
    pub algorithms: Vec<String>,
    /// The claim that has the project or projects.
    pub project_claim: String,
    /// The claim that has the roles.
    pub roles_claim: String,
}

/// Pre-signed URLs.
#[derive(Debug, Clone)]
pub struct SignedUrls {
    /// What URLs are signed with; empty: there are none.
    pub secret: Secret,
    /// What they were signed with before; still good. Empty: nothing.
    pub previous_secret: Secret,
    /// Longest life of one.
    pub lifetime_max: Duration,
}

pub(super) fn read(r: &mut Reader<'_>) -> QueueAccess {
    let modes =
        [("none", AuthMode::None), ("keystone", AuthMode::Keystone), ("token", AuthMode::Token)];
    let access = QueueAccess {
        // What is wrong must never mean that nobody is asked.
        mode: r.choice("queues.auth", &modes, AuthMode::Token),
        unauthenticated_anywhere: r.switch("queues.unauthenticated_anywhere"),
        policy: match r.text("queues.policy").as_str() {
            "zaqar" => PolicyChoice::Zaqar,
            "open" => PolicyChoice::Open,
            path => PolicyChoice::File(PathBuf::from(path)),
        },
        admin_mode: r.switch("queues.admin_mode"),
        keystone: read_keystone(r),
        token: read_token(r),
        signed_url: SignedUrls {
            secret: Secret::new(r.text("queues.signed_url.secret")),
            previous_secret: Secret::new(r.text("queues.signed_url.previous_secret")),
            lifetime_max: r
                .duration("queues.signed_url.lifetime_max", Duration::from_secs(1)..=DAY * 366),
        },
        encryption_keys: Secret::new(r.text("queues.encryption.keys")),
    };
    check(r, &access);
    access
}

fn read_keystone(r: &mut Reader<'_>) -> KeystoneAccess {
    let second = Duration::from_secs(1);
    KeystoneAccess {
        url: r.text("queues.keystone.url"),
        public_url: r.text("queues.keystone.public_url"),
        user: r.text("queues.keystone.user"),
        password: Secret::new(r.text("queues.keystone.password")),
        user_domain: r.text("queues.keystone.user_domain"),
        project: r.text("queues.keystone.project"),
        project_domain: r.text("queues.keystone.project_domain"),
        ca: r.path("queues.keystone.ca"),
        timeout: r.duration("queues.keystone.timeout", second / 10..=second * 60),
        cache: r.duration("queues.keystone.cache", Duration::ZERO..=CACHE_MAX),
        negative_cache: r.duration("queues.keystone.negative_cache", Duration::ZERO..=second * 60),
        cache_entries_max: r.number("queues.keystone.cache_entries_max", 1..=10_000_000),
    }
}

fn read_token(r: &mut Reader<'_>) -> TokenAccess {
    TokenAccess {
        tokens: r.path("queues.token.tokens"),
        jwks: r.text("queues.token.jwks"),
        jwks_ca: r.path("queues.token.jwks_ca"),
        jwks_refresh: r.duration("queues.token.jwks_refresh", Duration::from_secs(10)..=DAY),
        audience: r.text("queues.token.audience"),
        issuer: r.text("queues.token.issuer"),
        algorithms: r.texts("queues.token.algorithms"),
        project_claim: r.text("queues.token.project_claim"),
        roles_claim: r.text("queues.token.roles_claim"),
    }
}

/// Options that need each other.
fn check(r: &mut Reader<'_>, access: &QueueAccess) {
    if access.policy == PolicyChoice::File(PathBuf::new()) {
        r.refuse("queues.policy", "must be \"zaqar\", \"open\" or the path of a policy file");
    }
    match access.mode {
        AuthMode::None => {}
        AuthMode::Keystone => {
            for (key, value) in [
                ("queues.keystone.url", access.keystone.url.as_str()),
                ("queues.keystone.user", &access.keystone.user),
                ("queues.keystone.password", access.keystone.password.reveal()),
                ("queues.keystone.project", &access.keystone.project),
            ] {
                if value.is_empty() {
                    r.refuse(key, "must be set where queues.auth is \"keystone\"");
                }
            }
        }
        AuthMode::Token => {
            if access.token.tokens.is_none() && access.token.jwks.is_empty() {
                let what = "must be set where queues.auth is \"token\", or queues.token.jwks";
                r.refuse("queues.token.tokens", what);
            }
            if !access.token.jwks.is_empty() && access.token.audience.is_empty() {
                let what = "must be set where queues.token.jwks is: a token for another service is \
                            not one for this";
                r.refuse("queues.token.audience", what);
            }
        }
    }
    if access.signed_url.secret.reveal().is_empty()
        && !access.signed_url.previous_secret.reveal().is_empty()
    {
        let what = "must be set where queues.signed_url.previous_secret is";
        r.refuse("queues.signed_url.secret", what);
    }
}
