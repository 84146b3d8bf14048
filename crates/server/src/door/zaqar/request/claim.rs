//! Claims: how long they hold, and how much longer their messages live.

use super::page::{Bound, check_limit};
use super::{object, whole};
use crate::config::Queues;
use crate::door::zaqar::json::Raw;
use crate::door::zaqar::problem::Problem;

/// Least of both times, in seconds.
const TIME_MIN: i64 = 60;

/// How long a claim holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClaimTimes {
    /// Seconds.
    pub(crate) ttl: u32,
    /// Seconds that its messages live longer than it.
    pub(crate) grace: u32,
}

/// What a claim's times are checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// A new claim, of at most so many messages.
    Creation {
        /// As asked for.
        limit: Option<i64>,
    },
    /// A claim whose clock is restarted: only its time to live is checked.
    Update,
}

/// Reads `{"ttl"?, "grace"?}`; no document is an empty one.
///
/// # Errors
///
/// 400 for wrong types, then for limits.
pub(crate) fn read_claim(
    document: Option<Raw<'_>>,
    limits: &Queues,
    purpose: For,
) -> Result<ClaimTimes, Problem> {
    let (ttl, grace) = match document {
        Some(document) => {
            let document = object(document)?;
            (whole(document, "ttl")?, whole(document, "grace")?)
        }
        None => (None, None),
    };
    let ttl = ttl.unwrap_or(limits.default_claim_ttl.into());
    let grace = grace.unwrap_or(limits.default_claim_grace.into());
    check_time("TTL", ttl, limits.max_claim_ttl)?;
    if let For::Creation { limit } = purpose {
        check_limit(limit, limits.max_messages_per_claim_or_pop, Bound::Claim)?;
        check_time("grace", grace, limits.max_claim_grace)?;
    }
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    Ok(ClaimTimes { ttl: seconds(ttl), grace: seconds(grace).min(limits.max_claim_grace) })
}

fn check_time(name: &str, time: i64, max: u32) -> Result<(), Problem> {
    if (TIME_MIN..=i64::from(max)).contains(&time) {
        return Ok(());
    }
    Err(Problem::invalid(format!(
        "The {name} for a claim may not exceed {max} seconds, and must be at least {TIME_MIN} seconds long."
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::zaqar::json::check;

    fn read(text: &str, purpose: For) -> Result<ClaimTimes, String> {
        let document = check(text.as_bytes()).unwrap();
        read_claim(Some(document), &Queues::default(), purpose)
            .map_err(|problem| problem.description.unwrap().into_owned())
    }

    const NEW: For = For::Creation { limit: None };

    #[test]
    fn what_is_not_said_is_the_default() {
        let none = read_claim(None, &Queues::default(), NEW).unwrap();
        assert_eq!((none.ttl, none.grace), (300, 60));
        assert_eq!(read(r#"{"ttl": 100}"#, NEW).unwrap(), ClaimTimes { ttl: 100, grace: 60 });
    }

    #[test]
    fn refusals_have_zaqars_words() {
        let text = |name: &str| {
            format!(
                "The {name} for a claim may not exceed 43200 seconds, and must be at least 60 seconds long."
            )
        };

        assert_eq!(read(r#"{"ttl": 59}"#, NEW).unwrap_err(), text("TTL"));
        assert_eq!(read(r#"{"ttl": 43201}"#, For::Update).unwrap_err(), text("TTL"));
        assert_eq!(read(r#"{"grace": 59}"#, NEW).unwrap_err(), text("grace"));
        assert!(read(r#"{"grace": 59}"#, For::Update).is_ok());
        assert_eq!(read("[]", NEW).unwrap_err(), "Document type not supported.");
        assert_eq!(
            read(r#"{"ttl": "x"}"#, NEW).unwrap_err(),
            "The value of the \"ttl\" field must be a int."
        );
        assert_eq!(
            read("{}", For::Creation { limit: Some(21) }).unwrap_err(),
            "Limit must be at least 1 and may not be greater than 20."
        );
    }
}
