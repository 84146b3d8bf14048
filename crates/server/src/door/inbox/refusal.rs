//! Answers other than 201, in the form of Django REST framework: texts by field, or `{"detail"}`.

use std::time::Duration;

use broker::BrokerError;
use hyper::StatusCode;
use hyper::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use posthouse_message_box::Problem;
use serde_json::json;

use crate::http::answer::{Answer, json as answer};

/// Why a message was not taken. Nothing of it was kept.
#[derive(Debug)]
pub(super) enum Refusal {
    /// 400: the document is none.
    Document(Problem),
    /// 400: the request cannot be read; the text says why.
    Unreadable(String),
    /// 401: nobody who is known.
    Unknown,
    /// 403: somebody who may not; the text says what.
    Forbidden(String),
    /// 404: another path.
    Elsewhere,
    /// 405.
    Method,
    /// 408.
    Late(Duration),
    /// 413: at most so many bytes.
    TooLarge(u64),
    /// 415: what the request says that it is.
    Type(String),
    /// 500: nobody takes such messages; an operator has to do something.
    Nowhere(String),
    /// 503: in moments, when less is being read.
    Busy,
    /// 503: later perhaps.
    Unavailable(String),
}

impl Refusal {
    /// What a refused publish means.
    pub(super) fn of(error: &BrokerError) -> Self {
        match error {
            BrokerError::AccessRefused { .. } | BrokerError::TopicRefused { .. } => {
                Self::Forbidden(format!("{error}."))
            }
            BrokerError::LimitReached(_) => Self::Unavailable(format!("{error}.")),
            BrokerError::Store(error) => Self::Unavailable(format!("{error}.")),
            // The document was checked, so these are about where it was to go.
            _ => Self::Nowhere(format!("{error}.")),
        }
    }

    /// Its status.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Document(_) | Self::Unreadable(_) => StatusCode::BAD_REQUEST,
            Self::Unknown => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Elsewhere => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Late(_) => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Type(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Nowhere(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable(_) | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer. `Retry-After` only says that moments are enough: otherwise senders have a schedule of their own.
    pub(super) fn answer(&self) -> Answer {
        let body = match self {
            Self::Document(problem) => problem.to_json(),
            other => json!({ "detail": other.detail() }).to_string(),
        };
        let mut answer = answer(self.status(), body);
        let headers = answer.headers_mut();
        match self {
            Self::Unknown => {
                let basic =
                    HeaderValue::from_static("Basic realm=\"posthouse\", charset=\"UTF-8\"");
                headers.insert(WWW_AUTHENTICATE, basic);
            }
            Self::Method => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            Self::Busy => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        answer
    }

    fn detail(&self) -> String {
        match self {
            Self::Document(problem) => problem.to_string(),
            Self::Unreadable(what)
            | Self::Forbidden(what)
            | Self::Nowhere(what)
            | Self::Unavailable(what) => what.clone(),
            Self::Unknown => {
                "Authentication credentials were not provided or are wrong.".to_owned()
            }
            Self::Busy => "Too many large bodies are being read.".to_owned(),
            Self::Elsewhere => {
                "Not found. There are /inbox/ and /TENANT/inbox/, the tenant percent-encoded."
                    .to_owned()
            }
            Self::Method => "Only POST is allowed.".to_owned(),
            Self::Late(timeout) => {
                format!("The body did not come within {} seconds.", timeout.as_secs_f32())
            }
            Self::TooLarge(bytes_max) => format!("The payload must be at most {bytes_max} bytes."),
            Self::Type(kind) => {
                format!("Unsupported media type \"{kind}\" in request; send application/json.")
            }
        }
    }
}
