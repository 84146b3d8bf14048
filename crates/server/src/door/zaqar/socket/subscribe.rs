//! The actions on subscriptions: of the connection itself, of names that outlive it, and of subscribers elsewhere.

use delivery::Filter;

use super::action::Action;
use super::attachment::AckedBy;
use super::envelope::Answer;
use super::perform::{Asked, Performed, reply};
use super::push::{Push, SUBSCRIPTIONS_MAX, Starting};
use super::show;
use crate::door::zaqar::identity::Family;
use crate::door::zaqar::json::{Kind, Raw};
use crate::door::zaqar::operation::{Follow, Kept, Made, filter_in};
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request;

/// Longest name of a durable subscription.
const DURABLE_NAME_BYTES_MAX: usize = 64;

/// Does what a request about subscriptions asks for; its answer has this number on the connection.
///
/// # Errors
///
/// What the operation refuses.
pub(super) fn perform(asked: &Asked<'_>, push: &mut Push, answer: u64) -> Performed {
    match asked.action {
        Action::SubscriptionCreate => asked.create(push, answer),
        Action::SubscriptionList => asked.list(),
        Action::SubscriptionGet => asked.get(),
        Action::SubscriptionAck => asked.ack(push),
        _ => asked.delete(),
    }
}

/// What a subscription of the connection itself is to be.
struct Terms {
    /// Seconds.
    ttl: u64,
    options: String,
    filter: Option<Filter>,
    durable_name: Option<String>,
    acked_by: AckedBy,
}

impl Terms {
    fn of(asked: &Asked<'_>) -> Result<Self, Problem> {
        let (limits, now) = (asked.operations().limits(), asked.shared.now());
        let body = asked.request.body.ok_or_else(Problem::document_type)?;
        let read = request::read_terms(body, limits, now)?;
        let (durable_name, by_client) = match asked.request.member("options") {
            Some(options) => (durable_name(options)?, acks_itself(options)?),
            None => (None, false),
        };
        let acked_by = match (&durable_name, by_client) {
            (None, false) => AckedBy::Nobody,
            (Some(_), false) => AckedBy::Pong,
            (_, true) => AckedBy::Client,
        };
        let options = read.options.unwrap_or_else(|| "{}".to_owned());
        let ttl = read.ttl.unwrap_or(limits.default_subscription_ttl.into());
        Ok(Self { ttl, filter: filter_in(&options)?, options, durable_name, acked_by })
    }
}

fn durable_name(options: Raw<'_>) -> Result<Option<String>, Problem> {
    let Some(value) = options.member("durable_name").filter(|it| it.kind() != Kind::Null) else {
        return Ok(None);
    };
    let is_good = |name: &str| {
        (1..=DURABLE_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    value.string().filter(|name| is_good(name)).map(|name| Some(name.into_owned())).ok_or_else(|| {
        Problem::invalid(format!(
            "durable_name must be 1 to {DURABLE_NAME_BYTES_MAX} letters, digits, underscores, dots and dashes."
        ))
    })
}

fn acks_itself(options: Raw<'_>) -> Result<bool, Problem> {
    match options.member("ack").map(|value| value.string()) {
        None => Ok(false),
        Some(Some(text)) if text == "client" => Ok(true),
        Some(Some(text)) if text == "arrival" => Ok(false),
        Some(_) => Err(Problem::invalid("ack must be \"arrival\" or \"client\".")),
    }
}

impl Asked<'_> {
    fn create(&self, push: &mut Push, answer: u64) -> Performed {
        let name = self.queue()?;
        // The queue is there before the rest is looked at, as over HTTP.
        let made = self.operations().place_or_new(self.caller, Family::Queues, &name)?.ticket;
        let mut reply = match self.request.member("subscriber") {
            Some(_) => self.subscribe_another(&name)?,
            None => self.subscribe_connection(&name, push, answer)?,
        };
        reply.ticket = reply.ticket.max(made);
        Ok(reply)
    }

    /// Somebody who is not on this connection.
    fn subscribe_another(&self, name: &str) -> Performed {
        let operations = self.operations();
        let now = self.shared.now();
        let wanted = request::read_subscription(self.request.body, operations.limits(), now)?;
        let done = operations.subscribe(self.caller, Family::Queues, name, &wanted)?;
        Ok(reply(done, |made| match made {
            Made::Subscribed(id) | Made::Again(id) => created(name, &id.to_string()),
            Made::Exists => not_created(name),
        }))
    }

    fn subscribe_connection(&self, name: &str, push: &mut Push, answer: u64) -> Performed {
        let terms = Terms::of(self)?;
        if push.count() >= SUBSCRIPTIONS_MAX {
            return Err(Problem::new(
                403,
                "Limit reached",
                format!("A connection may have at most {SUBSCRIPTIONS_MAX} subscriptions."),
            ));
        }
        let (subscriber, kept) = match &terms.durable_name {
            Some(durable) => (format!("websocket:durable/{durable}"), Kept::Beyond),
            None => (format!("websocket:connection/{}", push.name()), Kept::WithConnection),
        };
        let (options, ttl) = (&*terms.options, terms.ttl);
        let follow = Follow { subscriber: &subscriber, kept, options, ttl };
        let done = self.operations().follow(self.caller, name, &follow)?;
        let following = &done.answer;
        if !following.is_new {
            if terms.durable_name.is_none() || push.has(following.subscription.id) {
                return Ok(not_created(name).into());
            }
            let (ttl_ms, options) = (ttl.saturating_mul(1000), Some(options.as_bytes()));
            self.operations().renew_following(following, ttl_ms, options)?;
        }
        let Terms { acked_by, filter, .. } = terms;
        let starting = Starting { following: following.clone(), acked_by, filter };
        push.start_behind(answer, starting, self.codec, self.shared);
        Ok(reply(done, |following| created(name, &following.subscription.id.to_string())))
    }

    fn list(&self) -> Performed {
        let name = self.queue()?;
        let marker = self.request.text("marker");
        let marker = Some(&*marker).filter(|marker| !marker.is_empty());
        let (family, limit) = (Family::Queues, self.integer("limit"));
        let page = self.operations().subscriptions(self.caller, family, &name, marker, limit)?;
        Ok(Answer::new(200, show::subscriptions(&page)).into())
    }

    fn get(&self) -> Performed {
        let (name, id) = (self.queue()?, self.request.text("subscription_id"));
        let view = self.operations().subscription(self.caller, Family::Queues, &name, &id)?;
        Ok(Answer::new(200, show::subscription(&view)).into())
    }

    fn delete(&self) -> Performed {
        let (name, id) = (self.queue()?, self.request.text("subscription_id"));
        let done = self.operations().unsubscribe(self.caller, Family::Queues, &name, &id)?;
        Ok(reply(done, |()| Answer::text(204, &format!("Subscription {id} removed."))))
    }

    /// The client has done what was delivered to it, up to a number.
    fn ack(&self, push: &Push) -> Performed {
        let id = self.request.text("subscription_id");
        let attachment = id.parse().ok().and_then(|id| push.attachment(id));
        let attachment =
            attachment.filter(|it| it.acked_by == AckedBy::Client).ok_or_else(|| {
                Problem::not_found(format!(
                    "Subscription {id} is not one of this connection with \"ack\": \"client\""
                ))
            })?;
        let number = self.integer("delivery").and_then(|number| u64::try_from(number).ok());
        attachment.done(number.unwrap_or(0), self.shared.now());
        Ok(Answer::new(204, "{}").into())
    }
}

fn created(queue: &str, id: &str) -> Answer {
    let message = format!("Subscription {queue} created.");
    Answer::new(201, serde_json::json!({ "subscription_id": id, "message": message }).to_string())
}

fn not_created(queue: &str) -> Answer {
    Answer::text(409, &format!("Subscription {queue} not created."))
}
