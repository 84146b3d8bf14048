//! Following a queue on a connection: subscriptions that are no deliveries.

use std::sync::Arc;

use broker::SubscriptionChange;
use broker::{Access, Backlog, Confirmation, Output, Subscribe, Subscribed, Subscription};
use delivery::Filter;

use super::{Done, Operations};
use crate::auth::Caller;
use crate::door::zaqar::identity::Family;
use crate::door::zaqar::problem::Problem;

/// A subscription, and the access that it can be consumed by.
#[derive(Debug, Clone)]
pub(crate) struct Following {
    pub(crate) access: Access,
    pub(crate) subscription: Arc<Subscription>,
    /// Whether it was made now.
    pub(crate) is_new: bool,
}

/// Who follows, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Follow<'a> {
    /// Unique for a queue.
    pub(crate) subscriber: &'a str,
    /// Whether it is kept for a subscriber who comes back.
    pub(crate) kept: Kept,
    /// A JSON object.
    pub(crate) options: &'a str,
    /// Seconds.
    pub(crate) ttl: u64,
}

/// How long a connection's subscription is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// As long as its connection; what waits for it is bounded.
    WithConnection,
    /// Through connections and restarts, with all that waits for it.
    Beyond,
}

impl Operations {
    /// Has a connection follow a queue, which is made if it is not there; a subscriber that does already stays as it is.
    ///
    /// # Errors
    ///
    /// 400 for what is too long, 403 if there are as many as there may be, 503.
    pub(crate) fn follow(
        &self,
        caller: &Caller,
        name: &str,
        follow: &Follow<'_>,
    ) -> Result<Done<Following>, Problem> {
        let made = self.place_or_new(caller, Family::Queues, name)?;
        let (place, _) = made.answer;
        let backlog = Backlog {
            messages_max: self.limits.websocket_backlog_messages_max,
            bytes_max: self.limits.websocket_backlog_bytes_max,
        };
        let wish = Subscribe {
            subscriber: follow.subscriber,
            options: follow.options.as_bytes(),
            ttl_ms: follow.ttl.saturating_mul(1000),
            confirmation: Confirmation::Confirmed,
            output: match follow.kept {
                Kept::WithConnection => Output::Consumer(backlog),
                Kept::Beyond => Output::DurableConsumer,
            },
        };
        let subscribed = place.access.subscribe(place.name(), &wish, self.now());
        let (subscription, is_new, ticket) = match subscribed.map_err(|error| refused(&error))? {
            Subscribed::New(subscription, ticket) => (subscription, true, ticket),
            Subscribed::Exists(subscription) => (subscription, false, made.ticket),
        };
        let answer = Following { access: place.access, subscription, is_new };
        Ok(Done { answer, ticket: ticket.max(made.ticket) })
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
}

/// The filter in the options of a subscription, if they have one; all options are checked.
///
/// # Errors
///
/// 400 for options that mean nothing.
pub(crate) fn filter_in(options: &str) -> Result<Option<Filter>, Problem> {
    let options = serde_json::from_str(options).unwrap_or_default();
    let options = delivery::Options::parse(&options);
    Ok(options.map_err(|error| Problem::invalid(error.to_string()))?.filter)
}

fn refused(error: &broker::BrokerError) -> Problem {
    Problem::from_broker(error, "Subscription could not be stored.")
}
