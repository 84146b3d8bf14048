//! Claims: messages held by somebody with a name until a time, through restarts.

use std::sync::Arc;

use model::permission::Verb;
use model::{ClaimId, Sequence, Ticket, Timestamp};
use smallvec::smallvec;
use store::{Change, Claim, Commit, Handout, Hold, LeaseRequest, Leased, Settlement};

use crate::access::Access;
use crate::broker::Broker;
use crate::browse::{PAGE_BYTES_MAX, Seen};
use crate::dead_letter::{Reason, enqueue, with_history};
use crate::error::{BrokerError, Kind};
use crate::pools::once;
use crate::queue::Queue;
use crate::route_cache::RouteTarget;

/// Most rounds of one claim: each meets as many messages as may be claimed, and some of them may be expired or poison.
const ROUNDS_MAX: usize = 64;

/// What somebody wants to claim.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest<'a> {
    /// Most messages.
    pub count_max: usize,
    /// How long it lasts.
    pub ttl_ms: u64,
    /// A message that would expire before the claim ends lives this much longer than the claim instead.
    pub grace_ms: u64,
    /// What becomes of messages that were claimed too often.
    pub poison: Option<Poison<'a>>,
}

/// What becomes of messages that were claimed too often.
#[derive(Debug, Clone, Copy)]
pub struct Poison<'a> {
    /// Claimed so often, it is not claimed again.
    pub count_max: u32,
    /// Where it goes instead; made if it is not there.
    pub queue: &'a str,
    /// How long it lives there; `None` for as long as it would have lived.
    pub ttl_ms: Option<u64>,
}

/// What was claimed.
#[derive(Debug)]
pub struct Claimed {
    /// The claim; there is none if `messages` is empty.
    pub id: ClaimId,
    /// When it ends.
    pub until: Timestamp,
    /// Highest priority first, then oldest first.
    pub messages: Vec<Seen>,
    /// The messages may be shown when the watermark reaches it.
    pub ticket: Ticket,
}

/// A claim as it stands.
#[derive(Debug)]
pub struct ClaimView {
    /// When it was made or renewed last.
    pub since: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// What it holds, by sequence; never empty but for messages that were lost to damage.
    pub messages: Vec<Seen>,
}

impl Access {
    /// Claims the messages at the head of a queue. The cost does not depend on how many there are.
    ///
    /// # Errors
    ///
    /// If the queue does not exist, belongs to a connection, is a stream, or may not be read.
    pub fn claim(
        &self,
        queue: &str,
        request: &ClaimRequest<'_>,
        now: Timestamp,
    ) -> Result<Claimed, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let broker = &self.inner.broker;
        let seconds = u32::try_from((now.0 / 1000) & u64::from(u32::MAX)).unwrap_or(0);
        let id = ClaimId::new(seconds, broker.unforeseeable());
        let claim = claim_of(id, request.ttl_ms, request.grace_ms, now);
        let mut claimed =
            Claimed { id, until: claim.until, messages: Vec::new(), ticket: Ticket::NONE };
        let mut bytes = 0;
        for _ in 0..ROUNDS_MAX {
            let room = request.count_max - claimed.messages.len();
            if room == 0 || bytes >= PAGE_BYTES_MAX {
                break;
            }
            let lease = LeaseRequest {
                queue: queue.id,
                messages_max: room,
                bytes_max: PAGE_BYTES_MAX - bytes,
                hold: Hold::Claim(claim),
                now,
            };
            let lease = broker.pool.lease(lease).now()?;
            claimed.ticket = claimed.ticket.max(lease.ticket);
            let nothing = lease.messages.is_empty() && lease.expired.is_empty();
            if !lease.expired.is_empty() {
                broker.expire_in(&queue, lease.expired, now);
            }
            let is_poison =
                |one: &Leased| request.poison.is_some_and(|it| one.delivery_count >= it.count_max);
            let (poison, good): (Vec<_>, Vec<_>) = lease.messages.into_iter().partition(is_poison);
            bytes += good.iter().map(|one| one.message.body_len()).sum::<usize>();
            claimed.messages.extend(good.into_iter().map(|one| Seen::of_leased(one, Some(id))));
            if let Some(rule) = request.poison.filter(|_| !poison.is_empty()) {
                match self.move_poison(&queue, poison, rule, now) {
                    Ok(ticket) => claimed.ticket = claimed.ticket.max(ticket),
                    // They stay claimed by nobody who was told, and are tried again when the claim ends.
                    Err(error) => {
                        tracing::warn!(queue = %queue.name, %error, "poison stays in its queue");
                        self.wake_sweeper(claim.until);
                    }
                }
            }
            if nothing || !lease.more {
                break;
            }
        }
        if !claimed.messages.is_empty() {
            self.wake_sweeper(claim.until);
            broker.counters.fetched.add(claimed.messages.len() as u64);
        }
        Ok(claimed)
    }

    /// A claim with what it holds; `None` if it has ended, or nothing is left of it.
    ///
    /// # Errors
    ///
    /// As [`Access::claim`].
    pub fn claim_view(
        &self,
        queue: &str,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Option<ClaimView>, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let found = self.inner.broker.pool.claimed(queue.id, id).now()?;
        // The sweeper may be late.
        let found = found.filter(|claimed| claimed.until > now);
        Ok(found.map(|claimed| ClaimView {
            since: claimed.since,
            until: claimed.until,
            messages: claimed.messages.into_iter().map(Seen::of_stored).collect(),
        }))
    }

    /// Has a claim last `ttl_ms` from now on; `None` if there is none any more.
    ///
    /// # Errors
    ///
    /// As [`Access::claim`].
    pub fn renew_claim(
        &self,
        queue: &str,
        id: ClaimId,
        (ttl_ms, grace_ms): (u64, u64),
        now: Timestamp,
    ) -> Result<Option<Ticket>, BrokerError> {
        if self.claim_view(queue, id, now)?.is_none() {
            return Ok(None);
        }
        let queue = self.open_queue(queue, now)?;
        let claim = claim_of(id, ttl_ms, grace_ms, now);
        let extended = self.inner.broker.pool.extend(queue.id, claim, now).now()?;
        self.wake_sweeper(claim.until);
        Ok((extended.messages > 0).then_some(extended.ticket))
    }

    /// Ends a claim: what it holds is free again, in its place. Fine if there is none.
    ///
    /// # Errors
    ///
    /// As [`Access::claim`].
    pub fn release_claim(
        &self,
        queue: &str,
        id: ClaimId,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        self.allow(Verb::Read, Kind::Queue, queue)?;
        let queue = self.open_queue(queue, now)?;
        let changes = vec![Change::EndClaim { queue: queue.id, claim: id }];
        let receipt = self.commit(Commit { changes, now, ..Commit::default() })?;
        self.inner.broker.dispatch(&queue, now);
        Ok(receipt.ticket)
    }

    /// Moves claimed messages where poison goes, in one commit.
    fn move_poison(
        &self,
        queue: &Arc<Queue>,
        poison: Vec<Leased>,
        rule: Poison<'_>,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        let (grave, _, _) = self.ensure_queue(rule.queue, now)?;
        let to = RouteTarget::with_followers(grave, false).collect();
        self.inner.broker.move_to(queue, poison, to, rule.ttl_ms, now)
    }
}

fn claim_of(id: ClaimId, ttl_ms: u64, grace_ms: u64, now: Timestamp) -> Claim {
    let until = now.after_ms(ttl_ms);
    Claim { id, until, keep_until: until.after_ms(grace_ms) }
}

impl Broker {
    /// Takes leased messages out of their queue and puts them into others, because they were tried too often.
    pub(crate) fn move_to(
        &self,
        queue: &Arc<Queue>,
        leased: Vec<Leased>,
        to: Vec<RouteTarget>,
        ttl_ms: Option<u64>,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        let name = to.first().map(|target| Arc::clone(&target.queue.name));
        let mut changes = Vec::with_capacity(leased.len() * 2);
        for one in leased {
            let sequence: Sequence = one.sequence;
            changes.push(Change::Settle {
                queue: queue.id,
                sequences: smallvec![(sequence, sequence)],
                settlement: Settlement::Ack,
            });
            let reason = Reason::DeliveryLimit;
            let (message, _) =
                with_history(queue, &one.message, reason, ("", name.as_deref()), now);
            let left = one.expires.map(|expires| expires.0.saturating_sub(now.0));
            let copy = enqueue(message, &to, ttl_ms.or(left), now, &self.sweeper);
            changes.push(once(queue, sequence, &to, copy));
            self.count_dead(reason);
        }
        let receipt = self
            .pool
            .commit(Commit { changes, now, handout: Handout::WhenDurable, ..Commit::default() })
            .now()?;
        self.follow_up(to, now, 0);
        Ok(receipt.ticket)
    }
}
