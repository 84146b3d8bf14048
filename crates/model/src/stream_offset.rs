//! Where in a stream a consumer begins: the consume argument `x-stream-offset`.

use std::time::Duration;

use posthouse_amqp::table::Value;

use crate::time::Timestamp;

/// Where in a stream a consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamOffset {
    /// With the oldest message there is.
    First,
    /// With the last part of the stream that was written.
    Last,
    /// With what is published from now on.
    Next,
    /// With the message of that number, or the oldest after it.
    Offset(u64),
    /// With the first message published then or later.
    Timestamp(Timestamp),
    /// With the first message published that long ago or later.
    Interval(Duration),
}

/// Why an argument is not an offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffsetError {
    /// A number below zero.
    #[error("invalid x-stream-offset {0}: it must not be negative")]
    Negative(i64),
    /// A text that is neither a word nor an interval.
    #[error("invalid x-stream-offset '{0}': expected first, last, next or an interval such as 7D")]
    Text(String),
    /// Neither text nor number nor timestamp.
    #[error("invalid x-stream-offset: expected string, integer or timestamp, got {0}")]
    Type(&'static str),
}

/// Reads the argument; `None` if there is none.
///
/// # Errors
///
/// [`OffsetError`] if it is there and means nothing.
pub fn parse(value: Option<&Value>) -> Result<Option<StreamOffset>, OffsetError> {
    let Some(value) = value else { return Ok(None) };
    let offset = match value {
        Value::LongString(text) => parse_text(text)?,
        Value::Timestamp(seconds) => {
            StreamOffset::Timestamp(Timestamp(seconds.saturating_mul(1000)))
        }
        other => {
            let number = other.as_i64().ok_or_else(|| OffsetError::Type(other.type_name()))?;
            let offset = u64::try_from(number).map_err(|_| OffsetError::Negative(number))?;
            StreamOffset::Offset(offset)
        }
    };
    Ok(Some(offset))
}

fn parse_text(bytes: &[u8]) -> Result<StreamOffset, OffsetError> {
    let text = String::from_utf8_lossy(bytes);
    match &*text {
        "first" => Ok(StreamOffset::First),
        "last" => Ok(StreamOffset::Last),
        "next" => Ok(StreamOffset::Next),
        interval => parse_interval(interval)
            .map(StreamOffset::Interval)
            .ok_or_else(|| OffsetError::Text(interval.to_owned())),
    }
}

/// An interval as in `x-stream-offset` and `max-age`: a number and one of `Y` (365 days), `M` (30 days), `D`, `h`, `m`,
/// `s`. `None` if it is none or reaches beyond 2⁶⁴ seconds.
#[must_use]
pub fn parse_interval(text: &str) -> Option<Duration> {
    let unit_secs = match text.bytes().last()? {
        b'Y' => 365 * 24 * 3600,
        b'M' => 30 * 24 * 3600,
        b'D' => 24 * 3600,
        b'h' => 3600,
        b'm' => 60,
        b's' => 1,
        _ => return None,
    };
    let digits = text.get(..text.len() - 1)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    count.checked_mul(unit_secs).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: impl Into<Value>, expected: StreamOffset) {
        assert_eq!(parse(Some(&value.into())), Ok(Some(expected)));
    }

    #[test]
    fn words_numbers_and_intervals_are_offsets() {
        check("first", StreamOffset::First);
        check("last", StreamOffset::Last);
        check("next", StreamOffset::Next);
        check(5_i32, StreamOffset::Offset(5));
        check(5_i64, StreamOffset::Offset(5));
        check("5m", StreamOffset::Interval(Duration::from_secs(300)));
        check("7D", StreamOffset::Interval(Duration::from_secs(7 * 86_400)));
        check("1Y", StreamOffset::Interval(Duration::from_secs(365 * 86_400)));
        check("1M", StreamOffset::Interval(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse(None), Ok(None));
    }

    #[test]
    fn a_timestamp_counts_seconds() {
        check(Value::Timestamp(7), StreamOffset::Timestamp(Timestamp(7_000)));
        check(Value::Timestamp(u64::MAX), StreamOffset::Timestamp(Timestamp::MAX));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert_eq!(parse(Some(&Value::I32(-1))), Err(OffsetError::Negative(-1)));
        assert_eq!(parse(Some(&Value::Void)), Err(OffsetError::Type("void")));
        for text in
            ["", "h", "5", "+5h", "5d", "5 h", "99999999999999999999s", "9999999999999999999Y", "ö"]
        {
            let refused = parse(Some(&text.into()));
            assert_eq!(refused, Err(OffsetError::Text(text.to_owned())));
        }
    }
}
