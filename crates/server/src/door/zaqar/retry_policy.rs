//! What a retry policy of a queue or subscription may be.

use super::json::{Kind, Raw};
use super::problem::Problem;

const NUMBERS: [&str; 5] = [
    "retries_with_no_delay",
    "minimum_delay_retries",
    "minimum_delay",
    "maximum_delay",
    "maximum_delay_retries",
];

const FUNCTIONS: [&str; 4] = ["linear", "arithmetic", "geometric", "exponential"];

/// The least difference between the two delays: two steps of the growing phase.
const DIFFERENCE_MIN: i64 = 10;

/// Checks a policy.
///
/// # Errors
///
/// 400 in Zaqar's words.
pub(crate) fn check(policy: Raw<'_>) -> Result<(), Problem> {
    if policy.kind() != Kind::Object {
        return Err(Problem::invalid("retry_policy must be a dict."));
    }
    for name in NUMBERS {
        if policy.member(name).is_some_and(|value| value.integer().is_none_or(|number| number < 0))
        {
            return Err(Problem::invalid(format!("Retry policy: {name} must be a integer.")));
        }
    }
    if let Some(function) = policy.member("retry_backoff_function") {
        let Some(function) = function.string() else {
            return Err(Problem::invalid("retry_backoff_function must be a string."));
        };
        if !FUNCTIONS.contains(&&*function) {
            return Err(Problem::invalid("invalid retry_backoff_function."));
        }
    }
    let overriding = policy.member("ignore_subscription_override");
    if overriding.is_some_and(|value| value.kind() != Kind::Bool) {
        return Err(Problem::invalid("ignore_subscription_override must be a boolean."));
    }
    let delay = |name, otherwise| policy.member(name).and_then(Raw::integer).unwrap_or(otherwise);
    let (least, most) = (delay("minimum_delay", 5), delay("maximum_delay", 30));
    if least >= most {
        return Err(Problem::invalid("minimum_delay must less than maximum_delay."));
    }
    if most - least < DIFFERENCE_MIN {
        return Err(Problem::invalid("invalid minimum_delay and maximum_delay."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::json::check_value;
    use super::*;

    fn refusal(policy: &str) -> Option<String> {
        let problem = check(check_value(policy.as_bytes()).unwrap()).err()?;
        problem.description.map(std::borrow::Cow::into_owned)
    }

    #[test]
    fn policies_are_checked_in_zaqars_words() {
        assert_eq!(refusal("{}"), None);
        assert_eq!(
            refusal(r#"{"retry_backoff_function": "geometric", "maximum_delay": 15}"#),
            None
        );
        for (policy, text) in [
            ("[]", "retry_policy must be a dict."),
            (r#"{"minimum_delay": "1"}"#, "Retry policy: minimum_delay must be a integer."),
            (r#"{"retry_backoff_function": 1}"#, "retry_backoff_function must be a string."),
            (r#"{"retry_backoff_function": "x"}"#, "invalid retry_backoff_function."),
            (
                r#"{"ignore_subscription_override": 1}"#,
                "ignore_subscription_override must be a boolean.",
            ),
            (r#"{"minimum_delay": 30}"#, "minimum_delay must less than maximum_delay."),
            (r#"{"minimum_delay": 25}"#, "invalid minimum_delay and maximum_delay."),
        ] {
            assert_eq!(refusal(policy).as_deref(), Some(text), "{policy}");
        }
    }
}
