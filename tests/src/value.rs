//! Field tables as RabbitMQ and its clients write them.

use crate::frame::{Args, Reader};

/// A value in a field table.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `t`
    Bool(bool),
    /// `b`
    Byte(i8),
    /// `s`
    Short(i16),
    /// `I`
    Int(i32),
    /// `l`
    Long(i64),
    /// `d`
    Double(f64),
    /// `S`
    Text(String),
    /// `A`
    Array(Vec<Self>),
    /// `T`, seconds since 1970
    Timestamp(u64),
    /// `F`
    Table(Vec<(String, Self)>),
    /// `x`
    Bytes(Vec<u8>),
    /// `V`
    Void,
}

impl Value {
    /// The integer, whatever its width.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Byte(value) => Some((*value).into()),
            Self::Short(value) => Some((*value).into()),
            Self::Int(value) => Some((*value).into()),
            Self::Long(value) => Some(*value),
            Self::Timestamp(value) => i64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The text of a long string.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// The value of a key, if this is a table that has it.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Table(fields) => {
                fields.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    pub(crate) fn write(&self, out: Args) -> Args {
        match self {
            Self::Bool(value) => out.octet(b't').octet((*value).into()),
            Self::Byte(value) => out.octet(b'b').bytes(&value.to_be_bytes()),
            Self::Short(value) => out.octet(b's').bytes(&value.to_be_bytes()),
            Self::Int(value) => out.octet(b'I').bytes(&value.to_be_bytes()),
            Self::Long(value) => out.octet(b'l').bytes(&value.to_be_bytes()),
            Self::Double(value) => out.octet(b'd').bytes(&value.to_be_bytes()),
            Self::Text(text) => out.octet(b'S').long_text(text.as_bytes()),
            Self::Timestamp(value) => out.octet(b'T').longlong(*value),
            Self::Table(fields) => out.octet(b'F').table(fields),
            Self::Bytes(bytes) => out.octet(b'x').long_text(bytes),
            Self::Void => out.octet(b'V'),
            Self::Array(values) => {
                let inner = values.iter().fold(Args::default(), |inner, value| value.write(inner));
                out.octet(b'A').long_text(&inner.0)
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        match reader.octet() {
            b't' => Self::Bool(reader.octet() != 0),
            b'b' => Self::Byte(i8::from_be_bytes(reader.array())),
            b's' => Self::Short(i16::from_be_bytes(reader.array())),
            b'I' => Self::Int(i32::from_be_bytes(reader.array())),
            b'l' => Self::Long(i64::from_be_bytes(reader.array())),
            b'd' => Self::Double(f64::from_be_bytes(reader.array())),
            b'S' => {
                Self::Text(String::from_utf8(reader.long_text().to_vec()).expect("text in UTF-8"))
            }
            b'T' => Self::Timestamp(reader.longlong()),
            b'F' => Self::Table(reader.table()),
            b'x' => Self::Bytes(reader.long_text().to_vec()),
            b'V' => Self::Void,
            b'A' => {
                let mut inner = Reader(reader.long_text());
                let mut values = Vec::new();
                while !inner.0.is_empty() {
                    values.push(Self::read(&mut inner));
                }
                Self::Array(values)
            }
            other => panic!("field type {:?} is not one that RabbitMQ sends", char::from(other)),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Int(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Long(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// A table in one line: `table([("x-max-length", 3.into())])`.
#[must_use]
pub fn table<const N: usize>(fields: [(&str, Value); N]) -> Vec<(String, Value)> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
