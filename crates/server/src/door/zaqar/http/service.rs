//! A request's way through the service: the checks in Zaqar's order, then the operation.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, WWW_AUTHENTICATE};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};

use super::answer::{self, Answer};
use super::body::Unread;
use super::home::Documents;
use crate::auth::{Caller, Credentials};
use crate::config::Queues;
use crate::door::zaqar::gate::{Gate, Refusal, UNAUTHORIZED_BODY};
use crate::door::zaqar::identity::{ClientId, check_name};
use crate::door::zaqar::operation::Operations;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::route::{Router, Variables, Version};
use crate::door::zaqar::signed_url::Shown;

const CLIENT_ID: HeaderName = HeaderName::from_static("client-id");

/// The service, shared by all connections.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) operations: Arc<Operations>,
    gate: Arc<Gate>,
    router: Router,
    documents: Documents,
}

/// A request that has passed all checks but those of its operation.
#[derive(Debug)]
pub(super) struct Admitted<'a> {
    pub(super) caller: Arc<Caller>,
    pub(super) client: ClientId,
    pub(super) version: Version,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) variables: Variables<'a>,
}

impl Service {
    pub(super) fn new(operations: Arc<Operations>, gate: Arc<Gate>, admin_mode: bool) -> Self {
        let (version_1_1, pooling) = (operations.limits().version_1_1, operations.limits().pooling);
        Self {
            operations,
            gate,
            router: Router::new(version_1_1, admin_mode, pooling),
            documents: Documents::new(version_1_1, admin_mode, pooling),
        }
    }

    pub(super) fn limits(&self) -> &Queues {
        self.operations.limits()
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn documents(&self) -> &Documents {
        &self.documents
    }

    /// Answers a request. Never fails: what goes wrong is an answer as well.
    pub(super) async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Answer {
        let (head, incoming) = request.into_parts();
        let mut body = Unread::new(incoming, &head.headers, self.limits().body_timeout);
        let uri = &head.uri;
        if let Some(mut answer) = self.before_admission(&head.method, uri.path()) {
            answer::name_request(&mut answer);
            return answer;
        }
        if let Some((resource, variables)) =
            self.router.find(uri.path()).filter(|it| it.0.is_open())
        {
            let mut answer = match resource.route(&head.method) {
                Some(_) => self.settle(&variables, &head.headers, body).await,
                None => not_allowed(resource.allow_instead.clone()),
            };
            answer::name_request(&mut answer);
            return answer;
        }
        let admitted = self.admit(&head.method, uri.path(), uri.query(), &head.headers, peer).await;
        // By reference: what is moved over an await is there twice.
        let mut answer = match admitted {
            Ok((ref admitted, route)) => self
                .handle(route, admitted, body)
                .await
                .unwrap_or_else(|problem| answer::problem(&problem)),
            Err(answer) => {
                body.drain().await;
                *answer
            }
        };
        answer::name_request(&mut answer);
        answer
    }

    /// What nobody has to show anything for.
    fn before_admission(&self, method: &Method, path: &str) -> Option<Answer> {
        if let Some(document) = self.documents.open(path) {
            return Some(match *method {
                Method::GET => document,
                Method::OPTIONS => answer::options(HeaderValue::from_static("GET")),
                _ => not_allowed(HeaderValue::from_static("GET, OPTIONS")),
            });
        }
        if *method != Method::OPTIONS {
            return None;
        }
        let (resource, _) = self.router.find(path)?;
        Some(answer::options(resource.allow.clone()))
    }

    /// The checks before the operation.
    async fn admit<'a>(
        &self,
        method: &Method,
        path: &'a str,
        query: Option<&'a str>,
        headers: &'a HeaderMap,
        peer: IpAddr,
    ) -> Result<(Admitted<'a>, &'static crate::door::zaqar::route::Route), Box<Answer>> {
        let refuse = |problem: &Problem| Box::new(answer::problem(problem));
        let caller = self.caller(method, path, headers, peer).await;
        if let Err(refusal) = &caller
            && let Some(answer) = self.identity_refused(refusal)
        {
            return Err(Box::new(answer));
        }
        check_types(headers).map_err(|problem| refuse(&problem))?;
        let client = client_of(path, headers, self.limits()).map_err(|problem| refuse(&problem))?;
        let caller = caller.map_err(|refusal| refuse(&project_refused(&refusal)))?;
        let Some((resource, variables)) = self.router.find(path) else {
            return Err(refuse(&Problem::bare(404, "404 Not Found")));
        };
        let Some(route) = resource.route(method) else {
            return Err(Box::new(not_allowed(resource.allow_instead.clone())));
        };
        if let (Some(family), Some(name)) = (resource.family(), &variables.name) {
            check_name(name, &caller.project, family).map_err(|problem| refuse(&problem))?;
        }
        if route.rule.is_some_and(|rule| !self.gate.allow(&caller, rule)) {
            return Err(refuse(&Problem::forbidden()));
        }
        let (version, query) = (resource.version(), query.unwrap_or_default());
        let admitted = Admitted { caller, client, version, path, query, headers, variables };
        Ok((admitted, route))
    }

    async fn caller(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Arc<Caller>, Refused> {
        if let Some(shown) = Shown::from_headers(headers) {
            let now = self.operations.now();
            let admitted =
                shown.and_then(|shown| self.gate.admit_signed(&shown, method.as_str(), path, now));
            return admitted.map_err(|_| Refused::NotSigned);
        }
        let shown = Credentials::from_headers(headers, peer).map_err(|_| Refused::Ambiguous)?;
        self.gate.admit(&shown).await.map_err(Refused::ByGate)
    }

    /// The answer to a refusal that comes before all other checks.
    fn identity_refused(&self, refused: &Refused) -> Option<Answer> {
        match refused {
            Refused::NotSigned => Some(answer::problem(&Problem::bare(404, "404 Not Found"))),
            Refused::Ambiguous => Some(answer::problem(&Problem::new(
                400,
                "Ambiguous credentials",
                "A header that says who asks is there twice or cannot be read.",
            ))),
            Refused::ByGate(refusal) if !refusal.is_about_identity() => None,
            Refused::ByGate(Refusal::Unauthorized) => {
                let mut answer = answer::json(StatusCode::UNAUTHORIZED, UNAUTHORIZED_BODY);
                if let Ok(challenge) = HeaderValue::from_str(self.gate.challenge()) {
                    answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                }
                Some(answer)
            }
            Refused::ByGate(Refusal::Unavailable) => Some(answer::problem(&Problem::unavailable(
                "The identity service cannot be reached.",
            ))),
            Refused::ByGate(_) => Some(answer::problem(&Problem::forbidden())),
        }
    }
}

/// Why a request has no caller.
#[derive(Debug)]
enum Refused {
    /// It has a signature that does not allow it.
    NotSigned,
    /// Its headers contradict each other.
    Ambiguous,
    ByGate(Refusal),
}

fn project_refused(refused: &Refused) -> Problem {
    match refused {
        Refused::ByGate(Refusal::ProjectEmpty) => Problem::new(
            400,
            "Empty project header not allowed",
            "X-PROJECT-ID cannot be an empty string. Specify the right header X-PROJECT-ID and retry.",
        ),
        _ => Problem::new(
            400,
            "Project-Id Missing",
            "The header X-PROJECT-ID was missing. Specify the right header X-PROJECT-ID and retry.",
        ),
    }
}

fn not_allowed(allow: HeaderValue) -> Answer {
    let mut answer = answer::problem(&Problem::bare(405, "405 Method Not Allowed"));
    answer.headers_mut().insert(ALLOW, allow);
    answer
}

/// Forms are refused, and so is who cannot read JSON.
fn check_types(headers: &HeaderMap) -> Result<(), Problem> {
    let form = headers.get(CONTENT_TYPE).is_some_and(|kind| {
        kind.as_bytes().trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    });
    if form && headers.contains_key(CONTENT_LENGTH) {
        return Err(Problem::new(
            400,
            "Invalid Content-Type",
            "Endpoint does not accept `application/x-www-form-urlencoded` content; currently supported media type is `application/json`; specify proper client-side media type with the \"Content-Type\" header.",
        ));
    }
    match headers.get(ACCEPT) {
        // An empty one says nothing.
        Some(accept) if !accept.is_empty() && !accept.to_str().is_ok_and(admits_json) => {
            Err(Problem::bare(406, "406 Not Acceptable"))
        }
        _ => Ok(()),
    }
}

/// Whether an `Accept` admits `application/json`: the most exact range that matches decides.
fn admits_json(accept: &str) -> bool {
    let mut best = (0, false);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let exactness = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "application/json" => 3,
            "application/*" => 2,
            "*/*" => 1,
            _ => continue,
        };
        let zero = parts.any(|parameter| {
            let quality = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
            quality.is_some_and(|quality| quality.trim().parse::<f32>().is_ok_and(|q| q <= 0.0))
        });
        if exactness >= best.0 {
            best = (exactness, !zero);
        }
    }
    best.1
}

fn client_of(path: &str, headers: &HeaderMap, limits: &Queues) -> Result<ClientId, Problem> {
    // Zaqar's versions spell it differently.
    let spelled = if path.starts_with("/v1.1") { "Client-ID" } else { "Client-Id" };
    let missing = || {
        let text = format!("The \"{spelled}\" header is required.");
        Problem::new(400, "Missing header value", text)
    };
    let text = headers.get(CLIENT_ID).ok_or_else(missing)?;
    // Bytes that are no text cannot be a UUID either.
    ClientId::parse(text.to_str().unwrap_or("\u{fffd}"), limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_on_its_way_is_small() {
        fn bytes<'a, F>(_: fn(&'a Service, Request<Incoming>, IpAddr) -> F) -> usize {
            size_of::<F>()
        }

        // Each connection has room for one, and it is moved there with each request.
        assert!(bytes(Service::answer) <= 2048, "{}", bytes(Service::answer));
    }

    #[test]
    fn who_cannot_read_json_is_refused() {
        for good in [
            "application/json",
            "*/*",
            "application/*",
            "text/html, */*;q=0.1",
            "APPLICATION/JSON; q=0.5",
        ] {
            assert!(admits_json(good), "{good}");
        }
        for bad in [
            "text/plain",
            "application/json;q=0",
            "application/json;q=0.0, */*",
            "application/xml",
            "",
        ] {
            assert!(!admits_json(bad), "{bad}");
        }
    }
}
