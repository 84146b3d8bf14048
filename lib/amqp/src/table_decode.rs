//! Decoding a field table with a stack of our own, so that no nesting reaches the program's.

use crate::{
    raw_table::{ValueRef, read_entry, read_value},
    reader::Reader,
    table::{DEPTH_MAX, ENTRIES_MAX, Table, TableError, Value},
};

/// A table or array that is being filled.
struct Open<'a> {
    /// The name under which it goes into the table around it; empty within an array.
    name: &'a str,
    rest: Reader<'a>,
    filled: Filled,
}

enum Filled {
    Table(Vec<(Box<str>, Value)>),
    Array(Vec<Value>),
}

/// Memory grows with entries read, never by a claimed length.
pub(crate) fn decode(entries: &[u8]) -> Result<Table, TableError> {
    let mut around: Vec<Open<'_>> = Vec::new();
    let mut current = Open::table("", entries);
    let mut entries_left = ENTRIES_MAX;
    loop {
        if current.rest.is_empty() {
            let name = current.name;
            let value = current.filled.finish()?;
            let Some(outer) = around.pop() else {
                return match value {
                    Value::Table(table) => Ok(table),
                    _ => Ok(Table::new()),
                };
            };
            current = outer;
            current.filled.push(name, value);
            continue;
        }
        let (name, value) = current.read()?;
        entries_left = entries_left.checked_sub(1).ok_or(TableError::TooManyEntries)?;
        let inner = match scalar(value) {
            Ok(value) => {
                current.filled.push(name, value);
                continue;
            }
            Err(Nested::Table(entries)) => Open::table(name, entries),
            Err(Nested::Array(elements)) => Open::array(name, elements),
        };
        // The outermost table is the first level, `current` and `inner` are two more than `around`.
        if around.len() + 2 > DEPTH_MAX {
            return Err(TableError::TooDeep);
        }
        around.push(std::mem::replace(&mut current, inner));
    }
}

impl<'a> Open<'a> {
    const fn table(name: &'a str, entries: &'a [u8]) -> Self {
        Self { name, rest: Reader::new(entries), filled: Filled::Table(Vec::new()) }
    }

    const fn array(name: &'a str, elements: &'a [u8]) -> Self {
        Self { name, rest: Reader::new(elements), filled: Filled::Array(Vec::new()) }
    }

    fn read(&mut self) -> Result<(&'a str, ValueRef<'a>), TableError> {
        match self.filled {
            Filled::Table(_) => read_entry(&mut self.rest),
            Filled::Array(_) => Ok(("", read_value(&mut self.rest)?)),
        }
    }
}

impl Filled {
    fn push(&mut self, name: &str, value: Value) {
        match self {
            Self::Table(entries) => entries.push((name.into(), value)),
            Self::Array(elements) => elements.push(value),
        }
    }

    fn finish(self) -> Result<Value, TableError> {
        match self {
            Self::Table(entries) if !Table::has_distinct_names(&entries) => {
                Err(TableError::DuplicateName)
            }
            Self::Table(entries) => Ok(Value::Table(Table::from_entries(entries))),
            Self::Array(elements) => Ok(Value::Array(elements)),
        }
    }
}

enum Nested<'a> {
    Table(&'a [u8]),
    Array(&'a [u8]),
}

/// The owned value, or what has to be opened first.
fn scalar(value: ValueRef<'_>) -> Result<Value, Nested<'_>> {
    Ok(match value {
        ValueRef::Bool(value) => Value::Bool(value),
        ValueRef::I8(value) => Value::I8(value),
        ValueRef::U8(value) => Value::U8(value),
        ValueRef::I16(value) => Value::I16(value),
        ValueRef::U16(value) => Value::U16(value),
        ValueRef::I32(value) => Value::I32(value),
        ValueRef::U32(value) => Value::U32(value),
        ValueRef::I64(value) => Value::I64(value),
        ValueRef::F32(value) => Value::F32(value),
        ValueRef::F64(value) => Value::F64(value),
        ValueRef::Decimal { scale, value } => Value::Decimal { scale, value },
        ValueRef::LongString(bytes) => Value::LongString(bytes.to_vec()),
        ValueRef::Timestamp(value) => Value::Timestamp(value),
        ValueRef::Void => Value::Void,
        ValueRef::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
        ValueRef::Array(array) => return Err(Nested::Array(array.as_bytes())),
        ValueRef::Table(table) => return Err(Nested::Table(table.as_bytes())),
    })
}
