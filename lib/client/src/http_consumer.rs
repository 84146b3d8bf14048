//! A message becomes an HTTP request: any `tower::Service` of requests, such as an axum router, as a consumer.
//!
//! The request is a POST with the message's body. The answer's status settles it: see [`http_consumer`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use posthouse_amqp::http_header::http_header;
use tower::util::BoxCloneService;
use tower::{Service, ServiceExt};

use crate::consumer::{BoxError, Consumer, Work};
use crate::delivery::Delivery;
use crate::later::Later;
use crate::outcome::{Answer, Outcome};

/// Header of an answer that settles whatever the status is.
const SETTLE: HeaderName = HeaderName::from_static("posthouse-settle");

/// Largest answer that is sent on to whoever asked.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of an answer that are read for the reason of a failure.
const REASON_BYTES_MAX: usize = 300;

/// Everything but what RFC 3986 §2.3 calls unreserved is encoded, so a value is never more than one segment.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Whose message it is: the broker has checked that the connection that published it was this user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal(pub String);

/// Until when an answer is of use, for services that look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline(pub std::time::Instant);

type Inner = BoxCloneService<Request<Full<Bytes>>, Response<Bytes>, BoxError>;
type PrincipalOf = Arc<dyn Fn(&Delivery) -> Option<String> + Send + Sync>;

/// How messages become requests. Turn it into a consumer with [`HttpConsumer::consumer`], or hand it to
/// [`crate::Router::http`].
#[derive(Clone)]
pub struct HttpConsumer {
    inner: Inner,
    path: String,
    principal: Option<PrincipalOf>,
    deadline_from_ttl: bool,
}

impl std::fmt::Debug for HttpConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpConsumer").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A service of HTTP requests as a consumer of messages.
///
/// The request is `POST /` ([`HttpConsumer::path`]) with these headers, as far as the message has them:
///
/// | header | from |
/// |---|---|
/// | `content-type`, `content-encoding` | the properties |
/// | `idempotency-key` | `message-id` |
/// | `traceparent`, `tracestate` | the headers of that name |
/// | `posthouse-queue`, `posthouse-attempt` | the delivery |
/// | `posthouse-h-<name>` | every other header that is text, a number or a truth value |
/// | `ce-<name>` | headers `cloudEvents:<name>` and `cloudEvents_<name>` (CloudEvents, binary mode) |
///
/// | answer | the message |
/// |---|---|
/// | 2xx | is acknowledged; a body goes to `reply_to`, if there is one, with its content type and encoding and the message's correlation id |
/// | 409 | is acknowledged: somebody had done it already |
/// | 400, 410, 422 | goes to the dead letters |
/// | 202, after the service has taken the [`crate::Held`] of the [`Later`] in the request's extensions | is settled by that |
/// | anything else | is tried again; with `retry-after`, seconds or a date, not before that, and the consumer takes no other message until then ([`crate::Fail::pause`]) |
/// | any with `posthouse-settle: ack`, `retry`, `dead` or `drop` | as that says |
pub fn http_consumer<S, B>(service: S) -> HttpConsumer
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError> + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let inner = service.map_err(Into::into).and_then(|response: Response<B>| async move {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(parts, body))
    });
    HttpConsumer {
        inner: BoxCloneService::new(inner),
        path: "/".to_owned(),
        principal: None,
        deadline_from_ttl: false,
    }
}

impl HttpConsumer {
    /// The request's path; `{rk}` is the routing key, `{rk.0}` its first word between dots, `{queue}` and `{exchange}`
    /// the obvious. What is put in is percent-encoded; a message with `.` or `..` there, which would lead elsewhere, is a
    /// dead letter. Default: `/`.
    #[must_use]
    pub fn path(mut self, template: &str) -> Self {
        template.clone_into(&mut self.path);
        self
    }

    /// Who the request is made for, as an extension of type [`Principal`], for layers that check it. Take it only from
    /// what the broker vouches for, such as `message.properties().user_id`; headers are whatever a publisher wrote.
    #[must_use]
    pub fn principal(
        mut self,
        of: impl Fn(&Delivery) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.principal = Some(Arc::new(of));
        self
    }

    /// A message with an `expiration` has so long to be answered: an extension of type [`Deadline`], the header
    /// `posthouse-deadline` in milliseconds from now, and the end of the request, which is then tried again.
    #[must_use]
    pub const fn deadline_from_ttl(mut self) -> Self {
        self.deadline_from_ttl = true;
        self
    }

    /// The consumer.
    #[must_use]
    pub fn consumer<S: 'static>(self) -> Consumer<S> {
        Consumer::new(Box::new(move |_| Work::Each(BoxCloneService::new(self))))
    }

    fn request(&self, delivery: &Delivery) -> Result<Request<Full<Bytes>>, String> {
        let path = path_of(&self.path, delivery)?;
        let uri: Uri = path.parse().map_err(|error| format!("`{path}` is no path: {error}"))?;
        let mut request = Request::new(Full::new(delivery.body()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers_of(delivery);
        if let Some(principal) = self.principal.as_ref().and_then(|of| of(delivery)) {
            request.extensions_mut().insert(Principal(principal));
        }
        Ok(request)
    }

    fn time_left(&self, delivery: &Delivery) -> Option<Duration> {
        let expiration = delivery.properties().expiration.filter(|_| self.deadline_from_ttl)?;
        expiration.parse().ok().map(Duration::from_millis)
    }
}

impl Service<Delivery> for HttpConsumer {
    type Response = Outcome;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Outcome, BoxError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The inner service is made ready by `oneshot`, on a clone that belongs to the call.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        let mut request = match self.request(&delivery) {
            Ok(request) => request,
            Err(reason) => return Box::pin(async { Ok(Outcome::Dead { reason }) }),
        };
        let left = self.time_left(&delivery);
        if let Some(left) = left {
            request.extensions_mut().insert(Deadline(std::time::Instant::now() + left));
            let millis = HeaderValue::from_str(&left.as_millis().to_string());
            request.headers_mut().extend(
                millis.ok().map(|value| (HeaderName::from_static("posthouse-deadline"), value)),
            );
        }
        let later = Later::new();
        request.extensions_mut().insert(later.clone());
        let answered = self.inner.clone().oneshot(request);
        Box::pin(async move {
            let response = match left {
                None => answered.await?,
                Some(left) => match tokio::time::timeout(left, answered).await {
                    Ok(response) => response?,
                    Err(_) => {
                        let reason = format!("no answer within {left:?}, the message's lifetime");
                        return Ok(Outcome::Retry { after: None, reason });
                    }
                },
            };
            Ok(match response.status() {
                StatusCode::ACCEPTED if later.is_taken() && !overruled(response.headers()) => {
                    Outcome::Later(later)
                }
                _ => outcome_of(response, SystemTime::now()),
            })
        })
    }
}

/// What an answer at this time means for the message.
fn outcome_of(response: Response<Bytes>, now: SystemTime) -> Outcome {
    let (parts, body) = response.into_parts();
    let (status, headers) = (parts.status, &parts.headers);
    let ack = || match body.is_empty() {
        true => Outcome::Ack,
        false => {
            let content_type = text_of(headers, &CONTENT_TYPE);
            let content_type = content_type.unwrap_or("application/octet-stream");
            let mut answer = Answer::new(body.clone(), content_type);
            answer.content_encoding = text_of(headers, &CONTENT_ENCODING).map(str::to_owned);
            Outcome::Reply(answer)
        }
    };
    let reason = || {
        let start = body.get(..REASON_BYTES_MAX).unwrap_or(&body);
        let text = String::from_utf8_lossy(start);
        if text.is_empty() { status.to_string() } else { format!("{status}: {text}") }
    };
    let retry = || match retry_after(headers, now) {
        Some(wait) => Outcome::Pause { wait, reason: reason() },
        None => Outcome::Retry { after: None, reason: reason() },
    };
    match text_of(headers, &SETTLE) {
        Some("ack") => return ack(),
        Some("retry") => return retry(),
        Some("dead") => return Outcome::Dead { reason: reason() },
        Some("drop") => return Outcome::Drop { reason: reason() },
        Some(_) | None => {}
    }
    match status {
        StatusCode::CONFLICT => Outcome::Ack,
        StatusCode::BAD_REQUEST | StatusCode::GONE | StatusCode::UNPROCESSABLE_ENTITY => {
            Outcome::Dead { reason: reason() }
        }
        status if status.is_success() => ack(),
        _ => retry(),
    }
}

/// Whether a header says what becomes of the message.
fn overruled(headers: &HeaderMap) -> bool {
    matches!(text_of(headers, &SETTLE), Some("ack" | "retry" | "dead" | "drop"))
}

/// RFC 9110 §10.2.3: seconds, or a date; nothing if it is neither, or over.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = text_of(headers, &RETRY_AFTER)?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(now).ok()
}

fn text_of<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn headers_of(delivery: &Delivery) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: &str, value: &str| {
        // What HTTP cannot carry is left out: names and values are whatever a publisher wrote.
        let name = HeaderName::try_from(name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    };
    let properties = delivery.properties();
    for (name, value) in [
        (CONTENT_TYPE.as_str(), properties.content_type),
        (CONTENT_ENCODING.as_str(), properties.content_encoding),
        ("idempotency-key", properties.message_id),
        ("posthouse-queue", Some(delivery.queue())),
    ] {
        if let Some(value) = value {
            put(name, value);
        }
    }
    put("posthouse-attempt", &delivery.attempt().to_string());
    // Ours are not the publisher's to set.
    let theirs = delivery.header_table();
    let theirs = theirs.iter().filter(|(name, _)| !name.starts_with("posthouse-"));
    for (name, text) in theirs.filter_map(|(name, value)| http_header(name, value)) {
        put(&name, &text);
    }
    headers
}

/// The template with the parts of the message put in; or why they cannot be.
fn path_of(template: &str, delivery: &Delivery) -> Result<String, String> {
    let mut path = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        path.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            path.push('{');
            rest = after;
            continue;
        };
        let key = delivery.routing_key();
        let value = match name {
            "rk" => key,
            "queue" => delivery.queue(),
            "exchange" => delivery.exchange(),
            other => other
                .strip_prefix("rk.")
                .and_then(|index| index.parse().ok())
                .and_then(|index| key.split('.').nth(index))
                .unwrap_or_default(),
        };
        if matches!(value, "." | "..") {
            return Err(format!("`{value}` cannot be put into the path `{template}`"));
        }
        path.extend(utf8_percent_encode(value, ENCODED));
        rest = behind;
    }
    path.push_str(rest);
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Origin, Receipt};

    fn delivery(key: &str) -> Delivery {
        let origin = Origin {
            queue: "orders".into(),
            exchange: "events".into(),
            routing_key: key.into(),
            redelivered: false,
            receipt: Receipt { epoch: 1, tag: 1 },
        };
        Delivery::new(origin, &[0, 0], b"")
    }

    fn answer(status: u16, headers: &[(&str, &str)], body: &'static str) -> Outcome {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_258_800);
        outcome_of(response.body(Bytes::from_static(body.as_bytes())).unwrap(), now)
    }

    #[test]
    fn parts_of_the_message_are_put_into_the_path_and_stay_one_segment() {
        let message = delivery("eu/../x.placed");

        let path = |template| path_of(template, &message);

        let all = path("/events/{rk.0}/{rk.3}/{rk.9}/{queue}/{exchange}?key={rk}");
        assert_eq!(all.unwrap(), "/events/eu%2F/placed//orders/events?key=eu%2F..%2Fx.placed");
        assert_eq!(path("/{rk").unwrap(), "/{rk");
        for elsewhere in [".", ".."] {
            assert!(path_of("/{rk}/x", &delivery(elsewhere)).is_err());
        }
    }

    #[test]
    fn the_status_settles_and_a_header_overrules_it() {
        assert_eq!(answer(204, &[], ""), Outcome::Ack);
        assert_eq!(answer(409, &[], "known"), Outcome::Ack);
        let types = [("content-type", "application/json"), ("content-encoding", "br")];
        let reply = Answer::new("{}", "application/json").content_encoding("br");
        assert_eq!(answer(200, &types, "{}"), Outcome::Reply(reply));
        let plain = Answer::new("x", "application/octet-stream");
        assert_eq!(answer(202, &[], "x"), Outcome::Reply(plain));
        for status in [400, 410, 422] {
            assert!(matches!(answer(status, &[], "bad"), Outcome::Dead { .. }));
        }
        for status in [408, 425, 429, 404, 500, 503] {
            assert!(matches!(answer(status, &[], ""), Outcome::Retry { after: None, .. }));
        }
        assert!(matches!(answer(500, &[("posthouse-settle", "drop")], ""), Outcome::Drop { .. }));
        assert_eq!(answer(500, &[("posthouse-settle", "ack")], ""), Outcome::Ack);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |status, text| match answer(status, &[("retry-after", text)], "") {
            Outcome::Pause { wait, .. } => Some(wait.as_secs()),
            Outcome::Retry { after: None, .. } => None,
            other => panic!("{other:?}"),
        };

        assert_eq!(wait(503, "7"), Some(7));
        assert_eq!(wait(429, " 120 "), Some(120));
        assert_eq!(wait(503, "Sat, 21 Nov 2026 11:01:30 GMT"), Some(90));
        assert_eq!(wait(503, "Saturday, 21-Nov-26 11:01:30 GMT"), Some(90));
        for nothing in ["Sat, 21 Nov 2026 10:59:59 GMT", "soon", "-1", "1.5", ""] {
            assert_eq!(wait(503, nothing), None, "{nothing}");
        }
    }
}
