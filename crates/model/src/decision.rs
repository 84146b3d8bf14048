//! What becomes of a message that leaves its queue without having been delivered well.

/// Why a message leaves its queue other than by being acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A consumer refused it and did not want it back in the queue.
    Rejected,
    /// Its time to live is over.
    Expired,
    /// The queue was full.
    MaxLength,
    /// It came back more often than the queue allows.
    DeliveryLimit,
}

impl Reason {
    /// As in the header `x-death`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// Where a message that leaves its queue goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Nowhere.
    Discard,
    /// To an exchange of the same tenant, which may not exist.
    DeadLetter {
        /// Its name, empty for the default exchange.
        exchange: Box<str>,
        /// The routing key to publish with, the message's own if `None`.
        routing_key: Option<Box<str>>,
    },
    /// To the tenant's parking queue: nobody said where to put poison, and it is not dropped silently.
    Park,
}

/// Decides by the settings of the queue that the message leaves.
#[must_use]
pub fn decide(
    reason: Reason,
    dead_letter_exchange: Option<&str>,
    dead_letter_routing_key: Option<&str>,
) -> Fate {
    match (dead_letter_exchange, reason) {
        (Some(exchange), _) => Fate::DeadLetter {
            exchange: exchange.into(),
            routing_key: dead_letter_routing_key.map(Into::into),
        },
        (None, Reason::DeliveryLimit) => Fate::Park,
        (None, Reason::Rejected | Reason::Expired | Reason::MaxLength) => Fate::Discard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Reason; 4] =
        [Reason::Rejected, Reason::Expired, Reason::MaxLength, Reason::DeliveryLimit];

    #[test]
    fn a_dead_letter_exchange_takes_the_dead_of_every_reason() {
        for reason in ALL {
            let fate = decide(reason, Some(""), Some("dead"));

            let routing_key = Some("dead".into());
            assert_eq!(fate, Fate::DeadLetter { exchange: "".into(), routing_key });
        }
    }

    #[test]
    fn without_an_exchange_only_poison_is_kept() {
        let fates = ALL.map(|reason| decide(reason, None, Some("ignored")));

        assert_eq!(fates, [Fate::Discard, Fate::Discard, Fate::Discard, Fate::Park]);
    }

    #[test]
    fn reasons_have_the_words_of_the_header() {
        let words = ALL.map(Reason::word);

        assert_eq!(words, ["rejected", "expired", "maxlen", "delivery_limit"]);
    }
}
