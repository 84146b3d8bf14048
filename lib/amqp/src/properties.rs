//! Message properties in the encoded form of a content header: two octets of flags, then the values.
//!
//! Brokers pass them on as they came. [`Properties`] reads or writes all of them, [`Peek`] reads what every published
//! message has to be asked, [`Rewrite`](crate::rewrite::Rewrite) changes some without understanding the others.

use crate::{
    error::{DecodeError, EncodeError},
    raw_table::RawTable,
    reader::Reader,
    writer::{put_long, put_short},
};

/// A property of class `basic`, in the order of its flag and value on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Property {
    /// MIME type of the body.
    ContentType,
    /// MIME encoding of the body.
    ContentEncoding,
    /// The application's own fields.
    Headers,
    /// 1 transient, 2 persistent.
    DeliveryMode,
    /// 0 to 255, higher is sooner.
    Priority,
    /// Which request this answers.
    CorrelationId,
    /// Where an answer should go.
    ReplyTo,
    /// Milliseconds to live, in decimal digits.
    Expiration,
    /// The application's name of the message.
    MessageId,
    /// Seconds since 1970.
    Timestamp,
    /// The application's kind of message.
    Kind,
    /// The publishing user.
    UserId,
    /// The publishing application.
    AppId,
    /// Reserved.
    ClusterId,
}

/// How the value of a property is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Short,
    Table,
    Octet,
    Octets8,
}

impl Property {
    /// Every property in the order of the wire.
    pub const ALL: [Self; 14] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::Headers,
        Self::DeliveryMode,
        Self::Priority,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Timestamp,
        Self::Kind,
        Self::UserId,
        Self::AppId,
        Self::ClusterId,
    ];

    /// Its bit in the flags.
    #[must_use]
    pub const fn flag(self) -> u16 {
        0x8000 >> self as u8
    }

    pub(crate) const fn shape(self) -> Shape {
        match self {
            Self::Headers => Shape::Table,
            Self::DeliveryMode | Self::Priority => Shape::Octet,
            Self::Timestamp => Shape::Octets8,
            Self::ContentType
            | Self::ContentEncoding
            | Self::CorrelationId
            | Self::ReplyTo
            | Self::Expiration
            | Self::MessageId
            | Self::Kind
            | Self::UserId
            | Self::AppId
            | Self::ClusterId => Shape::Short,
        }
    }
}

/// Bits of the flags that no property has. The lowest would announce a second flag word, which class `basic` never has.
const UNKNOWN_FLAGS: u16 = 0b11;

/// The encoding of no properties at all.
pub const NO_PROPERTIES: &[u8] = &[0, 0];

/// All properties of a message, borrowed from their encoded form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a> {
    /// MIME type of the body.
    pub content_type: Option<&'a str>,
    /// MIME encoding of the body.
    pub content_encoding: Option<&'a str>,
    /// The application's own fields.
    pub headers: Option<RawTable<'a>>,
    /// 1 transient, 2 persistent.
    pub delivery_mode: Option<u8>,
    /// 0 to 255, higher is sooner.
    pub priority: Option<u8>,
    /// Which request this answers.
    pub correlation_id: Option<&'a str>,
    /// Where an answer should go.
    pub reply_to: Option<&'a str>,
    /// Milliseconds to live, in decimal digits.
    pub expiration: Option<&'a str>,
    /// The application's name of the message.
    pub message_id: Option<&'a str>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The application's kind of message; `type` in the specification.
    pub kind: Option<&'a str>,
    /// The publishing user.
    pub user_id: Option<&'a str>,
    /// The publishing application.
    pub app_id: Option<&'a str>,
    /// Reserved.
    pub cluster_id: Option<&'a str>,
}

impl<'a> Properties<'a> {
    /// Reads flags and values.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a value ends early, bytes are left over or a string is not UTF-8.
    pub fn decode(raw: &'a [u8]) -> Result<Self, DecodeError> {
        let (flags, mut reader) = read_flags(raw)?;
        let has = |property: Property| flags & property.flag() != 0;
        let short = |reader: &mut Reader<'a>, property| {
            if has(property) { reader.short_str().map(Some) } else { Ok(None) }
        };
        let octet = |reader: &mut Reader<'a>, property| {
            if has(property) { reader.u8().map(Some) } else { Ok(None) }
        };
        let properties = Self {
            content_type: short(&mut reader, Property::ContentType)?,
            content_encoding: short(&mut reader, Property::ContentEncoding)?,
            headers: if has(Property::Headers) {
                Some(RawTable::from_bytes(reader.long_bytes()?))
            } else {
                None
            },
            delivery_mode: octet(&mut reader, Property::DeliveryMode)?,
            priority: octet(&mut reader, Property::Priority)?,
            correlation_id: short(&mut reader, Property::CorrelationId)?,
            reply_to: short(&mut reader, Property::ReplyTo)?,
            expiration: short(&mut reader, Property::Expiration)?,
            message_id: short(&mut reader, Property::MessageId)?,
            timestamp: if has(Property::Timestamp) { Some(reader.u64()?) } else { None },
            kind: short(&mut reader, Property::Kind)?,
            user_id: short(&mut reader, Property::UserId)?,
            app_id: short(&mut reader, Property::AppId)?,
            cluster_id: short(&mut reader, Property::ClusterId)?,
        };
        reader.finish()?;
        Ok(properties)
    }

    /// Appends flags and values.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if a string has more than 255 bytes; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let written = self.write(out);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(&self.flags().to_be_bytes());
        for text in [self.content_type, self.content_encoding].into_iter().flatten() {
            put_short(out, text.as_bytes())?;
        }
        if let Some(headers) = self.headers {
            put_long(out, headers.as_bytes())?;
        }
        out.extend([self.delivery_mode, self.priority].into_iter().flatten());
        let middle = [self.correlation_id, self.reply_to, self.expiration, self.message_id];
        for text in middle.into_iter().flatten() {
            put_short(out, text.as_bytes())?;
        }
        if let Some(timestamp) = self.timestamp {
            out.extend_from_slice(&timestamp.to_be_bytes());
        }
        let last = [self.kind, self.user_id, self.app_id, self.cluster_id];
        for text in last.into_iter().flatten() {
            put_short(out, text.as_bytes())?;
        }
        Ok(())
    }

    fn flags(&self) -> u16 {
        let present = [
            self.content_type.is_some(),
            self.content_encoding.is_some(),
            self.headers.is_some(),
            self.delivery_mode.is_some(),
            self.priority.is_some(),
            self.correlation_id.is_some(),
            self.reply_to.is_some(),
            self.expiration.is_some(),
            self.message_id.is_some(),
            self.timestamp.is_some(),
            self.kind.is_some(),
            self.user_id.is_some(),
            self.app_id.is_some(),
            self.cluster_id.is_some(),
        ];
        let flags = Property::ALL.into_iter().zip(present).filter(|(_, present)| *present);
        flags.fold(0, |flags, (property, _)| flags | property.flag())
    }
}

/// What a broker must know of every message, read without looking at the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peek {
    flags: u16,
    delivery_mode: u8,
    priority: u8,
}

impl Peek {
    /// Reads flags, delivery mode and priority, and checks that all lengths are right.
    ///
    /// Strings are not looked into: a correlation id of arbitrary bytes passes through.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a value ends early or bytes are left over.
    #[inline]
    pub fn decode(raw: &[u8]) -> Result<Self, DecodeError> {
        let (flags, mut reader) = read_flags(raw)?;
        let mut peek = Self { flags, delivery_mode: 0, priority: 0 };
        let mut left = flags;
        while left != 0 {
            // The highest bit set is the next property.
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a u16 has at most 16 leading zeros"
            )]
            let index = left.leading_zeros() as u8;
            left &= !(0x8000 >> index);
            match index {
                2 => drop(reader.long_bytes()?),
                3 => peek.delivery_mode = reader.u8()?,
                4 => peek.priority = reader.u8()?,
                9 => drop(reader.u64()?),
                _ => drop(reader.short_bytes()?),
            }
        }
        reader.finish()?;
        Ok(peek)
    }

    /// Whether delivery mode is 2.
    #[inline]
    #[must_use]
    pub const fn is_persistent(&self) -> bool {
        self.delivery_mode == 2
    }

    /// The delivery mode, if there is one.
    #[inline]
    #[must_use]
    pub const fn delivery_mode(&self) -> Option<u8> {
        if self.has(Property::DeliveryMode) { Some(self.delivery_mode) } else { None }
    }

    /// The priority, if there is one.
    #[inline]
    #[must_use]
    pub const fn priority(&self) -> Option<u8> {
        if self.has(Property::Priority) { Some(self.priority) } else { None }
    }

    /// Whether a property is there.
    #[inline]
    #[must_use]
    pub const fn has(&self, property: Property) -> bool {
        self.flags & property.flag() != 0
    }

    /// Whether any property is there that a broker acts upon: expiration, headers, reply-to or user-id.
    #[inline]
    #[must_use]
    pub const fn has_any_to_act_upon(&self) -> bool {
        const ACTED_UPON: u16 = Property::Expiration.flag()
            | Property::Headers.flag()
            | Property::ReplyTo.flag()
            | Property::UserId.flag();
        self.flags & ACTED_UPON != 0
    }
}

#[inline]
pub(crate) fn read_flags(raw: &[u8]) -> Result<(u16, Reader<'_>), DecodeError> {
    let mut reader = Reader::new(raw);
    let flags = reader.u16()?;
    if flags & UNKNOWN_FLAGS != 0 {
        return Err(DecodeError::UnknownPropertyFlags(flags));
    }
    Ok((flags, reader))
}
