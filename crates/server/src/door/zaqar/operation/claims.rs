//! Claims: messages held for one worker until a time.

use broker::{BrokerError, ClaimRequest, Poison};
use model::{ClaimId, Timestamp};

use super::messages::MessagesPage;
use super::place::Place;
use super::{Done, Operations};
use crate::auth::Caller;
use crate::door::zaqar::identity::Family;
use crate::door::zaqar::metadata::DeadLetter;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request::{Bound, ClaimTimes, limit_of};

/// What was claimed.
#[derive(Debug)]
pub(crate) struct NewClaim {
    pub(crate) id: ClaimId,
    pub(crate) page: MessagesPage,
}

/// A claim as it stands.
#[derive(Debug)]
pub(crate) struct ClaimView {
    /// Whole seconds since it was made or renewed.
    pub(crate) age: u64,
    /// Seconds.
    pub(crate) ttl: u64,
    pub(crate) page: MessagesPage,
}

impl Operations {
    /// Claims the oldest free messages; `None` if there are none.
    ///
    /// # Errors
    ///
    /// 400 for a limit out of range, 503.
    pub(crate) fn claim(
        &self,
        caller: &Caller,
        name: &str,
        times: ClaimTimes,
        limit: Option<i64>,
    ) -> Result<Done<Option<NewClaim>>, Problem> {
        let most = self.limits.max_messages_per_claim_or_pop;
        let limit = limit_of(limit, most, Bound::Claim)?;
        let Some(place) = self.place(caller, Family::Queues, name)? else {
            return Ok(Done { answer: None, ticket: Done::nothing().ticket });
        };
        let (ttl_ms, grace_ms) = milliseconds(times);
        let poison = place.rules.dead_letter.as_ref().map(poison);
        let request = ClaimRequest { count_max: limit as usize, ttl_ms, grace_ms, poison };
        let now = self.now();
        let claimed = place
            .access
            .claim(place.name(), &request, now)
            .map_err(|error| Problem::from_broker(&error, "Claim could not be created."))?;
        let page = page(&place, self.opened(&place, claimed.messages), (now, now));
        let answer = (!page.messages.is_empty()).then_some(NewClaim { id: claimed.id, page });
        Ok(Done { answer, ticket: claimed.ticket })
    }

    /// A claim with its messages.
    ///
    /// # Errors
    ///
    /// 404 if it has ended, 503.
    pub(crate) fn claim_view(
        &self,
        caller: &Caller,
        name: &str,
        id: &str,
    ) -> Result<ClaimView, Problem> {
        let missing = || missing(caller, name, id);
        let claim: ClaimId = id.parse().map_err(|_| missing())?;
        let place = self.place(caller, Family::Queues, name)?.ok_or_else(missing)?;
        let now = self.now();
        let view = place.access.claim_view(place.name(), claim, now);
        let view = found(view, "Claim could not be queried.")?.flatten().ok_or_else(missing)?;
        Ok(ClaimView {
            age: now.since(view.since).as_secs(),
            ttl: view.until.since(view.since).as_secs(),
            page: page(&place, self.opened(&place, view.messages), (now, view.since)),
        })
    }

    /// Restarts a claim's clock.
    ///
    /// # Errors
    ///
    /// 404 if it has ended, 503.
    pub(crate) fn renew_claim(
        &self,
        caller: &Caller,
        name: &str,
        id: &str,
        times: ClaimTimes,
    ) -> Result<Done<()>, Problem> {
        let missing = || missing(caller, name, id);
        let claim: ClaimId = id.parse().map_err(|_| missing())?;
        let place = self.place(caller, Family::Queues, name)?.ok_or_else(missing)?;
        let renewed =
            place.access.renew_claim(place.name(), claim, milliseconds(times), self.now());
        let ticket =
            found(renewed, "Claim could not be updated.")?.flatten().ok_or_else(missing)?;
        Ok(Done { answer: (), ticket })
    }

    /// Releases a claim: its messages are free at once. Fine if it has ended.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn release_claim(
        &self,
        caller: &Caller,
        name: &str,
        id: &str,
    ) -> Result<Done<()>, Problem> {
        let Ok(claim) = id.parse() else { return Ok(Done::nothing()) };
        let Some(place) = self.place(caller, Family::Queues, name)? else {
            return Ok(Done::nothing());
        };
        let released = place.access.release_claim(place.name(), claim, self.now());
        let ticket = found(released, "Claim could not be deleted.")?;
        Ok(ticket.map_or_else(Done::nothing, |ticket| Done { answer: (), ticket }))
    }
}

fn milliseconds(times: ClaimTimes) -> (u64, u64) {
    (u64::from(times.ttl) * 1000, u64::from(times.grace) * 1000)
}

fn poison(rule: &DeadLetter) -> Poison<'_> {
    Poison {
        count_max: rule.max_claim_count,
        queue: &rule.queue,
        ttl_ms: rule.ttl.map(|seconds| u64::from(seconds) * 1000),
    }
}

/// What a claim holds now that was made or renewed at some time.
fn page(
    place: &Place,
    messages: Vec<broker::Seen>,
    (now, since): (Timestamp, Timestamp),
) -> MessagesPage {
    let claimed = Some(since);
    MessagesPage { messages, queue: place.id(), now, claimed, ..MessagesPage::default() }
}

/// What the engine found; `None` if the queue was deleted meanwhile.
fn found<T>(outcome: Result<T, BrokerError>, step: &str) -> Result<Option<T>, Problem> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(BrokerError::NotFound { .. }) => Ok(None),
        Err(error) => Err(Problem::from_broker(&error, step)),
    }
}

fn missing(caller: &Caller, name: &str, id: &str) -> Problem {
    let project = &caller.project;
    Problem::not_found(format!("Claim {id} does not exist in queue {name} for project {project}"))
}
