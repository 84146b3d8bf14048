//! One attempt to send a message, and what came of it.

use std::time::Duration;

use bytes::Bytes;
use model::Timestamp;

use crate::answer::Answer;
use crate::request::OwnRequest;

/// What is sent, to whichever output.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The same for every attempt of this message to this subscriber, so that receivers can drop doubles. ASCII, no dots.
    pub id: String,
    /// From one.
    pub number: u32,
    /// Seconds since 1970, of this attempt.
    pub timestamp: u64,
    /// What the message became.
    pub payload: Bytes,
    /// Where the message is a request of its own: the rest of it.
    pub request: Option<Box<OwnRequest>>,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The far end has it.
    Delivered,
    /// The far end has it, and said something for whoever asked.
    Answered(Box<Answer>),
    /// The far end has it, and settles it by name until then.
    Later(Timestamp),
    /// It may work later.
    Failed(Failure),
    /// It can never work: repeating is of no use.
    Hopeless(String),
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For logs and for the header of a dead letter; names no addresses.
    pub reason: String,
    /// Who failed.
    pub blame: Blame,
    /// How long the far end wants to be left alone.
    pub retry_after: Option<Duration>,
}

/// Who failed, which tells whether others wait for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The far end answered, and did not want this message.
    Message,
    /// The far end is not well: refused, broken, overloaded.
    Endpoint,
    /// The far end did not answer in time.
    Silence,
}

impl Outcome {
    /// The far end is not well.
    #[must_use]
    pub fn endpoint(reason: impl Into<String>) -> Self {
        Self::failed(reason, Blame::Endpoint)
    }

    /// The far end did not answer.
    #[must_use]
    pub fn silence(reason: impl Into<String>) -> Self {
        Self::failed(reason, Blame::Silence)
    }

    /// An attempt that failed.
    #[must_use]
    pub fn failed(reason: impl Into<String>, blame: Blame) -> Self {
        Self::Failed(Failure { reason: reason.into(), blame, retry_after: None })
    }
}
