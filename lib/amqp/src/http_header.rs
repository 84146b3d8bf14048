//! A message's header as the header of a request that the message becomes: what the client library and the server's
//! webhooks both promise.

use std::borrow::Cow;

use crate::table::Value;

/// Prefixes of a cloud event's attributes in AMQP's headers.
const CLOUD_EVENTS: [&str; 2] = ["cloudEvents:", "cloudEvents_"];

/// Name and value in HTTP; `None` for what is neither text nor a number nor a truth value.
///
/// `cloudEvents:NAME` and `cloudEvents_NAME` are `ce-NAME`, the trace context keeps its names, every other header is
/// `posthouse-h-NAME`. HTTP may still refuse either: both are whatever a publisher wrote.
#[must_use]
pub fn http_header<'n>(name: &'n str, value: &Value) -> Option<(Cow<'n, str>, String)> {
    let text = match (value.as_str(), value.as_i64(), value.as_bool()) {
        (Some(text), ..) => text.to_owned(),
        (_, Some(number), _) => number.to_string(),
        (.., Some(truth)) => truth.to_string(),
        (None, None, None) => match value {
            Value::F32(number) => number.to_string(),
            Value::F64(number) => number.to_string(),
            _ => return None,
        },
    };
    let attribute = CLOUD_EVENTS.iter().find_map(|prefix| name.strip_prefix(prefix));
    let name = match attribute {
        Some(attribute) => Cow::Owned(format!("ce-{attribute}")),
        None if matches!(name, "traceparent" | "tracestate") => Cow::Borrowed(name),
        None => Cow::Owned(format!("posthouse-h-{name}")),
    };
    Some((name, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &Value) -> Option<String> {
        let (name, value) = http_header(name, value)?;
        Some(format!("{name}: {value}"))
    }

    #[test]
    fn names_say_where_a_header_comes_from_and_values_are_text() {
        let told = |name, value: Value| header(name, &value).unwrap();

        assert_eq!(told("cloudEvents:type", Value::from("placed")), "ce-type: placed");
        assert_eq!(told("cloudEvents_id", Value::from("7")), "ce-id: 7");
        assert_eq!(told("traceparent", Value::from("00-1-2-01")), "traceparent: 00-1-2-01");
        assert_eq!(told("region", Value::from("eu")), "posthouse-h-region: eu");
        assert_eq!(told("count", Value::I64(-3)), "posthouse-h-count: -3");
        assert_eq!(told("is-new", Value::Bool(true)), "posthouse-h-is-new: true");
        assert_eq!(told("share", Value::F64(0.5)), "posthouse-h-share: 0.5");
        assert_eq!(header("nothing", &Value::Void), None);
    }
}
