//! What a subscription's `options` say about delivery.
//!
//! | option | is |
//! |---|---|
//! | `post_headers` | object of texts: headers of the request beside ours |
//! | `form` | `notification`, or `request`: the message as a request of its own, see [`request`](crate::OwnRequest) |
//! | `path` | its path, with places for parts of the message |
//! | `answers` | whether what the request is answered with goes to `reply-to` |
//! | `settle_within` | seconds that a receiver which answers 202 has to settle a message later |
//! | `post_data` | text around the message, see [`notification`](crate::notification) |
//! | `from`, `subject` | of mail |
//! | `trust_id` | the Keystone trust of a `trust+` subscriber |
//! | `_retry_policy` | see [`retry`](crate::retry) |
//! | `filter` | see [`filter`](crate::filter) |
//! | `dead_letter_queue` | queue of the same tenant for what is given up |
//! | `signing_secret` | text or list: `whsec_…`, the newest first |
//!
//! Others are kept by the door and mean nothing here.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::filter::{Filter, FilterError};
use crate::mail::{Address, HeaderText, MailError};
use crate::request::PathTemplate;
use crate::retry::{RetryPolicy, RetryPolicyError};
use crate::sign::{SECRETS_MAX, Secret, SecretError};

/// Most headers of a request that a subscription may add.
pub(crate) const POST_HEADERS_MAX: usize = 32;

/// Most bytes of them, names and values.
pub(crate) const POST_HEADERS_BYTES_MAX: usize = 8 * 1024;

/// Longest `post_data`, in bytes.
pub(crate) const POST_DATA_BYTES_MAX: usize = 64 * 1024;

/// Seconds that settling later may take; half a day at most, as messages wait in memory.
const SETTLE_WITHIN_S: RangeInclusive<u64> = 1..=43_200;

/// Headers that are ours or the connection's.
const RESERVED: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-auth-token",
];

/// Headers that begin like this are ours.
const RESERVED_PREFIX: &str = "webhook-";

/// Names and values of headers, as they are sent.
pub type Headers = Vec<(Box<str>, Box<str>)>;

/// What a message becomes for a webhook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Form {
    /// Zaqar's JSON around it.
    #[default]
    Notification,
    /// A request of its own.
    Request(Box<AsRequest>),
}

/// How a message becomes a request of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AsRequest {
    /// Its path, if not that of the subscriber's URL.
    pub path: Option<PathTemplate>,
    /// What it is answered with goes to whoever asked.
    pub answers: bool,
    /// How long it may take to settle a message that was answered with 202.
    pub settle_within: Option<Duration>,
}

/// What a subscription says about delivery.
#[derive(Debug, Default)]
pub struct Options {
    /// Headers of the request, checked.
    pub post_headers: Headers,
    /// What a message becomes.
    pub form: Form,
    /// Text around the message.
    pub post_data: Option<Box<str>>,
    /// Sender of mail.
    pub from: Option<Address>,
    /// Subject of mail.
    pub subject: Option<HeaderText>,
    /// Keystone trust.
    pub trust_id: Option<Box<str>>,
    /// Own retry policy.
    pub retry_policy: Option<RetryPolicy>,
    /// Which messages are sent.
    pub filter: Option<Filter>,
    /// Where goes what is given up.
    pub dead_letter_queue: Option<Box<str>>,
    /// Own secrets, the newest first.
    pub signing_secrets: Vec<Secret>,
}

/// Why options are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No JSON object; the text is Zaqar's.
    #[error("Options must be a dict.")]
    NotAnObject,
    /// An option of the wrong type.
    #[error("option `{0}` must be {1}")]
    Type(&'static str, &'static str),
    /// A header that cannot be sent, or is not the tenant's.
    #[error("post_headers cannot have `{0}`")]
    Header(String),
    /// More than may be.
    #[error("option `{0}` must be at most {1} {2}")]
    TooMuch(&'static str, usize, &'static str),
    /// A name that no queue can have.
    #[error("option `dead_letter_queue` must be 1 to 64 of the characters A-Z a-z 0-9 _ . -")]
    DeadLetterQueue,
    /// The retry policy.
    #[error(transparent)]
    RetryPolicy(#[from] RetryPolicyError),
    /// The filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A mail address or subject.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// A signing secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl Options {
    /// Reads and checks the options of a subscription.
    ///
    /// # Errors
    ///
    /// [`OptionsError`], with a text for whoever subscribes.
    pub fn parse(options: &Value) -> Result<Self, OptionsError> {
        let options = match options {
            Value::Null => return Ok(Self::default()),
            Value::Object(options) => options,
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(OptionsError::NotAnObject);
            }
        };
        let retry_policy = options.get("_retry_policy").map(RetryPolicy::parse).transpose()?;
        let post_data = text(options, "post_data")?;
        if post_data.is_some_and(|text| text.len() > POST_DATA_BYTES_MAX) {
            return Err(OptionsError::TooMuch("post_data", POST_DATA_BYTES_MAX, "bytes"));
        }
        let dead_letter_queue = text(options, "dead_letter_queue")?;
        if dead_letter_queue.is_some_and(|name| !is_queue_name(name)) {
            return Err(OptionsError::DeadLetterQueue);
        }
        Ok(Self {
            post_headers: headers(options)?,
            form: form(options)?,
            post_data: post_data.map(Into::into),
            from: text(options, "from")?.map(Address::parse).transpose()?,
            subject: text(options, "subject")?.map(HeaderText::parse).transpose()?,
            trust_id: text(options, "trust_id")?.map(Into::into),
            retry_policy: retry_policy.flatten(),
            filter: text(options, "filter")?.map(Filter::compile).transpose()?,
            dead_letter_queue: dead_letter_queue.map(Into::into),
            signing_secrets: secrets(options)?,
        })
    }
}

fn text<'a>(
    options: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a str>, OptionsError> {
    match options.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(OptionsError::Type(name, "a text"))
        }
    }
}

fn switch(options: &Map<String, Value>, name: &'static str) -> Result<bool, OptionsError> {
    match options.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            Err(OptionsError::Type(name, "true or false"))
        }
    }
}

fn settle_within(options: &Map<String, Value>) -> Result<Option<Duration>, OptionsError> {
    let Some(value) = options.get("settle_within").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let seconds = value.as_u64().filter(|seconds| SETTLE_WITHIN_S.contains(seconds));
    let wrong = OptionsError::Type("settle_within", "a number of seconds from 1 to 43200");
    Ok(Some(Duration::from_secs(seconds.ok_or(wrong)?)))
}

fn form(options: &Map<String, Value>) -> Result<Form, OptionsError> {
    let (path, answers) = (text(options, "path")?, switch(options, "answers")?);
    let settle_within = settle_within(options)?;
    let without = |name| Err(OptionsError::Type(name, "left out where `form` is no request"));
    match text(options, "form")? {
        None | Some("notification") => match (path, answers, settle_within) {
            (None, false, None) => Ok(Form::Notification),
            (Some(_), ..) => without("path"),
            (_, true, _) => without("answers"),
            (.., Some(_)) => without("settle_within"),
        },
        Some("request") if text(options, "post_data")?.is_some() => {
            Err(OptionsError::Type("post_data", "left out where `form` is a request"))
        }
        Some("request") => {
            let path = path.map(PathTemplate::parse).transpose();
            let path = path.map_err(|what| OptionsError::Type("path", what))?;
            Ok(Form::Request(Box::new(AsRequest { path, answers, settle_within })))
        }
        Some(_) => Err(OptionsError::Type("form", "`notification` or `request`")),
    }
}

fn is_queue_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(good)
}

fn headers(options: &Map<String, Value>) -> Result<Headers, OptionsError> {
    let members = match options.get("post_headers") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(members)) => members,
        Some(_) => return Err(OptionsError::Type("post_headers", "an object of texts")),
    };
    if members.len() > POST_HEADERS_MAX {
        return Err(OptionsError::TooMuch("post_headers", POST_HEADERS_MAX, "headers"));
    }
    let mut bytes = 0;
    let mut headers = Vec::with_capacity(members.len());
    for (name, value) in members {
        let value = match value {
            Value::String(value) => value.clone(),
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                return Err(OptionsError::Type("post_headers", "an object of texts"));
            }
        };
        bytes += name.len() + value.len();
        let lower = name.to_ascii_lowercase();
        let sendable = hyper::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && hyper::header::HeaderValue::from_str(&value).is_ok();
        if !sendable || RESERVED.contains(&lower.as_str()) || lower.starts_with(RESERVED_PREFIX) {
            return Err(OptionsError::Header(lower.escape_debug().take(100).collect()));
        }
        headers.push((lower.into(), value.into()));
    }
    if bytes > POST_HEADERS_BYTES_MAX {
        return Err(OptionsError::TooMuch("post_headers", POST_HEADERS_BYTES_MAX, "bytes"));
    }
    Ok(headers)
}

fn secrets(options: &Map<String, Value>) -> Result<Vec<Secret>, OptionsError> {
    let wrong = OptionsError::Type("signing_secret", "a text or a list of texts");
    let texts: Vec<&str> = match options.get("signing_secret") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(list)) => {
            list.iter().map(Value::as_str).collect::<Option<_>>().ok_or(wrong)?
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => return Err(wrong),
    };
    if texts.len() > SECRETS_MAX {
        return Err(OptionsError::TooMuch("signing_secret", SECRETS_MAX, "secrets"));
    }
    Ok(texts.into_iter().map(Secret::parse).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(options: &Value) -> String {
        Options::parse(options).unwrap_err().to_string()
    }

    #[test]
    fn everything_that_can_be_said_is_understood() {
        let options = Options::parse(&json!({
            "post_headers": {"X-Custom": "a", "X-Number": 3},
            "post_data": "{\"m\": \"$zaqar_message$\"}",
            "from": "me@example.org", "subject": "News", "trust_id": "t",
            "_retry_policy": {"retries_with_no_delay": 1},
            "filter": "body.a == 1", "dead_letter_queue": "lost",
            "signing_secret": ["whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"],
            "something": {"else": true},
        }))
        .unwrap();

        assert_eq!(&*options.post_headers[0].0, "x-custom");
        assert_eq!(&*options.post_headers[1].1, "3");
        assert_eq!(options.retry_policy.unwrap().retries_with_no_delay, 1);
        assert_eq!(options.filter.unwrap().source(), "body.a == 1");
        assert_eq!(options.signing_secrets.len(), 1);
    }

    #[test]
    fn nothing_said_is_nothing_meant() {
        for options in [json!(null), json!({}), json!({"post_data": null, "filter": null})] {
            assert!(Options::parse(&options).unwrap().post_data.is_none());
        }
    }

    #[test]
    fn headers_that_are_ours_or_cannot_be_sent_are_refused() {
        for name in ["Host", "webhook-signature", "Content-Length", "X-Auth-Token", "a b", ""] {
            let refused = refusal(&json!({"post_headers": {name: "x"}}));
            assert!(refused.starts_with("post_headers cannot have"), "{name}: {refused}");
        }
        assert!(refusal(&json!({"post_headers": {"x": "a\r\nb: c"}})).contains("cannot have"));
        assert!(refusal(&json!({"post_headers": {"x": "a".repeat(9000)}})).contains("8192 bytes"));
        assert!(refusal(&json!({"post_headers": ["x"]})).contains("an object of texts"));
    }

    #[test]
    fn each_wrong_option_is_named() {
        assert_eq!(refusal(&json!([])), "Options must be a dict.");
        assert!(refusal(&json!({"form": "letter"})).contains("`notification` or `request`"));
        assert!(refusal(&json!({"path": "/x"})).contains("left out"));
        assert!(refusal(&json!({"form": "request", "path": "x"})).contains("begins with /"));
        assert!(refusal(&json!({"answers": true})).contains("left out where `form` is no request"));
        assert!(refusal(&json!({"form": "request", "answers": 1})).contains("true or false"));
        assert!(refusal(&json!({"settle_within": 1})).contains("`settle_within` must be left out"));
        for bad in [json!(0), json!(43_201), json!(-1), json!(1.5), json!("60"), json!(u64::MAX)] {
            let refused = refusal(&json!({"form": "request", "settle_within": bad}));
            assert!(refused.contains("seconds from 1 to 43200"), "{refused}");
        }
        assert!(refusal(&json!({"form": "request", "post_data": "x"})).contains("left out"));
        assert_eq!(refusal(&json!({"post_data": 1})), "option `post_data` must be a text");
        assert_eq!(refusal(&json!({"_retry_policy": [1]})), "retry_policy must be a dict.");
        assert!(refusal(&json!({"filter": "x == 1"})).contains("`x`"));
        assert!(refusal(&json!({"from": "a\r\nb@c.d"})).contains("is not a mail address"));
        assert!(refusal(&json!({"subject": "a\nb"})).contains("control characters"));
        assert!(refusal(&json!({"dead_letter_queue": "a b"})).contains("1 to 64"));
        assert!(refusal(&json!({"signing_secret": "abc"})).contains("whsec_"));
    }
}
