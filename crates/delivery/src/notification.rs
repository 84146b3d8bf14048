//! What a message becomes when it is sent: Zaqar's JSON, or the subscriber's own text around it.
//!
//! | message | its JSON |
//! |---|---|
//! | content type says JSON, and it is | as it is, byte for byte |
//! | other text in UTF-8 | a string |
//! | other bytes | a string in base64 |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;

/// What stands for the message in `post_data`, its quotes included.
const PLACE: &str = "\"$zaqar_message$\"";

/// How much longer than one message a payload may become by `post_data`, in bytes: its own text, and a message that is
/// named again and again.
pub const PAYLOAD_GROWTH_MAX: usize = 1024 * 1024;

/// The text around the message names it so often that the result would be too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("post_data makes the message longer by more than 1048576 bytes")]
pub struct TooLong;

/// The JSON of a message's body.
#[must_use]
pub fn json_of(content_type: Option<&str>, body: &[u8]) -> Vec<u8> {
    if content_type.is_some_and(is_json) && serde_json::from_slice::<IgnoredAny>(body).is_ok() {
        return body.trim_ascii().to_vec();
    }
    let text = std::str::from_utf8(body)
        .map_or_else(|_| STANDARD.encode(body).into(), std::borrow::Cow::Borrowed);
    quoted(&text)
}

/// `application/json`, with parameters or without, and `application/problem+json` and the like.
fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    let ends = |end: &str| {
        kind.len()
            .checked_sub(end.len())
            .and_then(|start| kind.get(start..))
            .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
    };
    kind.eq_ignore_ascii_case("application/json") || ends("+json")
}

/// What Zaqar posts: the message with two members more.
#[must_use]
pub fn notification(queue: &str, ttl: u64, body: &[u8]) -> Vec<u8> {
    let mut json = Vec::with_capacity(body.len() + queue.len() + 96);
    json.extend_from_slice(b"{\"ttl\": ");
    json.extend_from_slice(ttl.to_string().as_bytes());
    json.extend_from_slice(b", \"body\": ");
    json.extend_from_slice(body);
    json.extend_from_slice(b", \"Message_Type\": \"Notification\", \"queue_name\": ");
    json.extend_from_slice(&quoted(queue));
    json.push(b'}');
    json
}

/// Puts a message into the subscriber's own text.
///
/// # Errors
///
/// [`TooLong`] if the result is longer than the message by more than [`PAYLOAD_GROWTH_MAX`].
pub fn fill(post_data: &str, message: &[u8]) -> Result<Vec<u8>, TooLong> {
    let parts = post_data.split(PLACE);
    let places = parts.clone().count() - 1;
    let length = post_data.len() - places * PLACE.len() + places.saturating_mul(message.len());
    if length > message.len().saturating_add(PAYLOAD_GROWTH_MAX) {
        return Err(TooLong);
    }
    let mut filled = Vec::with_capacity(length);
    for (index, part) in parts.enumerate() {
        if index > 0 {
            filled.extend_from_slice(message);
        }
        filled.extend_from_slice(part.as_bytes());
    }
    Ok(filled)
}

fn quoted(text: &str) -> Vec<u8> {
    // A string has no way to fail to be JSON.
    serde_json::to_vec(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(content_type: &str, body: &[u8]) -> String {
        String::from_utf8(json_of(Some(content_type), body)).unwrap()
    }

    #[test]
    fn json_stays_as_it_was_sent() {
        assert_eq!(
            json("application/json", b"{\"b\":1.10, \"a\": [] }"),
            "{\"b\":1.10, \"a\": [] }"
        );
        assert_eq!(json("Application/JSON; charset=utf-8", b" 1 "), "1");
        assert_eq!(json("application/vnd.x+json", b"null"), "null");
    }

    #[test]
    fn other_text_becomes_a_string_and_other_bytes_base64() {
        assert_eq!(json("text/plain", b"{\"a\": 1}"), r#""{\"a\": 1}""#);
        assert_eq!(json("application/json", b"{broken"), r#""{broken""#);
        assert_eq!(json("application/octet-stream", &[0xff, 0x00]), r#""/wA=""#);
        assert_eq!(json_of(None, "grüß".as_bytes()), "\"grüß\"".as_bytes());
        assert_eq!(json("+json", b""), r#""""#);
    }

    #[test]
    fn a_notification_is_the_one_of_zaqar() {
        let sent = notification("my\"q", 300, b"{\"a\": 1}");

        let value: serde_json::Value = serde_json::from_slice(&sent).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "ttl": 300, "body": {"a": 1}, "Message_Type": "Notification", "queue_name": "my\"q",
            })
        );
    }

    #[test]
    fn post_data_has_the_message_where_it_says_so() {
        let filled =
            |text: &str| fill(text, b"{\"x\":1}").map(|bytes| String::from_utf8(bytes).unwrap());

        assert_eq!(filled(r#"{"in": "$zaqar_message$"}"#).unwrap(), r#"{"in": {"x":1}}"#);
        assert_eq!(filled("plain").unwrap(), "plain");
        assert_eq!(filled("$zaqar_message$").unwrap(), "$zaqar_message$");
        assert_eq!(filled("\"$zaqar_message$\"\"$zaqar_message$\"").unwrap(), "{\"x\":1}{\"x\":1}");
    }

    #[test]
    fn post_data_cannot_make_a_message_as_long_as_it_likes() {
        let message = vec![b'x'; 256 * 1024];

        assert!(fill(PLACE, &message).is_ok());
        assert_eq!(fill(&PLACE.repeat(6), &message), Err(TooLong));
    }
}
