//! How many a page may have.

use crate::door::zaqar::problem::Problem;

/// How many a page has that nobody asked a number for.
const DEFAULT: u32 = 10;

/// What a number is the bound of; only the words of the refusal differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// A page of queues, topics, subscriptions, pools or flavors.
    Definitions,
    /// A page of messages.
    Messages,
    /// A claim.
    Claim,
    /// A pop.
    Pop,
}

/// Checks a number that was asked for.
///
/// # Errors
///
/// 400 if it is not 1 to `max`.
pub(super) fn check_limit(limit: Option<i64>, max: u32, bound: Bound) -> Result<(), Problem> {
    if limit.is_none_or(|limit| (1..=i64::from(max)).contains(&limit)) {
        return Ok(());
    }
    Err(Problem::invalid(match bound {
        Bound::Definitions => format!("Limit must be at least 1 and no greater than {max}."),
        Bound::Messages | Bound::Claim => {
            format!("Limit must be at least 1 and may not be greater than {max}.")
        }
        Bound::Pop => format!("Pop value must be at least 1 and may not be greater than {max}."),
    }))
}

/// The number that was asked for, or the default.
///
/// # Errors
///
/// 400 if it is not 1 to `max`.
pub(crate) fn limit_of(limit: Option<i64>, max: u32, bound: Bound) -> Result<u32, Problem> {
    check_limit(limit, max, bound)?;
    Ok(limit.map_or(DEFAULT.min(max), |limit| u32::try_from(limit).unwrap_or(max)))
}
