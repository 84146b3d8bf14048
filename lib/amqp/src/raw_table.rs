//! Field tables as received: looked into without decoding all of it and without allocating.

use std::str;

use crate::{
    error::DecodeError,
    reader::Reader,
    table::{DEPTH_MAX, ENTRIES_MAX, Table, TableError},
};

/// The entries of a field table, still encoded. Only the outer length has been checked.
///
/// Types are RabbitMQ's: `t b B s u I i l L f d D S A T F V x`, where `B` is an unsigned octet and `L` reads as `l`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawTable<'a> {
    entries: &'a [u8],
}

impl<'a> RawTable<'a> {
    /// No entries.
    pub const EMPTY: RawTable<'static> = RawTable { entries: &[] };

    /// A table of encoded entries, *without* the four octets of length.
    #[inline]
    #[must_use]
    pub const fn from_bytes(entries: &'a [u8]) -> Self {
        Self { entries }
    }

    /// The encoded entries, without the four octets of length.
    #[inline]
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.entries
    }

    /// Whether there is no entry.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The whole table, owned and checked in every depth.
    ///
    /// # Errors
    ///
    /// [`TableError`] if it is cut short, too deep, too wide, has a name twice, an unknown type or a name that is not
    /// UTF-8.
    pub fn decode(&self) -> Result<Table, TableError> {
        crate::table_decode::decode(self.entries)
    }

    /// Whether it can be read in every depth, within the limits of depth and size; allocates only for what nests.
    ///
    /// For tables that pass through: whoever reads them later must be able to.
    ///
    /// # Errors
    ///
    /// [`TableError`] but [`TableError::DuplicateName`], which readers that look for one name can live with.
    pub fn check(&self) -> Result<(), TableError> {
        let mut outer: Vec<Level<'a>> = Vec::new();
        let mut level = Level::Table(self.iter());
        let mut entries = 0_usize;
        loop {
            let value = match &mut level {
                Level::Table(entries) => entries.next().transpose()?.map(|(_, value)| value),
                Level::Array(elements) => elements.next().transpose()?,
            };
            let inner = match value {
                None => match outer.pop() {
                    Some(around) => {
                        level = around;
                        continue;
                    }
                    None => return Ok(()),
                },
                Some(ValueRef::Table(table)) => Some(Level::Table(table.iter())),
                Some(ValueRef::Array(array)) => Some(Level::Array(array.iter())),
                Some(_) => None,
            };
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(TableError::TooManyEntries);
            }
            let Some(inner) = inner else { continue };
            if outer.len() + 1 >= DEPTH_MAX {
                return Err(TableError::TooDeep);
            }
            outer.push(std::mem::replace(&mut level, inner));
        }
    }

    /// The value of the first entry of that name.
    ///
    /// # Errors
    ///
    /// [`TableError`] if an entry up to there cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<ValueRef<'a>>, TableError> {
        for entry in self.iter() {
            let (key, value) = entry?;
            if key == name {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The entries in order. After an error there are no more.
    #[must_use]
    pub const fn iter(&self) -> Entries<'a> {
        Entries { rest: Reader::new(self.entries) }
    }
}

impl<'a> IntoIterator for RawTable<'a> {
    type Item = Result<(&'a str, ValueRef<'a>), TableError>;
    type IntoIter = Entries<'a>;

    fn into_iter(self) -> Entries<'a> {
        self.iter()
    }
}

/// The elements of a field array, still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawArray<'a> {
    elements: &'a [u8],
}

impl<'a> RawArray<'a> {
    pub(crate) const fn as_bytes(&self) -> &'a [u8] {
        self.elements
    }

    /// The elements in order. After an error there are no more.
    #[must_use]
    pub const fn iter(&self) -> Elements<'a> {
        Elements { rest: Reader::new(self.elements) }
    }
}

impl<'a> IntoIterator for RawArray<'a> {
    type Item = Result<ValueRef<'a>, TableError>;
    type IntoIter = Elements<'a>;

    fn into_iter(self) -> Elements<'a> {
        self.iter()
    }
}

/// One value; nested tables and arrays are still encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// `t`.
    Bool(bool),
    /// `b`.
    I8(i8),
    /// `B`.
    U8(u8),
    /// `s`.
    I16(i16),
    /// `u`.
    U16(u16),
    /// `I`.
    I32(i32),
    /// `i`.
    U32(u32),
    /// `l` or `L`.
    I64(i64),
    /// `f`.
    F32(f32),
    /// `d`.
    F64(f64),
    /// `D`: `value` divided by ten to the power of `scale`.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// `S`: usually UTF-8, but any bytes.
    LongString(&'a [u8]),
    /// `A`.
    Array(RawArray<'a>),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`.
    Table(RawTable<'a>),
    /// `V`.
    Void,
    /// `x`.
    Bytes(&'a [u8]),
}

impl<'a> ValueRef<'a> {
    /// The text of a long string that is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&'a str> {
        match self {
            Self::LongString(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number, if it is an integer of any width.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I8(value) => Some(value.into()),
            Self::U8(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::I64(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a `t`.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The nested table.
    #[must_use]
    pub const fn as_table(&self) -> Option<RawTable<'a>> {
        match *self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The nested array.
    #[must_use]
    pub const fn as_array(&self) -> Option<RawArray<'a>> {
        match *self {
            Self::Array(array) => Some(array),
            _ => None,
        }
    }
}

/// Where a check is within nested tables and arrays.
enum Level<'a> {
    Table(Entries<'a>),
    Array(Elements<'a>),
}

/// Iterator over a [`RawTable`].
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    rest: Reader<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(&'a str, ValueRef<'a>), TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = read_entry(&mut self.rest);
        if entry.is_err() {
            self.rest = Reader::new(&[]);
        }
        Some(entry)
    }
}

/// Iterator over a [`RawArray`].
#[derive(Debug, Clone)]
pub struct Elements<'a> {
    rest: Reader<'a>,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<ValueRef<'a>, TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let element = read_value(&mut self.rest);
        if element.is_err() {
            self.rest = Reader::new(&[]);
        }
        Some(element)
    }
}

pub(crate) fn read_entry<'a>(
    reader: &mut Reader<'a>,
) -> Result<(&'a str, ValueRef<'a>), TableError> {
    let name = reader.short_str().map_err(|error| match error {
        DecodeError::NotUtf8 => TableError::NameNotUtf8,
        _ => TableError::Truncated,
    })?;
    Ok((name, read_value(reader)?))
}

pub(crate) fn read_value<'a>(reader: &mut Reader<'a>) -> Result<ValueRef<'a>, TableError> {
    let tag = reader.u8().map_err(|_| TableError::Truncated)?;
    let value = match tag {
        b't' => reader.u8().map(|octet| ValueRef::Bool(octet != 0)),
        b'b' => reader.array().map(i8::from_be_bytes).map(ValueRef::I8),
        b'B' => reader.u8().map(ValueRef::U8),
        b's' => reader.array().map(i16::from_be_bytes).map(ValueRef::I16),
        b'u' => reader.u16().map(ValueRef::U16),
        b'I' => reader.array().map(i32::from_be_bytes).map(ValueRef::I32),
        b'i' => reader.u32().map(ValueRef::U32),
        b'l' | b'L' => reader.array().map(i64::from_be_bytes).map(ValueRef::I64),
        b'f' => reader.array().map(f32::from_be_bytes).map(ValueRef::F32),
        b'd' => reader.array().map(f64::from_be_bytes).map(ValueRef::F64),
        b'D' => reader
            .u8()
            .and_then(|scale| reader.u32().map(|value| ValueRef::Decimal { scale, value })),
        b'S' => reader.long_bytes().map(ValueRef::LongString),
        b'A' => reader.long_bytes().map(|elements| ValueRef::Array(RawArray { elements })),
        b'T' => reader.u64().map(ValueRef::Timestamp),
        b'F' => reader.long_bytes().map(RawTable::from_bytes).map(ValueRef::Table),
        b'V' => Ok(ValueRef::Void),
        b'x' => reader.long_bytes().map(ValueRef::Bytes),
        unknown => return Err(TableError::UnknownType(unknown)),
    };
    value.map_err(|_| TableError::Truncated)
}
