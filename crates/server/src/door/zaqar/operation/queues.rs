//! Queues and topics: making and deleting them, their metadata, lists of them, how full they are.

use broker::{BrokerError, Queue, Seen};
use model::{Ticket, Timestamp};
use regex::Regex;

use super::encryption::no_keys;
use super::place::{prefix, shown_name};
use super::{Done, Operations};
use crate::auth::Caller;
use crate::door::zaqar::identity::{Family, MessageId};
use crate::door::zaqar::json::Kind;
use crate::door::zaqar::metadata::{Metadata, Rules};
use crate::door::zaqar::patch;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request::{Bound, Purge, limit_of};

/// Longest expression that names are searched for; compiled in linear time, matched in linear time.
const NAME_FILTER_BYTES_MAX: usize = 256;

/// A page of queues as it is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueuesQuery<'a> {
    /// The name before the page.
    pub(crate) marker: Option<&'a str>,
    pub(crate) limit: Option<i64>,
    /// With metadata.
    pub(crate) detailed: bool,
    /// An expression that is found in the names.
    pub(crate) name: Option<&'a str>,
    /// Attributes and their values.
    pub(crate) filters: Vec<(&'a str, &'a str)>,
    /// Counts all.
    pub(crate) with_count: bool,
}

/// A page of queues.
#[derive(Debug)]
pub(crate) struct QueuesPage {
    /// By name.
    pub(crate) entries: Vec<QueueEntry>,
    /// How many there are in all, if that was asked for.
    pub(crate) count: Option<u64>,
    /// What was understood as limit.
    pub(crate) limit: u32,
}

/// A queue of a page.
#[derive(Debug)]
pub(crate) struct QueueEntry {
    pub(crate) name: String,
    /// If it was asked for.
    pub(crate) metadata: Option<Metadata>,
}

/// How full a queue is.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) claimed: u64,
    pub(crate) free: u64,
    pub(crate) oldest: Option<Edge>,
    pub(crate) newest: Option<Edge>,
}

/// The oldest or newest message of a queue.
#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) id: MessageId,
    pub(crate) created: Timestamp,
    /// Seconds.
    pub(crate) age: u64,
}

impl Operations {
    /// Makes a queue with these metadata; one that is there stays as it is. True if it was made.
    ///
    /// # Errors
    ///
    /// 400 for reserved attributes that break their rules, 403 if a limit is reached, 503.
    pub(crate) fn put_queue(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        metadata: &Metadata,
    ) -> Result<Done<bool>, Problem> {
        self.check_metadata(metadata, family)?;
        let flavor = metadata.get("_flavor").filter(|_| self.limits.pooling);
        // What is no text names no flavor that there is.
        let flavor = flavor.filter(|flavor| flavor.kind() != Kind::Null);
        let flavor = flavor.map(|it| it.string().unwrap_or_else(|| it.text().into()));
        let made = self.place_or_new_of_flavor(caller, family, name, flavor.as_deref())?;
        let (place, is_new) = made.answer;
        if !is_new || metadata == &Metadata::default() {
            return Ok(Done { answer: is_new, ticket: made.ticket });
        }
        let set = place.access.set_metadata(place.name(), &metadata.to_json(), self.now());
        let ticket = set.map_err(|error| metadata_refused(&error))?;
        Ok(Done { answer: true, ticket: ticket.max(made.ticket) })
    }

    /// A queue's metadata as they are stored; empty for a queue that is not there.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn metadata(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
    ) -> Result<Metadata, Problem> {
        let place = self.place(caller, family, name)?;
        Ok(place.map(|place| metadata_of(&place.queue)).unwrap_or_default())
    }

    /// Changes a queue's metadata; all changes or none. What they are then.
    ///
    /// # Errors
    ///
    /// 404 if there is no such queue, 400 and 409 for changes that cannot be applied, 503.
    pub(crate) fn patch_metadata(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        changes: &[patch::Change<'_>],
    ) -> Result<Done<Metadata>, Problem> {
        let Some(place) = self.place(caller, family, name)? else {
            let kind = match family {
                Family::Queues => "Queue",
                Family::Topics => "Topic",
            };
            let project = &caller.project;
            return Err(Problem::not_found(format!(
                "{kind} {name} does not exist for project {project}"
            )));
        };
        let mut changed = Metadata::default();
        let change = |json: &[u8]| {
            changed = Metadata::from_json(json);
            patch::apply(changes, &mut changed, family)?;
            self.check_metadata(&changed, family)?;
            Ok(changed.to_json())
        };
        let outcome = place.access.change_metadata(place.name(), change, self.now());
        let (_, ticket) = outcome.map_err(|error| metadata_refused(&error))??;
        Ok(Done { answer: changed, ticket })
    }

    /// Deletes a queue with its messages; fine if it is not there.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn delete_queue(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
    ) -> Result<Done<()>, Problem> {
        let Some(place) = self.place(caller, family, name)? else { return Ok(Done::nothing()) };
        let deleted = place.access.delete_queue(place.name(), false, false, self.now());
        match deleted {
            Ok((_, ticket)) => Ok(Done { answer: (), ticket }),
            Err(BrokerError::NotFound { .. }) => Ok(Done::nothing()),
            Err(error) => Err(Problem::from_broker(&error, "Queue could not be deleted.")),
        }
    }

    /// A page of queues, by name.
    ///
    /// # Errors
    ///
    /// 400 for a limit out of range or an expression that is none, 503.
    pub(crate) fn queues(
        &self,
        caller: &Caller,
        family: Family,
        query: &QueuesQuery<'_>,
    ) -> Result<QueuesPage, Problem> {
        let limit = limit_of(query.limit, self.limits.max_queues_per_page, Bound::Definitions)?;
        let filter = query.name.map(name_filter).transpose()?;
        let mut page = QueuesPage { entries: Vec::new(), count: None, limit };
        let Some(access) = self.access(&caller.project)? else {
            page.count = query.with_count.then_some(0);
            return Ok(page);
        };
        let after = format!("{}{}", prefix(family), query.marker.unwrap_or_default());
        let wanted = |queue: &Queue| {
            shown_name(family, queue).is_some_and(|name| {
                filter.as_ref().is_none_or(|filter| filter.is_match(name))
                    && (query.filters.is_empty() || metadata_of(queue).matches(&query.filters))
            })
        };
        for queue in access.queues_page(&after, limit as usize, wanted) {
            let Some(name) = shown_name(family, &queue) else { continue };
            let metadata = query.detailed.then(|| metadata_of(&queue));
            page.entries.push(QueueEntry { name: name.to_owned(), metadata });
        }
        page.count = query.with_count.then(|| {
            let all = |queue: &Queue| shown_name(family, queue).is_some();
            access.queues_page(prefix(family), usize::MAX, all).len() as u64
        });
        Ok(page)
    }

    fn check_metadata(&self, metadata: &Metadata, family: Family) -> Result<(), Problem> {
        metadata.check(family, &self.limits)?;
        if Rules::of(metadata, &self.limits).encrypted && !self.has_keys() {
            return Err(no_keys());
        }
        Ok(())
    }

    /// How full a queue is; `None` if it is not there.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn stats(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
    ) -> Result<Option<Stats>, Problem> {
        let Some(place) = self.place(caller, family, name)? else { return Ok(None) };
        let now = self.now();
        let fill = place
            .access
            .queue_fill(place.name(), now)
            .map_err(|error| Problem::from_broker(&error, "Queue stats cannot be read."))?;
        let edge = |seen: Seen| Edge {
            id: MessageId { queue: place.id(), sequence: seen.sequence },
            created: seen.enqueued,
            age: now.since(seen.enqueued).as_secs(),
        };
        Ok(Some(Stats {
            claimed: fill.claimed,
            free: fill.free + fill.delayed,
            oldest: fill.oldest.map(edge),
            newest: fill.newest.map(edge),
        }))
    }

    /// Removes what a purge names; fine if the queue is not there.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn purge(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        purge: Purge,
    ) -> Result<Done<()>, Problem> {
        let ended = match purge.subscriptions {
            true => self.purge_subscriptions(caller, family, name)?,
            false => Ticket::NONE,
        };
        let place = self.place(caller, family, name)?.filter(|_| purge.messages);
        let Some(place) = place else { return Ok(Done { answer: (), ticket: ended }) };
        let purged = place.access.purge_queue(place.name(), self.now());
        let (_, ticket) =
            purged.map_err(|error| Problem::from_broker(&error, "Queue could not be purged."))?;
        let ticket = ticket.max(ended);
        Ok(Done { answer: (), ticket })
    }
}

/// What is stored with a queue.
fn metadata_of(queue: &Queue) -> Metadata {
    queue.metadata().map(|stored| Metadata::from_json(stored.json())).unwrap_or_default()
}

fn metadata_refused(error: &BrokerError) -> Problem {
    Problem::from_broker(error, "Queue metadata could not be stored.")
}

fn name_filter(expression: &str) -> Result<Regex, Problem> {
    let refused = || Problem::invalid("The name filter is not a regular expression.");
    if expression.len() > NAME_FILTER_BYTES_MAX {
        return Err(refused());
    }
    regex::RegexBuilder::new(expression).size_limit(64 * 1024).build().map_err(|_| refused())
}
