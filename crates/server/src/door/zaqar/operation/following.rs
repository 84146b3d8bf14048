//! What sockets need of subscriptions: following a queue, and the definitions of who does.

use std::sync::Arc;

use broker::{Access, Subscribe, Subscribed, Subscription, SubscriptionChange};
use model::SubscriptionId;

use super::{Done, Operations};
use crate::auth::Caller;
use crate::door::zaqar::identity::Family;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request::{Bound, limit_of};

/// A subscription, and the access that it can be consumed by.
#[derive(Debug, Clone)]
pub(crate) struct Following {
    pub(crate) access: Access,
    pub(crate) subscription: Arc<Subscription>,
    /// Whether it was made now.
    pub(crate) is_new: bool,
}

impl Operations {
    /// Has a subscriber follow a queue, which is made if it is not there; a subscriber that does already stays as it is.
    ///
    /// # Errors
    ///
    /// 400 for what is too long, 403 if there are as many as there may be, 503.
    pub(crate) fn follow(
        &self,
        caller: &Caller,
        name: &str,
        wish: &Subscribe<'_>,
    ) -> Result<Done<Following>, Problem> {
        let made = self.place_or_new(caller, Family::Queues, name)?;
        let (place, _) = made.answer;
        let subscribed = place.access.subscribe(place.name(), wish, self.now());
        let (subscription, is_new, ticket) = match subscribed.map_err(|error| refused(&error))? {
            Subscribed::New(subscription, ticket) => (subscription, true, ticket),
            Subscribed::Exists(subscription) => (subscription, false, made.ticket),
        };
        let answer = Following { access: place.access, subscription, is_new };
        Ok(Done { answer, ticket: ticket.max(made.ticket) })
    }

    /// A page of the subscriptions of a queue, which need not exist.
    ///
    /// # Errors
    ///
    /// 400 for a limit out of range, 503.
    pub(crate) fn followings(
        &self,
        caller: &Caller,
        name: &str,
        marker: Option<&str>,
        limit: Option<i64>,
    ) -> Result<Vec<Arc<Subscription>>, Problem> {
        let limit = limit_of(limit, self.limits.max_subscriptions_per_page, Bound::Definitions)?;
        let Some(access) = self.access(&caller.project)? else { return Ok(Vec::new()) };
        // A marker that is none leads to an empty page, as with messages.
        let after = match marker.map(str::parse) {
            Some(Ok(id)) => Some(id),
            Some(Err(_)) => return Ok(Vec::new()),
            None => None,
        };
        let page = access.subscriptions_page(name, after, limit as usize, self.now());
        page.map_err(|error| refused(&error))
    }

    /// One subscription.
    ///
    /// # Errors
    ///
    /// 404 if it is not there, 503.
    pub(crate) fn following(
        &self,
        caller: &Caller,
        name: &str,
        id: &str,
    ) -> Result<Arc<Subscription>, Problem> {
        let missing = || Problem::not_found(format!("Subscription {id} does not exist"));
        let known: SubscriptionId = id.parse().map_err(|_| missing())?;
        let access = self.access(&caller.project)?.ok_or_else(missing)?;
        let found = access.subscription(name, known, self.now());
        found.map_err(|error| refused(&error))?.ok_or_else(missing)
    }

    /// Changes how long a subscription lasts, from now on, and its options.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn renew_following(
        &self,
        following: &Following,
        ttl_ms: u64,
        options: Option<&[u8]>,
    ) -> Result<(), Problem> {
        let Following { access, subscription, .. } = following;
        let change =
            SubscriptionChange { ttl_ms: Some(ttl_ms), options, ..SubscriptionChange::default() };
        let changed =
            access.update_subscription(&subscription.queue, subscription.id, &change, self.now());
        changed.map(drop).map_err(|error| refused(&error))
    }

    /// Ends a subscription; fine if it is not there.
    ///
    /// # Errors
    ///
    /// 503.
    pub(crate) fn unfollow(
        &self,
        caller: &Caller,
        name: &str,
        id: &str,
    ) -> Result<Done<()>, Problem> {
        let (Ok(id), Some(access)) = (id.parse(), self.access(&caller.project)?) else {
            return Ok(Done::nothing());
        };
        let ticket = access.unsubscribe(name, id, self.now()).map_err(|error| refused(&error))?;
        Ok(Done { answer: (), ticket })
    }
}

fn refused(error: &broker::BrokerError) -> Problem {
    Problem::from_broker(error, "Subscription could not be stored.")
}
