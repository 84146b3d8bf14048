//! What the properties of a published message ask the broker for, and what is changed in them before they are stored.
//!
//! Only what is asked about is looked at: a correlation id, for instance, may hold any bytes.

use std::borrow::Cow;

use posthouse_amqp::{
    error::DecodeError,
    raw_table::{RawArray, RawTable, ValueRef},
    table::TableError,
};
use sha2::{Digest, Sha256};

use crate::{argument::TIME_MS_MAX, id::DedupId, message::Message, property_bytes::PropertyBytes};

/// The pseudo-queue of direct replies, as it stands in reply-to.
pub const REPLY_TO: &str = "amq.rabbitmq.reply-to";

const CC: &str = "CC";
const BCC: &str = "BCC";
const DELAY: &str = "x-delay";
const DEDUP_ID: &str = "x-dedup-id";

/// Why a message cannot be published as it is. Its publisher is to blame; the text is the detail of the reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// CC or BCC is not an array.
    #[error("invalid message: {{unacceptable_type_in_header,\"{header}\",{found}}}")]
    HeaderType {
        /// `CC` or `BCC`.
        header: &'static str,
        /// RabbitMQ's name of the type that was found.
        found: &'static str,
    },
    /// The expiration is not an integer from 0 to [`TIME_MS_MAX`].
    #[error("invalid expiration '{text}': {problem}")]
    Expiration {
        /// As sent.
        text: Box<str>,
        /// In the words of RabbitMQ.
        problem: Box<str>,
    },
    /// A direct reply was asked for, and the channel has no consumer for it.
    #[error("fast reply consumer does not exist")]
    NoReplyConsumer,
    /// The user id is not UTF-8, so nobody's.
    #[error("user_id property is not UTF-8")]
    UserId,
    /// With what the broker puts in they would be longer than [`Message::PROPERTIES_BYTES_MAX`].
    #[error("the properties of a message must be at most {} bytes", Message::PROPERTIES_BYTES_MAX)]
    TooLarge,
    /// The headers cannot be read.
    #[error("invalid message: {0}")]
    Headers(#[from] TableError),
    /// The properties cannot be read.
    #[error("invalid message: {0}")]
    Properties(#[from] DecodeError),
}

/// The properties that the broker acts upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marked<'a> {
    /// Milliseconds to live, for [`expiration`].
    pub expiration: Option<&'a str>,
    /// Who says to be the publisher.
    pub user_id: Option<&'a str>,
    /// Where an answer should go. One that is not UTF-8 names nothing of ours and is not here.
    pub reply_to: Option<&'a str>,
    /// For [`headers`].
    pub headers: Option<RawTable<'a>>,
}

impl<'a> Marked<'a> {
    /// Finds them; allocates nothing.
    ///
    /// # Errors
    ///
    /// [`RuleError`] if the list is broken, or expiration or user id is not UTF-8.
    pub fn of(raw: &'a [u8]) -> Result<Self, RuleError> {
        let found = PropertyBytes::of(raw)?;
        let expiration = found.expiration().map(str_of_expiration).transpose()?;
        let user_id = found.user_id().map(str::from_utf8).transpose();
        Ok(Self {
            expiration,
            user_id: user_id.map_err(|_| RuleError::UserId)?,
            reply_to: found.reply_to().and_then(|bytes| str::from_utf8(bytes).ok()),
            headers: found.headers().map(RawTable::from_bytes),
        })
    }
}

fn str_of_expiration(bytes: &[u8]) -> Result<&str, RuleError> {
    str::from_utf8(bytes).map_err(|_| RuleError::Expiration {
        text: String::from_utf8_lossy(bytes).into(),
        problem: "no_integer".into(),
    })
}

/// What the headers of a message ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    /// Routing keys besides the one of the publish: of CC, then of BCC. Keys that are not UTF-8 match no binding and
    /// are not here.
    pub extra_keys: Vec<String>,
    /// Whether there is a BCC, which no consumer may see.
    pub has_bcc: bool,
    /// Milliseconds to wait before routing, by `x-delay`.
    pub delay_ms: Option<u64>,
    /// The publisher's own id of the message, by `x-dedup-id`, for [`dedup_id`].
    pub dedup_id: Option<String>,
}

/// Reads the headers; allocates only for what it returns.
///
/// Of a header that is there twice the first counts. A delay that is no number, and a dedup id that is neither text nor
/// integer, are none.
///
/// # Errors
///
/// [`RuleError`] if CC or BCC is not an array or the table cannot be read.
pub fn headers(raw: RawTable<'_>) -> Result<Headers, RuleError> {
    let mut headers = Headers::default();
    let (mut cc, mut bcc) = (None, None);
    for entry in raw {
        let (name, value) = entry?;
        match name {
            CC if cc.is_none() => cc = Some(array(CC, value)?),
            BCC if bcc.is_none() => bcc = Some(array(BCC, value)?),
            DELAY if headers.delay_ms.is_none() => headers.delay_ms = delay_ms(value),
            DEDUP_ID if headers.dedup_id.is_none() => headers.dedup_id = dedup_text(value),
            _ => {}
        }
    }
    headers.has_bcc = bcc.is_some();
    for keys in [cc, bcc].into_iter().flatten() {
        for key in keys {
            headers.extra_keys.extend(key?.as_str().map(str::to_owned));
        }
    }
    Ok(headers)
}

fn array<'a>(header: &'static str, value: ValueRef<'a>) -> Result<RawArray<'a>, RuleError> {
    value.as_array().ok_or_else(|| RuleError::HeaderType { header, found: type_name(value) })
}

/// Below zero is at once, and a fraction of a millisecond is cut off.
fn delay_ms(value: ValueRef<'_>) -> Option<u64> {
    let number = match value {
        ValueRef::F32(number) => Some(f64::from(number)),
        ValueRef::F64(number) => Some(number),
        _ => None,
    };
    if let Some(number) = number {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "such casts saturate"
        )]
        return (!number.is_nan()).then_some(number as u64);
    }
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok())?;
    Some(u64::try_from(number).unwrap_or(0))
}

fn dedup_text(value: ValueRef<'_>) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_i64().map(|number| number.to_string()))
}

/// RabbitMQ's name of the type, as of [`Value::type_name`](posthouse_amqp::table::Value::type_name).
const fn type_name(value: ValueRef<'_>) -> &'static str {
    match value {
        ValueRef::Bool(_) => "bool",
        ValueRef::I8(_) => "byte",
        ValueRef::U8(_) => "unsignedbyte",
        ValueRef::I16(_) => "short",
        ValueRef::U16(_) => "unsignedshort",
        ValueRef::I32(_) => "signedint",
        ValueRef::U32(_) => "unsignedint",
        ValueRef::I64(_) => "long",
        ValueRef::F32(_) => "float",
        ValueRef::F64(_) => "double",
        ValueRef::Decimal { .. } => "decimal",
        ValueRef::LongString(_) => "longstr",
        ValueRef::Array(_) => "array",
        ValueRef::Timestamp(_) => "timestamp",
        ValueRef::Table(_) => "table",
        ValueRef::Void => "void",
        ValueRef::Bytes(_) => "binary",
    }
}

/// Milliseconds to live, if an expiration is there.
///
/// # Errors
///
/// [`RuleError::Expiration`] if it is not an integer from 0 to [`TIME_MS_MAX`].
pub fn expiration(text: Option<&str>) -> Result<Option<u64>, RuleError> {
    let Some(text) = text else { return Ok(None) };
    let refuse = |problem: Cow<'_, str>| {
        Err(RuleError::Expiration { text: text.into(), problem: problem.into() })
    };
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let leftover = unsigned.trim_start_matches(|character: char| character.is_ascii_digit());
    let digits = unsigned.strip_suffix(leftover).unwrap_or_default();
    if digits.is_empty() {
        return refuse("no_integer".into());
    }
    if !leftover.is_empty() {
        let escaped = leftover.replace('\\', "\\\\").replace('"', "\\\"");
        return refuse(format!("{{leftover_string,\"{escaped}\"}}").into());
    }
    let significant = digits.trim_start_matches('0');
    if negative && !significant.is_empty() {
        return refuse(format!("{{value_negative,-{significant}}}").into());
    }
    if significant.is_empty() {
        return Ok(Some(0));
    }
    // Only digits are left, so what does not parse is too large.
    match significant.parse() {
        Ok(time_ms) if time_ms <= TIME_MS_MAX.cast_unsigned() => Ok(Some(time_ms)),
        _ => refuse(format!("{{value_too_large,{significant}}}").into()),
    }
}

/// The properties as they are stored and delivered, or `None` if that is as they were sent.
///
/// BCC is nobody's business, and a delay is used up once. Reply-to [`REPLY_TO`] becomes `reply_token`, the whole name
/// under which the requester's channel takes answers.
///
/// # Errors
///
/// [`RuleError::NoReplyConsumer`] if a direct reply is asked for and there is no token; others if the properties cannot
/// be read or become too large.
pub fn rewrite(
    raw: &[u8],
    headers: &Headers,
    reply_token: Option<&str>,
) -> Result<Option<Vec<u8>>, RuleError> {
    let found = PropertyBytes::of(raw)?;
    let asks_for_reply = found.reply_to() == Some(REPLY_TO.as_bytes());
    let token = match (asks_for_reply, reply_token) {
        (true, None) => return Err(RuleError::NoReplyConsumer),
        (true, Some(token)) => Some(token.as_bytes()),
        (false, _) => None,
    };
    let strips = headers.has_bcc || headers.delay_ms.is_some();
    let kept = match found.headers() {
        Some(entries) if strips => Some(without_used(entries)?),
        _ => None,
    };
    if kept.is_none() && token.is_none() {
        return Ok(None);
    }
    let replaced = found.replaced(kept.as_deref(), token).ok_or(RuleError::TooLarge)?;
    if replaced.len() > Message::PROPERTIES_BYTES_MAX {
        return Err(RuleError::TooLarge);
    }
    Ok(Some(replaced))
}

/// The entries that stay, byte for byte.
fn without_used(entries: &[u8]) -> Result<Vec<u8>, TableError> {
    let mut kept = Vec::with_capacity(entries.len());
    let mut stays = false;
    let mut start = 0;
    for entry in RawTable::from_bytes(entries) {
        let (name, _) = entry?;
        // An entry begins with the octet that counts its name, and ends where the next one begins.
        let next = (name.as_ptr().addr() - entries.as_ptr().addr()).saturating_sub(1);
        if stays {
            kept.extend_from_slice(entries.get(start..next).unwrap_or_default());
        }
        (stays, start) = (name != BCC && name != DELAY, next);
    }
    if stays {
        kept.extend_from_slice(entries.get(start..).unwrap_or_default());
    }
    Ok(kept)
}

/// What makes two publishes the same one: the front of a SHA-256 over all three, each behind its length.
///
/// Stored, so it never changes.
#[must_use]
pub fn dedup_id(tenant: &str, exchange: &str, id: &str) -> DedupId {
    let mut hash = Sha256::new();
    for part in [tenant, exchange, id] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    DedupId(digest.first_chunk().copied().map_or(0, u128::from_be_bytes))
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::{
        properties::{Properties, Property},
        table::{Table, Value},
    };

    use super::*;

    fn keys(keys: &[&str]) -> Value {
        Value::Array(keys.iter().map(|key| Value::from(*key)).collect())
    }

    fn read(table: &Table) -> Result<Headers, RuleError> {
        headers(RawTable::from_bytes(&table.to_entries().unwrap()))
    }

    fn encoded(table: &Table, reply_to: Option<&str>) -> Vec<u8> {
        let entries = table.to_entries().unwrap();
        let headers = Some(RawTable::from_bytes(&entries));
        let mut raw = Vec::new();
        Properties { headers, reply_to, ..Properties::default() }.encode(&mut raw).unwrap();
        raw
    }

    #[test]
    fn copies_come_after_one_another() {
        let table = Table::from_iter([("BCC", keys(&["b"])), ("CC", keys(&["c", "d"]))]);

        let headers = read(&table).unwrap();

        assert_eq!(headers.extra_keys, ["c", "d", "b"]);
        assert!(headers.has_bcc);
    }

    #[test]
    fn headers_of_the_application_ask_for_nothing() {
        let table = Table::from_iter([("cc", Value::from("c")), ("x", Value::Void)]);

        assert_eq!(read(&table), Ok(Headers::default()));
        assert_eq!(headers(RawTable::EMPTY), Ok(Headers::default()));
    }

    #[test]
    fn copies_must_be_arrays() {
        let refused = read(&Table::from_iter([("CC", "c")])).unwrap_err();

        assert_eq!(
            refused.to_string(),
            r#"invalid message: {unacceptable_type_in_header,"CC",longstr}"#
        );
        assert!(read(&Table::from_iter([("BCC", 1)])).is_err());
    }

    #[test]
    fn a_delay_may_be_any_kind_of_number() {
        let delay = |value: Value| read(&Table::from_iter([("x-delay", value)])).unwrap().delay_ms;

        assert_eq!(delay(5_i32.into()), Some(5));
        assert_eq!(delay(5_u8.into()), Some(5));
        assert_eq!(delay(5.9_f64.into()), Some(5));
        assert_eq!(delay("5".into()), Some(5));
        assert_eq!(delay((-5_i64).into()), Some(0));
        assert_eq!(delay((-5.0_f32).into()), Some(0));
        assert_eq!(delay(f64::NAN.into()), None);
        assert_eq!(delay("soon".into()), None);
    }

    #[test]
    fn a_dedup_id_is_text_or_an_integer() {
        let id = |value: Value| read(&Table::from_iter([("x-dedup-id", value)])).unwrap().dedup_id;

        assert_eq!(id("order-1".into()).as_deref(), Some("order-1"));
        assert_eq!(id(7_i64.into()).as_deref(), Some("7"));
        assert_eq!(id(Value::Void), None);
    }

    #[test]
    fn an_expiration_is_a_non_negative_integer() {
        assert_eq!(expiration(None), Ok(None));
        for (text, expected) in [("0", 0), ("100", 100), ("+007", 7), ("-0", 0)] {
            assert_eq!(expiration(Some(text)), Ok(Some(expected)), "{text}");
        }
        assert_eq!(expiration(Some("315360000000")), Ok(Some(315_360_000_000)));
    }

    #[test]
    fn other_expirations_are_refused_in_the_words_of_rabbitmq() {
        for (text, problem) in [
            ("abc", "no_integer"),
            ("", "no_integer"),
            ("-", "no_integer"),
            (" 1", "no_integer"),
            ("-1", "{value_negative,-1}"),
            ("5a", r#"{leftover_string,"a"}"#),
            ("1.5", r#"{leftover_string,".5"}"#),
            ("315360000001", "{value_too_large,315360000001}"),
            ("99999999999999999999999", "{value_too_large,99999999999999999999999}"),
            ("5ö5", r#"{leftover_string,"ö5"}"#),
        ] {
            let refused = expiration(Some(text)).unwrap_err();
            assert_eq!(refused.to_string(), format!("invalid expiration '{text}': {problem}"));
        }
    }

    #[test]
    fn blind_copies_and_delays_are_taken_out_and_the_rest_stays() {
        let stays = [("a", Value::from(1_i32)), ("CC", keys(&["c"])), ("z", Value::Void)];
        let mut table = Table::from_iter(stays.clone());
        table.insert("BCC", keys(&["b"]));
        table.insert("x-delay", 5_i32);
        table.insert("last", true);
        let raw = encoded(&table, Some("q"));

        let rewritten = rewrite(&raw, &read(&table).unwrap(), None).unwrap().unwrap();

        let mut expected = Table::from_iter(stays);
        expected.insert("last", true);
        assert_eq!(rewritten, encoded(&expected, Some("q")));
    }

    #[test]
    fn a_blind_copy_in_front_or_alone_is_taken_out_too() {
        for rest in [&[][..], &[("a", Value::Void)]] {
            let mut table = Table::from_iter([("BCC", keys(&["b"]))]);
            rest.iter().for_each(|(name, value)| drop(table.insert(*name, value.clone())));
            let raw = encoded(&table, None);

            let rewritten = rewrite(&raw, &read(&table).unwrap(), None).unwrap().unwrap();

            assert_eq!(rewritten, encoded(&Table::from_iter(rest.iter().cloned()), None));
        }
    }

    #[test]
    fn other_properties_are_left_alone() {
        let raw = encoded(&Table::from_iter([("CC", keys(&["c"]))]), Some("q"));

        assert_eq!(rewrite(&raw, &Headers::default(), Some("token")), Ok(None));
    }

    #[test]
    fn a_direct_reply_goes_to_the_token() {
        let raw = encoded(&Table::new(), Some(REPLY_TO));

        let rewritten = rewrite(&raw, &Headers::default(), Some("token")).unwrap().unwrap();
        let refused = rewrite(&raw, &Headers::default(), None).unwrap_err();

        assert_eq!(Marked::of(&rewritten).unwrap().reply_to, Some("token"));
        assert_eq!(refused.to_string(), "fast reply consumer does not exist");
    }

    #[test]
    fn properties_that_become_too_large_are_refused() {
        let text = "x".repeat(Message::PROPERTIES_BYTES_MAX - 40);
        let raw = encoded(&Table::from_iter([("x", &*text)]), Some(REPLY_TO));

        let refused = rewrite(&raw, &Headers::default(), Some(&"t".repeat(200)));

        assert_eq!(refused, Err(RuleError::TooLarge));
    }

    #[test]
    fn only_what_is_acted_upon_must_be_text() {
        let list = |property: Property| [&property.flag().to_be_bytes()[..], &[1, 0xff]].concat();

        assert_eq!(Marked::of(&list(Property::CorrelationId)), Ok(Marked::default()));
        assert_eq!(Marked::of(&list(Property::ReplyTo)), Ok(Marked::default()));
        assert_eq!(Marked::of(&list(Property::UserId)), Err(RuleError::UserId));
        assert!(Marked::of(&list(Property::Expiration)).is_err());
        assert!(Marked::of(&[0xff]).is_err());
    }

    #[test]
    fn dedup_ids_differ_by_each_part_and_never_change() {
        let id = dedup_id("/", "orders", "1");

        assert_ne!(id, dedup_id("/", "order", "s1"));
        assert_ne!(id, dedup_id("/o", "rders", "1"));
        // SHA-256 as of any other program, over 8 octets of length and the bytes of each part.
        assert_eq!(id, DedupId(0x16a8a95a_df98c92d_2f73a168_4d2f6ffb));
    }
}
