//! Subscriptions: who is told what enters a queue or topic.

use std::sync::Arc;

use broker::{Confirmation, Output, Subscribe, Subscribed, Subscription, Updated};
use delivery::Undeliverable;
use model::{SubscriptionId, Ticket, Timestamp};

use super::confirmation;
use super::place::{engine_name, family_of};
use super::{Done, Operations};
use crate::auth::Caller;
use crate::door::zaqar::identity::Family;
use crate::door::zaqar::json::write;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request::{Bound, SubscriptionChange, limit_of};

/// Subscriptions that a purge ends at once.
const PURGED_AT_ONCE: usize = 256;

/// A subscriber that nothing is wrong with, for options that are checked without one.
const GOOD_SUBSCRIBER: &str = "amqp:/q";

/// What came of a wish to subscribe.
#[derive(Debug)]
pub(crate) enum Made {
    /// It is there now.
    Subscribed(SubscriptionId),
    /// It was there, with its own terms, and not confirmed: its subscriber is asked again.
    Again(SubscriptionId),
    /// Somebody has subscribed and confirmed.
    Exists,
}

/// A page of subscriptions.
#[derive(Debug)]
pub(crate) struct SubscriptionsPage {
    pub(crate) subscriptions: Vec<SubscriptionView>,
    /// What was understood as limit.
    pub(crate) limit: u32,
}

/// A subscription at a moment.
#[derive(Debug)]
pub(crate) struct SubscriptionView {
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) now: Timestamp,
}

impl SubscriptionView {
    /// The name of the queue or topic, as clients know it.
    pub(crate) fn source(&self) -> &str {
        family_of(&self.subscription.queue).1
    }

    /// Seconds.
    pub(crate) fn ttl(&self) -> u64 {
        self.subscription.ttl_ms / 1000
    }

    /// Whole seconds since its time to live began.
    pub(crate) fn age(&self) -> u64 {
        self.now.since(self.subscription.updated).as_secs()
    }

    /// `{"id", "source", "subscriber", "ttl", "age", "options", "confirmed"}`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let shown = &self.subscription;
        out.extend_from_slice(format!("{{\"id\":\"{}\",\"source\":", shown.id).as_bytes());
        write::string(out, self.source());
        out.extend_from_slice(b",\"subscriber\":");
        write::string(out, &shown.subscriber);
        out.extend_from_slice(b",\"ttl\":");
        write::integer(out, self.ttl());
        out.extend_from_slice(b",\"age\":");
        write::integer(out, self.age());
        out.extend_from_slice(b",\"options\":");
        // What other doors put there may be nothing at all.
        out.extend_from_slice(if shown.options.is_empty() { b"{}" } else { &shown.options });
        out.extend_from_slice(b",\"confirmed\":");
        out.extend_from_slice(if shown.confirmed { b"true" } else { b"false" });
        out.push(b'}');
    }
}

impl Operations {
    /// Subscribes somebody to a queue, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// 400 if it cannot be delivered to, 403 if there are as many as there may be, 503.
    pub(crate) fn subscribe(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        wanted: &SubscriptionChange,
    ) -> Result<Done<Made>, Problem> {
        let made = self.place_or_new(caller, family, name)?;
        let place = made.answer.0;
        let subscriber = wanted.subscriber.as_deref().unwrap_or_default();
        let options = wanted.options.as_deref().unwrap_or("{}");
        if wanted.wants_trust() {
            // Without a trust there is no token to call it with.
            return Err(Problem::unavailable("Subscription could not be created."));
        }
        self.check_deliverable(subscriber, options)?;
        let ttl = wanted.ttl.unwrap_or(self.limits.default_subscription_ttl.into());
        let now = self.now();
        let asked = Subscribe {
            subscriber,
            options: options.as_bytes(),
            ttl_ms: ttl.saturating_mul(1000),
            confirmation: self.unconfirmed(),
            output: Output::Delivery,
        };
        let (answer, subscription, ticket) = match place.access.subscribe(place.name(), &asked, now)
        {
            Ok(Subscribed::New(subscription, ticket)) => {
                (Made::Subscribed(subscription.id), subscription, ticket)
            }
            Ok(Subscribed::Exists(found)) if found.confirmed => {
                return Ok(Done { answer: Made::Exists, ticket: made.ticket });
            }
            Ok(Subscribed::Exists(found)) => (Made::Again(found.id), found, Ticket::NONE),
            Err(error) => {
                return Err(Problem::from_broker(&error, "Subscription could not be created."));
            }
        };
        let told = self.ask_to_confirm(&subscription, now)?;
        let ticket = made.ticket.max(ticket).max(told);
        Ok(Done { answer, ticket })
    }

    /// A page of subscriptions, by id.
    ///
    /// # Errors
    ///
    /// 400 for a limit out of range, 503.
    pub(crate) fn subscriptions(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        marker: Option<&str>,
        limit: Option<i64>,
    ) -> Result<SubscriptionsPage, Problem> {
        let most = self.limits.max_subscriptions_per_page;
        let limit = limit_of(limit, most, Bound::Definitions)?;
        let mut page = SubscriptionsPage { subscriptions: Vec::new(), limit };
        let after = match marker.map(str::parse) {
            None => None,
            Some(Ok(marker)) => Some(marker),
            // A marker that is none leads to an empty page.
            Some(Err(_)) => return Ok(page),
        };
        let Some(access) = self.access(&caller.project)? else { return Ok(page) };
        let now = self.now();
        let found = access
            .subscriptions_page(&engine_name(family, name), after, limit as usize, now)
            .map_err(|error| Problem::from_broker(&error, "Subscriptions could not be listed."))?;
        page.subscriptions =
            found.into_iter().map(|subscription| SubscriptionView { subscription, now }).collect();
        Ok(page)
    }

    /// One subscription.
    ///
    /// # Errors
    ///
    /// 404, 503.
    pub(crate) fn subscription(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        id: &str,
    ) -> Result<SubscriptionView, Problem> {
        let parsed = id.parse().map_err(|_| missing(id))?;
        let access = self.access(&caller.project)?.ok_or_else(|| missing(id))?;
        let now = self.now();
        let found = access
            .subscription(&engine_name(family, name), parsed, now)
            .map_err(|error| Problem::from_broker(&error, "Subscription could not be read."))?;
        let subscription = found.ok_or_else(|| missing(id))?;
        Ok(SubscriptionView { subscription, now })
    }

    /// Changes a subscription.
    ///
    /// # Errors
    ///
    /// 400 if it cannot be delivered to, 404, 409 if the new subscriber has one in that queue, 503.
    pub(crate) fn update_subscription(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        id: &str,
        change: &SubscriptionChange,
    ) -> Result<Done<()>, Problem> {
        let parsed = id.parse().map_err(|_| missing(id))?;
        let access = self.access(&caller.project)?.ok_or_else(|| missing(id))?;
        // What is not changed was checked before; either is checked beside something that is good.
        let subscriber = change.subscriber.as_deref().unwrap_or(GOOD_SUBSCRIBER);
        self.check_deliverable(subscriber, change.options.as_deref().unwrap_or("{}"))?;
        let change = broker::SubscriptionChange {
            subscriber: change.subscriber.as_deref(),
            ttl_ms: change.ttl.map(|ttl| ttl.saturating_mul(1000)),
            options: change.options.as_deref().map(str::as_bytes),
        };
        let updated =
            access.update_subscription(&engine_name(family, name), parsed, &change, self.now());
        match updated {
            Ok(Updated::Updated(_, ticket)) => Ok(Done { answer: (), ticket }),
            Ok(Updated::Missing) => Err(missing(id)),
            Ok(Updated::Taken) => Err(exists()),
            Err(error) => Err(Problem::from_broker(&error, "Subscription could not be updated.")),
        }
    }

    /// Ends a subscription; fine if there is none.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn unsubscribe(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        id: &str,
    ) -> Result<Done<()>, Problem> {
        let Ok(id) = id.parse() else { return Ok(Done::nothing()) };
        let Some(access) = self.access(&caller.project)? else { return Ok(Done::nothing()) };
        let ended = access.unsubscribe(&engine_name(family, name), id, self.now());
        let ticket = ended
            .map_err(|error| Problem::from_broker(&error, "Subscription could not be deleted."))?;
        Ok(Done { answer: (), ticket })
    }

    /// Notes whether a subscriber has agreed.
    ///
    /// # Errors
    ///
    /// 404, 503.
    pub(crate) fn confirm_subscription(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
        id: &str,
        confirmed: bool,
    ) -> Result<Done<()>, Problem> {
        let parsed = id.parse().map_err(|_| missing(id))?;
        let access = self.access(&caller.project)?.ok_or_else(|| missing(id))?;
        let (queue, now) = (engine_name(family, name), self.now());
        let confirmation = if confirmed { Confirmation::Confirmed } else { self.unconfirmed() };
        let noted =
            access.confirm_subscription(&queue, parsed, confirmation, now).map_err(|error| {
                Problem::from_broker(&error, "Subscription could not be confirmed.")
            })?;
        let (subscription, ticket) = noted.ok_or_else(|| missing(id))?;
        let told = match confirmed {
            true => Ticket::NONE,
            false => self.tell_of_end(&subscription, now)?,
        };
        Ok(Done { answer: (), ticket: ticket.max(told) })
    }

    /// Ends all subscriptions of a queue.
    pub(super) fn purge_subscriptions(
        &self,
        caller: &Caller,
        family: Family,
        name: &str,
    ) -> Result<Ticket, Problem> {
        let refused = |error| Problem::from_broker(&error, "Subscriptions could not be deleted.");
        let Some(access) = self.access(&caller.project)? else { return Ok(Ticket::NONE) };
        let (queue, now) = (engine_name(family, name), self.now());
        let mut last = Ticket::NONE;
        loop {
            let some =
                access.subscriptions_page(&queue, None, PURGED_AT_ONCE, now).map_err(refused)?;
            if some.is_empty() {
                return Ok(last);
            }
            for subscription in some {
                let ticket = access.unsubscribe(&queue, subscription.id, now).map_err(refused)?;
                last = last.max(ticket);
            }
        }
    }

    /// Whether a subscriber may be called, and its options mean something. A mail relay may be configured later.
    fn check_deliverable(&self, subscriber: &str, options: &str) -> Result<(), Problem> {
        match self.delivery.check(subscriber, options.as_bytes()) {
            Ok(()) | Err(Undeliverable::NoMail) => Ok(()),
            Err(error) => Err(Problem::invalid(error.to_string())),
        }
    }

    /// How a subscription stands whose subscriber has not agreed.
    fn unconfirmed(&self) -> Confirmation {
        match self.limits.require_confirmation {
            true => Confirmation::Awaited,
            false => Confirmation::NotNeeded,
        }
    }

    /// Asks a subscriber to confirm, if that is required.
    fn ask_to_confirm(
        &self,
        subscription: &Subscription,
        now: Timestamp,
    ) -> Result<Ticket, Problem> {
        match self.limits.require_confirmation {
            true => self.tell(subscription, confirmation::Kind::Subscribe, now),
            false => Ok(Ticket::NONE),
        }
    }

    /// Tells a subscriber that it will not be told any more, if it had to agree.
    fn tell_of_end(&self, subscription: &Subscription, now: Timestamp) -> Result<Ticket, Problem> {
        match self.limits.require_confirmation {
            true => self.tell(subscription, confirmation::Kind::Unsubscribe, now),
            false => Ok(Ticket::NONE),
        }
    }

    fn tell(
        &self,
        subscription: &Subscription,
        kind: confirmation::Kind,
        now: Timestamp,
    ) -> Result<Ticket, Problem> {
        let text = confirmation::text(self.gate.signer(), subscription, kind, now)
            .map_err(|error| Problem::invalid(error.to_string()))?;
        self.broker
            .tell_subscriber(subscription, &confirmation::properties(), &text, now)
            .map_err(|error| Problem::from_broker(&error, "Subscriber could not be asked."))
    }
}

/// The subscriber has a subscription in that queue.
pub(crate) fn exists() -> Problem {
    Problem::conflict(
        "Such subscription already exists.Subscriptions are unique by project + queue + subscriber URI.",
    )
}

fn missing(id: &str) -> Problem {
    Problem::not_found(format!("Subscription {id} does not exist"))
}
