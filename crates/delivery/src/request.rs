//! A message as a request of its own: its body as it is, parts of it in the path, what else it says in headers.
//!
//! For services in any language that handle messages the way they handle requests. The mapping is that of
//! `posthouse-client`, where the service is in the same program.
//!
//! | header | from |
//! |---|---|
//! | `content-type`, `content-encoding` | the properties |
//! | `idempotency-key` | `message-id` |
//! | `traceparent`, `tracestate` | the headers of that name |
//! | `posthouse-queue`, `posthouse-attempt` | the queue that is followed; from one |
//! | `posthouse-deadline` | milliseconds that are left of `expiration` |
//! | `posthouse-principal` | `user-id`, which the broker has checked when it was published |
//! | `ce-NAME` | headers `cloudEvents:NAME` and `cloudEvents_NAME` |
//! | `posthouse-h-NAME` | every other header that is text, a number or a truth value |

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use hyper::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use hyper::http::uri::PathAndQuery;
use model::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use posthouse_amqp::Table;
use posthouse_amqp::http_header::http_header;
use posthouse_amqp::properties::Properties;

/// Longest template of a path, in bytes.
pub(crate) const PATH_BYTES_MAX: usize = 1024;

/// Most headers that come from a message, and bytes of them: more than that, web servers refuse. The rest is left out.
const HEADERS_MAX: usize = 64;
const HEADERS_BYTES_MAX: usize = 8 * 1024;

/// What overrules an answer's status.
pub(crate) const SETTLE: &str = "posthouse-settle";

/// Everything but what RFC 3986 §2.3 calls unreserved is encoded, so a value is never more than one segment.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is sent of a message beside its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnRequest {
    /// Path and query; `None` for those of the subscriber's URL.
    pub path: Option<PathAndQuery>,
    /// Headers that come from the message.
    pub headers: HeaderMap,
    /// What its answer may say.
    pub terms: Terms,
}

/// What an answer may say, beside its status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// Somebody waits for the answer's body, of at most so many bytes.
    pub answer_bytes_max: Option<usize>,
    /// It may be 202, and the message is settled later, until then.
    pub settle_until: Option<Timestamp>,
}

/// A path with places for parts of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Queue,
    Exchange,
    RoutingKey,
    /// Of the routing key, between its dots.
    Word(usize),
}

/// What a path's places are filled from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address<'a> {
    pub(crate) queue: &'a str,
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
}

impl PathTemplate {
    /// Reads a template such as `/orders/{rk.1}?from={exchange}`. Places are `{queue}`, `{exchange}`, `{rk}`, and `{rk.0}`
    /// for the first word of the routing key.
    ///
    /// # Errors
    ///
    /// What is wrong with it, for whoever subscribes.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with('/') || text.contains('#') || text.len() > PATH_BYTES_MAX {
            return Err("a text of at most 1024 bytes that begins with / and has no #");
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after.split_once('}').ok_or("a text with a } for each {")?;
            parts.push(Part::Text(before.into()));
            parts.push(match (name, name.strip_prefix("rk.").map(str::parse)) {
                ("queue", _) => Part::Queue,
                ("exchange", _) => Part::Exchange,
                ("rk", _) => Part::RoutingKey,
                (_, Some(Ok(index))) => Part::Word(index),
                _ => return Err("a text with no places but {queue}, {exchange}, {rk} and {rk.0}"),
            });
            rest = behind;
        }
        parts.push(Part::Text(rest.into()));
        let template = Self(parts);
        let sample = Address { queue: "q", exchange: "e", routing_key: "r" };
        let is_path = |path: &PathAndQuery| !path.as_str().contains('}');
        match template.fill(&sample).filter(is_path) {
            Some(_) => Ok(template),
            None => Err("the path of a URL, percent-encoded, with or without a query"),
        }
    }

    /// The path of a message; `None` if it cannot be one: a part that is `.` or `..` would lead elsewhere.
    pub(crate) fn fill(&self, address: &Address<'_>) -> Option<PathAndQuery> {
        let mut path = String::with_capacity(64);
        for part in &self.0 {
            let value = match part {
                Part::Text(text) => {
                    path.push_str(text);
                    continue;
                }
                Part::Queue => address.queue,
                Part::Exchange => address.exchange,
                Part::RoutingKey => address.routing_key,
                Part::Word(index) => address.routing_key.split('.').nth(*index).unwrap_or_default(),
            };
            if matches!(value, "." | "..") {
                return None;
            }
            path.extend(utf8_percent_encode(value, ENCODED));
        }
        path.parse().ok()
    }
}

/// What of a delivery is told in headers, beside the message's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) queue: &'a str,
    pub(crate) attempt: u32,
    /// Milliseconds.
    pub(crate) time_left: Option<u64>,
    /// In the clear.
    pub(crate) content_type: Option<&'a str>,
}

/// The headers of a message's request.
pub(crate) fn headers_of(
    about: &About<'_>,
    properties: &Properties<'_>,
    table: &Table,
) -> HeaderMap {
    let mut headers = Gathered::default();
    let (attempt, deadline) = (about.attempt.to_string(), about.time_left.map(|ms| ms.to_string()));
    for (name, value) in [
        (CONTENT_TYPE.as_str(), about.content_type),
        (CONTENT_ENCODING.as_str(), properties.content_encoding),
        ("idempotency-key", properties.message_id),
        ("posthouse-queue", Some(about.queue)),
        ("posthouse-attempt", Some(&attempt)),
        ("posthouse-deadline", deadline.as_deref()),
        ("posthouse-principal", properties.user_id),
    ] {
        if let Some(value) = value {
            headers.put(name, value);
        }
    }
    for (name, text) in table.iter().filter_map(|(name, value)| http_header(name, value)) {
        headers.put(&name, &text);
    }
    headers.map
}

/// Headers within their bounds.
#[derive(Default)]
struct Gathered {
    map: HeaderMap,
    bytes: usize,
}

impl Gathered {
    /// What HTTP cannot carry is left out: names and values are whatever a publisher wrote.
    fn put(&mut self, name: &str, value: &str) {
        let bytes = self.bytes + name.len() + value.len();
        if bytes > HEADERS_BYTES_MAX || self.map.len() >= HEADERS_MAX {
            return;
        }
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value))
        else {
            return;
        };
        self.bytes = bytes;
        self.map.insert(name, value);
    }
}

/// What an answer to a message's own request says of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// It is done: what else the answer says is for whoever asked.
    Done,
    /// Somebody had done it already, or it is of no use.
    Forget,
    /// It was taken, and is settled later, until then.
    Later(Timestamp),
    /// It will never be.
    Dead,
    /// Another time.
    Retry,
}

/// 2xx and 409 (somebody had done it already) are done, 400, 410 and 422 never will be, everything else is tried again;
/// `posthouse-settle: ack`, `drop`, `dead` or `retry` overrules the status. 202 is later, if it may be.
pub(crate) fn said(status: StatusCode, headers: &HeaderMap, terms: Terms) -> Said {
    match headers.get(SETTLE).map(HeaderValue::as_bytes) {
        Some(b"ack") => return Said::Done,
        Some(b"drop") => return Said::Forget,
        Some(b"dead") => return Said::Dead,
        Some(b"retry") => return Said::Retry,
        Some(_) | None => {}
    }
    if let (StatusCode::ACCEPTED, Some(until)) = (status, terms.settle_until) {
        return Said::Later(until);
    }
    match status {
        StatusCode::CONFLICT => Said::Forget,
        StatusCode::BAD_REQUEST | StatusCode::GONE | StatusCode::UNPROCESSABLE_ENTITY => Said::Dead,
        status if status.is_success() => Said::Done,
        _ => Said::Retry,
    }
}

/// How long an answer wants to be left alone: seconds or a date (RFC 9110 §10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(value).ok()?.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::Value;

    use super::*;

    fn filled(template: &str, queue: &str, routing_key: &str) -> Option<String> {
        let address = Address { queue, exchange: "events", routing_key };
        let path = PathTemplate::parse(template).unwrap().fill(&address)?;
        Some(path.as_str().to_owned())
    }

    #[test]
    fn parts_of_the_message_are_put_into_the_path_and_stay_one_segment() {
        let path = filled("/{exchange}/{rk.0}/{rk.2}/x?q={queue}&k={rk}", "my q", "eu/../a.b.é");

        assert_eq!(path.unwrap(), "/events/eu%2F/%2Fa/x?q=my%20q&k=eu%2F..%2Fa.b.%C3%A9");
        assert_eq!(filled("/fixed", "q", "k").unwrap(), "/fixed");
        assert_eq!(filled("/{queue}/x", "..", "k"), None);
        assert_eq!(filled("/{rk}", "q", "."), None);
    }

    #[test]
    fn templates_that_are_no_paths_are_refused() {
        for bad in
            ["", "x", "/{", "/{x}", "/{rk.}", "/{rk.-1}", "/a b", "/#x", "/}", "http://x/", "/\n"]
        {
            assert!(PathTemplate::parse(bad).is_err(), "{bad}");
        }
        assert!(PathTemplate::parse(&format!("/{}", "x".repeat(1024))).is_err());
    }

    #[test]
    fn headers_say_what_the_message_says_as_far_as_http_can() {
        let mut table = Table::default();
        let text = |text: &str| Value::LongString(text.into());
        table.insert("traceparent", text("00-a-b-01"));
        table.insert("cloudEvents:type", text("placed"));
        table.insert("region", text("eu"));
        table.insert("n", Value::I64(7));
        table.insert("good", Value::Bool(true));
        table.insert("a b", text("x"));
        table.insert("bad", text("a\r\nhost: evil"));
        table.insert("list", Value::Array(Vec::new()));
        table.insert("authorization", text("mine"));
        let properties =
            Properties { message_id: Some("m-1"), user_id: Some("ann"), ..Properties::default() };
        let about =
            About { queue: "q", attempt: 2, time_left: Some(9), content_type: Some("text/plain") };

        let headers = headers_of(&about, &properties, &table);

        let mut shown: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        shown.sort();
        let expected = [
            "ce-type: placed",
            "content-type: text/plain",
            "idempotency-key: m-1",
            "posthouse-attempt: 2",
            "posthouse-deadline: 9",
            "posthouse-h-authorization: mine",
            "posthouse-h-good: true",
            "posthouse-h-n: 7",
            "posthouse-h-region: eu",
            "posthouse-principal: ann",
            "posthouse-queue: q",
            "traceparent: 00-a-b-01",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn headers_beyond_what_web_servers_take_are_left_out() {
        let mut table = Table::default();
        for number in 0..200 {
            table.insert(format!("h{number}").as_str(), Value::I64(number));
        }
        table.insert("large", Value::LongString(vec![b'x'; 9000]));
        let about = About { queue: "q", attempt: 1, time_left: None, content_type: None };

        let headers = headers_of(&about, &Properties::default(), &table);

        assert_eq!(headers.len(), HEADERS_MAX);
        assert!(!headers.contains_key("posthouse-h-large"));
    }

    #[test]
    fn the_status_settles_and_a_header_overrules_it() {
        let of = |status: u16, settle: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(settle) = settle {
                headers.insert(SETTLE, HeaderValue::from_static(settle));
            }
            said(StatusCode::from_u16(status).unwrap(), &headers, Terms::default())
        };

        for status in [200, 202, 204] {
            assert_eq!(of(status, None), Said::Done);
        }
        assert_eq!(of(409, None), Said::Forget);
        for status in [400, 410, 422] {
            assert_eq!(of(status, None), Said::Dead);
        }
        for status in [302, 401, 404, 408, 425, 429, 500, 503] {
            assert_eq!(of(status, None), Said::Retry);
        }
        assert_eq!(of(500, Some("ack")), Said::Done);
        assert_eq!(of(500, Some("drop")), Said::Forget);
        assert_eq!(of(200, Some("dead")), Said::Dead);
        assert_eq!(of(200, Some("retry")), Said::Retry);
        assert_eq!(of(200, Some("perhaps")), Said::Done);
    }

    #[test]
    fn a_message_that_may_be_settled_later_is_taken_by_202_alone() {
        let until = Timestamp(7);
        let terms = Terms { settle_until: Some(until), ..Terms::default() };
        let mut headers = HeaderMap::new();

        assert_eq!(said(StatusCode::ACCEPTED, &headers, terms), Said::Later(until));
        assert_eq!(said(StatusCode::OK, &headers, terms), Said::Done);
        headers.insert(SETTLE, HeaderValue::from_static("ack"));
        assert_eq!(said(StatusCode::ACCEPTED, &headers, terms), Said::Done);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
            retry_after(&headers, now)
        };

        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("Sun, 06 Nov 1994 08:50:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(of("Sun, 06 Nov 1994 08:00:00 GMT"), None);
        assert_eq!(of("soon"), None);
        assert_eq!(of("-1"), None);
    }
}
