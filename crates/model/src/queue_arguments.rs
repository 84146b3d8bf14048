//! The arguments of a queue's declaration, each with what it may be.

use crate::argument::{ArgumentError, Arguments, Fault};
use crate::queue::{OVERFLOWS, Overflow, RETRY_TYPES, RetryType};
use crate::stream_offset::parse_interval;

/// Highest priority that a queue can have.
const PRIORITY_MAX: i64 = 255;

/// The arguments that mean something here, checked. Clustering hints and `x-queue-mode` are taken and ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    missing_docs,
    reason = "each is the argument of that name; times in milliseconds, ages in seconds"
)]
pub struct QueueArguments {
    pub message_ttl: Option<u64>,
    pub expires: Option<u64>,
    pub dead_letter_exchange: Option<Box<str>>,
    pub dead_letter_routing_key: Option<Box<str>>,
    pub max_length: Option<u64>,
    pub max_length_bytes: Option<u64>,
    pub overflow: Option<Overflow>,
    pub max_priority: Option<u8>,
    pub single_active_consumer: bool,
    /// -1 for none.
    pub delivery_limit: Option<i64>,
    pub retry_type: Option<RetryType>,
    pub retry_min: Option<u64>,
    pub retry_max: Option<u64>,
    pub consumer_timeout: Option<u64>,
    pub max_age_secs: Option<u64>,
}

/// Reads and checks all arguments of a declaration.
pub(crate) fn parse(arguments: &Arguments<'_>) -> Result<QueueArguments, ArgumentError> {
    if arguments.table.is_empty() {
        return Ok(QueueArguments::default());
    }
    check_ignored(arguments)?;
    let dead_letter_exchange = arguments.exchange_name("x-dead-letter-exchange")?.map(Into::into);
    let dead_letter_routing_key = arguments.text("x-dead-letter-routing-key")?.map(Into::into);
    if dead_letter_routing_key.is_some() && dead_letter_exchange.is_none() {
        return Err(arguments.invalid(
            "x-dead-letter-routing-key",
            Fault::Unknown("routing_key_but_no_dlx_defined"),
        ));
    }
    Ok(QueueArguments {
        message_ttl: arguments.time_ms("x-message-ttl")?,
        expires: arguments.positive_time_ms("x-expires")?,
        dead_letter_exchange,
        dead_letter_routing_key,
        max_length: arguments.natural("x-max-length")?,
        max_length_bytes: arguments.natural("x-max-length-bytes")?,
        overflow: arguments.word("x-overflow", OVERFLOWS, "invalid_overflow")?,
        max_priority: max_priority(arguments)?,
        single_active_consumer: arguments.boolean("x-single-active-consumer")?.unwrap_or(false),
        delivery_limit: arguments.integer("x-delivery-limit")?,
        retry_type: arguments.word(
            "x-delayed-retry-type",
            RETRY_TYPES,
            "invalid_delayed_retry_type",
        )?,
        retry_min: arguments.time_ms("x-delayed-retry-min")?,
        retry_max: arguments.time_ms("x-delayed-retry-max")?,
        consumer_timeout: arguments.positive_time_ms("x-consumer-timeout")?,
        max_age_secs: max_age(arguments)?,
    })
}

/// Arguments that change nothing here must still be what they claim to be.
fn check_ignored(arguments: &Arguments<'_>) -> Result<(), ArgumentError> {
    const STRATEGIES: &[(&str, ())] = &[("at-most-once", ()), ("at-least-once", ())];
    const MODES: &[(&str, ())] = &[("default", ()), ("lazy", ())];
    const LOCATORS: &[(&str, ())] =
        &[("balanced", ()), ("client-local", ()), ("least-leaders", ()), ("random", ())];
    const NATURALS: [&str; 4] = [
        "x-max-in-memory-bytes",
        "x-max-in-memory-length",
        "x-stream-filter-size-bytes",
        "x-stream-max-segment-size-bytes",
    ];
    arguments.word("x-dead-letter-strategy", STRATEGIES, "invalid_dlx_strategy")?;
    arguments.word("x-queue-leader-locator", LOCATORS, "invalid_queue_locator_arg")?;
    said_word(arguments, "x-queue-mode", MODES, "queue mode")?;
    for argument in NATURALS {
        arguments.natural(argument)?;
    }
    for argument in ["x-initial-cluster-size", "x-quorum-initial-group-size"] {
        if arguments.natural(argument)? == Some(0) {
            return Err(arguments.invalid(argument, Fault::Zero(0)));
        }
    }
    arguments.time_ms("x-consumer-disconnected-timeout")?;
    match arguments.natural("x-queue-version")? {
        None | Some(1 | 2) => Ok(()),
        Some(version) => {
            let fault = Fault::Said(format!("unsupported queue version '{version}'"));
            Err(arguments.invalid("x-queue-version", fault))
        }
    }
}

/// As [`Arguments::word`], for arguments whose fault is a sentence.
pub(crate) fn said_word<T: Copy>(
    arguments: &Arguments<'_>,
    argument: &str,
    words: &[(&str, T)],
    what: &str,
) -> Result<Option<T>, ArgumentError> {
    let Some(text) = arguments.text(argument)? else { return Ok(None) };
    let known = words.iter().find(|(word, _)| *word == text);
    let unknown = || Fault::Said(format!("unsupported {what} '{text}'"));
    known.map(|(_, meaning)| Some(*meaning)).ok_or_else(|| arguments.invalid(argument, unknown()))
}

fn max_priority(arguments: &Arguments<'_>) -> Result<Option<u8>, ArgumentError> {
    let Some(value) = arguments.integer("x-max-priority")? else { return Ok(None) };
    match u8::try_from(value) {
        Ok(priority) => Ok(Some(priority)),
        Err(_) if value > PRIORITY_MAX => {
            Err(arguments.invalid("x-max-priority", Fault::MaxExceeded(value)))
        }
        Err(_) => Err(arguments.invalid("x-max-priority", Fault::Negative(value))),
    }
}

fn max_age(arguments: &Arguments<'_>) -> Result<Option<u64>, ArgumentError> {
    let Some(text) = arguments.text("x-max-age")? else { return Ok(None) };
    let invalid = || arguments.invalid("x-max-age", Fault::Unknown("invalid_max_age"));
    age_secs(text).map(Some).ok_or_else(invalid)
}

/// Seconds of an age such as `7D`, `12h`, `1M`, as [`parse_interval`] reads it; none is not an age.
#[must_use]
pub fn age_secs(text: &str) -> Option<u64> {
    parse_interval(text).map(|age| age.as_secs()).filter(|secs| *secs > 0)
}
