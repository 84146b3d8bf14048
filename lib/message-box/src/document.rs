//! Reading and writing the document.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Longest source and type, in bytes: what AMQP's short strings and every outbox can hold.
pub const NAME_BYTES_MAX: usize = 255;

/// A message that came in.
#[derive(Debug, Clone)]
pub struct Received {
    /// The sender's name of it, the same in each attempt.
    pub id: Uuid,
    /// Who sent it.
    pub source: String,
    /// What happened; `message_type` on the wire.
    pub topic: String,
    /// When its sender made it, as the sender wrote it: ISO 8601.
    pub origin_create_time: String,
    /// Any JSON, as it was sent.
    pub payload: Box<RawValue>,
}

/// Why a body is no message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is no JSON; the text says why.
    NotJson(String),
    /// Texts by field, as Django REST framework has them.
    Fields(BTreeMap<&'static str, Vec<String>>),
}

impl Received {
    /// Reads a document. Nothing is allocated but copies of what is in `body`.
    ///
    /// # Errors
    ///
    /// [`Problem`], with every field that is wrong.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        read(body)
    }

    /// The payload as a type.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_str(self.payload.get())
    }

    /// The same document, its payload as it was sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = |text: &str| Value::from(text).to_string();
        format!(
            r#"{{"uuid":"{}","message_source":{},"message_type":{},"origin_create_time":{},"payload":{}}}"#,
            self.id,
            text(&self.source),
            text(&self.topic),
            text(&self.origin_create_time),
            self.payload.get(),
        )
    }
}

impl Problem {
    /// The body of the 400 that says it.
    #[must_use]
    pub fn to_json(&self) -> String {
        match self {
            Self::NotJson(error) => {
                serde_json::json!({ "detail": format!("JSON parse error - {error}") }).to_string()
            }
            Self::Fields(errors) => serde_json::json!(errors).to_string(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

impl std::error::Error for Problem {}

const REQUIRED: &str = "This field is required.";
const NULL: &str = "This field may not be null.";

fn read(body: &[u8]) -> Result<Received, Problem> {
    let mut fields: BTreeMap<String, Box<RawValue>> = match serde_json::from_slice(body) {
        Ok(fields) => fields,
        Err(error) if error.is_data() => {
            let what = "Invalid data. Expected a dictionary.".to_owned();
            return Err(Problem::Fields(BTreeMap::from([("non_field_errors", vec![what])])));
        }
        Err(error) => return Err(Problem::NotJson(error.to_string())),
    };
    let payload = fields.remove("payload").ok_or_else(|| REQUIRED.to_owned());
    let text = |field: &'static str| text(&fields, field);
    let uuid = text("uuid")
        .and_then(|text| Uuid::try_parse(&text).map_err(|_| "Must be a valid UUID.".to_owned()));
    let time = text("origin_create_time").and_then(|text| match is_time(&text) {
        true => Ok(text),
        false => Err("Datetime has wrong format. Use one of these formats instead: \
             YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."
            .to_owned()),
    });
    let (source, topic) =
        (text("message_source").and_then(name), text("message_type").and_then(name));
    match (uuid, source, topic, time, payload) {
        (Ok(id), Ok(source), Ok(topic), Ok(origin_create_time), Ok(payload)) => {
            Ok(Received { id, source, topic, origin_create_time, payload })
        }
        (uuid, source, topic, time, payload) => {
            let failures = [
                ("uuid", uuid.err()),
                ("message_source", source.err()),
                ("message_type", topic.err()),
                ("origin_create_time", time.err()),
                ("payload", payload.err()),
            ];
            let failed = |(field, error): (_, Option<String>)| Some((field, vec![error?]));
            Err(Problem::Fields(failures.into_iter().filter_map(failed).collect()))
        }
    }
}

fn text(fields: &BTreeMap<String, Box<RawValue>>, field: &str) -> Result<String, String> {
    let value = fields.get(field).ok_or_else(|| REQUIRED.to_owned())?;
    match serde_json::from_str(value.get()) {
        Ok(Value::String(text)) => Ok(text),
        Ok(Value::Null) => Err(NULL.to_owned()),
        _ => Err("Not a valid string.".to_owned()),
    }
}

fn name(text: String) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("This field may not be blank.".to_owned());
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("Ensure this field has no more than {NAME_BYTES_MAX} bytes."));
    }
    match text.contains('\0') {
        true => Err("Null characters are not allowed.".to_owned()),
        false => Ok(text),
    }
}

/// Whether a text is a date and a time as ISO 8601 has them: `2026-11-21T12:00:00.5+01:00`.
fn is_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', ' ']) else { return false };
    let digits = |text: &str, length: usize, range: std::ops::RangeInclusive<u32>| {
        text.len() == length
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && text.parse().is_ok_and(|number| range.contains(&number))
    };
    let date: Vec<&str> = date.split('-').collect();
    let [year, month, day] = date.as_slice() else { return false };
    if !(digits(year, 4, 1..=9999) && digits(month, 2, 1..=12) && digits(day, 2, 1..=31)) {
        return false;
    }
    let (time, zone) = match time.find(['+', '-', 'Z']).and_then(|at| time.split_at_checked(at)) {
        Some((time, zone)) => (time, zone),
        None => (time, "Z"),
    };
    let zone_fits = match zone.get(1..) {
        Some("") => zone == "Z",
        Some(offset) => {
            let (hours, minutes) = offset.split_once(':').unwrap_or((offset, "00"));
            zone != "Z" && digits(hours, 2, 0..=23) && digits(minutes, 2, 0..=59)
        }
        None => false,
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let fraction_fits =
        (1..=9).contains(&fraction.len()) && digits(fraction, fraction.len(), 0..=999_999_999);
    let parts: Vec<&str> = time.split(':').collect();
    let time_fits = match parts.as_slice() {
        [hours, minutes] => digits(hours, 2, 0..=23) && digits(minutes, 2, 0..=59),
        [hours, minutes, seconds] => {
            digits(hours, 2, 0..=23) && digits(minutes, 2, 0..=59) && digits(seconds, 2, 0..=59)
        }
        _ => false,
    };
    zone_fits && fraction_fits && time_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"uuid": "0190d2c8-5d5e-7c6a-9b1f-000000000001", "message_source": "shop",
        "message_type": "orders.placed", "origin_create_time": "2026-11-21T12:00:00.123456+01:00",
        "payload": {"total": 12345678901234567890.5}}"#;

    #[test]
    fn a_document_is_read_with_its_payload_as_it_was_sent() {
        let received = read(DOCUMENT.as_bytes()).unwrap();

        assert_eq!((received.source.as_str(), received.topic.as_str()), ("shop", "orders.placed"));
        assert_eq!(received.payload.get(), r#"{"total": 12345678901234567890.5}"#);
        assert_eq!(received.to_json(), read(received.to_json().as_bytes()).unwrap().to_json());
        assert!(received.to_json().ends_with(r#""payload":{"total": 12345678901234567890.5}}"#));
    }

    #[test]
    fn every_field_that_is_wrong_is_named() {
        let Err(Problem::Fields(errors)) = read(b"{}") else { panic!() };
        let fields = ["message_source", "message_type", "origin_create_time", "payload", "uuid"];
        assert_eq!(errors.keys().copied().collect::<Vec<_>>(), fields);
        assert!(errors.values().all(|texts| texts == &[REQUIRED]));

        let wrong = r#"{"uuid": "x", "message_source": null, "message_type": "", "origin_create_time": 5, "payload": null}"#;
        let Err(Problem::Fields(errors)) = read(wrong.as_bytes()) else { panic!() };
        assert_eq!(errors["uuid"], ["Must be a valid UUID."]);
        assert_eq!(errors["message_source"], [NULL]);
        assert_eq!(errors["message_type"], ["This field may not be blank."]);
        assert_eq!(errors["origin_create_time"], ["Not a valid string."]);
        assert!(!errors.contains_key("payload"), "null is JSON");
        assert!(matches!(read(b"[]"), Err(Problem::Fields(_))));
        assert!(matches!(read(b"{"), Err(Problem::NotJson(_))));
    }

    #[test]
    fn times_are_those_of_iso_8601() {
        for time in [
            "2026-11-21T12:00:00Z",
            "2026-11-21T12:00",
            "2026-11-21 12:00:00.5",
            "2026-11-21T12:00:00.123456+05:30",
            "2026-11-21T12:00:00-03",
        ] {
            assert!(is_time(time), "{time}");
        }
        for time in [
            "",
            "yesterday",
            "2026-11-21",
            "2026-13-21T12:00:00",
            "2026-11-21T25:00",
            "2026-11-21T12:00:00+",
            "2026-11-21T12:00:00.",
            "é026-11-21T12:00",
            "2026-11-21T12:00:00Z1",
        ] {
            assert!(!is_time(time), "{time}");
        }
    }

    #[test]
    fn a_document_that_ends_early_is_an_error() {
        for end in 0..DOCUMENT.len() {
            assert!(read(&DOCUMENT.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn what_is_read_is_written_so_that_it_is_read_again() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed >> 33).unwrap() % below
        };
        let alphabet = b"\"\\{}[],: u0123456789abcdefnrtlse-+.TZ\x00\x7f\xc3\xa9\xff";
        let mut read_again = 0;
        for _ in 0..20_000 {
            let mut bytes = DOCUMENT.as_bytes().to_vec();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = alphabet[random(alphabet.len())];
            }
            let Ok(received) = read(&bytes) else { continue };
            let written = received.to_json();
            assert_eq!(read(written.as_bytes()).unwrap().to_json(), written);
            read_again += 1;
        }
        assert!(read_again > 1000, "{read_again}");
    }
}
