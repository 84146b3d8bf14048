//! What the queue service can do: typed requests in, typed answers out, for HTTP and WebSocket alike.
//!
//! Nothing here suspends. What must be durable before it is answered comes as [`Done`] with a ticket, for which the door
//! waits with [`Operations::durable`]; so many requests share one sync.
//!
//! | file | concept |
//! |---|---|
//! | `place` | a queue or topic as requests find it, remembered between them |
//! | `queues` | queues and topics: making, metadata, lists, stats, purge |
//! | `messages` | posting, listing, deleting, taking |
//! | `claims` | claims |
//! | `following` | subscriptions of connections |
//! | `subscriptions`, `confirmation` | who is told what enters a queue, and whether they want to be |
//! | `encryption` | bodies sealed at rest |
//! | `pools` | pools and flavors |
//! | `health` | a round trip, measured |
//! | `view` | messages as clients of this door see them |

mod claims;
mod confirmation;
mod encryption;
mod following;
mod health;
mod messages;
mod place;
mod pools;
mod queues;
mod subscriptions;
mod view;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use broker::{Access, Broker};
use delivery::{Defaults, Settler};
use model::{Ticket, Timestamp};

pub(crate) use claims::{ClaimView, NewClaim};
pub(crate) use following::{Follow, Following, Kept, filter_in};
pub(crate) use messages::{MessagesPage, MessagesQuery, Posted};
pub(crate) use place::TOPIC_PREFIX;
pub(crate) use pools::{Detail, Flavor, UNABLE_TO_CREATE, flavor_members, pool_members};
pub(crate) use queues::{Edge, QueuesPage, QueuesQuery, Stats};
pub(crate) use subscriptions::{Made, SubscriptionView, SubscriptionsPage, exists};
pub(crate) use view::{MessageView, write_body};

use super::gate::Gate;
use super::metadata::{Metadata, Rules};
use super::problem::Problem;
use crate::config::Queues;

/// What can be done. One for all doors.
#[derive(Debug)]
pub struct Operations {
    broker: Arc<Broker>,
    limits: Queues,
    /// For what is asked of people who have no other right than to answer.
    gate: Arc<Gate>,
    /// What subscribers and their options are checked against.
    delivery: Defaults,
    /// What receivers of webhooks settle later.
    settler: Settler,
    /// The projects that requests came for lately.
    projects: RwLock<HashMap<Box<str>, Access>>,
    /// The rules of queues without metadata.
    plain: Arc<Rules>,
}

/// An answer that must not leave before it is durable.
#[derive(Debug)]
#[must_use]
pub(crate) struct Done<T> {
    pub(crate) answer: T,
    /// See [`Operations::durable`].
    pub(crate) ticket: Ticket,
}

impl Operations {
    /// The operations on this broker.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        limits: Queues,
        gate: Arc<Gate>,
        delivery: Defaults,
        settler: Settler,
    ) -> Self {
        let plain = Arc::new(Rules::of(&Metadata::default(), &limits));
        Self { broker, limits, gate, delivery, settler, projects: RwLock::default(), plain }
    }

    /// The limits that an operator chose.
    #[must_use]
    pub fn limits(&self) -> &Queues {
        &self.limits
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.broker.now()
    }

    /// What receivers of webhooks settle later.
    pub(crate) fn settler(&self) -> &Settler {
        &self.settler
    }

    /// What tells which tickets are durable.
    pub(crate) fn watch(&self) -> &store::Watch {
        self.broker.watch()
    }

    /// Waits until what was done is durable. Cancel-safe.
    ///
    /// # Errors
    ///
    /// 503 if the store failed before; whether it was done is unknown then.
    pub(crate) async fn durable<T: Send>(&self, done: Done<T>) -> Result<T, Problem> {
        match self.broker.watch().until_durable(done.ticket).await {
            Ok(()) => Ok(done.answer),
            Err(error) => {
                tracing::error!(%error, "the store failed before a request was durable");
                Err(Problem::unavailable("The change could not be made durable."))
            }
        }
    }
}

impl Done<()> {
    /// Nothing had to be done.
    pub(crate) fn nothing() -> Self {
        Self { answer: (), ticket: Ticket::NONE }
    }
}
