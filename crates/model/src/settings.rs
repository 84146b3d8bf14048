//! What holds for a queue: its arguments, and the policies that match it.

use crate::policy::PolicyDefinition;
use crate::queue::{Overflow, QueueArguments, QueueDefinition, QueueType, RetryType, age_secs};

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
    min_ms: u64,
    max_ms: u64,
}

impl QueueSettings {
    /// Brings arguments and policies together: an argument beats the policy, of two numeric limits the lower holds,
    /// and an operator's limit cannot be exceeded.
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
        let max_age = own.max_age_secs.or_else(|| age_secs(policy.max_age.as_deref()?));
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
            consumer_timeout: own.consumer_timeout.or(policy.consumer_timeout),
            max_age: max_age.map(|secs| secs.saturating_mul(1000)),
            retry: retry(own),
        }
    }

    /// How long a message waits before its next delivery, after `attempts` that failed.
    #[must_use]
    pub fn retry_delay_ms(&self, attempts: u32) -> Option<u64> {
        let retry = self.retry?;
        Some(retry.min_ms.saturating_mul(u64::from(attempts)).min(retry.max_ms))
    }
}

fn delivery_limit(
    queue_type: QueueType,
    own: &QueueArguments,
    policy: &PolicyDefinition,
    operator: &PolicyDefinition,
) -> Option<u32> {
    let of_type = match queue_type {
        QueueType::Quorum => Some(QUORUM_DELIVERY_LIMIT),
        QueueType::Classic | QueueType::Stream => None,
    };
    let asked = own.delivery_limit.or(policy.delivery_limit);
    // Any negative number means no limit.
    let asked = match asked {
        Some(limit) => u32::try_from(limit).ok(),
        None => of_type,
    };
    let forced = operator.delivery_limit.and_then(|limit| u32::try_from(limit).ok());
    [asked, forced].into_iter().flatten().min()
}

fn retry(own: &QueueArguments) -> Option<Retry> {
    match own.retry_type? {
        RetryType::Disabled => None,
        RetryType::All | RetryType::Failed | RetryType::Returned => {
            let min_ms = own.retry_min?;
            Some(Retry { min_ms, max_ms: own.retry_max.unwrap_or(RETRY_MAX_MS) })
        }
    }
}
