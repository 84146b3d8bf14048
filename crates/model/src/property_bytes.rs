//! Where in encoded properties the few that we act upon lie; the others may hold any bytes.

use std::ops::Range;

use posthouse_amqp::{error::DecodeError, properties::Property};

/// Encoded properties and the places of some values in them, without their lengths.
#[derive(Debug, Clone)]
pub(crate) struct PropertyBytes<'a> {
    raw: &'a [u8],
    headers: Option<Range<usize>>,
    reply_to: Option<Range<usize>>,
    expiration: Option<Range<usize>>,
    user_id: Option<Range<usize>>,
}

const FLAGS_BYTES: usize = 2;
const SHORT_LEN_BYTES: usize = 1;
const TABLE_LEN_BYTES: usize = 4;

impl<'a> PropertyBytes<'a> {
    /// Finds the values.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a value ends early or bytes are left over.
    pub(crate) fn of(raw: &'a [u8]) -> Result<Self, DecodeError> {
        let flags = u16::from_be_bytes(*raw.first_chunk().ok_or(DecodeError::Truncated)?);
        let known = Property::ALL.into_iter().fold(0, |known, property| known | property.flag());
        if flags & !known != 0 {
            return Err(DecodeError::UnknownPropertyFlags(flags));
        }
        let mut found =
            Self { raw, headers: None, reply_to: None, expiration: None, user_id: None };
        let mut at = FLAGS_BYTES;
        for property in Property::ALL.into_iter().filter(|property| flags & property.flag() != 0) {
            let value = value_at(raw, at, property).ok_or(DecodeError::Truncated)?;
            at = value.end;
            match property {
                Property::Headers => found.headers = Some(value),
                Property::ReplyTo => found.reply_to = Some(value),
                Property::Expiration => found.expiration = Some(value),
                Property::UserId => found.user_id = Some(value),
                _ => {}
            }
        }
        if at != raw.len() {
            return Err(DecodeError::Trailing(raw.len() - at));
        }
        Ok(found)
    }

    /// The encoded entries of the headers.
    pub(crate) fn headers(&self) -> Option<&'a [u8]> {
        self.raw.get(self.headers.clone()?)
    }

    pub(crate) fn reply_to(&self) -> Option<&'a [u8]> {
        self.raw.get(self.reply_to.clone()?)
    }

    pub(crate) fn expiration(&self) -> Option<&'a [u8]> {
        self.raw.get(self.expiration.clone()?)
    }

    pub(crate) fn user_id(&self) -> Option<&'a [u8]> {
        self.raw.get(self.user_id.clone()?)
    }

    /// The properties with other values for headers and reply-to where given and already there.
    ///
    /// `None` if a length does not fit its counter.
    pub(crate) fn replaced(
        &self,
        headers: Option<&[u8]>,
        reply_to: Option<&[u8]>,
    ) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(self.raw.len() + reply_to.map_or(0, <[u8]>::len));
        let mut kept = 0;
        if let (Some(place), Some(entries)) = (&self.headers, headers) {
            out.extend_from_slice(self.raw.get(kept..place.start - TABLE_LEN_BYTES)?);
            out.extend_from_slice(&u32::try_from(entries.len()).ok()?.to_be_bytes());
            out.extend_from_slice(entries);
            kept = place.end;
        }
        if let (Some(place), Some(text)) = (&self.reply_to, reply_to) {
            out.extend_from_slice(self.raw.get(kept..place.start - SHORT_LEN_BYTES)?);
            out.push(u8::try_from(text.len()).ok()?);
            out.extend_from_slice(text);
            kept = place.end;
        }
        out.extend_from_slice(self.raw.get(kept..)?);
        Some(out)
    }
}

/// The place of the value that is encoded at `at`.
fn value_at(raw: &[u8], at: usize, property: Property) -> Option<Range<usize>> {
    let rest = raw.get(at..)?;
    let (before, len) = match property {
        Property::Headers => {
            let len = u32::from_be_bytes(*rest.first_chunk()?);
            (TABLE_LEN_BYTES, usize::try_from(len).ok()?)
        }
        Property::DeliveryMode | Property::Priority => (0, 1),
        Property::Timestamp => (0, 8),
        Property::ContentType
        | Property::ContentEncoding
        | Property::CorrelationId
        | Property::ReplyTo
        | Property::Expiration
        | Property::MessageId
        | Property::Kind
        | Property::UserId
        | Property::AppId
        | Property::ClusterId => (SHORT_LEN_BYTES, usize::from(*rest.first()?)),
    };
    let start = at.checked_add(before)?;
    let end = start.checked_add(len)?;
    (end <= raw.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use posthouse_amqp::{properties::Properties, raw_table::RawTable};

    use super::*;

    fn all() -> Vec<u8> {
        let properties = Properties {
            content_type: Some("text/plain"),
            content_encoding: Some("utf-8"),
            headers: Some(RawTable::from_bytes(b"\x01at\x01")),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: Some("c"),
            reply_to: Some("replies"),
            expiration: Some("100"),
            message_id: Some("m"),
            timestamp: Some(1),
            kind: Some("k"),
            user_id: Some("guest"),
            app_id: Some("a"),
            cluster_id: Some(""),
        };
        let mut raw = Vec::new();
        properties.encode(&mut raw).unwrap();
        raw
    }

    #[test]
    fn values_are_found_among_all_properties() {
        let raw = all();

        let found = PropertyBytes::of(&raw).unwrap();

        assert_eq!(found.headers(), Some(&b"\x01at\x01"[..]));
        assert_eq!(found.reply_to(), Some(&b"replies"[..]));
        assert_eq!(found.expiration(), Some(&b"100"[..]));
        assert_eq!(found.user_id(), Some(&b"guest"[..]));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let raw = all();

        for len in 0..raw.len() {
            assert!(PropertyBytes::of(&raw[..len]).is_err(), "{len}");
        }
        assert_eq!(
            PropertyBytes::of(&[raw, vec![0]].concat()).unwrap_err(),
            DecodeError::Trailing(1)
        );
        assert!(PropertyBytes::of(&[0, 1]).is_err());
    }

    #[test]
    fn replacing_keeps_all_other_values() {
        let raw = all();
        let before = Properties::decode(&raw).unwrap();

        let replaced =
            PropertyBytes::of(&raw).unwrap().replaced(Some(b""), Some(b"token")).unwrap();

        let expected =
            Properties { headers: Some(RawTable::EMPTY), reply_to: Some("token"), ..before };
        assert_eq!(Properties::decode(&replaced).unwrap(), expected);
    }

    #[test]
    fn nothing_is_put_where_nothing_was() {
        let found = PropertyBytes::of(&[0, 0]).unwrap();

        assert_eq!(found.replaced(Some(b"x"), Some(b"y")).unwrap(), [0, 0]);
    }
}
