//! Answers of subscribers: what one says about a message goes to whoever asked, by the message's `reply-to`.
//!
//! An answer is published through the tenant's default exchange, in the commit that ends the message: none is lost or sent
//! twice by a crash behind it. Whoever asked must not reach a queue by this that they could not reach themselves. So the
//! message must name its user (`user-id`, which the broker has checked when it was published), and this user must be
//! allowed to write to the default exchange now. A direct reply-to address needs no permission: it is unforeseeable, and
//! who knows it was given it. Such an answer is pushed when the message is ended, to a connection that ends with the server.

use std::sync::Arc;

use model::permission::Verb;
use model::{Address, Message, Ticket, Timestamp};
use posthouse_amqp::properties::Properties;
use store::{Commit, Handout, Leased};

use crate::access::DEFAULT_EXCHANGE;
use crate::broker::Broker;
use crate::dead_letter::enqueue;
use crate::error::{BrokerError, Kind};
use crate::follow::{Answered, Answering, Held, Unanswerable, ended};
use crate::pools::once;
use crate::reply::is_reply_token;
use crate::route_cache::RouteTarget;
use crate::subscriptions::Subscription;

impl Broker {
    /// Ends a message and sends an answer to whoever asked, in one commit. An answer that has nowhere to go
    /// ends the message as well.
    ///
    /// # Errors
    ///
    /// If the tenant is gone, or the store has no space or has failed; nothing has changed then.
    pub fn answer_followed(
        &self,
        subscription: &Subscription,
        (leased, held): (&Leased, Held),
        answering: &Answering<'_>,
        now: Timestamp,
    ) -> Result<Answered, BrokerError> {
        let asked = Properties::decode(leased.message.properties()).unwrap_or_default();
        let reply_to = asked.reply_to.unwrap_or_default();
        let address = Address { exchange: "".into(), routing_key: reply_to.into() };
        let (properties, body) = (answering.properties, answering.body);
        let persistent = leased.message.persistent;
        let message = Message::new(Arc::new(address), properties, body, persistent, 0);
        if is_reply_token(reply_to) {
            let ticket = self.end_answered(subscription, (leased, held), None, now)?;
            let is_there = self.reply(&subscription.tenant, message, now);
            let sent = if is_there { Ok(()) } else { Err(Unanswerable::Nobody) };
            return Ok(Answered { ticket, sent });
        }
        match self.may_answer(subscription, asked.user_id, reply_to, body.len())? {
            Ok(to) => {
                let ticket =
                    self.end_answered(subscription, (leased, held), Some((message, &to)), now)?;
                self.follow_up(to, now, 0);
                Ok(Answered { ticket, sent: Ok(()) })
            }
            Err(why) => {
                let ticket = self.end_answered(subscription, (leased, held), None, now)?;
                Ok(Answered { ticket, sent: Err(why) })
            }
        }
    }

    /// The queues that an answer goes to, or why there are none.
    fn may_answer(
        &self,
        subscription: &Subscription,
        user: Option<&str>,
        reply_to: &str,
        body_bytes: usize,
    ) -> Result<Result<Vec<RouteTarget>, Unanswerable>, BrokerError> {
        let name = &subscription.tenant;
        let tenant = self.tenant(name).ok_or_else(|| BrokerError::not_found(Kind::Tenant, name))?;
        let Some(user) = user else { return Ok(Err(Unanswerable::NoUser)) };
        let permissions = self.users.get(user).and_then(|user| user.permissions_in(name));
        if !permissions.is_some_and(|it| it.allows(Verb::Write, DEFAULT_EXCHANGE)) {
            return Ok(Err(Unanswerable::MayNotWrite));
        }
        let to = tenant.route(self, "", &[reply_to], None)?;
        Ok(match to.first() {
            None => Err(Unanswerable::Nobody),
            Some(queue) if self.is_full(queue, body_bytes as u64) => Err(Unanswerable::Full),
            Some(_) => Ok(to),
        })
    }

    /// Whether a queue is full and refuses what is published.
    fn is_full(&self, target: &RouteTarget, body_bytes: u64) -> bool {
        let refuses = |mode| mode != model::Overflow::DropHead;
        let Some(overflow) = target.overflow.as_ref().filter(|it| refuses(it.mode)) else {
            return false;
        };
        let stats = self.pool.stats(target.queue.id).now().unwrap_or_default();
        let bytes = stats.ready_bytes.saturating_add(body_bytes);
        stats.ready >= overflow.length_max || bytes > overflow.bytes_max
    }

    /// Ends a message, and puts its answer into queues if there is one to be put.
    fn end_answered(
        &self,
        subscription: &Subscription,
        (leased, held): (&Leased, Held),
        answer: Option<(Message, &[RouteTarget])>,
        now: Timestamp,
    ) -> Result<Ticket, BrokerError> {
        let follower = subscription.follower();
        let mut changes = vec![ended(follower, leased.sequence, held)];
        if let Some((mut message, to)) = answer {
            message.persistent |= to.iter().any(|target| target.keeps_all);
            let copy = enqueue(message, to, None, now, &self.sweeper);
            changes.push(once(follower, leased.sequence, to, copy));
        }
        let handout = if changes.len() > 1 { Handout::WhenDurable } else { Handout::AtOnce };
        let commit = Commit { changes, now, handout, ..Commit::default() };
        Ok(self.pool.commit(commit).now()?.ticket)
    }
}
