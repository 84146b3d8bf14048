//! Field tables as values of the program: headers, arguments, properties of a peer.

use std::collections::HashSet;

use crate::{
    error::EncodeError,
    raw_table::RawTable,
    writer::{put_counted, put_long, put_short},
};

/// How deep tables and arrays may nest, the outermost table included.
///
/// Real headers nest three deep (`x-death`). Decoding keeps its own stack, but comparing, printing and dropping recurse:
/// 64 levels bound them.
pub const DEPTH_MAX: usize = 64;

/// How many entries and elements a table may have in all its depths.
///
/// An element is one octet at least on the wire and up to 56 in memory, so this bounds a decoded table to 4 MiB and
/// the strings in it.
pub const ENTRIES_MAX: usize = 65_535;

/// Why a received table cannot be used. Always the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// An entry or a claimed length reaches past the end.
    #[error("a field table ends within an entry")]
    Truncated,
    /// A name is not UTF-8.
    #[error("a name in a field table is not UTF-8")]
    NameNotUtf8,
    /// Neither RabbitMQ nor we know such a type.
    #[error("unknown field type {0:#04x}")]
    UnknownType(u8),
    /// It nests deeper than [`DEPTH_MAX`].
    #[error("a field table must not nest deeper than {DEPTH_MAX}")]
    TooDeep,
    /// It has more than [`ENTRIES_MAX`] entries and elements.
    #[error("a field table must not have more than {ENTRIES_MAX} entries")]
    TooManyEntries,
    /// One table has a name twice, which means different things to different readers.
    #[error("a field table has a name twice")]
    DuplicateName,
}

/// A field table: named values in the order they were added.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    entries: Vec<(Box<str>, Value)>,
}

/// A value of a field table.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `t`.
    Bool(bool),
    /// `b`.
    I8(i8),
    /// `B`, unsigned as RabbitMQ has it.
    U8(u8),
    /// `s`.
    I16(i16),
    /// `u`.
    U16(u16),
    /// `I`.
    I32(i32),
    /// `i`.
    U32(u32),
    /// `l`.
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
    LongString(Vec<u8>),
    /// `A`.
    Array(Vec<Self>),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `F`.
    Table(Table),
    /// `V`.
    Void,
    /// `x`.
    Bytes(Vec<u8>),
}

impl Table {
    /// A table without entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Trusts the names to be distinct.
    pub(crate) const fn from_entries(entries: Vec<(Box<str>, Value)>) -> Self {
        Self { entries }
    }

    /// Puts a value under a name, in place of the value that was there.
    pub fn insert(&mut self, name: impl Into<Box<str>>, value: impl Into<Value>) -> Option<Value> {
        let (name, value) = (name.into(), value.into());
        if let Some((_, slot)) = self.entries.iter_mut().find(|(key, _)| *key == name) {
            return Some(std::mem::replace(slot, value));
        }
        self.entries.push((name, value));
        None
    }

    /// Takes a value out; the others keep their order.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let index = self.entries.iter().position(|(key, _)| &**key == name)?;
        Some(self.entries.remove(index).1)
    }

    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.entries.iter().find(|(key, _)| &**key == name).map(|(_, value)| value)
    }

    /// The value of a name, to change it.
    #[must_use]
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.entries.iter_mut().find(|(key, _)| &**key == name).map(|(_, value)| value)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + DoubleEndedIterator {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// How many entries this table itself has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends the encoded table with its four octets of length.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if a name has more than 255 bytes or it nests deeper than [`DEPTH_MAX`]; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let encoded = put_counted(out, |out| self.write_entries(out, 1));
        if encoded.is_err() {
            out.truncate(start);
        }
        encoded
    }

    /// The encoded entries, *without* length: what [`RawTable::from_bytes`] takes.
    ///
    /// # Errors
    ///
    /// As [`Table::encode`].
    pub fn to_entries(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        self.write_entries(&mut out, 1)?;
        Ok(out)
    }

    /// Recursion ends at [`DEPTH_MAX`].
    fn write_entries(&self, out: &mut Vec<u8>, depth: usize) -> Result<(), EncodeError> {
        if depth > DEPTH_MAX {
            return Err(EncodeError::TooDeep);
        }
        for (name, value) in &self.entries {
            put_short(out, name.as_bytes())?;
            value.write(out, depth)?;
        }
        Ok(())
    }

    pub(crate) fn has_distinct_names(entries: &[(Box<str>, Value)]) -> bool {
        /// Up to here comparing all pairs is quicker than hashing.
        const PAIRS_MAX: usize = 16;
        if entries.len() > PAIRS_MAX {
            let mut seen = HashSet::with_capacity(entries.len());
            return entries.iter().all(|(name, _)| seen.insert(name));
        }
        let mut rest = entries;
        while let Some(((name, _), others)) = rest.split_first() {
            if others.iter().any(|(other, _)| other == name) {
                return false;
            }
            rest = others;
        }
        true
    }
}

impl TryFrom<RawTable<'_>> for Table {
    type Error = TableError;

    fn try_from(raw: RawTable<'_>) -> Result<Self, TableError> {
        raw.decode()
    }
}

/// Later values replace earlier ones of the same name.
impl<N: Into<Box<str>>, V: Into<Value>> FromIterator<(N, V)> for Table {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let mut table = Self::new();
        for (name, value) in entries {
            table.insert(name, value);
        }
        table
    }
}

impl Value {
    /// The text of a long string that is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::LongString(bytes) => std::str::from_utf8(bytes).ok(),
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
    pub const fn as_table(&self) -> Option<&Table> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The nested array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// RabbitMQ's name of the type, which its reply texts contain: `expected integer, got longstr`.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongString(_) => "longstr",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::Void => "void",
            Self::Bytes(_) => "binary",
        }
    }

    fn write(&self, out: &mut Vec<u8>, depth: usize) -> Result<(), EncodeError> {
        match self {
            Self::Bool(value) => out.extend_from_slice(&[b't', u8::from(*value)]),
            Self::I8(value) => put_scalar(out, b'b', value.to_be_bytes()),
            Self::U8(value) => put_scalar(out, b'B', [*value]),
            Self::I16(value) => put_scalar(out, b's', value.to_be_bytes()),
            Self::U16(value) => put_scalar(out, b'u', value.to_be_bytes()),
            Self::I32(value) => put_scalar(out, b'I', value.to_be_bytes()),
            Self::U32(value) => put_scalar(out, b'i', value.to_be_bytes()),
            Self::I64(value) => put_scalar(out, b'l', value.to_be_bytes()),
            Self::F32(value) => put_scalar(out, b'f', value.to_be_bytes()),
            Self::F64(value) => put_scalar(out, b'd', value.to_be_bytes()),
            Self::Decimal { scale, value } => {
                out.extend_from_slice(&[b'D', *scale]);
                out.extend_from_slice(&value.to_be_bytes());
            }
            Self::Timestamp(value) => put_scalar(out, b'T', value.to_be_bytes()),
            Self::Void => out.push(b'V'),
            Self::LongString(bytes) => {
                out.push(b'S');
                put_long(out, bytes)?;
            }
            Self::Bytes(bytes) => {
                out.push(b'x');
                put_long(out, bytes)?;
            }
            Self::Array(elements) => {
                out.push(b'A');
                put_counted(out, |out| write_elements(elements, out, depth + 1))?;
            }
            Self::Table(table) => {
                out.push(b'F');
                put_counted(out, |out| table.write_entries(out, depth + 1))?;
            }
        }
        Ok(())
    }
}

fn put_scalar<const N: usize>(out: &mut Vec<u8>, tag: u8, octets: [u8; N]) {
    out.push(tag);
    out.extend_from_slice(&octets);
}

fn write_elements(elements: &[Value], out: &mut Vec<u8>, depth: usize) -> Result<(), EncodeError> {
    if depth > DEPTH_MAX {
        return Err(EncodeError::TooDeep);
    }
    elements.iter().try_for_each(|element| element.write(out, depth))
}

macro_rules! value_from {
    ($($kind:ty => $variant:ident,)*) => {
        $(impl From<$kind> for Value {
            fn from(value: $kind) -> Self {
                Self::$variant(value.into())
            }
        })*
    };
}

value_from! {
    bool => Bool,
    i8 => I8,
    u8 => U8,
    i16 => I16,
    u16 => U16,
    i32 => I32,
    u32 => U32,
    i64 => I64,
    f32 => F32,
    f64 => F64,
    &str => LongString,
    String => LongString,
    Table => Table,
    Vec<Self> => Array,
}
