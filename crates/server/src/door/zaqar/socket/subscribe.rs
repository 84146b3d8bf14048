//! The actions on subscriptions: of the connection itself, of names that outlive it, and of subscribers elsewhere.

use broker::{Confirmation, Output, Subscribe};

use super::action::Action;
use super::attachment::AckedBy;
use super::envelope::Answer;
use super::perform::{Asked, Performed, reply};
use super::push::{Push, SUBSCRIPTIONS_MAX, Starting};
use super::show;
use crate::door::zaqar::json::{Kind, Raw};
use crate::door::zaqar::problem::Problem;

/// Least time to live, in seconds.
const TTL_SECS_MIN: i64 = 60;

/// The last second that Zaqar's calendar has: 9999-12-31 23:59:59.
const CALENDAR_END_SECS: i64 = 253_402_300_799;

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

/// How long a subscription is to last, and what is to be kept with it.
struct Terms<'a> {
    ttl_ms: u64,
    options: &'a str,
    durable_name: Option<String>,
    acked_by: AckedBy,
}

impl<'a> Terms<'a> {
    fn of(asked: &Asked<'a>) -> Result<Self, Problem> {
        let options = asked.request.member("options");
        let (durable_name, by_client) = match options {
            Some(options) => (durable_name(options)?, acks_itself(options)?),
            None => (None, false),
        };
        let acked_by = match (&durable_name, by_client) {
            (None, false) => AckedBy::Nobody,
            (Some(_), false) => AckedBy::Pong,
            (_, true) => AckedBy::Client,
        };
        let text = options.map_or("{}", Raw::text);
        Ok(Self { ttl_ms: ttl_ms(asked)?, options: text, durable_name, acked_by })
    }
}

fn ttl_ms(asked: &Asked<'_>) -> Result<u64, Problem> {
    let default = i64::from(asked.shared.operations.limits().default_subscription_ttl);
    let ttl = asked.integer("ttl").unwrap_or(default);
    if ttl < TTL_SECS_MIN {
        return Err(Problem::invalid(format!(
            "The TTL for a subscription must be at least {TTL_SECS_MIN} seconds long."
        )));
    }
    let now_secs = i64::try_from(asked.shared.now().0 / 1000).unwrap_or(i64::MAX);
    if ttl.saturating_add(now_secs) > CALENDAR_END_SECS {
        return Err(Problem::invalid(
            "The TTL seconds for a subscription plus current time must be less than 9999-12-31 23:59:59.999999.",
        ));
    }
    Ok(u64::try_from(ttl).unwrap_or(0) * 1000)
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
        let terms = Terms::of(self)?;
        if let Some(subscriber) = self.request.member("subscriber").and_then(Raw::string) {
            return self.create_elsewhere(&name, &subscriber, &terms);
        }
        if push.count() >= SUBSCRIPTIONS_MAX {
            return Err(Problem::new(
                403,
                "Limit reached",
                format!("A connection may have at most {SUBSCRIPTIONS_MAX} subscriptions."),
            ));
        }
        let (subscriber, output) = match &terms.durable_name {
            Some(durable) => (format!("websocket:durable/{durable}"), Output::DurableConsumer),
            None => (format!("websocket:connection/{}", push.name()), Output::Consumer),
        };
        let wish = Subscribe {
            subscriber: &subscriber,
            options: terms.options.as_bytes(),
            ttl_ms: terms.ttl_ms,
            confirmation: Confirmation::Confirmed,
            output,
        };
        let done = self.shared.operations.follow(self.caller, &name, &wish)?;
        let following = &done.answer;
        if !following.is_new {
            if terms.durable_name.is_none() || push.has(following.subscription.id) {
                return Ok(not_created(&name).into());
            }
            let options = Some(terms.options.as_bytes());
            self.shared.operations.renew_following(following, terms.ttl_ms, options)?;
        }
        let starting = Starting { following: following.clone(), acked_by: terms.acked_by };
        push.start_behind(answer, starting, self.codec, self.shared);
        Ok(reply(done, |following| created(&name, &following.subscription.id.to_string())))
    }

    /// Somebody who is not on this connection.
    fn create_elsewhere(&self, name: &str, subscriber: &str, terms: &Terms<'_>) -> Performed {
        let types = &self.shared.operations.limits().subscriber_types;
        let scheme = subscriber.split_once(':').map_or("", |(scheme, _)| scheme);
        if !types.iter().any(|known| known.eq_ignore_ascii_case(scheme)) {
            let quoted: Vec<_> = types.iter().map(|name| format!("'{name}'")).collect();
            return Err(Problem::invalid(format!(
                "The subscriber type of subscription must be supported in the list [{}].",
                quoted.join(", ")
            )));
        }
        let wish = Subscribe {
            subscriber,
            options: terms.options.as_bytes(),
            ttl_ms: terms.ttl_ms,
            confirmation: Confirmation::NotNeeded,
            output: Output::Delivery,
        };
        let done = self.shared.operations.follow(self.caller, name, &wish)?;
        if !done.answer.is_new {
            return Ok(not_created(name).into());
        }
        Ok(reply(done, |following| created(name, &following.subscription.id.to_string())))
    }

    fn list(&self) -> Performed {
        let name = self.queue()?;
        let marker = self.request.text("marker");
        let marker = Some(&*marker).filter(|marker| !marker.is_empty());
        let operations = &self.shared.operations;
        let page = operations.followings(self.caller, &name, marker, self.integer("limit"))?;
        Ok(Answer::new(200, show::subscriptions(&page, self.shared.now())).into())
    }

    fn get(&self) -> Performed {
        let (name, id) = (self.queue()?, self.request.text("subscription_id"));
        let subscription = self.shared.operations.following(self.caller, &name, &id)?;
        Ok(Answer::new(200, show::subscription(&subscription, self.shared.now())).into())
    }

    fn delete(&self) -> Performed {
        let (name, id) = (self.queue()?, self.request.text("subscription_id"));
        let done = self.shared.operations.unfollow(self.caller, &name, &id)?;
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
