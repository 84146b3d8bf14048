//! Subscriptions: who gets what enters a queue, and for how long.

use model::Timestamp;

use crate::config::Queues;
use crate::door::zaqar::json::{Kind, Raw, check};
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::retry_policy;

/// Least time to live, in seconds.
const TTL_MIN: i64 = 60;

/// The last second that Zaqar's calendar has: 9999-12-31 23:59:59.
const CALENDAR_END_SECS: u64 = 253_402_300_799;

/// Longest address of a subscriber, in bytes.
const SUBSCRIBER_BYTES_MAX: usize = 2048;

/// What a request says about a subscription; `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SubscriptionChange {
    pub(crate) subscriber: Option<String>,
    /// Seconds.
    pub(crate) ttl: Option<u64>,
    /// A JSON object, as it was sent.
    pub(crate) options: Option<String>,
}

impl SubscriptionChange {
    /// Whether the subscriber is called with a token of a trust, and the options name none.
    pub(crate) fn wants_trust(&self) -> bool {
        let is_trust = self.subscriber.as_deref().is_some_and(|it| it.starts_with("trust+"));
        let named = || {
            let options = check(self.options.as_deref().unwrap_or("{}").as_bytes());
            options.is_ok_and(|options| options.member("trust_id").is_some())
        };
        is_trust && !named()
    }

    /// Names a trust in the options.
    pub(crate) fn trust(&mut self, id: &str) {
        let mut options = String::from("{\"trust_id\":\"");
        // Ids have letters, digits and dashes.
        options.push_str(id);
        options.push('"');
        let others = self.options.as_deref().unwrap_or("{}").trim().trim_start_matches('{');
        if !others.trim_start().starts_with('}') {
            options.push(',');
        }
        options.push_str(others);
        self.options = Some(options);
    }
}

/// Reads a new subscription; its subscriber and time to live are there.
///
/// # Errors
///
/// 400 in Zaqar's words.
pub(crate) fn read_subscription(
    document: Option<Raw<'_>>,
    limits: &Queues,
    now: Timestamp,
) -> Result<SubscriptionChange, Problem> {
    let missing = || Problem::invalid("Missing parameter subscriber in body.");
    let document = document.ok_or_else(missing)?;
    if document.kind() != Kind::Object {
        return Err(Problem::document_type());
    }
    document.member("subscriber").ok_or_else(missing)?;
    read_terms(document, limits, now)
}

/// Reads a new subscription of whoever asks, who need not be named; its time to live is there.
///
/// # Errors
///
/// 400 in Zaqar's words.
pub(crate) fn read_terms(
    document: Raw<'_>,
    limits: &Queues,
    now: Timestamp,
) -> Result<SubscriptionChange, Problem> {
    let mut change = read_members(document, limits, now)?;
    change.ttl.get_or_insert(limits.default_subscription_ttl.into());
    Ok(change)
}

/// Reads a change of a subscription.
///
/// # Errors
///
/// 400 in Zaqar's words.
pub(crate) fn read_update(
    document: Option<Raw<'_>>,
    limits: &Queues,
    now: Timestamp,
) -> Result<SubscriptionChange, Problem> {
    let nothing = || Problem::invalid("No subscription to create.");
    let document = document.ok_or_else(nothing)?;
    if document.kind() != Kind::Object {
        return Err(Problem::document_type());
    }
    if !document.is_truthy() {
        return Err(nothing());
    }
    let change = read_members(document, limits, now)?;
    if change == SubscriptionChange::default() {
        return Err(Problem::new(
            400,
            "Unable to update subscription",
            "One of `subscriber`, `ttl` or `options` needs to be specified",
        ));
    }
    Ok(change)
}

/// Reads `{"confirmed": bool}`.
///
/// # Errors
///
/// 400 for anything else.
pub(crate) fn read_confirmation(document: Option<Raw<'_>>) -> Result<bool, Problem> {
    document.and_then(|document| document.member("confirmed")?.boolean()).ok_or_else(|| {
        Problem::new(400, "Unable to confirm subscription", "The 'confirmed' should be boolean.")
    })
}

fn read_members(
    document: Raw<'_>,
    limits: &Queues,
    now: Timestamp,
) -> Result<SubscriptionChange, Problem> {
    let subscriber =
        document.member("subscriber").map(|value| read_subscriber(value, limits)).transpose()?;
    let options = document.member("options").map(read_options).transpose()?;
    let ttl = document.member("ttl").map(|ttl| read_ttl(ttl, now)).transpose()?;
    Ok(SubscriptionChange { subscriber, ttl, options })
}

fn read_subscriber(value: Raw<'_>, limits: &Queues) -> Result<String, Problem> {
    let types = &limits.subscriber_types;
    let subscriber = value.string().unwrap_or_default();
    let scheme = subscriber.split_once(':').map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    if !types.contains(&scheme) {
        let quoted: Vec<_> = types.iter().map(|name| format!("'{name}'")).collect();
        return Err(Problem::invalid(format!(
            "The subscriber type of subscription must be supported in the list [{}].",
            quoted.join(", ")
        )));
    }
    if subscriber.len() > SUBSCRIBER_BYTES_MAX {
        return Err(Problem::invalid(format!(
            "The subscriber must be at most {SUBSCRIBER_BYTES_MAX} bytes long."
        )));
    }
    Ok(subscriber.into_owned())
}

fn read_options(options: Raw<'_>) -> Result<String, Problem> {
    if options.kind() != Kind::Object {
        return Err(Problem::invalid("Options must be a dict."));
    }
    if let Some(policy) = options.member("_retry_policy") {
        retry_policy::check(policy)?;
    }
    Ok(options.text().to_owned())
}

fn read_ttl(ttl: Raw<'_>, now: Timestamp) -> Result<u64, Problem> {
    let seconds = ttl.integer().ok_or_else(|| Problem::invalid("TTL must be an integer."))?;
    let seconds = u64::try_from(seconds).ok().filter(|_| seconds >= TTL_MIN).ok_or_else(|| {
        Problem::invalid(format!(
            "The TTL for a subscription must be at least {TTL_MIN} seconds long."
        ))
    })?;
    if seconds.saturating_add(now.0 / 1000) > CALENDAR_END_SECS {
        return Err(Problem::invalid(
            "The TTL seconds for a subscription plus current time must be less than 9999-12-31 23:59:59.999999.",
        ));
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::zaqar::json::check;

    fn text(problem: Problem) -> String {
        problem.description.unwrap().into_owned()
    }

    fn create(body: &str) -> Result<SubscriptionChange, String> {
        let document = check(body.as_bytes()).unwrap();
        read_subscription(Some(document), &Queues::default(), Timestamp(0)).map_err(text)
    }

    #[test]
    fn a_trust_is_named_beside_other_options() {
        for (options, expected) in [
            (None, r#"{"trust_id":"ab-1"}"#),
            (Some("{}"), r#"{"trust_id":"ab-1"}"#),
            (Some("{ } "), r#"{"trust_id":"ab-1" }"#),
            (Some(r#" {"a": {}}"#), r#"{"trust_id":"ab-1","a": {}}"#),
        ] {
            let subscriber = Some("trust+https://example.com/".to_owned());
            let options = options.map(str::to_owned);
            let mut change = SubscriptionChange { subscriber, ttl: None, options };

            assert!(change.wants_trust());
            change.trust("ab-1");

            assert_eq!(change.options.as_deref(), Some(expected));
            assert!(!change.wants_trust());
        }
    }

    #[test]
    fn a_subscription_has_a_subscriber_and_a_time_to_live() {
        let created = create(r#"{"subscriber": "http://a/b", "options": {"x": 1}}"#).unwrap();

        assert_eq!(created.subscriber.as_deref(), Some("http://a/b"));
        assert_eq!((created.ttl, created.options.as_deref()), (Some(3600), Some(r#"{"x": 1}"#)));
    }

    #[test]
    fn refusals_have_zaqars_words() {
        let refused = |body: &str| create(body).unwrap_err();

        assert_eq!(refused("{}"), "Missing parameter subscriber in body.");
        assert_eq!(
            refused(r#"{"subscriber": "ftp://a"}"#),
            "The subscriber type of subscription must be supported in the list ['http', 'https', 'mailto', 'trust+http', 'trust+https', 'amqp']."
        );
        assert_eq!(refused(r#"{"subscriber": "http://a", "ttl": "x"}"#), "TTL must be an integer.");
        assert_eq!(
            refused(r#"{"subscriber": "http://a", "ttl": 59}"#),
            "The TTL for a subscription must be at least 60 seconds long."
        );
        assert_eq!(
            refused(r#"{"subscriber": "http://a", "ttl": 253402300800}"#),
            "The TTL seconds for a subscription plus current time must be less than 9999-12-31 23:59:59.999999."
        );
        assert_eq!(
            refused(r#"{"subscriber": "http://a", "options": []}"#),
            "Options must be a dict."
        );
        assert_eq!(
            refused(r#"{"subscriber": 7}"#).split(" must").next().unwrap(),
            "The subscriber type of subscription"
        );
    }

    #[test]
    fn an_update_says_something() {
        let update = |body: &str| {
            read_update(Some(check(body.as_bytes()).unwrap()), &Queues::default(), Timestamp(0))
        };

        assert_eq!(update(r#"{"ttl": 70}"#).unwrap().ttl, Some(70));
        assert_eq!(text(update("{}").unwrap_err()), "No subscription to create.");
        assert_eq!(update(r#"{"x": 1}"#).unwrap_err().title, "Unable to update subscription");
        assert_eq!(
            text(read_confirmation(None).unwrap_err()),
            "The 'confirmed' should be boolean."
        );
    }
}
