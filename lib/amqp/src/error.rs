//! What can go wrong on the wire, and what the peer is told about it.
//!
//! Three levels: [`DecodeError`] and [`EncodeError`] belong to one value, [`Failure`] ends a channel or a connection.

use std::fmt;

/// Why bytes are not what they claim to be. Always the sender's fault; the same bytes never decode later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A field or a claimed length reaches past the end.
    #[error("a field reaches past the end of its frame")]
    Truncated,
    /// A short string is not UTF-8.
    #[error("a short string is not UTF-8")]
    NotUtf8,
    /// Something follows the last field.
    #[error("{0} bytes follow the last field")]
    Trailing(usize),
    /// The table of AMQP 0-9-1 and RabbitMQ's extensions has no such method.
    #[error("unknown method {class_id}.{method_id}")]
    UnknownMethod {
        /// The class as sent.
        class_id: u16,
        /// The method as sent.
        method_id: u16,
    },
    /// The property flags name properties that class `basic` does not have.
    #[error("unknown property flags {0:#06x}")]
    UnknownPropertyFlags(u16),
}

/// Why a value has no encoding. Nothing was written; shorten the value and encode again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A short string (name, key, tag) has at most 255 bytes.
    #[error("a short string must be at most 255 bytes, not {0}")]
    ShortStringTooLong(usize),
    /// A long string or table has at most 4,294,967,295 bytes.
    #[error("a long string or table must be at most 4294967295 bytes, not {0}")]
    TooLong(usize),
    /// A table nests deeper than [`crate::table::DEPTH_MAX`].
    #[error("a table must not nest deeper than {}", crate::table::DEPTH_MAX)]
    TooDeep,
}

macro_rules! reply_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal $reach:ident;)*) => {
        /// The reply codes of AMQP 0-9-1 §1.2 as RabbitMQ uses them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ReplyCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ReplyCode {
            /// Every code, ascending.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$name => $number,)* }
            }

            /// The constant's name in the specification, for example `NOT_FOUND`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it ends.
            #[must_use]
            pub const fn reach(self) -> Reach {
                match self { $(Self::$name => Reach::$reach,)* }
            }
        }
    };
}

reply_codes! {
    /// A normal close.
    Success = 200 "REPLY_SUCCESS" Nothing;
    /// A message is larger than the receiver takes.
    ContentTooLarge = 311 "CONTENT_TOO_LARGE" Channel;
    /// A mandatory message met no queue; only in `basic.return`.
    NoRoute = 312 "NO_ROUTE" Channel;
    /// Only in `basic.return`; unused.
    NoConsumers = 313 "NO_CONSUMERS" Channel;
    /// An operator or a shutdown closes the connection.
    ConnectionForced = 320 "CONNECTION_FORCED" Connection;
    /// Unknown virtual host by the specification; RabbitMQ says [`ReplyCode::NotAllowed`].
    InvalidPath = 402 "INVALID_PATH" Connection;
    /// No permission, a reserved name, or a refused login.
    AccessRefused = 403 "ACCESS_REFUSED" Channel;
    /// No such exchange or queue.
    NotFound = 404 "NOT_FOUND" Channel;
    /// The queue belongs to another connection.
    ResourceLocked = 405 "RESOURCE_LOCKED" Channel;
    /// Wrong arguments for what exists, an unknown delivery tag, a message over the limit.
    PreconditionFailed = 406 "PRECONDITION_FAILED" Channel;
    /// A frame that cannot be taken apart.
    FrameError = 501 "FRAME_ERROR" Connection;
    /// A method whose fields cannot be taken apart.
    SyntaxError = 502 "SYNTAX_ERROR" Connection;
    /// A method that this side never takes.
    CommandInvalid = 503 "COMMAND_INVALID" Connection;
    /// A channel that is not open, or is open already.
    ChannelError = 504 "CHANNEL_ERROR" Connection;
    /// A frame in the wrong place.
    UnexpectedFrame = 505 "UNEXPECTED_FRAME" Connection;
    /// The server ran out of something.
    ResourceError = 506 "RESOURCE_ERROR" Connection;
    /// Not for this client: virtual host, limits, reuse of a consumer tag.
    NotAllowed = 530 "NOT_ALLOWED" Connection;
    /// Part of the specification that is not there.
    NotImplemented = 540 "NOT_IMPLEMENTED" Connection;
    /// The server's own fault.
    InternalError = 541 "INTERNAL_ERROR" Connection;
}

/// What a reply code ends when it is sent as an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// No exception.
    Nothing,
    /// One channel: the specification's "soft error".
    Channel,
    /// The connection: the specification's "hard error".
    Connection,
}

impl ReplyCode {
    /// The code of a number on the wire, `None` if the specification has no such number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }

    /// Whether it ends one channel only.
    #[must_use]
    pub const fn is_soft(self) -> bool {
        matches!(self.reach(), Reach::Channel)
    }

    /// Whether it ends the connection.
    #[must_use]
    pub const fn is_hard(self) -> bool {
        matches!(self.reach(), Reach::Connection)
    }

    /// The reply text clients compare: `NOT_FOUND - ` and the detail. A detail that begins with the name stays as it
    /// is, and [`ReplyCode::Success`] has no name in front.
    #[must_use]
    pub fn text(self, detail: &str) -> String {
        let name = self.name();
        let named = detail.strip_prefix(name).is_some_and(|rest| rest.starts_with(" - "));
        if named || self == Self::Success {
            return detail.to_owned();
        }
        format!("{name} - {detail}")
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.name())
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// `connection.close` (or `channel.close`) was written; the peer answers.
    WithFrame,
    /// Write what is in the output, if anything, then close the socket: the peer gets no frame.
    SocketOnly,
}

/// Why this side ended a channel or the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The reply code, also where no frame carries it.
    pub code: ReplyCode,
    /// The reply text as sent, with the code's name in front.
    pub text: String,
    /// The class of the method that failed, 0 if none did.
    pub class_id: u16,
    /// The method that failed, 0 if none did.
    pub method_id: u16,
    /// Whether the peer was told.
    pub close: Close,
}

/// The front of `text` that fits a short string, cut between characters.
///
/// For reply texts only: a shortened name would be another name.
#[must_use]
pub fn short_text(text: &str) -> &str {
    text.get(..text.floor_char_boundary(SHORT_STRING_BYTES_MAX)).unwrap_or_default()
}

/// Bytes a short string can have: its length is one octet.
pub const SHORT_STRING_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_the_code_it_came_from() {
        for code in ReplyCode::ALL {
            assert_eq!(ReplyCode::from_number(code.number()), Some(*code));
            assert!(!(code.is_soft() && code.is_hard()));
        }
        assert_eq!(ReplyCode::from_number(299), None);
    }

    #[test]
    fn the_name_is_put_in_front_once() {
        let text = ReplyCode::NotFound.text("no queue 'q' in vhost '/'");

        assert_eq!(text, "NOT_FOUND - no queue 'q' in vhost '/'");
        assert_eq!(ReplyCode::NotFound.text(&text), text);
        assert_eq!(ReplyCode::Success.text("bye"), "bye");
    }

    #[test]
    fn a_reply_text_is_cut_between_characters() {
        let long = "ä".repeat(200);

        assert_eq!(short_text(&long).len(), 254);
        assert_eq!(short_text("short"), "short");
    }
}
