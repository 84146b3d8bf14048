//! What surrounds every request and answer on a WebSocket.
//!
//! ```text
//! request  {"action": "queue_get", "headers": {…}, "body": {…}, "request_id"?: 7}
//! answer   {"request": {"action", "body", "headers", "api": "v2"}, "body": …, "headers": {"status": 200}, "request_id"?: 7}
//! ```
//!
//! Texts are Zaqar's. `request_id` is ours: without it answers can be told apart by their order only.

use std::borrow::Cow;

use super::msgpack;
use crate::door::zaqar::json::{Flaw, Kind, Raw, check_value, write};
use crate::door::zaqar::problem::Problem;

/// Longest `request_id`, as text with its quotes.
const REQUEST_ID_BYTES_MAX: usize = 258;

/// JSON may be that many times longer than the MessagePack that it comes from: a control character is six characters.
const JSON_GROWTH: usize = 6;

/// What kind of frame a request came in; its answer goes in the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Text frames.
    Json,
    /// Binary frames.
    MessagePack,
}

/// A request's members as they came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) action: Option<Raw<'a>>,
    pub(crate) headers: Option<Raw<'a>>,
    pub(crate) body: Option<Raw<'a>>,
    request_id: Option<Raw<'a>>,
}

/// Why there is no request in a frame: the `error` of the answer, whose status is 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("Can't decode text (JSON) request. JSONDecodeError: {0}")]
    Json(&'static str),
    #[error("Can't decode binary (MessagePack) request. {0}")]
    MessagePack(#[from] msgpack::Flaw),
    #[error("Unexpected body type. Expected dict or dict like.")]
    NoObject,
}

impl Codec {
    /// The JSON text of a frame.
    ///
    /// # Errors
    ///
    /// [`Unreadable::MessagePack`].
    pub(crate) fn text<'a>(self, payload: &'a [u8]) -> Result<Cow<'a, [u8]>, Unreadable> {
        match self {
            Self::Json => Ok(Cow::Borrowed(payload)),
            Self::MessagePack => {
                let bytes_max = payload.len().saturating_mul(JSON_GROWTH).saturating_add(16);
                Ok(Cow::Owned(msgpack::to_json(payload, bytes_max)?))
            }
        }
    }
}

impl<'a> Request<'a> {
    /// Reads the JSON text of a frame.
    ///
    /// # Errors
    ///
    /// Every [`Unreadable`] but the one of MessagePack.
    pub(crate) fn read(text: &'a [u8]) -> Result<Self, Unreadable> {
        let raw = check_value(text).map_err(|flaw| {
            Unreadable::Json(match flaw {
                Flaw::Malformed => "not JSON, or nested too deeply",
                Flaw::IntegerTooLarge => "an integer is too large",
            })
        })?;
        if raw.kind() == Kind::Object { Ok(Self::of(raw)) } else { Err(Unreadable::NoObject) }
    }

    pub(super) fn of(raw: Raw<'a>) -> Self {
        let mut request = Self { action: None, headers: None, body: None, request_id: None };
        for (name, value) in raw.members() {
            match &*name {
                "action" => request.action = Some(value).filter(|value| value.kind() != Kind::Null),
                "headers" => request.headers = Some(value),
                "body" => request.body = Some(value),
                "request_id" => request.request_id = Some(value),
                _ => {}
            }
        }
        let of_headers = || request.headers?.member("request_id");
        request.request_id = request.request_id.or_else(of_headers);
        request
    }

    /// A header that is a string.
    pub(crate) fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        self.headers?.member(name)?.string()
    }

    /// A header that is a list of strings, or one string with commas.
    pub(crate) fn header_list(&self, name: &str) -> Vec<String> {
        let Some(value) = self.headers.and_then(|headers| headers.member(name)) else {
            return Vec::new();
        };
        match value.string() {
            Some(text) => text.split(',').map(str::to_owned).collect(),
            None => value.items().filter_map(|item| Some(item.string()?.into_owned())).collect(),
        }
    }

    /// A member of the body.
    pub(crate) fn member(&self, name: &str) -> Option<Raw<'a>> {
        self.body?.member(name)
    }

    /// A member of the body that is a string; empty where it is missing.
    pub(crate) fn text(&self, name: &str) -> Cow<'a, str> {
        self.member(name).and_then(Raw::string).unwrap_or_default()
    }

    /// Whether `request_id` is missing, or a string or number of reasonable length.
    pub(super) fn request_id_fits(&self) -> bool {
        self.request_id.is_none_or(|id| {
            matches!(id.kind(), Kind::String | Kind::Integer)
                && id.text().len() <= REQUEST_ID_BYTES_MAX
        })
    }
}

/// What is said again of a request in its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Echo<'a> {
    /// The frame could not be read.
    Nothing,
    /// The action alone, because the headers hold a token.
    Action(&'a Request<'a>),
    /// All of it.
    All(&'a Request<'a>),
}

/// An answer's status and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// JSON.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into() }
    }

    /// A body that is a text.
    pub(crate) fn text(status: u16, text: &str) -> Self {
        let mut body = Vec::with_capacity(text.len() + 2);
        write::string(&mut body, text);
        Self { status, body }
    }

    /// `{"error": …}`: what is answered before an action is dispatched.
    pub(crate) fn error(status: u16, text: &str) -> Self {
        let mut body = b"{\"error\":".to_vec();
        write::string(&mut body, text);
        body.push(b'}');
        Self { status, body }
    }

    /// `{"exception": …, "error": …}`: what is answered behind the dispatch.
    pub(crate) fn problem(problem: &Problem) -> Self {
        let text = problem.description.as_deref().unwrap_or(&problem.title);
        let mut body = b"{\"exception\":".to_vec();
        // Zaqar's field errors say more here than over HTTP.
        if problem.title == "Invalid request body" {
            write::string(&mut body, &format!("Bad request. {text}"));
        } else {
            write::string(&mut body, text);
        }
        body.extend_from_slice(b",\"error\":");
        match problem.status {
            500 => write::string(&mut body, "Unexpected error."),
            503 => write::string(&mut body, &problem.title),
            _ => body.extend_from_slice(b"null"),
        }
        body.push(b'}');
        Self { status: problem.status, body }
    }

    /// The whole answer, as JSON.
    pub(crate) fn to_json(&self, echo: Echo<'_>) -> Vec<u8> {
        let (request, whole) = match echo {
            Echo::Nothing => (None, false),
            Echo::Action(request) => (Some(request), false),
            Echo::All(request) => (Some(request), true),
        };
        let said = |value: Option<Raw<'_>>, absent: &'static str| {
            value.map_or(absent.to_owned(), |value| value.text().to_owned())
        };
        let inner = request.filter(|_| whole);
        let headers = inner.and_then(|request| request.headers).filter(|raw| raw.is_truthy());
        let mut out = Vec::with_capacity(self.body.len() + 256);
        for piece in [
            "{\"request\":{\"action\":",
            &said(request.and_then(|request| request.action), "null"),
            ",\"body\":",
            &said(inner.and_then(|request| request.body), "{}"),
            ",\"headers\":",
            &said(headers, "{}"),
            ",\"api\":\"v2\"},\"body\":",
        ] {
            out.extend_from_slice(piece.as_bytes());
        }
        out.extend_from_slice(&self.body);
        out.extend_from_slice(b",\"headers\":{\"status\":");
        write::integer(&mut out, self.status.into());
        out.push(b'}');
        let id = request.filter(|request| request.request_id_fits());
        if let Some(id) = id.and_then(|request| request.request_id) {
            out.extend_from_slice(b",\"request_id\":");
            out.extend_from_slice(id.text().as_bytes());
        }
        out.push(b'}');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(answer: &Answer, echo: Echo<'_>) -> String {
        String::from_utf8(answer.to_json(echo)).unwrap()
    }

    #[test]
    fn an_answer_says_the_request_again() {
        let text =
            br#"{"action":"queue_get","headers":{"a":"b"},"body":{"queue_name":"q"},"more":1}"#;
        let request = Request::read(text).unwrap();

        assert_eq!(
            shown(&Answer::new(200, "{}"), Echo::All(&request)),
            r#"{"request":{"action":"queue_get","body":{"queue_name":"q"},"headers":{"a":"b"},"api":"v2"},"body":{},"headers":{"status":200}}"#
        );
        assert_eq!(
            shown(&Answer::new(200, "{}"), Echo::Action(&request)),
            r#"{"request":{"action":"queue_get","body":{},"headers":{},"api":"v2"},"body":{},"headers":{"status":200}}"#
        );
    }

    #[test]
    fn what_is_missing_is_said_as_zaqar_does() {
        let request = Request::read(b"{}").unwrap();
        let answer = Answer::error(400, "None is not a valid action");

        let wanted = r#"{"request":{"action":null,"body":{},"headers":{},"api":"v2"},"body":{"error":"None is not a valid action"},"headers":{"status":400}}"#;
        assert_eq!(shown(&answer, Echo::All(&request)), wanted);
        assert_eq!(shown(&answer, Echo::Nothing), wanted);
    }

    #[test]
    fn a_request_id_comes_back_from_wherever_it_stood() {
        for text in [
            r#"{"action":"x","request_id":"a7"}"#,
            r#"{"action":"x","headers":{"request_id":"a7"}}"#,
        ] {
            let request = Request::read(text.as_bytes()).unwrap();
            let answer = shown(&Answer::new(200, "{}"), Echo::All(&request));
            assert!(answer.ends_with(r#","request_id":"a7"}"#), "{answer}");
        }
        let request = Request::read(br#"{"request_id":{"deep":1}}"#).unwrap();
        assert!(!request.request_id_fits());
        assert!(shown(&Answer::new(200, "{}"), Echo::All(&request)).ends_with(r#""status":200}}"#));
    }

    #[test]
    fn what_cannot_be_read_is_told_by_its_kind() {
        let error = |text: &[u8]| Request::read(text).unwrap_err().to_string();

        assert!(error(b"{").starts_with("Can't decode text (JSON) request. JSONDecodeError: "));
        assert!(error(b"\xff").starts_with("Can't decode text (JSON) request. "));
        assert_eq!(error(b"[]"), "Unexpected body type. Expected dict or dict like.");
        assert_eq!(error(b"7"), "Unexpected body type. Expected dict or dict like.");
        let binary = Codec::MessagePack.text(b"\x81").unwrap_err().to_string();
        assert!(
            binary.starts_with("Can't decode binary (MessagePack) request. OutOfData"),
            "{binary}"
        );
    }

    #[test]
    fn problems_behind_the_dispatch_have_exception_and_error() {
        let field = Answer::problem(&Problem::missing_field("body"));
        let limit = Answer::problem(&Problem::invalid("Limit"));
        let down = Answer::problem(&Problem::unavailable("Queue x."));

        let body = |answer: &Answer| String::from_utf8(answer.body.clone()).unwrap();
        assert_eq!(
            body(&field),
            r#"{"exception":"Bad request. Missing \"body\" field.","error":null}"#
        );
        assert_eq!(body(&limit), r#"{"exception":"Limit","error":null}"#);
        assert!(body(&down).contains(r#""error":"Service temporarily unavailable""#));
    }

    #[test]
    fn lists_in_headers_are_read_in_both_forms() {
        let request =
            Request::read(br#"{"headers":{"URL-Methods":["GET","PUT"],"URL-Paths":"/a,/b"}}"#)
                .unwrap();

        assert_eq!(request.header_list("URL-Methods"), ["GET", "PUT"]);
        assert_eq!(request.header_list("URL-Paths"), ["/a", "/b"]);
        assert!(request.header_list("X").is_empty());
    }
}
