//! Changing some properties of an encoded list and keeping the bytes of all others.
//!
//! Unlike decoding and encoding, this cannot fail on a correlation id that is not UTF-8: clients send raw UUIDs.

use crate::{
    error::{DecodeError, EncodeError},
    properties::{Properties, Property, Shape, read_flags},
    raw_table::RawTable,
    table::Table,
};

/// A list of encoded properties, taken apart but not understood.
#[derive(Debug, Clone)]
pub struct Rewrite<'a> {
    /// Encoded values in the order of [`Property::ALL`].
    values: [Option<&'a [u8]>; Property::ALL.len()],
    /// New headers with their length, instead of the encoded ones.
    headers: Option<Vec<u8>>,
}

impl<'a> Rewrite<'a> {
    /// Takes a list apart.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] if a value ends early or bytes are left over; never for what
    /// [`Peek::decode`](crate::properties::Peek::decode) let pass.
    pub fn of(raw: &'a [u8]) -> Result<Self, DecodeError> {
        let (flags, mut reader) = read_flags(raw)?;
        let mut values = [None; Property::ALL.len()];
        for (property, value) in Property::ALL.into_iter().zip(&mut values) {
            if flags & property.flag() == 0 {
                continue;
            }
            let before = reader.rest();
            match property.shape() {
                Shape::Short => drop(reader.short_bytes()?),
                Shape::Table => drop(reader.long_bytes()?),
                Shape::Octet => drop(reader.u8()?),
                Shape::Octets8 => drop(reader.u64()?),
            }
            *value = before.get(..before.len() - reader.rest().len());
        }
        reader.finish()?;
        Ok(Self { values, headers: None })
    }

    /// The headers, as they are before [`Rewrite::set_headers`].
    #[must_use]
    pub fn headers(&self) -> Option<RawTable<'a>> {
        let encoded = self.value(Property::Headers)?;
        encoded.get(4..).map(RawTable::from_bytes)
    }

    /// Replaces the headers; an empty table removes them.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if the table has no encoding; nothing has changed then.
    pub fn set_headers(&mut self, headers: &Table) -> Result<(), EncodeError> {
        let mut encoded = Vec::new();
        headers.encode(&mut encoded)?;
        self.remove(Property::Headers);
        self.headers = (!headers.is_empty()).then_some(encoded);
        Ok(())
    }

    /// Removes a property.
    pub fn remove(&mut self, property: Property) {
        if property == Property::Headers {
            self.headers = None;
        }
        if let Some(value) = self.values.get_mut(property as usize) {
            *value = None;
        }
    }

    /// Appends flags and values.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let values = || {
            Property::ALL.into_iter().filter_map(|property| {
                let replaced = (property == Property::Headers).then_some(self.headers.as_deref());
                let value = replaced.flatten().or_else(|| self.value(property))?;
                Some((property, value))
            })
        };
        let flags = values().fold(0, |flags, (property, _)| flags | property.flag());
        out.extend_from_slice(&flags.to_be_bytes());
        values().for_each(|(_, value)| out.extend_from_slice(value));
    }

    fn value(&self, property: Property) -> Option<&'a [u8]> {
        self.values.get(property as usize).copied().flatten()
    }
}

/// The encoding of `properties` with these headers instead of theirs, to build a list from scratch.
///
/// # Errors
///
/// [`EncodeError`] if a string has more than 255 bytes or the table has no encoding.
pub fn encode_with_headers(
    properties: &Properties<'_>,
    headers: &Table,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let entries = headers.to_entries()?;
    Properties { headers: Some(RawTable::from_bytes(&entries)), ..*properties }.encode(out)
}
