//! How a handler ends: its return value settles the message, once.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::codec::Format;
use crate::later::Later;

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It is done with.
    Ack,
    /// It is answered, if it asked for an answer, and done with.
    Reply(Answer),
    /// It is tried again, until it has been often enough; then it is given up.
    Retry {
        /// When, instead of what the consumer's backoff says.
        after: Option<Duration>,
        /// Why.
        reason: String,
    },
    /// As [`Outcome::Retry`], and the consumer takes no other message until then: what all of them need is busy or away.
    Pause {
        /// How long, at most an hour.
        wait: Duration,
        /// Why.
        reason: String,
    },
    /// It goes to the dead letters at once.
    Dead {
        /// Why.
        reason: String,
    },
    /// It is forgotten.
    Drop {
        /// Why.
        reason: String,
    },
    /// It goes back to its place at once, for somebody else; not an attempt of ours. In an order by key it would be
    /// overtaken: there it is tried again here, as after a conflict.
    Release,
    /// Not its fault, and not an attempt: it is tried again within moments, in the worker's hands; after a while of that
    /// it goes back to its place.
    Conflict {
        /// What was in its way.
        reason: String,
    },
    /// It is settled by whoever has taken this promise's [`crate::Held`].
    Later(Later),
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub(crate) body: Bytes,
    pub(crate) content_type: String,
    pub(crate) content_encoding: Option<String>,
    /// The property `type`, if it is not an ordinary answer.
    pub(crate) kind: Option<String>,
}

impl Answer {
    /// An answer of any type.
    #[must_use]
    pub fn new(body: impl Into<Bytes>, content_type: impl Into<String>) -> Self {
        let (body, content_type) = (body.into(), content_type.into());
        Self { body, content_type, content_encoding: None, kind: None }
    }

    /// The body is compressed, as `content-encoding` of HTTP says it.
    #[must_use]
    pub fn content_encoding(mut self, encoding: impl Into<String>) -> Self {
        self.content_encoding = Some(encoding.into());
        self
    }
}

/// The message was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack;

/// The message was handled, and this is the answer, in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<T>(pub T);

/// Why a message was not handled, and what is to become of it.
///
/// Any error becomes a [`Fail::retry`] by `?`; one that says that transactions were in each other's way becomes a
/// [`Fail::conflict`] (with a feature for a database).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fail(Outcome);

impl Fail {
    /// Again, when the consumer's backoff says.
    pub fn retry(reason: impl Display) -> Self {
        Self(Outcome::Retry { after: None, reason: reason.to_string() })
    }

    /// Again, not before so long. What is longer than the longest wait of the consumer's backoff is shortened to that.
    pub fn after(wait: Duration, reason: impl Display) -> Self {
        Self(Outcome::Retry { after: Some(wait), reason: reason.to_string() })
    }

    /// Again, not before so long, as [`Fail::after`]; and this consumer takes no other message until then, at most for an
    /// hour. For what all messages need and is busy or away; other queues go on.
    pub fn pause(wait: Duration, reason: impl Display) -> Self {
        Self(Outcome::Pause { wait, reason: reason.to_string() })
    }

    /// Never again: to the dead letters.
    pub fn dead(reason: impl Display) -> Self {
        Self(Outcome::Dead { reason: reason.to_string() })
    }

    /// Never again, and nobody wants to see it.
    pub fn drop(reason: impl Display) -> Self {
        Self(Outcome::Drop { reason: reason.to_string() })
    }

    /// Back to its place at once, for somebody else.
    #[must_use]
    pub const fn release() -> Self {
        Self(Outcome::Release)
    }

    /// Again within moments, without counting: transactions were in each other's way, or what all messages need is away.
    pub fn conflict(reason: impl Display) -> Self {
        Self(Outcome::Conflict { reason: reason.to_string() })
    }

    /// Handled before: it is acknowledged without a handler.
    #[cfg(feature = "outbox")]
    pub(crate) const fn handled_before() -> Self {
        Self(Outcome::Ack)
    }
}

impl<E: std::error::Error + 'static> From<E> for Fail {
    fn from(error: E) -> Self {
        #[cfg(feature = "outbox")]
        if posthouse_outbox::is_conflict(&error) {
            return Self::conflict(story(&error));
        }
        Self::retry(story(&error))
    }
}

/// What an error says, and what has caused it.
pub(crate) fn story(error: &dyn std::error::Error) -> String {
    let mut story = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        story.push_str(": ");
        story.push_str(&cause.to_string());
        source = cause.source();
    }
    story
}

/// What a handler may return.
pub trait IntoOutcome {
    /// What it means for the message.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl IntoOutcome for Ack {
    fn into_outcome(self) -> Outcome {
        Outcome::Ack
    }
}

impl IntoOutcome for Later {
    fn into_outcome(self) -> Outcome {
        Outcome::Later(self)
    }
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Ack
    }
}

impl IntoOutcome for Fail {
    fn into_outcome(self) -> Outcome {
        self.0
    }
}

impl IntoOutcome for Answer {
    fn into_outcome(self) -> Outcome {
        Outcome::Reply(self)
    }
}

impl<T: Serialize> IntoOutcome for Reply<T> {
    fn into_outcome(self) -> Outcome {
        match Format::Json.encode(&self.0) {
            Ok(body) => Outcome::Reply(Answer::new(body, Format::Json.content_type())),
            Err(error) => Outcome::Dead { reason: error.to_string() },
        }
    }
}

impl<T: IntoOutcome, E: IntoOutcome> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => value.into_outcome(),
            Err(error) => error.into_outcome(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_tried_again_with_its_whole_story() {
        fn fails() -> Result<Ack, Fail> {
            Err(crate::error::Error::from(crate::error::AskError::Lost))?;
            Ok(Ack)
        }

        let Outcome::Retry { after: None, reason } = fails().into_outcome() else {
            panic!("not a retry");
        };

        assert!(reason.contains("connection was lost"), "{reason}");
    }
}
