//! When an attempt that failed is repeated: Zaqar's retry policy, as a pure function of how often it failed.
//!
//! | phase | retries | each after |
//! |---|---|---|
//! | at once | `retries_with_no_delay` | nothing |
//! | minimum | `minimum_delay_retries` | `minimum_delay` |
//! | growing | as many as fit, in steps of 5 s | from minimum to maximum, by `retry_backoff_function` |
//! | maximum | `maximum_delay_retries` | `maximum_delay` |
//!
//! Then it is given up. With the defaults that is 14 retries in about three minutes.

use std::time::Duration;

use serde_json::{Map, Value};

/// Seconds that make one step of the growing phase: Zaqar's interval.
const INTERVAL_S: u64 = 5;

/// Most retries of one phase. A policy may ask for more and gets this many: a message that nobody takes must end.
pub(crate) const PHASE_RETRIES_MAX: u64 = 1000;

/// Longest delay in seconds: a day. A longer one is this long.
pub(crate) const DELAY_S_MAX: u64 = 24 * 60 * 60;

/// Longest time that an answer's `Retry-After` can add, so that an endpoint cannot park messages for ever.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// How delays grow from minimum to maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backoff {
    /// By 5 s each.
    #[default]
    Linear,
    /// By more each time, the more growing by the same.
    Arithmetic,
    /// By the same factor each time.
    Geometric,
    /// As geometric; Zaqar computes the same from another side.
    Exponential,
}

/// A retry policy; delays in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries at once.
    pub retries_with_no_delay: u64,
    /// Retries after the minimum delay.
    pub minimum_delay_retries: u64,
    /// The minimum delay.
    pub minimum_delay: u64,
    /// The maximum delay.
    pub maximum_delay: u64,
    /// Retries after the maximum delay.
    pub maximum_delay_retries: u64,
    /// How delays grow between them.
    pub backoff: Backoff,
    /// The queue's policy wins over the subscription's.
    pub ignore_subscription_override: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries_with_no_delay: 3,
            minimum_delay_retries: 3,
            minimum_delay: 5,
            maximum_delay: 30,
            maximum_delay_retries: 3,
            backoff: Backoff::Linear,
            ignore_subscription_override: false,
        }
    }
}

/// Why a policy is refused; the texts are Zaqar's, word for word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RetryPolicyError {
    /// It is no JSON object.
    #[error("retry_policy must be a dict.")]
    NotAnObject,
    /// A member is no whole number.
    #[error("Retry policy: {0} must be a integer.")]
    NotAnInteger(&'static str),
    /// The function's name is no text.
    #[error("retry_backoff_function must be a string.")]
    FunctionNotText,
    /// No such function.
    #[error("invalid retry_backoff_function.")]
    UnknownFunction,
    /// The switch is no boolean.
    #[error("ignore_subscription_override must be a boolean.")]
    NotABoolean,
    /// The maximum is below the minimum.
    #[error("minimum_delay must less than maximum_delay.")]
    MaximumBelowMinimum,
    /// Less than ten seconds apart.
    #[error("invalid minimum_delay and maximum_delay.")]
    TooClose,
}

impl RetryPolicy {
    /// Reads the value of `_retry_policy`. What is missing, null, zero or empty where it may not be has its default, as in
    /// Zaqar; numbers beyond the limits of this module are cut down to them.
    ///
    /// # Errors
    ///
    /// [`RetryPolicyError`].
    pub fn parse(value: &Value) -> Result<Option<Self>, RetryPolicyError> {
        if is_empty(value) {
            return Ok(None);
        }
        let members = value.as_object().ok_or(RetryPolicyError::NotAnObject)?;
        let defaults = Self::default();
        let policy = Self {
            retries_with_no_delay: integer(
                members,
                "retries_with_no_delay",
                defaults.retries_with_no_delay,
            )?,
            minimum_delay_retries: integer(
                members,
                "minimum_delay_retries",
                defaults.minimum_delay_retries,
            )?,
            minimum_delay: integer(members, "minimum_delay", defaults.minimum_delay)?,
            maximum_delay: integer(members, "maximum_delay", defaults.maximum_delay)?,
            maximum_delay_retries: integer(
                members,
                "maximum_delay_retries",
                defaults.maximum_delay_retries,
            )?,
            backoff: function(members)?,
            ignore_subscription_override: switch(members)?,
        };
        if policy.maximum_delay < policy.minimum_delay {
            return Err(RetryPolicyError::MaximumBelowMinimum);
        }
        if policy.maximum_delay - policy.minimum_delay < 2 * INTERVAL_S {
            return Err(RetryPolicyError::TooClose);
        }
        Ok(Some(policy.bounded()))
    }

    /// The policy of a subscription in a queue: its own, else the queue's, else the defaults; the queue's wins where either
    /// says so.
    #[must_use]
    pub fn effective(own: Option<&Self>, queue: Option<&Self>) -> Self {
        let queue_wins =
            [own, queue].into_iter().flatten().any(|policy| policy.ignore_subscription_override);
        match (own, queue) {
            (_, Some(queue)) if queue_wins => queue.clone(),
            (Some(own), _) if !queue_wins => own.clone(),
            (_, Some(queue)) => queue.clone(),
            (_, None) => Self::default(),
        }
    }

    /// How long to wait after the `failed`th failed attempt, counted from one; `None` is the end.
    #[must_use]
    pub fn delay(&self, failed: u32) -> Option<Duration> {
        let mut index = u64::from(failed.checked_sub(1)?);
        for (count, phase) in [
            (self.retries_with_no_delay, Phase::AtOnce),
            (self.minimum_delay_retries, Phase::Minimum),
            (self.growing_retries(), Phase::Growing),
            (self.maximum_delay_retries, Phase::Maximum),
        ] {
            if index < count {
                let seconds = match phase {
                    Phase::AtOnce => 0,
                    Phase::Minimum => self.minimum_delay,
                    Phase::Growing => self.growing(index),
                    Phase::Maximum => self.maximum_delay,
                };
                return Some(Duration::from_secs(seconds));
            }
            index -= count;
        }
        None
    }

    /// As [`RetryPolicy::delay`], where the far end said how long it wants to be left alone.
    #[must_use]
    pub fn delay_after(&self, failed: u32, retry_after: Option<Duration>) -> Option<Duration> {
        let own = self.delay(failed)?;
        Some(own.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX)))
    }

    fn growing_retries(&self) -> u64 {
        self.maximum_delay.saturating_sub(self.minimum_delay) / INTERVAL_S
    }

    /// The delay in seconds of the growing phase's retry `index`, from zero.
    fn growing(&self, index: u64) -> u64 {
        let (low, high) = (float(self.minimum_delay), float(self.maximum_delay));
        let (count, place) = (float(self.growing_retries()), float(index));
        match self.backoff {
            Backoff::Linear => self.minimum_delay + INTERVAL_S * index,
            Backoff::Arithmetic => {
                let step = 2.0 * (high - low) / (count * (count - 1.0));
                whole(low + place * (place + 1.0) * step / 2.0)
            }
            // From zero no factor leads anywhere: it begins at one second then.
            Backoff::Geometric | Backoff::Exponential => {
                let low = low.max(1.0);
                let factor = (high / low).powf(1.0 / (count - 1.0));
                whole(low * factor.powf(place))
            }
        }
        .min(self.maximum_delay)
    }

    fn bounded(mut self) -> Self {
        for count in [
            &mut self.retries_with_no_delay,
            &mut self.minimum_delay_retries,
            &mut self.maximum_delay_retries,
        ] {
            *count = (*count).min(PHASE_RETRIES_MAX);
        }
        self.maximum_delay = self.maximum_delay.min(DELAY_S_MAX);
        self.minimum_delay = self.minimum_delay.min(self.maximum_delay - 2 * INTERVAL_S);
        self
    }
}

#[derive(Clone, Copy)]
enum Phase {
    AtOnce,
    Minimum,
    Growing,
    Maximum,
}

#[expect(clippy::cast_precision_loss, reason = "delays are at most a day")]
fn float(number: u64) -> f64 {
    number as f64
}

/// Whole seconds, cut as Zaqar cuts them; a little more first, because 5 x 6^(4/4) may be 29.999… and is 30.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "delays are from zero to a day; the cast saturates"
)]
fn whole(seconds: f64) -> u64 {
    (seconds + 1e-9) as u64
}

/// What Python takes for false, and Zaqar for not given.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

fn integer(
    members: &Map<String, Value>,
    name: &'static str,
    default: u64,
) -> Result<u64, RetryPolicyError> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) if is_empty(value) => Ok(0),
        Some(value) => match (value.as_u64(), value.as_i64()) {
            (Some(number), _) => Ok(number),
            // Zaqar takes negative numbers and then repeats nothing.
            (None, Some(_)) => Ok(0),
            (None, None) => Err(RetryPolicyError::NotAnInteger(name)),
        },
    }
}

fn function(members: &Map<String, Value>) -> Result<Backoff, RetryPolicyError> {
    let Some(value) = members.get("retry_backoff_function").filter(|value| !is_empty(value)) else {
        return Ok(Backoff::default());
    };
    match value.as_str().ok_or(RetryPolicyError::FunctionNotText)? {
        "linear" => Ok(Backoff::Linear),
        "arithmetic" => Ok(Backoff::Arithmetic),
        "geometric" => Ok(Backoff::Geometric),
        "exponential" => Ok(Backoff::Exponential),
        _ => Err(RetryPolicyError::UnknownFunction),
    }
}

fn switch(members: &Map<String, Value>) -> Result<bool, RetryPolicyError> {
    match members.get("ignore_subscription_override") {
        Some(Value::Bool(value)) => Ok(*value),
        Some(value) if !is_empty(value) => Err(RetryPolicyError::NotABoolean),
        Some(_) | None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn delays(policy: &RetryPolicy) -> Vec<u64> {
        (1..).map_while(|failed| policy.delay(failed)).map(|delay| delay.as_secs()).collect()
    }

    fn with(backoff: &str) -> RetryPolicy {
        RetryPolicy::parse(&json!({"retry_backoff_function": backoff})).unwrap().unwrap()
    }

    fn text(value: &Value) -> String {
        RetryPolicy::parse(value).unwrap_err().to_string()
    }

    #[test]
    fn by_default_there_are_fourteen_retries_in_about_three_minutes() {
        let delays = delays(&RetryPolicy::default());

        assert_eq!(delays, [0, 0, 0, 5, 5, 5, 5, 10, 15, 20, 25, 30, 30, 30]);
    }

    #[test]
    fn delays_grow_as_in_zaqar() {
        assert_eq!(delays(&with("arithmetic"))[6..11], [5, 7, 12, 20, 30]);
        assert_eq!(delays(&with("geometric"))[6..11], [5, 7, 12, 19, 30]);
        assert_eq!(delays(&with("exponential"))[6..11], [5, 7, 12, 19, 30]);
    }

    #[test]
    fn the_smallest_and_the_zero_minimum_do_not_divide_by_zero() {
        for backoff in ["linear", "arithmetic", "geometric", "exponential"] {
            let close =
                json!({"minimum_delay": 0, "maximum_delay": 10, "retry_backoff_function": backoff});
            let close = RetryPolicy::parse(&close).unwrap().unwrap();

            assert_eq!(delays(&close).len(), 11, "{backoff}");
            assert!(delays(&close).iter().all(|delay| *delay <= 10), "{backoff}");
        }
    }

    #[test]
    fn the_texts_of_refusals_are_zaqars() {
        assert_eq!(text(&json!([1])), "retry_policy must be a dict.");
        assert_eq!(
            text(&json!({"minimum_delay": "5"})),
            "Retry policy: minimum_delay must be a integer."
        );
        assert_eq!(
            text(&json!({"maximum_delay_retries": 1.5})),
            "Retry policy: maximum_delay_retries must be a integer."
        );
        assert_eq!(
            text(&json!({"retry_backoff_function": 1})),
            "retry_backoff_function must be a string."
        );
        assert_eq!(
            text(&json!({"retry_backoff_function": "cubic"})),
            "invalid retry_backoff_function."
        );
        assert_eq!(
            text(&json!({"ignore_subscription_override": "yes"})),
            "ignore_subscription_override must be a boolean."
        );
        assert_eq!(
            text(&json!({"minimum_delay": 31})),
            "minimum_delay must less than maximum_delay."
        );
        assert_eq!(text(&json!({"minimum_delay": 25})), "invalid minimum_delay and maximum_delay.");
    }

    #[test]
    fn a_policy_that_is_not_there_is_none() {
        for value in [json!(null), json!({}), json!(""), json!(0)] {
            assert_eq!(RetryPolicy::parse(&value), Ok(None), "{value}");
        }
    }

    #[test]
    fn the_subscriptions_policy_wins_unless_somebody_says_otherwise() {
        let one = |count: u64, ignore: bool| RetryPolicy {
            retries_with_no_delay: count,
            ignore_subscription_override: ignore,
            ..RetryPolicy::default()
        };
        let chosen = |own: Option<&RetryPolicy>, queue: Option<&RetryPolicy>| {
            RetryPolicy::effective(own, queue).retries_with_no_delay
        };

        assert_eq!(chosen(Some(&one(1, false)), Some(&one(2, false))), 1);
        assert_eq!(chosen(Some(&one(1, true)), Some(&one(2, false))), 2);
        assert_eq!(chosen(Some(&one(1, false)), Some(&one(2, true))), 2);
        assert_eq!(chosen(None, Some(&one(2, false))), 2);
        assert_eq!(chosen(None, None), 3);
    }

    #[test]
    fn absurd_numbers_are_cut_down() {
        let value = json!({
            "retries_with_no_delay": u64::MAX, "minimum_delay": u64::MAX - 10, "maximum_delay": u64::MAX,
        });
        let policy = RetryPolicy::parse(&value).unwrap().unwrap();

        assert_eq!(policy.retries_with_no_delay, PHASE_RETRIES_MAX);
        assert_eq!(policy.maximum_delay, DELAY_S_MAX);
        assert_eq!(delays(&policy).len(), 1000 + 3 + 2 + 3);
        assert_eq!(policy.delay(u32::MAX), None);
        assert_eq!(policy.delay(0), None);
    }

    #[test]
    fn an_endpoint_may_ask_for_more_time_but_not_for_ever() {
        let policy = RetryPolicy::default();

        let after =
            |failed, seconds| policy.delay_after(failed, Some(Duration::from_secs(seconds)));

        assert_eq!(after(1, 7), Some(Duration::from_secs(7)));
        assert_eq!(after(4, 1), Some(Duration::from_secs(5)));
        assert_eq!(after(1, 1_000_000), Some(RETRY_AFTER_MAX));
        assert_eq!(after(15, 7), None);
    }
}
