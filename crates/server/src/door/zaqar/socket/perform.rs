//! From actions to operations, and what comes of them as the bodies of answers.

use std::borrow::Cow;
use std::sync::Arc;

use super::Shared;
use super::action::Action;
use super::envelope::{Answer, Codec, Request};
use super::pool;
use super::push::Push;
use super::session::Reply;
use super::show;
use super::subscribe;
use crate::auth::Caller;
use crate::door::zaqar::identity::{ClientId, Family, check_name};
use crate::door::zaqar::json::{Kind, Raw};
use crate::door::zaqar::metadata::Metadata;
use crate::door::zaqar::operation::{Done, MessagesQuery, Operations, QueuesQuery};
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::request::{self, For, Purge};

/// A request that has passed all checks but those of its operation.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) caller: &'a Arc<Caller>,
    pub(super) action: Action,
    pub(super) request: &'a Request<'a>,
    pub(super) codec: Codec,
}

/// What an action comes to.
pub(super) type Performed = Result<Reply, Problem>;

/// Does what a request asks for; its answer has this number on the connection.
///
/// # Errors
///
/// What the operation refuses.
pub(super) async fn perform(asked: &Asked<'_>, push: &mut Push, answer: u64) -> Performed {
    match asked.action {
        // Answered before anybody was let in.
        Action::Authenticate => Ok(Answer::new(200, "{}").into()),
        Action::HomeDocument => Ok(Answer::new(200, asked.shared.home.clone()).into()),
        Action::Health => asked.health().await,
        Action::Ping => asked.ping(),
        Action::QueueList => asked.queue_list(),
        Action::QueueCreate => asked.queue_create(),
        Action::QueueGet => asked.queue_get(),
        Action::QueueStats => asked.queue_stats(),
        Action::QueueDelete => asked.queue_delete(),
        Action::QueuePurge => asked.queue_purge(),
        Action::MessagePost => asked.message_post(),
        Action::MessageList => asked.message_list(),
        Action::MessageGet => asked.message_get(),
        Action::MessageGetMany => asked.message_get_many(),
        Action::MessageDelete => asked.message_delete(),
        Action::MessageDeleteMany => asked.message_delete_many(),
        Action::ClaimCreate => asked.claim_create(),
        Action::ClaimGet => asked.claim_get(),
        Action::ClaimUpdate => asked.claim_update(),
        Action::ClaimDelete => asked.claim_delete(),
        Action::SubscriptionCreate
        | Action::SubscriptionList
        | Action::SubscriptionGet
        | Action::SubscriptionDelete
        | Action::SubscriptionAck => subscribe::perform(asked, push, answer),
        Action::PoolList
        | Action::PoolCreate
        | Action::PoolUpdate
        | Action::PoolGet
        | Action::PoolDelete
        | Action::FlavorList
        | Action::FlavorCreate
        | Action::FlavorUpdate
        | Action::FlavorGet
        | Action::FlavorDelete => pool::perform(asked),
    }
}

impl<'a> Asked<'a> {
    pub(super) fn operations(&self) -> &'a Operations {
        &self.shared.operations
    }

    /// The queue's name, checked.
    pub(super) fn queue(&self) -> Result<Cow<'a, str>, Problem> {
        let name = self.request.text("queue_name");
        check_name(&name, &self.caller.project, Family::Queues)?;
        Ok(name)
    }

    fn client(&self) -> Result<ClientId, Problem> {
        let text = self.request.header("Client-ID").unwrap_or_default();
        ClientId::parse(&text, self.operations().limits())
    }

    pub(super) fn integer(&self, name: &str) -> Option<i64> {
        self.request.member(name)?.integer()
    }

    pub(super) fn boolean(&self, name: &str) -> bool {
        self.request.member(name).and_then(Raw::boolean).unwrap_or(false)
    }

    /// The strings of a list; what is no string is no id of anything and left out.
    fn texts(&self, name: &str) -> Option<Vec<Cow<'a, str>>> {
        Some(self.request.member(name)?.items().filter_map(Raw::string).collect())
    }

    async fn health(&self) -> Performed {
        if !self.shared.admin_mode {
            return Err(Problem::bare(404, "404 Not Found"));
        }
        Ok(Answer::new(200, self.operations().health(self.caller).await?).into())
    }

    fn ping(&self) -> Performed {
        match self.operations().is_reachable() {
            true => Ok(Answer::new(204, "{}").into()),
            false => Err(Problem::unavailable("The store has failed.")),
        }
    }

    fn queue_list(&self) -> Performed {
        let marker = self.request.text("marker");
        let asked = QueuesQuery {
            marker: Some(&*marker).filter(|marker| !marker.is_empty()),
            limit: self.integer("limit"),
            detailed: self.boolean("detailed"),
            ..QueuesQuery::default()
        };
        let page = self.operations().queues(self.caller, Family::Queues, &asked)?;
        Ok(Answer::new(200, show::queues(&page)).into())
    }

    fn queue_create(&self) -> Performed {
        let name = self.queue()?;
        let metadata = match self.request.member("metadata") {
            Some(given) if given.kind() == Kind::Null => Metadata::default(),
            Some(given) if given.kind() != Kind::Object => return Err(Problem::document_type()),
            Some(given) => {
                let most = self.operations().limits().max_queue_metadata;
                if given.text().len() > most as usize {
                    let text = format!("Queue metadata is too large. Max size: {most}");
                    return Err(Problem::invalid(text));
                }
                Metadata::of(given)
            }
            None => Metadata::default(),
        };
        let done = self.operations().put_queue(self.caller, Family::Queues, &name, &metadata)?;
        Ok(reply(done, |made| {
            Answer::text(if made { 201 } else { 204 }, &format!("Queue {name} created."))
        }))
    }

    fn queue_get(&self) -> Performed {
        let metadata = self.operations().metadata(self.caller, Family::Queues, &self.queue()?)?;
        Ok(Answer::new(200, metadata.to_json()).into())
    }

    fn queue_stats(&self) -> Performed {
        let stats = self.operations().stats(self.caller, Family::Queues, &self.queue()?)?;
        let status = if stats.is_some() { 200 } else { 404 };
        Ok(Answer::new(status, show::stats(&stats.unwrap_or_default())).into())
    }

    fn queue_delete(&self) -> Performed {
        let name = self.queue()?;
        let done = self.operations().delete_queue(self.caller, Family::Queues, &name)?;
        Ok(reply(done, |()| Answer::text(204, &format!("Queue {name} removed."))))
    }

    fn queue_purge(&self) -> Performed {
        let name = self.queue()?;
        // Unknown types are ignored here, unlike over HTTP.
        let purge = self.texts("resource_types").map_or(Purge::ALL, |types| Purge {
            messages: types.iter().any(|kind| kind == "messages"),
            subscriptions: types.iter().any(|kind| kind == "subscriptions"),
        });
        let done = self.operations().purge(self.caller, Family::Queues, &name, purge)?;
        Ok(reply(done, |()| Answer::new(204, "{}")))
    }

    fn message_post(&self) -> Performed {
        let (name, client) = (self.queue()?, self.client()?);
        let operations = self.operations();
        let (place, _) = operations.place_or_new(self.caller, Family::Queues, &name)?.answer;
        let body = self.request.body.ok_or_else(Problem::document_type)?;
        let list = self.request.member("messages").map_or(0, |list| list.text().len());
        request::check_post_size(list as u64, &place.rules, operations.limits())?;
        let messages = request::read_messages(body, &place.rules, operations.limits())?;
        let done = operations.post(&place, &client, &messages)?;
        Ok(reply(done, |posted| Answer::new(201, show::posted(posted))))
    }

    fn message_list(&self) -> Performed {
        let (name, client) = (self.queue()?, self.client()?);
        let marker = self.request.text("marker");
        let asked = MessagesQuery {
            marker: Some(&*marker).filter(|marker| !marker.is_empty()),
            limit: self.integer("limit"),
            not_from: (!self.boolean("echo")).then_some(&client),
            include_claimed: self.boolean("include_claimed"),
            include_delayed: self.boolean("include_delayed"),
        };
        let page = self.operations().messages(self.caller, Family::Queues, &name, &asked)?;
        Ok(Answer::new(200, show::messages(&page)).into())
    }

    fn message_get(&self) -> Performed {
        let (name, id) = (self.queue()?, self.request.text("message_id"));
        let page = self.operations().messages_by_id(self.caller, Family::Queues, &name, &[&id])?;
        let project = &self.caller.project;
        let body = show::single(&page).ok_or_else(|| {
            Problem::not_found(format!(
                "Message {id} does not exist in queue {name} for project {project}"
            ))
        })?;
        Ok(Answer::new(200, body).into())
    }

    fn message_get_many(&self) -> Performed {
        let name = self.queue()?;
        let ids = self.texts("message_ids").unwrap_or_default();
        self.check_count(&ids)?;
        let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
        let page = self.operations().messages_by_id(self.caller, Family::Queues, &name, &ids)?;
        Ok(Answer::new(200, show::messages(&page)).into())
    }

    fn check_count(&self, ids: &[Cow<'_, str>]) -> Result<(), Problem> {
        let most = self.operations().limits().max_messages_per_page;
        if (1..=most as usize).contains(&ids.len()) {
            return Ok(());
        }
        Err(Problem::invalid(format!(
            "Limit must be at least 1 and may not be greater than {most}."
        )))
    }

    fn message_delete(&self) -> Performed {
        let (name, id) = (self.queue()?, self.request.text("message_id"));
        let claim = self.request.member("claim_id").and_then(Raw::string);
        let done = self.operations().delete_message(
            self.caller,
            Family::Queues,
            &name,
            &id,
            claim.as_deref(),
        )?;
        Ok(reply(done, |()| Answer::new(204, "{}")))
    }

    fn message_delete_many(&self) -> Performed {
        let name = self.queue()?;
        let (operations, family) = (self.operations(), Family::Queues);
        let ids = match (self.texts("message_ids"), self.integer("pop")) {
            (Some(_), Some(_)) => {
                return Err(Problem::invalid(
                    "pop and id params cannot be present together in the delete request.",
                ));
            }
            (None, None) => {
                return Err(Problem::invalid(
                    "The request should have either \"ids\" or \"pop\" parameter in the request, to be able to delete.",
                ));
            }
            (None, Some(count)) => {
                let done = operations.pop(self.caller, family, &name, count)?;
                return Ok(reply(done, |page| Answer::new(200, show::popped(&page))));
            }
            (Some(ids), None) => ids,
        };
        let most = operations.limits().max_messages_per_page;
        if !(1..=most as usize).contains(&ids.len()) {
            return Err(Problem::invalid(format!(
                "ids parameter should have at least 1 and not greater than {most} values."
            )));
        }
        let claims = self.texts("claim_ids");
        let needed = operations.limits().message_delete_with_claim_id;
        if needed && claims.is_none() {
            return Err(Problem::invalid(
                "The request should have both \"ids\" and \"claim_ids\" parameter in the request when message_delete_with_claim_id is True.",
            ));
        }
        let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
        let claims: Option<Vec<&str>> = claims
            .as_ref()
            .filter(|_| needed)
            .map(|claims| claims.iter().map(|id| &**id).collect());
        let done =
            operations.delete_messages(self.caller, family, &name, &ids, claims.as_deref())?;
        Ok(reply(done, |()| Answer::new(204, "{}")))
    }

    fn claim_create(&self) -> Performed {
        let (name, limit) = (self.queue()?, self.integer("limit"));
        let limits = self.operations().limits();
        let times = request::read_claim(self.request.body, limits, For::Creation { limit })?;
        let done = self.operations().claim(self.caller, &name, times, limit)?;
        Ok(reply(done, |claim| match claim {
            Some(claim) => Answer::new(201, show::claimed(&claim)),
            None => Answer::new(204, "{\"claim_id\":null}"),
        }))
    }

    fn claim_get(&self) -> Performed {
        let (name, id) = (self.queue()?, self.request.text("claim_id"));
        let view = self.operations().claim_view(self.caller, &name, &id)?;
        Ok(Answer::new(200, show::claim(&view)).into())
    }

    fn claim_update(&self) -> Performed {
        let (name, id) = (self.queue()?, self.request.text("claim_id"));
        let limits = self.operations().limits();
        let times = request::read_claim(self.request.body, limits, For::Update)?;
        let done = self.operations().renew_claim(self.caller, &name, &id, times)?;
        Ok(reply(done, |()| Answer::text(204, &format!("Claim {id} updated."))))
    }

    fn claim_delete(&self) -> Performed {
        let (name, id) = (self.queue()?, self.request.text("claim_id"));
        let done = self.operations().release_claim(self.caller, &name, &id)?;
        Ok(reply(done, |()| Answer::text(204, &format!("Claim {id} deleted."))))
    }
}

/// An answer that leaves when what it says is durable.
pub(super) fn reply<T>(done: Done<T>, answer: impl FnOnce(T) -> Answer) -> Reply {
    Reply { answer: answer(done.answer), ticket: done.ticket }
}
