//! Checking one argument of a declaration, and saying what is wrong with it in RabbitMQ's words.
//!
//! Clients' test suites compare these texts, so they print Erlang terms where RabbitMQ does: `{value_negative,-1}`. A
//! door puts `PRECONDITION_FAILED - ` in front.

use std::fmt;

use posthouse_amqp::table::{Table, Value};

use crate::naming::Named;

/// Longest time that an argument or property may give, in milliseconds: ten years of 365 days.
pub const TIME_MS_MAX: i64 = 315_360_000_000;

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Not an integer but of this type.
    NotInteger(&'static str),
    /// Not of the type that is needed, but of this one.
    UnacceptableType(&'static str),
    /// Below zero.
    Negative(i64),
    /// Zero, where that makes no sense.
    Zero(i64),
    /// A time of more than [`TIME_MS_MAX`].
    TooLarge(i64),
    /// Over the greatest value there is.
    MaxExceeded(i64),
    /// Not one of the known words; the name of the fault.
    Unknown(&'static str),
    /// Said in words.
    Said(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInteger(found) => write!(f, "\"expected integer, got {found}\""),
            Self::UnacceptableType(found) => write!(f, "{{unacceptable_type,{found}}}"),
            Self::Negative(value) => write!(f, "{{value_negative,{value}}}"),
            Self::Zero(value) => write!(f, "{{value_zero,{value}}}"),
            Self::TooLarge(value) => write!(f, "{{value_too_large,{value}}}"),
            Self::MaxExceeded(value) => write!(f, "{{max_value_exceeded,{value}}}"),
            Self::Unknown(name) => f.write_str(name),
            Self::Said(text) => write!(f, "\"{text}\""),
        }
    }
}

/// Why a declaration is refused because of an argument. The sender's fault; AMQP: 406.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// The value cannot be used.
    #[error("invalid arg '{argument}' for {of}: {fault}")]
    Invalid {
        /// Name of the argument.
        argument: Box<str>,
        /// What was declared.
        of: Named,
        /// What is wrong.
        fault: Fault,
    },
    /// An exchange name that is not a string.
    #[error("invalid type '{found}' for arg '{argument}' in {of}")]
    InvalidType {
        /// Name of the argument.
        argument: Box<str>,
        /// What was declared.
        of: Named,
        /// Type of the value.
        found: &'static str,
    },
    /// A queue of that type cannot have the argument.
    #[error("invalid arg '{argument}' for {of} of queue type {queue_type}")]
    NotForType {
        /// Name of the argument.
        argument: Box<str>,
        /// What was declared.
        of: Named,
        /// RabbitMQ's name of the type's module.
        queue_type: &'static str,
    },
    /// A queue of that type cannot have the property.
    #[error("invalid property '{property}' for {of}")]
    InvalidProperty {
        /// `non-durable` or `exclusive-owner`.
        property: &'static str,
        /// What was declared.
        of: Named,
    },
    /// Anything else, in words.
    #[error("{0}")]
    Said(String),
}

/// The arguments of one declaration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments<'a> {
    pub(crate) table: &'a Table,
    pub(crate) of: &'a Named,
}

impl<'a> Arguments<'a> {
    pub(crate) fn invalid(&self, argument: &str, fault: Fault) -> ArgumentError {
        ArgumentError::Invalid { argument: argument.into(), of: self.of.clone(), fault }
    }

    /// An integer of any width.
    pub(crate) fn integer(&self, argument: &str) -> Result<Option<i64>, ArgumentError> {
        let Some(value) = self.table.get(argument) else { return Ok(None) };
        let integer = value
            .as_i64()
            .ok_or_else(|| self.invalid(argument, Fault::NotInteger(value.type_name())))?;
        Ok(Some(integer))
    }

    /// An integer that is not negative.
    pub(crate) fn natural(&self, argument: &str) -> Result<Option<u64>, ArgumentError> {
        let Some(value) = self.integer(argument)? else { return Ok(None) };
        let natural =
            u64::try_from(value).map_err(|_| self.invalid(argument, Fault::Negative(value)))?;
        Ok(Some(natural))
    }

    /// A time in milliseconds, of at most ten years.
    pub(crate) fn time_ms(&self, argument: &str) -> Result<Option<u64>, ArgumentError> {
        match self.integer(argument)? {
            Some(value) if value > TIME_MS_MAX => {
                Err(self.invalid(argument, Fault::TooLarge(value)))
            }
            _ => self.natural(argument),
        }
    }

    /// A time in milliseconds that is not zero.
    pub(crate) fn positive_time_ms(&self, argument: &str) -> Result<Option<u64>, ArgumentError> {
        match self.time_ms(argument)? {
            Some(0) => Err(self.invalid(argument, Fault::Zero(0))),
            value => Ok(value),
        }
    }

    /// Text.
    pub(crate) fn text(&self, argument: &str) -> Result<Option<&'a str>, ArgumentError> {
        let Some(value) = self.table.get(argument) else { return Ok(None) };
        let text = value
            .as_str()
            .ok_or_else(|| self.invalid(argument, Fault::UnacceptableType(value.type_name())))?;
        Ok(Some(text))
    }

    /// The name of an exchange, which has a complaint of its own.
    pub(crate) fn exchange_name(&self, argument: &str) -> Result<Option<&'a str>, ArgumentError> {
        let Some(value) = self.table.get(argument) else { return Ok(None) };
        let name = value.as_str().ok_or_else(|| ArgumentError::InvalidType {
            argument: argument.into(),
            of: self.of.clone(),
            found: value.type_name(),
        })?;
        Ok(Some(name))
    }

    /// True or false.
    pub(crate) fn boolean(&self, argument: &str) -> Result<Option<bool>, ArgumentError> {
        let Some(value) = self.table.get(argument) else { return Ok(None) };
        let boolean = value
            .as_bool()
            .ok_or_else(|| self.invalid(argument, Fault::UnacceptableType(value.type_name())))?;
        Ok(Some(boolean))
    }

    /// One of some words; any other is the fault of that name.
    pub(crate) fn word<T: Copy>(
        &self,
        argument: &str,
        words: &[(&str, T)],
        fault: &'static str,
    ) -> Result<Option<T>, ArgumentError> {
        let Some(text) = self.text(argument)? else { return Ok(None) };
        words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, meaning)| Some(*meaning))
            .ok_or_else(|| self.invalid(argument, Fault::Unknown(fault)))
    }
}

/// Whether two values say the same: integers of different width, text and bytes may.
///
/// This is `==` of Erlang on the values without their types, which RabbitMQ compares arguments and headers with.
#[must_use]
pub fn same_value(left: &Value, right: &Value) -> bool {
    match (integer(left), integer(right)) {
        (Some(left), Some(right)) => return left == right,
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => {
            return matches!((float(left), float(right)), (Some(left), Some(right)) if left == right);
        }
    }
    match (bytes(left), bytes(right)) {
        (Some(left), Some(right)) => left == right,
        _ => match (float(left), float(right)) {
            (Some(left), Some(right)) => left == right,
            _ => left == right,
        },
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Timestamp(seconds) => Some(i128::from(*seconds)),
        _ => value.as_i64().map(i128::from),
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::F32(value) => Some(f64::from(*value)),
        Value::F64(value) => Some(*value),
        #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 an equal float is near enough")]
        _ => integer(value).map(|value| value as f64),
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::LongString(bytes) | Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

/// A value as RabbitMQ's texts show it, without its type.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::LongString(bytes) | Value::Bytes(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        Value::Bool(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::Timestamp(seconds) => seconds.to_string(),
        Value::Void => "undefined".into(),
        Value::Decimal { scale, value } => format!("{{{scale},{value}}}"),
        Value::Array(elements) => {
            let elements: Vec<_> = elements.iter().map(shown).collect();
            format!("[{}]", elements.join(","))
        }
        Value::Table(table) => {
            let entries: Vec<_> =
                table.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
            format!("[{}]", entries.join(","))
        }
        Value::I8(_)
        | Value::U8(_)
        | Value::I16(_)
        | Value::U16(_)
        | Value::I32(_)
        | Value::U32(_)
        | Value::I64(_) => value.as_i64().unwrap_or_default().to_string(),
    }
}

/// A redeclaration that differs from what is there. AMQP: 406.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("inequivalent arg '{argument}' for {of}: received {received} but current is {current}")]
pub struct Inequivalent {
    /// The property or argument.
    pub argument: Box<str>,
    /// What was declared.
    pub of: Named,
    /// What the client said.
    pub received: String,
    /// What is.
    pub current: String,
}

impl Inequivalent {
    /// Compares a property.
    pub(crate) fn check_property<T: PartialEq + fmt::Display + ?Sized>(
        argument: &str,
        of: &Named,
        current: &T,
        received: &T,
    ) -> Result<(), Self> {
        if current == received {
            return Ok(());
        }
        Err(Self {
            argument: argument.into(),
            of: of.clone(),
            received: format!("'{received}'"),
            current: format!("'{current}'"),
        })
    }

    /// Compares an argument.
    pub(crate) fn check_argument(
        argument: &str,
        of: &Named,
        current: &Table,
        received: &Table,
    ) -> Result<(), Self> {
        let (received, current) = match (received.get(argument), current.get(argument)) {
            (None, None) => return Ok(()),
            (Some(received), Some(current)) if same_value(received, current) => return Ok(()),
            (Some(received), Some(current)) => {
                (format!("'{}'", shown(received)), format!("'{}'", shown(current)))
            }
            (received, current) => (with_type(received), with_type(current)),
        };
        Err(Self { argument: argument.into(), of: of.clone(), received, current })
    }
}

fn with_type(value: Option<&Value>) -> String {
    value.map_or_else(
        || "none".into(),
        |value| format!("the value '{}' of type '{}'", shown(value), value.type_name()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_the_same_across_widths_but_not_across_kinds() {
        assert!(same_value(&Value::I8(1), &Value::I64(1)));
        assert!(same_value(&Value::I32(1), &Value::F64(1.0)));
        assert!(same_value(&"a".into(), &Value::Bytes(b"a".to_vec())));
        assert!(!same_value(&Value::I32(1), &"1".into()));
        assert!(!same_value(&Value::Bool(true), &Value::I32(1)));
        assert!(!same_value(&Value::I64(2), &Value::I64(1)));
    }
}
