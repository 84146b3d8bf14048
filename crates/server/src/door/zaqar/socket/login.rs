//! Who a connection acts for: by a token that it showed once, by a signature in each message, or as it says itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use model::Timestamp;

use super::Shared;
use super::action::Form;
use super::envelope::{Answer, Request};
use crate::auth::{Caller, Credentials};
use crate::door::zaqar::gate::{Gate, Refusal};
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::signed_url::Shown;

const NOT_AUTHENTICATED: &str = "Not authentified.";

/// What a connection has shown.
#[derive(Debug)]
pub(super) struct Login {
    peer: IpAddr,
    shown: Option<Token>,
}

/// A token that was good.
struct Token {
    token: Box<str>,
    caller: Arc<Caller>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("caller", &self.caller).finish_non_exhaustive()
    }
}

/// Why a request has no caller.
#[derive(Debug)]
pub(super) enum NotAdmitted {
    /// What was shown is good no longer: the connection ends.
    Expired,
    /// To be answered with this.
    Refused(Answer),
}

impl Login {
    pub(super) fn new(peer: IpAddr) -> Self {
        Self { peer, shown: None }
    }

    /// `authenticate`: shows a token, in place of one that was shown before.
    ///
    /// Where nobody is asked who they are this succeeds, because clients say it first whatever the server is.
    pub(super) async fn authenticate(&mut self, gate: &Gate, request: &Request<'_>) -> Answer {
        let good = || Answer::new(200, "{\"message\":\"Authentified.\"}");
        if !gate.asks_who() {
            return good();
        }
        let (token, project) =
            (request.header("X-Auth-Token").unwrap_or_default(), request.header("X-Project-ID"));
        let shown = Credentials {
            token: Some(&token),
            project: project.as_deref(),
            ..Credentials::none(self.peer)
        };
        match gate.admit(&shown).await {
            Ok(caller) => {
                self.shown = Some(Token { token: token.into(), caller });
                good()
            }
            Err(Refusal::Unavailable) => Answer::error(503, "Authentication failed."),
            Err(Refusal::ForeignProject) => Answer::error(403, "Authentication failed."),
            Err(_) => Answer::error(401, "Authentication failed."),
        }
    }

    /// Who a request is from, if that is somebody who may ask for it.
    pub(super) async fn admit(
        &self,
        shared: &Shared,
        form: &Form,
        request: &Request<'_>,
    ) -> Result<Arc<Caller>, NotAdmitted> {
        let caller = self.caller(shared, form, request).await?;
        match form.rule {
            Some(rule) if !shared.gate.allow(&caller, rule) => {
                Err(NotAdmitted::Refused(Answer::problem(&Problem::forbidden())))
            }
            _ => Ok(caller),
        }
    }

    async fn caller(
        &self,
        shared: &Shared,
        form: &Form,
        request: &Request<'_>,
    ) -> Result<Arc<Caller>, NotAdmitted> {
        let project = request.header("X-Project-ID");
        if request.header("URL-Signature").is_some()
            && (self.shown.is_none() || !shared.gate.asks_who())
        {
            return signed(shared, form, request);
        }
        if !shared.gate.asks_who() {
            let (user, roles) = (request.header("X-User-Id"), request.header("X-Roles"));
            let shown = Credentials {
                project: project.as_deref(),
                user: user.as_deref(),
                roles: roles.as_deref(),
                ..Credentials::none(self.peer)
            };
            return shared.gate.admit(&shown).await.map_err(|refusal| refused(&refusal));
        }
        let Some(login) = &self.shown else {
            return Err(NotAdmitted::Refused(Answer::error(403, NOT_AUTHENTICATED)));
        };
        if project.as_deref().is_some_and(|project| project != &*login.caller.project) {
            return Err(NotAdmitted::Refused(Answer::error(403, "Not authenticated.")));
        }
        login.again(shared, self.peer).await
    }

    /// How long nothing needs to be looked at, at most `interval`.
    pub(super) fn next_look(&self, interval: Duration, now: Timestamp) -> Duration {
        let expires = self.shown.as_ref().and_then(|login| login.caller.expires);
        expires
            .map_or(interval, |expires| interval.min(expires.since(now) + Duration::from_millis(1)))
    }

    /// Whether what was shown is good, if anything was. A gate that cannot ask now gives the benefit of the doubt until
    /// the token's own end.
    pub(super) async fn is_still_good(&self, shared: &Shared) -> bool {
        let Some(login) = &self.shown else { return true };
        !matches!(login.again(shared, self.peer).await, Err(NotAdmitted::Expired))
    }
}

impl Token {
    /// Asks the gate again, which remembers for a while what it knows: tokens are taken back.
    async fn again(&self, shared: &Shared, peer: IpAddr) -> Result<Arc<Caller>, NotAdmitted> {
        if !self.caller.is_current(shared.now()) {
            return Err(NotAdmitted::Expired);
        }
        let shown = Credentials {
            token: Some(&self.token),
            project: Some(&self.caller.project),
            ..Credentials::none(peer)
        };
        shared.gate.admit(&shown).await.map_err(|refusal| match refusal {
            Refusal::Unauthorized | Refusal::ForeignProject => NotAdmitted::Expired,
            other => refused(&other),
        })
    }
}

fn refused(refusal: &Refusal) -> NotAdmitted {
    let answer = match refusal {
        Refusal::Unavailable => {
            Answer::problem(&Problem::unavailable("The identity service cannot be reached."))
        }
        Refusal::ProjectMissing | Refusal::ProjectEmpty => {
            Answer::error(400, "X-Project-ID cannot be an empty string.")
        }
        _ => Answer::error(403, NOT_AUTHENTICATED),
    };
    NotAdmitted::Refused(answer)
}

/// A message with a signature in its headers, as HTTP's pre-signed URLs have it.
fn signed(shared: &Shared, form: &Form, request: &Request<'_>) -> Result<Arc<Caller>, NotAdmitted> {
    let refuse = || NotAdmitted::Refused(Answer::error(403, NOT_AUTHENTICATED));
    let method = form.signed_as.ok_or_else(refuse)?;
    let text = |name| request.header(name).unwrap_or_default();
    let (signature, expires, project) =
        (text("URL-Signature"), text("URL-Expires"), text("X-Project-ID"));
    let (methods, paths) = (request.header_list("URL-Methods"), request.header_list("URL-Paths"));
    let shown = Shown {
        signature: &signature,
        expires: &expires,
        methods: methods.iter().map(String::as_str).collect(),
        paths: paths.iter().map(String::as_str).collect(),
        project: &project,
    };
    let path = format!("/v2/queues/{}/messages", request.text("queue_name"));
    shared.gate.admit_signed(&shown, method, &path, shared.now()).map_err(|_| refuse())
}
