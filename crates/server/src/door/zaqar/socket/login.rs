//! Who a connection acts for: by a token that it showed once, by a signature in each message, or as it says itself.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Shared;
use super::action::Form;
use super::envelope::{Answer, Request};
use crate::auth::{Caller, Credentials};
use crate::door::zaqar::gate::{Gate, Refusal, Session, SessionEnd};
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::signed_url::Shown;

const NOT_AUTHENTICATED: &str = "Not authentified.";

/// What a connection has shown.
pub(super) struct Login {
    who: Who,
    /// Ready when it is good no longer.
    ending: Option<Pin<Box<dyn Future<Output = SessionEnd> + Send>>>,
}

/// Who is on a connection, as far as that is known.
#[derive(Debug)]
pub(super) struct Who {
    peer: IpAddr,
    /// A token that was good.
    session: Option<Arc<Session>>,
}

/// Why a request has no caller.
#[derive(Debug)]
pub(super) enum NotAdmitted {
    /// What was shown is good no longer: the connection ends.
    Expired(SessionEnd),
    /// To be answered with this.
    Refused(Answer),
}

impl Login {
    pub(super) fn new(peer: IpAddr) -> Self {
        Self { who: Who { peer, session: None }, ending: None }
    }

    /// `authenticate`: shows a token, in place of one that was shown before.
    ///
    /// Where nobody is asked who they are this succeeds, because clients say it first whatever the server is.
    pub(super) async fn authenticate(&mut self, gate: &Arc<Gate>, request: &Request<'_>) -> Answer {
        let good = || Answer::new(200, "{\"message\":\"Authentified.\"}");
        if !gate.asks_who() {
            return good();
        }
        let (token, project) =
            (request.header("X-Auth-Token").unwrap_or_default(), request.header("X-Project-ID"));
        let shown = Credentials {
            token: Some(&token),
            project: project.as_deref(),
            ..Credentials::none(self.who.peer)
        };
        match gate.log_in(&shown).await {
            Ok(session) => {
                let (session, gate) = (Arc::new(session), Arc::clone(gate));
                self.who.session = Some(Arc::clone(&session));
                self.ending = Some(Box::pin(async move { gate.until_invalid(&session).await }));
                good()
            }
            Err(Refusal::Unavailable) => Answer::error(503, "Authentication failed."),
            Err(Refusal::ForeignProject) => Answer::error(403, "Authentication failed."),
            Err(_) => Answer::error(401, "Authentication failed."),
        }
    }

    /// Ready when what was shown is good no longer: the connection ends.
    pub(super) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<SessionEnd> {
        match &mut self.ending {
            Some(ending) => ending.as_mut().poll(context),
            None => Poll::Pending,
        }
    }

    /// Who is on the connection.
    pub(super) fn who(&self) -> &Who {
        &self.who
    }
}

impl Who {
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
            && (self.session.is_none() || !shared.gate.asks_who())
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
        let Some(session) = &self.session else {
            return Err(NotAdmitted::Refused(Answer::error(403, NOT_AUTHENTICATED)));
        };
        if project.as_deref().is_some_and(|project| project != &*session.caller().project) {
            return Err(NotAdmitted::Refused(Answer::error(403, "Not authenticated.")));
        }
        again(session, shared).await
    }
}

/// Asks the gate again, which remembers for a while what it knows: tokens are taken back.
async fn again(session: &Session, shared: &Shared) -> Result<Arc<Caller>, NotAdmitted> {
    if !session.caller().is_current(shared.now()) {
        return Err(NotAdmitted::Expired(SessionEnd::Expired));
    }
    match shared.gate.admit(&session.shown()).await {
        Ok(caller) if caller.project == session.caller().project => Ok(caller),
        Err(Refusal::Unavailable) => Err(refused(&Refusal::Unavailable)),
        Ok(_) | Err(_) => Err(NotAdmitted::Expired(SessionEnd::Revoked)),
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
