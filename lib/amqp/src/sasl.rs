//! Login responses of the mechanisms RabbitMQ offers: PLAIN (RFC 4616) and AMQPLAIN.

use std::fmt;

use crate::{
    error::EncodeError,
    raw_table::{RawTable, ValueRef},
    table::{Table, TableError},
};

/// A login name and its password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// The name.
    pub login: &'a str,
    /// The password, or a token; any bytes.
    pub password: &'a [u8],
}

/// Shows no password.
impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("login", &self.login).finish_non_exhaustive()
    }
}

/// Why a response names no login. RabbitMQ then closes the socket without a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SaslError {
    /// Not `\0login\0password`. RabbitMQ takes no authorization identity in front, and no NUL in the password.
    #[error("a PLAIN response must be NUL, login, NUL, password")]
    NotPlain,
    /// The login name is not UTF-8.
    #[error("the login name is not UTF-8")]
    LoginNotUtf8,
    /// LOGIN or PASSWORD is missing or no long string.
    #[error("an AMQPLAIN response must have the long strings LOGIN and PASSWORD")]
    NotAmqplain,
    /// The table of an AMQPLAIN response cannot be read.
    #[error("an AMQPLAIN response must be a field table")]
    Table(#[from] TableError),
}

impl<'a> Credentials<'a> {
    /// Reads a PLAIN response.
    ///
    /// # Errors
    ///
    /// [`SaslError`] if it is not one.
    pub fn from_plain(response: &'a [u8]) -> Result<Self, SaslError> {
        let mut parts = response.split(|octet| *octet == 0);
        let (Some([]), Some(login), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SaslError::NotPlain);
        };
        Ok(Self { login: utf8(login)?, password })
    }

    /// Reads an AMQPLAIN response: the entries of a table, without its length.
    ///
    /// # Errors
    ///
    /// [`SaslError`] if it is not one.
    pub fn from_amqplain(response: &'a [u8]) -> Result<Self, SaslError> {
        let (mut login, mut password) = (None, None);
        for entry in RawTable::from_bytes(response) {
            match entry? {
                ("LOGIN", ValueRef::LongString(bytes)) => login = login.or(Some(bytes)),
                ("PASSWORD", ValueRef::LongString(bytes)) => password = password.or(Some(bytes)),
                _ => {}
            }
        }
        let (Some(login), Some(password)) = (login, password) else {
            return Err(SaslError::NotAmqplain);
        };
        Ok(Self { login: utf8(login)?, password })
    }

    /// The PLAIN response; neither part may contain NUL.
    #[must_use]
    pub fn to_plain(&self) -> Vec<u8> {
        [b"\0", self.login.as_bytes(), b"\0", self.password].concat()
    }

    /// The AMQPLAIN response.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if a part has more than 4,294,967,295 bytes.
    pub fn to_amqplain(&self) -> Result<Vec<u8>, EncodeError> {
        use crate::table::Value::LongString;
        let login = ("LOGIN", LongString(self.login.as_bytes().to_vec()));
        let password = ("PASSWORD", LongString(self.password.to_vec()));
        Table::from_iter([login, password]).to_entries()
    }
}

fn utf8(login: &[u8]) -> Result<&str, SaslError> {
    std::str::from_utf8(login).map_err(|_| SaslError::LoginNotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_mechanisms_give_back_what_was_put_in() {
        let credentials = Credentials { login: "müller", password: b"p\xff" };

        let plain = credentials.to_plain();
        let amqplain = credentials.to_amqplain().expect("short");

        assert_eq!(Credentials::from_plain(&plain), Ok(credentials));
        assert_eq!(Credentials::from_amqplain(&amqplain), Ok(credentials));
        assert!(!format!("{credentials:?}").contains("password"));
    }

    #[test]
    fn a_plain_response_is_nul_login_nul_password() {
        let responses: [&[u8]; 6] = [b"", b"\0", b"\0a", b"a\0b", b"id\0a\0b", b"\0a\0b\0"];
        for response in responses {
            assert_eq!(Credentials::from_plain(response), Err(SaslError::NotPlain));
        }
        assert_eq!(Credentials::from_plain(b"\0\xff\0b"), Err(SaslError::LoginNotUtf8));
        let empty = Credentials { login: "a", password: b"" };
        assert_eq!(Credentials::from_plain(b"\0a\0"), Ok(empty));
    }

    #[test]
    fn an_amqplain_response_has_login_and_password_as_long_strings() {
        assert_eq!(Credentials::from_amqplain(b""), Err(SaslError::NotAmqplain));
        let number = b"\x05LOGINI\0\0\0\x01\x08PASSWORDS\0\0\0\x01x";
        assert_eq!(Credentials::from_amqplain(number), Err(SaslError::NotAmqplain));
        let cut = b"\x05LOGINS\0\0\0\x09a";
        assert_eq!(Credentials::from_amqplain(cut), Err(SaslError::Table(TableError::Truncated)));
    }
}
