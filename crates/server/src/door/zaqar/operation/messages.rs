//! Messages: posting, looking, deleting, taking.

use broker::{BrokerError, BrowseFilter, Condition, Post, Removal, Seen};
use model::{ClaimId, Sequence, Timestamp};
use posthouse_amqp::properties::Properties;

use super::place::Place;
use super::{Done, Operations};
use crate::auth::Caller;
use crate::door::zaqar::identity::{ClientId, Family, MessageId};
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request::{Bound, NewMessage, limit_of};
use crate::door::zaqar::sealing;

/// The media type of what is posted here.
const JSON: &str = "application/json";

/// Survives a restart.
const PERSISTENT: u8 = 2;

/// Messages that were posted; their sequences follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Posted {
    /// The first of them.
    pub(crate) first: MessageId,
    pub(crate) count: u64,
}

impl Posted {
    pub(crate) fn ids(self) -> impl Iterator<Item = MessageId> {
        let MessageId { queue, sequence } = self.first;
        (0..self.count)
            .map(move |index| MessageId { queue, sequence: Sequence(sequence.0 + index) })
    }
}

/// A page of messages as it is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MessagesQuery<'a> {
    /// What the page before said.
    pub(crate) marker: Option<&'a str>,
    pub(crate) limit: Option<i64>,
    /// The client whose own messages are left out.
    pub(crate) not_from: Option<&'a ClientId>,
    pub(crate) include_claimed: bool,
    pub(crate) include_delayed: bool,
}

/// Messages of one queue at one moment.
#[derive(Debug, Default)]
pub(crate) struct MessagesPage {
    pub(crate) messages: Vec<Seen>,
    /// The lowest 32 bits of the queue's identity.
    pub(crate) queue: u32,
    pub(crate) now: Timestamp,
    /// When the claim was made or renewed by which they are seen, if they are seen by one.
    pub(crate) claimed: Option<Timestamp>,
    /// What was understood as limit; 0 where none was asked for.
    pub(crate) limit: u32,
    /// Where the next page begins; `None` behind the last.
    pub(crate) next: Option<Sequence>,
}

impl Operations {
    /// Posts messages, all or none.
    ///
    /// # Errors
    ///
    /// 403 if the queue is full and refuses, 503.
    pub(crate) fn post(
        &self,
        place: &Place,
        client: &ClientId,
        messages: &[NewMessage<'_>],
    ) -> Result<Done<Posted>, Problem> {
        let now = self.now();
        let sealed = self.seal(place, messages)?;
        let content_type = if sealed.is_empty() { JSON } else { sealing::CONTENT_TYPE };
        // Mostly all live equally long, and have the same properties.
        let runs: Vec<_> = messages.chunk_by(|one, next| one.ttl == next.ttl).collect();
        let properties = runs
            .iter()
            .filter_map(|run| run.first())
            .map(|message| properties(content_type, client, message.ttl, now))
            .collect::<Result<Vec<_>, Problem>>()?;
        let batch: Vec<_> = runs
            .iter()
            .zip(&properties)
            .flat_map(|(run, properties)| run.iter().map(move |message| (message, properties)))
            .enumerate()
            .map(|(index, (message, properties))| Post {
                properties,
                body: sealed.get(index).map_or(message.body.text().as_bytes(), Vec::as_slice),
                expires: Some(now.after_ms(u64::from(message.ttl) * 1000)),
                not_before: (message.delay > 0)
                    .then(|| now.after_ms(u64::from(message.delay) * 1000)),
            })
            .collect();
        let posted = place
            .access
            .post(place.name(), &batch, now)
            .map_err(|error| Problem::from_broker(&error, "Messages could not be enqueued."))?;
        let first = MessageId { queue: place.id(), sequence: posted.first };
        let answer = Posted { first, count: batch.len() as u64 };
        Ok(Done { answer, ticket: posted.ticket })
    }

    /// A page of messages, oldest first; empty for a queue that is not there.
    ///
    /// # Errors
    ///
    /// 400 for a limit out of range, 503.
    pub(crate) fn messages(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        query: &MessagesQuery<'_>,
    ) -> Result<MessagesPage, Problem> {
        let limit = limit_of(query.limit, self.limits.max_messages_per_page, Bound::Messages)?;
        let mut page = MessagesPage { limit, now: self.now(), ..MessagesPage::default() };
        // A marker that is none leads to an empty page, as upstream.
        let after = match query.marker.map(str::parse) {
            Some(Ok(marker)) => Some(Sequence(marker)),
            Some(Err(_)) => return Ok(page),
            None => None,
        };
        let Some(place) = self.place(caller, family, name)? else { return Ok(page) };
        let filter = BrowseFilter {
            claimed: query.include_claimed,
            delayed: query.include_delayed,
            not_from: query.not_from.map(ClientId::as_str),
        };
        let found = place
            .access
            .browse(place.name(), after, limit as usize, filter, page.now)
            .map_err(|error| Problem::from_broker(&error, "Messages could not be listed."))?;
        page.queue = place.id();
        page.next = found.more_after.or(found.messages.last().map(|last| last.sequence));
        page.messages = self.opened(&place, found.messages);
        Ok(page)
    }

    /// The messages with these ids that are there, claimed or not.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn messages_by_id(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        ids: &[&str],
    ) -> Result<MessagesPage, Problem> {
        let mut page = MessagesPage { now: self.now(), ..MessagesPage::default() };
        let Some(place) = self.place(caller, family, name)? else { return Ok(page) };
        page.queue = place.id();
        let found = place
            .access
            .peek(place.name(), &own_sequences(&place, ids), page.now)
            .map_err(|error| Problem::from_broker(&error, "Message could not be retrieved."))?;
        page.messages = self.opened(&place, found);
        Ok(page)
    }

    /// Deletes messages by their ids, whoever claimed them; ids that are not there are fine.
    ///
    /// `claims`, where `message_delete_with_claim_id` asks for it, must have every claim that holds one of them.
    ///
    /// # Errors
    ///
    /// 403 if a claim is missing, 503.
    pub(crate) fn delete_messages(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        ids: &[&str],
        claims: Option<&[&str]>,
    ) -> Result<Done<()>, Problem> {
        let Some(place) = self.place(caller, family, name)? else { return Ok(Done::nothing()) };
        let sequences = own_sequences(&place, ids);
        let now = self.now();
        let refused =
            |error: BrokerError| Problem::from_broker(&error, "Messages could not be deleted.");
        if let Some(claims) = claims {
            let seen = place.access.peek(place.name(), &sequences, now).map_err(refused)?;
            let held_by_others = seen
                .iter()
                .filter_map(|seen| seen.claim)
                .any(|holder| !claims.iter().any(|claim| claim.parse::<ClaimId>() == Ok(holder)));
            if held_by_others {
                return Err(claimed_by_others());
            }
        }
        let removed = place.access.remove(place.name(), &sequences, Condition::Always, now);
        Ok(Done { answer: (), ticket: removed.map_err(refused)?.ticket })
    }

    /// Deletes one message: a claimed one with its claim only, a free one without.
    ///
    /// # Errors
    ///
    /// 400 and 403 in Zaqar's words, 503.
    pub(crate) fn delete_message(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        id: &str,
        claim: Option<&str>,
    ) -> Result<Done<()>, Problem> {
        let Some(id) = MessageId::parse(id) else { return Ok(Done::nothing()) };
        let condition = match claim.map(str::parse) {
            None => Condition::Unheld,
            Some(Ok(claim)) => Condition::HeldBy(claim),
            Some(Err(_)) => {
                return Err(Problem::new(
                    400,
                    "Unable to delete",
                    "The specified claim does not exist or has expired.",
                ));
            }
        };
        let place = self.place(caller, family, name)?;
        let Some(place) = place.filter(|place| place.id() == id.queue) else {
            return Ok(Done::nothing());
        };
        let removed = place
            .access
            .remove(place.name(), &[id.sequence], condition, self.now())
            .map_err(|error| Problem::from_broker(&error, "Message could not be deleted."))?;
        match removed.outcomes.first() {
            Some(Removal::Held) => Err(claimed_by_others()),
            Some(Removal::NotHeld) => Err(Problem::new(
                400,
                "Unable to delete",
                "A claim was specified, but the message is not currently claimed.",
            )),
            Some(Removal::Removed | Removal::Missing) | None => {
                Ok(Done { answer: (), ticket: removed.ticket })
            }
        }
    }

    /// Takes and deletes the oldest free messages.
    ///
    /// # Errors
    ///
    /// 400 for a number out of range, 503.
    pub(crate) fn pop(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        count: i64,
    ) -> Result<Done<MessagesPage>, Problem> {
        let limit = self.limits.max_messages_per_claim_or_pop;
        let count = limit_of(Some(count), limit, Bound::Pop)?;
        let mut page = MessagesPage { now: self.now(), ..MessagesPage::default() };
        let Some(place) = self.place(caller, family, name)? else {
            return Ok(Done { answer: page, ticket: Done::nothing().ticket });
        };
        let popped = place
            .access
            .pop(place.name(), count as usize, page.now)
            .map_err(|error| Problem::from_broker(&error, "Messages could not be popped."))?;
        page.queue = place.id();
        page.messages = self.opened(&place, popped.messages);
        Ok(Done { answer: page, ticket: popped.ticket })
    }
}

/// The sequences of the ids that are of this queue.
fn own_sequences(place: &Place, ids: &[&str]) -> Vec<Sequence> {
    ids.iter()
        .filter_map(|id| MessageId::parse(id))
        .filter(|id| id.queue == place.id())
        .map(|id| id.sequence)
        .collect()
}

fn claimed_by_others() -> Problem {
    Problem::new(
        403,
        "Unable to delete",
        "This message is claimed; it cannot be deleted without a valid claim ID.",
    )
}

/// The properties of a message that lives `ttl_secs`. Its time to live is in there too, for those whom the message
/// reaches over a subscription: their copies do not expire.
fn properties(
    content_type: &str,
    client: &ClientId,
    ttl_secs: u32,
    now: Timestamp,
) -> Result<Vec<u8>, Problem> {
    let mut properties = Vec::with_capacity(96);
    let expiration_ms = (u64::from(ttl_secs) * 1000).to_string();
    let said = Properties {
        content_type: Some(content_type),
        delivery_mode: Some(PERSISTENT),
        timestamp: Some(now.0 / 1000),
        expiration: Some(&expiration_ms),
        app_id: Some(client.as_str()),
        ..Properties::default()
    };
    said.encode(&mut properties).map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(properties)
}
