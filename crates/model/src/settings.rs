//! What holds for a queue: its arguments, and the policies that match it.
//!
//! As in RabbitMQ: what a client says beats what a policy says, except that of two limits the lower holds, whoever said
//! it. An operator's policy adds limits of its own, which nobody can exceed.

use crate::policy::PolicyDefinition;
use crate::queue::{Overflow, QueueDefinition, QueueType, RetryType, Setback};
use crate::queue_arguments::{QueueArguments, age_secs};

/// Deliveries of a message in a quorum queue before it is parked, unless said otherwise. RabbitMQ 4: 20.
const QUORUM_DELIVERY_LIMIT: u32 = 20;

/// Longest delay of a retry, unless said otherwise: a day.
const RETRY_MAX_MS: u64 = 24 * 3600 * 1000;

/// The effective settings of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueSettings {
    /// Milliseconds that a message lives; 0 is now or never.
    pub message_ttl: Option<u64>,
    /// Milliseconds without use after which the queue goes.
    pub expires: Option<u64>,
    /// Where dead messages go.
    pub dead_letter_exchange: Option<Box<str>>,
    /// With which key, if not their own.
    pub dead_letter_routing_key: Option<Box<str>>,
    /// Most ready messages.
    pub max_length: Option<u64>,
    /// Most body bytes of them.
    pub max_length_bytes: Option<u64>,
    /// What happens beyond.
    pub overflow: Overflow,
    /// Highest priority; 0 for a queue without.
    pub priority_max: u8,
    /// Only the first consumer gets messages.
    pub single_active_consumer: bool,
    /// Most deliveries that may fail.
    pub delivery_limit: Option<u32>,
    /// Milliseconds that a delivery may stay unsettled.
    pub consumer_timeout: Option<u64>,
    /// Streams: milliseconds that a message is kept.
    pub max_age: Option<u64>,
    retry: Option<Retry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retry {
    /// Only after this one; after both, if `None`.
    after: Option<Setback>,
    min_ms: u64,
    max_ms: u64,
}

impl QueueSettings {
    /// Brings arguments and policies together.
    #[must_use]
    pub fn resolve(
        queue: &QueueDefinition,
        policy: Option<&PolicyDefinition>,
        operator: Option<&PolicyDefinition>,
    ) -> Self {
        let none = QueueArguments::default();
        let own = queue.arguments.as_deref().unwrap_or(&none);
        let unset = PolicyDefinition::default();
        let (policy, operator) = (policy.unwrap_or(&unset), operator.unwrap_or(&unset));
        let lowest = |values: [Option<u64>; 3]| values.into_iter().flatten().min();
        let dead_letter_exchange =
            own.dead_letter_exchange.clone().or_else(|| policy.dead_letter_exchange.clone());
        let dead_letter_routing_key =
            own.dead_letter_routing_key.clone().or_else(|| policy.dead_letter_routing_key.clone());
        let overflow = [operator, policy]
            .into_iter()
            .find_map(|given| Overflow::from_word(given.overflow.as_deref()?));
        let max_age = |given: &PolicyDefinition| age_secs(given.max_age.as_deref()?);
        let max_age = lowest([own.max_age_secs, max_age(policy), max_age(operator)]);
        Self {
            message_ttl: lowest([own.message_ttl, policy.message_ttl, operator.message_ttl]),
            expires: lowest([own.expires, policy.expires, operator.expires]),
            dead_letter_exchange,
            dead_letter_routing_key,
            max_length: lowest([own.max_length, policy.max_length, operator.max_length]),
            max_length_bytes: lowest([
                own.max_length_bytes,
                policy.max_length_bytes,
                operator.max_length_bytes,
            ]),
            overflow: own.overflow.or(overflow).unwrap_or_default(),
            priority_max: own.max_priority.unwrap_or(0),
            single_active_consumer: own.single_active_consumer,
            delivery_limit: delivery_limit(queue.queue_type, own, policy, operator),
            consumer_timeout: lowest([
                own.consumer_timeout,
                policy.consumer_timeout,
                operator.consumer_timeout,
            ]),
            max_age: max_age.map(|secs| secs.saturating_mul(1000)),
            retry: retry(own, policy),
        }
    }

    /// How long a message waits before its next delivery, after `attempts` of which the last ended in `setback`.
    #[must_use]
    pub fn retry_delay_ms(&self, attempts: u32, setback: Setback) -> Option<u64> {
        let retry = self.retry.filter(|retry| retry.after.is_none_or(|after| after == setback))?;
        Some(retry.min_ms.saturating_mul(u64::from(attempts)).min(retry.max_ms))
    }
}

/// The lowest limit that anybody asked for, -1 being none at all; if nobody did, what the type is known for.
fn delivery_limit(
    queue_type: QueueType,
    own: &QueueArguments,
    policy: &PolicyDefinition,
    operator: &PolicyDefinition,
) -> Option<u32> {
    let asked = [own.delivery_limit, policy.delivery_limit, operator.delivery_limit];
    let mut asked = asked.into_iter().flatten().peekable();
    if asked.peek().is_none() {
        return match queue_type {
            QueueType::Quorum => Some(QUORUM_DELIVERY_LIMIT),
            QueueType::Classic | QueueType::Stream => None,
        };
    }
    // More than 2^32 deliveries are as good as no limit.
    asked.filter_map(|limit| u32::try_from(limit).ok()).min()
}

fn retry(own: &QueueArguments, policy: &PolicyDefinition) -> Option<Retry> {
    let of_policy = || RetryType::from_word(policy.delayed_retry_type.as_deref()?);
    let after = match own.retry_type.or_else(of_policy)? {
        RetryType::Disabled => return None,
        RetryType::All => None,
        RetryType::Failed => Some(Setback::Failed),
        RetryType::Returned => Some(Setback::Returned),
    };
    let min_ms = own.retry_min.or(policy.delayed_retry_min)?;
    let max_ms = own.retry_max.or(policy.delayed_retry_max).unwrap_or(RETRY_MAX_MS);
    Some(Retry { after, min_ms, max_ms })
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::table::{Table, Value};

    use super::*;
    use crate::queue::QueueOptions;

    fn table(entries: &[(&str, Value)]) -> Table {
        entries.iter().cloned().collect()
    }

    fn queue(arguments: &[(&str, Value)]) -> QueueDefinition {
        let options =
            QueueOptions { durable: true, arguments: table(arguments), ..QueueOptions::default() };
        QueueDefinition::new("v", "q".into(), QueueType::Classic, options).unwrap()
    }

    fn policy(entries: &[(&str, Value)]) -> Option<PolicyDefinition> {
        (!entries.is_empty()).then(|| PolicyDefinition::new(&table(entries)).unwrap().0)
    }

    fn resolve(
        arguments: &[(&str, Value)],
        policy_keys: &[(&str, Value)],
        operator_keys: &[(&str, Value)],
    ) -> QueueSettings {
        let (policy, operator) = (policy(policy_keys), policy(operator_keys));
        QueueSettings::resolve(&queue(arguments), policy.as_ref(), operator.as_ref())
    }

    #[test]
    fn of_all_limits_the_lowest_holds() {
        for [own, policy, operator] in [[1, 2, 3], [2, 1, 3], [3, 2, 1]].map(|t| t.map(Value::I32))
        {
            for key in ["message-ttl", "expires", "max-length", "max-length-bytes"] {
                let argument = format!("x-{key}");
                let settings = resolve(
                    &[(&argument, own.clone())],
                    &[(key, policy.clone())],
                    &[(key, operator.clone())],
                );

                let QueueSettings { message_ttl, expires, max_length, max_length_bytes, .. } =
                    settings;
                let set = [message_ttl, expires, max_length, max_length_bytes];
                assert_eq!(set.into_iter().flatten().collect::<Vec<_>>(), [1], "{key}");
            }
        }
    }

    #[test]
    fn a_timeout_and_an_age_are_limits_too() {
        let settings = resolve(
            &[("x-consumer-timeout", Value::I32(9000))],
            &[("consumer-timeout", Value::I32(5000)), ("max-age", "1h".into())],
            &[("max-age", "2m".into())],
        );

        assert_eq!((settings.consumer_timeout, settings.max_age), (Some(5000), Some(120_000)));
    }

    #[test]
    fn what_a_client_says_beats_the_policy() {
        let settings = resolve(
            &[("x-dead-letter-exchange", "mine".into()), ("x-overflow", "reject-publish".into())],
            &[
                ("dead-letter-exchange", "theirs".into()),
                ("dead-letter-routing-key", "k".into()),
                ("overflow", "drop-head".into()),
            ],
            &[("overflow", "reject-publish-dlx".into())],
        );

        assert_eq!(settings.dead_letter_exchange.as_deref(), Some("mine"));
        assert_eq!(settings.dead_letter_routing_key.as_deref(), Some("k"));
        assert_eq!(settings.overflow, Overflow::RejectPublish);
    }

    #[test]
    fn deliveries_are_limited_by_the_lowest_limit_asked_for() {
        let limit = |arguments: &[_], policy: &[_], operator: &[_]| {
            resolve(arguments, policy, operator).delivery_limit
        };
        let quorum = || ("x-queue-type", Value::from("quorum"));
        let own = |limit| ("x-delivery-limit", Value::I32(limit));
        let given = |limit| [("delivery-limit", Value::I32(limit))];

        assert_eq!(limit(&[], &[], &[]), None);
        assert_eq!(limit(&[own(3)], &[], &[]), Some(3));
        assert_eq!(limit(&[quorum()], &[], &[]), Some(20));
        assert_eq!(limit(&[quorum(), own(-1)], &[], &[]), None);
        assert_eq!(limit(&[quorum(), own(50)], &given(30), &[]), Some(30));
        assert_eq!(limit(&[quorum(), own(-1)], &given(30), &[]), Some(30));
        assert_eq!(limit(&[quorum(), own(-1)], &[], &given(5)), Some(5));
        assert_eq!(limit(&[quorum()], &[], &given(50)), Some(50));
    }

    #[test]
    fn retries_wait_longer_each_time_up_to_a_limit() {
        let asked = [
            ("x-delayed-retry-type", "all".into()),
            ("x-delayed-retry-min", Value::I32(100)),
            ("x-delayed-retry-max", Value::I32(250)),
        ];
        let delays = |settings: &QueueSettings| {
            [1, 2, 3, u32::MAX].map(|n| settings.retry_delay_ms(n, Setback::Failed))
        };

        let own = resolve(&asked, &[], &[]);
        let by_policy = resolve(
            &[],
            &[("delayed-retry-type", "failed".into()), ("delayed-retry-min", Value::I32(100))],
            &[],
        );
        let refused = resolve(
            &[("x-delayed-retry-type", "disabled".into())],
            &[("delayed-retry-type", "all".into()), ("delayed-retry-min", Value::I32(100))],
            &[],
        );

        assert_eq!(delays(&own), [Some(100), Some(200), Some(250), Some(250)]);
        assert_eq!(delays(&by_policy), [Some(100), Some(200), Some(300), Some(RETRY_MAX_MS)]);
        assert_eq!(delays(&refused), [None; 4]);
        assert_eq!(delays(&resolve(&[], &[], &[])), [None; 4]);
    }

    #[test]
    fn each_word_of_delayed_retries_means_its_own_setbacks() {
        let delays = ["all", "failed", "returned"].map(|word| {
            let settings = resolve(
                &[("x-delayed-retry-type", word.into()), ("x-delayed-retry-min", Value::I32(9))],
                &[],
                &[],
            );
            [Setback::Failed, Setback::Returned].map(|setback| settings.retry_delay_ms(1, setback))
        });

        assert_eq!(delays, [[Some(9), Some(9)], [Some(9), None], [None, Some(9)]]);
    }
}
