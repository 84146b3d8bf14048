//! Settling later: an endpoint that needs longer than a request takes answers 202, and settles the message by a request of
//! its own to the address that it was told in `posthouse-ack-url`.
//!
//! That address is a capability: who has it may settle this one message until it ends, and nothing else. Its last part is a
//! token that the server signs and does not store:
//!
//! ```text
//! subscription (24) ‖ place in its follower (16) ‖ end, ms since 1970 (16)   lower-case hexadecimal
//! HMAC-SHA256(server secret, "posthouse settle token 1" ‖ len ‖ tenant ‖ len ‖ queue ‖ len ‖ those 56 digits)   base64url (43)
//! ```
//!
//! with each length as eight bytes, big end first. Every attempt's token of a message is good until its end, also behind a
//! restart, because all name the message and none the attempt.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker::{Broker, Subscription};
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue};
use model::{Sequence, SubscriptionId, Ticket, Timestamp};
use tokio::sync::{mpsc, oneshot};

use crate::answer::Answer;
use crate::request::{SETTLE, retry_after};
use crate::sign::Secret;

/// Path of the address below the public URL of the queue service, without the token.
pub const SETTLE_PATH: &str = "/v2/settle/";

/// Header of the request that tells the address.
pub(crate) const ACK_URL: &str = "posthouse-ack-url";

/// What the server's secrets sign tokens for.
const PURPOSE: &[u8] = b"posthouse settle token 1";

/// Digits of what a token names.
const NAMES_LEN: usize = 24 + 16 + 16;

/// Length of a token: the digits, and 32 bytes in base64.
const TOKEN_LEN: usize = NAMES_LEN + 43;

/// Requests to settle that wait for the runner; further ones wait in their connections.
const ASKS_MAX: usize = 256;

/// One message of a subscription, until when it may be settled by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsettled {
    /// Its subscription.
    pub subscription: SubscriptionId,
    /// Its place in the follower.
    pub sequence: Sequence,
    /// When it may no more.
    pub until: Timestamp,
}

/// What becomes of the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is done, perhaps with something for whoever asked.
    Ack(Option<Box<Answer>>),
    /// Another time, not before so long.
    Retry(Option<Duration>),
    /// It will never be.
    Dead,
    /// It is of no use.
    Drop,
}

/// Why a message was not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// No token of ours.
    #[error("there is no such address to settle a message at")]
    Unknown,
    /// The token's time is over.
    #[error("the time to settle the message is over")]
    Late,
    /// It waits for nothing any more.
    #[error("the message was settled or given up before, or its subscription has ended")]
    Gone,
    /// The store did not take it.
    #[error("the message could not be settled")]
    Unavailable,
}

/// A wish to settle, on its way to the runner.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) unsettled: Unsettled,
    pub(crate) decision: Decision,
    pub(crate) done: oneshot::Sender<Result<Ticket, SettleError>>,
}

/// Settles messages by their tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Settler {
    broker: Arc<Broker>,
    secrets: Arc<[Secret]>,
    answer_bytes_max: usize,
    asks: mpsc::Sender<Ask>,
}

impl Decision {
    /// What headers say: `posthouse-settle`, which is `ack` if it is not there, and with `retry` also `retry-after`.
    /// `None` if that is no word.
    #[must_use]
    pub fn of(headers: &HeaderMap, now: SystemTime) -> Option<Self> {
        match headers.get(SETTLE).map(HeaderValue::as_bytes) {
            None | Some(b"ack") => Some(Self::Ack(None)),
            Some(b"retry") => Some(Self::Retry(retry_after(headers, now))),
            Some(b"dead") => Some(Self::Dead),
            Some(b"drop") => Some(Self::Drop),
            Some(_) => None,
        }
    }

    /// The same with a body, which is an answer if the message is done.
    #[must_use]
    pub fn with_body(self, headers: &HeaderMap, body: Bytes) -> Self {
        match self {
            Self::Ack(_) => Self::Ack(Answer::new(headers, body).map(Box::new)),
            Self::Retry(_) | Self::Dead | Self::Drop => self,
        }
    }
}

impl Unsettled {
    fn names(&self) -> String {
        format!("{}{:016x}{:016x}", self.subscription, self.sequence.0, self.until.0)
    }

    /// The token of a message of this subscription.
    pub(crate) fn token(&self, subscription: &Subscription, secret: &Secret) -> String {
        let mut token = self.names();
        let mac = secret.authenticate(PURPOSE, &parts(subscription, &token));
        URL_SAFE_NO_PAD.encode_string(mac.as_ref(), &mut token);
        token
    }

    /// What a text names, whoever wrote it, and its signature.
    fn parse(token: &str) -> Option<(Self, Vec<u8>)> {
        let lower = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        if token.len() != TOKEN_LEN {
            return None;
        }
        let (names, mac) = token.split_at_checked(NAMES_LEN)?;
        if !names.bytes().all(lower) {
            return None;
        }
        let number = |range| u64::from_str_radix(names.get(range)?, 16).ok();
        let unsettled = Self {
            subscription: names.get(..24)?.parse().ok()?,
            sequence: Sequence(number(24..40)?),
            until: Timestamp(number(40..56)?),
        };
        Some((unsettled, URL_SAFE_NO_PAD.decode(mac).ok()?))
    }
}

fn parts<'a>(subscription: &'a Subscription, names: &'a str) -> [&'a [u8]; 3] {
    [subscription.tenant.as_bytes(), subscription.queue.as_bytes(), names.as_bytes()]
}

impl Settler {
    pub(crate) fn new(
        broker: Arc<Broker>,
        secrets: &[Secret],
        answer_bytes_max: usize,
    ) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(ASKS_MAX);
        (Self { broker, secrets: secrets.into(), answer_bytes_max, asks }, receiver)
    }

    /// Most bytes of an answer.
    #[must_use]
    pub fn answer_bytes_max(&self) -> usize {
        self.answer_bytes_max
    }

    /// What a token is for, if it is one of ours and its time is not over.
    ///
    /// # Errors
    ///
    /// [`SettleError::Unknown`], [`SettleError::Late`]; [`SettleError::Unknown`] also if the subscription has ended.
    pub fn open(&self, token: &str) -> Result<Unsettled, SettleError> {
        let (unsettled, mac) = Unsettled::parse(token).ok_or(SettleError::Unknown)?;
        let found = self.broker.live_subscription(unsettled.subscription);
        let subscription = found.ok_or(SettleError::Unknown)?;
        let names = unsettled.names();
        let parts = parts(&subscription, &names);
        // All are compared, so that the time does not tell which one signed.
        let ours = self
            .secrets
            .iter()
            .fold(false, |ours, secret| ours | secret.authenticates(PURPOSE, &parts, &mac));
        match (ours, unsettled.until > self.broker.now()) {
            (false, _) => Err(SettleError::Unknown),
            (true, false) => Err(SettleError::Late),
            (true, true) => Ok(unsettled),
        }
    }

    /// Settles a message; it is so when the ticket is durable. Dropping the future leaves it unknown whether it was done.
    ///
    /// # Errors
    ///
    /// [`SettleError::Gone`], [`SettleError::Unavailable`].
    pub async fn settle(
        &self,
        unsettled: Unsettled,
        decision: Decision,
    ) -> Result<Ticket, SettleError> {
        let (done, settled) = oneshot::channel();
        let ask = Ask { unsettled, decision, done };
        self.asks.send(ask).await.map_err(|_| SettleError::Unavailable)?;
        settled.await.map_err(|_| SettleError::Unavailable)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        of.iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn headers_say_what_becomes_of_the_message() {
        let of = |list: &[(&'static str, &'static str)]| {
            Decision::of(&headers(list), SystemTime::UNIX_EPOCH)
        };

        assert_eq!(of(&[]), Some(Decision::Ack(None)));
        assert_eq!(of(&[("posthouse-settle", "drop")]), Some(Decision::Drop));
        assert_eq!(of(&[("posthouse-settle", "dead")]), Some(Decision::Dead));
        let retry = of(&[("posthouse-settle", "retry"), ("retry-after", "7")]);
        assert_eq!(retry, Some(Decision::Retry(Some(Duration::from_secs(7)))));
        assert_eq!(of(&[("posthouse-settle", "perhaps")]), None);
    }

    #[test]
    fn only_who_is_done_answers() {
        let body = Bytes::from_static(b"yes");
        let with = |decision: Decision| decision.with_body(&HeaderMap::new(), body.clone());

        assert!(matches!(with(Decision::Ack(None)), Decision::Ack(Some(_))));
        assert_eq!(with(Decision::Drop), Decision::Drop);
        let mute = Decision::Ack(None).with_body(&HeaderMap::new(), Bytes::new());
        assert_eq!(mute, Decision::Ack(None));
    }

    #[test]
    fn a_token_says_what_it_is_for_and_nothing_else_is_one() {
        let unsettled = Unsettled {
            subscription: SubscriptionId::new(7, u64::MAX),
            sequence: Sequence(41),
            until: Timestamp(1_795_246_332_000),
        };
        let mut token = unsettled.names();
        URL_SAFE_NO_PAD.encode_string([7; 32], &mut token);

        assert_eq!(Unsettled::parse(&token), Some((unsettled, vec![7; 32])));
        for length in 0..token.len() {
            assert_eq!(Unsettled::parse(token.split_at(length).0), None);
        }
        let upper = token.to_uppercase();
        let long = format!("{token}A");
        let plus = format!("+{}", token.split_at(1).1);
        let wide = format!("é{}", token.split_at(2).1);
        for bad in [upper, long, plus, wide, "x".repeat(TOKEN_LEN), "0".repeat(100_000)] {
            assert_eq!(Unsettled::parse(&bad), None, "{bad:.20}");
        }
    }
}
