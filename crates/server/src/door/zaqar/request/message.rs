//! Posts of messages.

use crate::config::Queues;
use crate::door::zaqar::json::{Kind, Raw};
use crate::door::zaqar::metadata::{Rules, ttl_text};
use crate::door::zaqar::problem::Problem;

/// Least time to live, in seconds.
const TTL_MIN: u32 = 60;

/// A message as it is posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewMessage<'a> {
    /// Seconds.
    pub(crate) ttl: u32,
    /// Seconds; 0 for none.
    pub(crate) delay: u32,
    pub(crate) body: Raw<'a>,
}

/// Refuses a post that is larger than the service or the queue allows.
///
/// # Errors
///
/// 400 that names the limit.
pub(crate) fn check_post_size(bytes: u64, rules: &Rules, limits: &Queues) -> Result<(), Problem> {
    let service = limits.max_messages_post_size;
    let most = rules.max_messages_post_size.map_or(service, |queue| queue.min(service));
    if bytes <= u64::from(most) {
        return Ok(());
    }
    Err(Problem::invalid(match rules.max_messages_post_size.filter(|queue| *queue < service) {
        None => format!("Message collection size is too large. Max size {service}"),
        Some(queue) => format!(
            "Message collection size is too large. The max size for current queue is {most}. It is calculated by max size = min(max_messages_post_size_config: {service}, max_messages_post_size_queue: {queue})."
        ),
    }))
}

/// Reads `{"messages": […]}`.
///
/// # Errors
///
/// 400 in Zaqar's order: what is missing or of a wrong type in any message, then what breaks a limit in any.
pub(crate) fn read_messages<'a>(
    document: Raw<'a>,
    rules: &Rules,
    limits: &Queues,
) -> Result<Vec<NewMessage<'a>>, Problem> {
    let Some(list) = document.member("messages") else {
        return Err(Problem::invalid("No messages were found in the request body."));
    };
    read_list(list, rules, limits)
}

/// Reads the list itself.
fn read_list<'a>(
    list: Raw<'a>,
    rules: &Rules,
    limits: &Queues,
) -> Result<Vec<NewMessage<'a>>, Problem> {
    if list.kind() != Kind::Array {
        return Err(Problem::document_type());
    }
    let mut messages = Vec::new();
    let (mut ttls, mut delays) = (true, true);
    for item in list.items() {
        let (message, ttl_fits, delay_fits) = read_message(item, rules, limits)?;
        (ttls, delays) = (ttls && ttl_fits, delays && delay_fits);
        messages.push(message);
    }
    if messages.is_empty() {
        return Err(Problem::invalid("No messages to enqueu."));
    }
    if !ttls {
        return Err(Problem::invalid(ttl_text(limits.max_message_ttl)));
    }
    if !delays {
        return Err(Problem::invalid(format!(
            "The Delay TTL for a message may not exceed {} seconds,and must be at least 0 seconds long.",
            limits.max_message_delay
        )));
    }
    Ok(messages)
}

/// A message, and whether its two times are within their limits.
fn read_message<'a>(
    item: Raw<'a>,
    rules: &Rules,
    limits: &Queues,
) -> Result<(NewMessage<'a>, bool, bool), Problem> {
    if item.kind() != Kind::Object {
        return Err(Problem::document_type());
    }
    // One pass over the members: messages are the hot path, and their bodies may be long.
    let (mut ttl, mut delay, mut body) = (None, None, None);
    for (name, value) in item.members() {
        match &*name {
            "ttl" => ttl = Some(value),
            "delay" => delay = Some(value),
            "body" => body = Some(value),
            _ => {}
        }
    }
    let seconds = |value: Option<Raw<'_>>, name: &str, otherwise: u32| match value {
        None => Ok(i64::from(otherwise)),
        Some(value) => value.integer().ok_or_else(|| Problem::field_type(name, "int")),
    };
    let ttl = seconds(ttl, "ttl", rules.default_message_ttl)?;
    let body = body.ok_or_else(|| Problem::missing_field("body"))?;
    // Without a default delay the queue knows no delays, and what is said about them is not even read.
    let delay = match rules.default_message_delay {
        0 => 0,
        default => seconds(delay, "delay", default)?,
    };
    let ttl_fits = (i64::from(TTL_MIN)..=i64::from(limits.max_message_ttl)).contains(&ttl);
    let delay_fits = (0..=i64::from(limits.max_message_delay)).contains(&delay);
    let (ttl, delay) = (u32::try_from(ttl).unwrap_or(0), u32::try_from(delay).unwrap_or(0));
    Ok((NewMessage { ttl, delay, body }, ttl_fits, delay_fits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::zaqar::json::check;
    use crate::door::zaqar::metadata::Metadata;

    fn rules(metadata: &str) -> Rules {
        Rules::of(&Metadata::from_json(metadata.as_bytes()), &Queues::default())
    }

    fn read<'a>(document: &'a str, metadata: &str) -> Result<Vec<NewMessage<'a>>, String> {
        let document = check(document.as_bytes()).unwrap();
        read_messages(document, &rules(metadata), &Queues::default()).map_err(|problem| {
            assert_eq!(problem.status, 400);
            problem.description.unwrap().into_owned()
        })
    }

    #[test]
    fn what_a_message_does_not_say_its_queue_says() {
        let post = r#"{"messages": [{"body": {"a": [1]}}, {"ttl": 70, "delay": 5, "body": null, "x": 1}]}"#;

        let plain = read(post, "{}").unwrap();
        assert_eq!(
            (plain[0].ttl, plain[0].delay, plain[0].body.text()),
            (3600, 0, r#"{"a": [1]}"#)
        );
        assert_eq!((plain[1].ttl, plain[1].delay, plain[1].body.text()), (70, 0, "null"));
        let delayed =
            read(post, r#"{"_default_message_ttl": 99, "_default_message_delay": 7}"#).unwrap();
        assert_eq!((delayed[0].ttl, delayed[0].delay), (99, 7));
        assert_eq!(delayed[1].delay, 5);
    }

    #[test]
    fn refusals_have_zaqars_words_and_order() {
        let refused = |post: &str| read(post, "{}").unwrap_err();

        assert_eq!(refused("{}"), "No messages were found in the request body.");
        assert_eq!(refused("[]"), "No messages were found in the request body.");
        assert_eq!(refused(r#"{"messages": {}}"#), "Document type not supported.");
        assert_eq!(refused(r#"{"messages": []}"#), "No messages to enqueu.");
        assert_eq!(refused(r#"{"messages": [7]}"#), "Document type not supported.");
        assert_eq!(
            refused(r#"{"messages": [{"ttl": 1, "body": 1}, {"ttl": 100}]}"#),
            "Missing \"body\" field."
        );
        assert_eq!(
            refused(r#"{"messages": [{"ttl": "x", "body": 1}]}"#),
            "The value of the \"ttl\" field must be a int."
        );
        assert_eq!(refused(r#"{"messages": [{"ttl": true, "body": 1}]}"#), ttl_text(1_209_600));
        assert_eq!(
            read(r#"{"messages": [{"delay": -1, "body": 1}]}"#, r#"{"_default_message_delay": 7}"#)
                .unwrap_err(),
            "The Delay TTL for a message may not exceed 900 seconds,and must be at least 0 seconds long."
        );
        assert!(read(r#"{"messages": [{"delay": "x", "body": 1}]}"#, "{}").is_ok());
    }

    #[test]
    fn the_size_of_a_post_is_bounded_by_service_and_queue() {
        let refused = |bytes, metadata: &str| {
            let refused = check_post_size(bytes, &rules(metadata), &Queues::default());
            refused.err().map(|problem| problem.description.unwrap().into_owned())
        };

        assert_eq!(refused(262_144, "{}"), None);
        assert_eq!(
            refused(262_145, "{}").unwrap(),
            "Message collection size is too large. Max size 262144"
        );
        assert_eq!(
            refused(101, r#"{"_max_messages_post_size": 100}"#).unwrap(),
            "Message collection size is too large. The max size for current queue is 100. It is calculated by max size = min(max_messages_post_size_config: 262144, max_messages_post_size_queue: 100)."
        );
    }
}
