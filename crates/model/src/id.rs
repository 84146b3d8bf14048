//! Identities: small numbers instead of names wherever a message moves.

use std::fmt;
use std::str::FromStr;

/// Which queue, for as long as it exists; never used again for another queue of the same data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

/// A message's place in one queue: given on enqueue, growing, never changed by a requeue.
///
/// The order of sequences is the order of the queue, so a message that is given back returns to its old place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Sequence(pub u64);

/// A commit's place in the order of its pool; a commit is durable once the pool's watermark has reached its ticket.
///
/// [`Ticket::NONE`] stands for a commit that had nothing to make durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

impl Ticket {
    /// Before every commit: durable from the start.
    pub const NONE: Self = Self(0);
}

/// What makes two publishes the same one: a hash over tenant, exchange, producer and the publisher's own id.
///
/// 128 bits, so that a million ids in a window meet by chance once in 10²⁶ windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DedupId(pub u128);

/// Digits of an identity that clients see, as text.
const TEXT_DIGITS: usize = 24;

/// The text is not 24 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is {TEXT_DIGITS} hexadecimal digits")]
pub struct NotAnId;

macro_rules! text_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        ///
        /// 96 bits, mostly random, so that nobody guesses another's. As text 24 lower-case hexadecimal digits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            /// From the moment and a random number: the moment makes later ones greater, the rest is secret.
            #[must_use]
            pub fn new(seconds: u32, random: u64) -> Self {
                Self((u128::from(seconds) << 64) | u128::from(random))
            }

            /// As a store keeps it.
            #[must_use]
            pub fn to_bits(self) -> u128 {
                self.0
            }

            /// What [`Self::to_bits`] said; bits above the 96th are dropped.
            #[must_use]
            pub fn from_bits(bits: u128) -> Self {
                Self(bits & ((1 << 96) - 1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:024x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let whole = text.len() == TEXT_DIGITS && hexadecimal;
                let bits = u128::from_str_radix(text, 16).ok().filter(|_| whole);
                bits.map(Self).ok_or(NotAnId)
            }
        }
    )* };
}

text_ids! {
    /// Who holds messages by a claim.
    ClaimId,
    /// A subscription.
    SubscriptionId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_id_comes_back_from_its_text() {
        let id = ClaimId::new(0x6543_2100, u64::MAX - 7);

        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string(), "65432100fffffffffffffff8");
        assert_eq!("65432100fffffffffffffff".parse::<ClaimId>(), Err(NotAnId));
        assert_eq!("+5432100fffffffffffffff8".parse::<ClaimId>(), Err(NotAnId));
    }
}
