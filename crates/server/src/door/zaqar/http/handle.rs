//! From paths, queries and bodies to operations.

use std::pin::Pin;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;

use super::answer::{self, Answer};
use super::body::{Body, Unread};
use super::service::{Admitted, Service};
use super::write::{self, Page};
use crate::door::zaqar::identity::Family;
use crate::door::zaqar::metadata::Metadata;
use crate::door::zaqar::operation::{MessagesQuery, QueuesQuery};
use crate::door::zaqar::patch;
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::query::Query;
use crate::door::zaqar::request::{self, For};
use crate::door::zaqar::route::{Operation as Op, Route, Version};

/// Most bytes of a body for which Zaqar has no limit of its own.
const BODY_BYTES_MAX: u32 = 64 * 1024;

/// What an operation comes to.
pub(super) type Handled = Result<Answer, Problem>;

impl Service {
    /// Does what a route's operation says.
    pub(super) async fn handle(
        &self,
        route: &Route,
        request: &Admitted<'_>,
        body: Unread,
    ) -> Handled {
        let family = route.family;
        match route.operation {
            // Answered before anybody is admitted: its path is the right to it.
            Op::MessageSettle => Err(Problem::bare(404, "404 Not Found")),
            Op::Home => Ok(self.documents().home(request.version)),
            Op::Ping => self.ping(),
            Op::Health => rare(self.health(request)).await,
            Op::QueueList => self.queue_list(family, request),
            Op::QueuePut => self.queue_put(family, request, body).await,
            Op::QueueGet => self.queue_get(family, request),
            Op::QueuePatch => rare(self.queue_patch(family, request, body)).await,
            Op::QueueDelete => self.queue_delete(family, request).await,
            Op::QueueStats => self.queue_stats(family, request),
            Op::QueueShare => rare(self.queue_share(request, body)).await,
            Op::QueuePurge => rare(self.queue_purge(family, request, body)).await,
            Op::MessagePost => self.message_post(family, request, body).await,
            Op::MessageList => self.message_list(family, request),
            Op::MessagesDelete => self.messages_delete(family, request).await,
            Op::MessageGet => self.message_get(family, request),
            Op::MessageDelete => self.message_delete(family, request).await,
            Op::ClaimCreate => self.claim_create(request, body).await,
            Op::ClaimGet => self.claim_get(request),
            Op::ClaimUpdate => self.claim_update(request, body).await,
            Op::ClaimDelete => self.claim_delete(request).await,
            Op::PoolList => self.pool_list(request),
            Op::PoolPut => rare(self.pool_put(request, body)).await,
            Op::PoolGet => self.pool_get(request),
            Op::PoolPatch => rare(self.pool_patch(request, body)).await,
            Op::PoolDelete => rare(self.pool_delete(request)).await,
            Op::FlavorList => self.flavor_list(request),
            Op::FlavorPut => rare(self.flavor_put(request, body)).await,
            Op::FlavorGet => self.flavor_get(request),
            Op::FlavorPatch => rare(self.flavor_patch(request, body)).await,
            Op::FlavorDelete => rare(self.flavor_delete(request)).await,
            Op::SubscriptionList => self.subscription_list(family, request),
            Op::SubscriptionCreate => rare(self.subscription_create(family, request, body)).await,
            Op::SubscriptionGet => self.subscription_get(family, request),
            Op::SubscriptionUpdate => rare(self.subscription_update(family, request, body)).await,
            Op::SubscriptionDelete => rare(self.subscription_delete(family, request)).await,
            Op::SubscriptionConfirm => rare(self.subscription_confirm(family, request, body)).await,
        }
    }

    fn ping(&self) -> Handled {
        if self.operations.is_reachable() {
            return Ok(answer::empty(StatusCode::NO_CONTENT));
        }
        Err(Problem::unavailable("The store has failed."))
    }

    async fn health(&self, request: &Admitted<'_>) -> Handled {
        let report = self.operations.health(&request.caller).await?;
        Ok(answer::json(StatusCode::OK, report))
    }

    fn queue_list(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let query = Query::parse(request.query);
        let old = request.version == Version::V1;
        let mut asked = QueuesQuery {
            marker: query.text("marker"),
            limit: query.integer("limit")?,
            detailed: query.boolean("detailed")?.unwrap_or(false),
            ..QueuesQuery::default()
        };
        if !old {
            const KNOWN: &[&str] = &["marker", "limit", "detailed", "name", "with_count"];
            asked.name = query.text("name");
            asked.with_count = query.boolean("with_count")?.unwrap_or(false);
            asked.filters = query.others(KNOWN).collect();
        }
        let page = self.operations.queues(&request.caller, family, &asked)?;
        let out = write::queues(request.path, family, old, &asked, &page, self.limits());
        Ok(answer::json(StatusCode::OK, out))
    }

    async fn queue_put(&self, family: Family, request: &Admitted<'_>, body: Unread) -> Handled {
        let body = self.read_metadata_body(body).await?;
        let metadata = match body.optional_document()? {
            Some(document) if document.kind() == crate::door::zaqar::json::Kind::Array => {
                return Err(Problem::document_type());
            }
            Some(document) => Metadata::of(document),
            None => Metadata::default(),
        };
        let name = request.name();
        let done = self.operations.put_queue(&request.caller, family, name, &metadata)?;
        let status = match self.operations.durable(done).await? {
            true => StatusCode::CREATED,
            false => StatusCode::NO_CONTENT,
        };
        Ok(answer::located(answer::empty(status), request.path_bytes()))
    }

    async fn read_metadata_body(&self, body: Unread) -> Result<Body, Problem> {
        let most = self.limits().max_queue_metadata;
        let too_large =
            || Problem::invalid(format!("Queue metadata is too large. Max size: {most}"));
        body.read(most, too_large).await
    }

    fn queue_get(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let metadata = self.operations.metadata(&request.caller, family, request.name())?;
        Ok(self.metadata_answer(family, request.version, &metadata))
    }

    fn metadata_answer(&self, family: Family, version: Version, metadata: &Metadata) -> Answer {
        let shown = match version {
            Version::V1 => metadata.to_json(),
            Version::V2 => metadata.shown(family, self.limits()),
        };
        answer::json(StatusCode::OK, shown)
    }

    async fn queue_patch(
        &self,
        family: Family,
        request: &Admitted<'_>,
        mut body: Unread,
    ) -> Handled {
        let kind = request.headers.get(CONTENT_TYPE);
        if kind.is_none_or(|kind| kind.as_bytes() != patch::MEDIA_TYPE.as_bytes()) {
            body.drain().await;
            return Err(Problem::new(
                415,
                "415 Unsupported Media Type",
                format!(
                    "Accepted media type for PATCH: {{'Accept-Patch': '{}'}}.",
                    patch::MEDIA_TYPE
                ),
            ));
        }
        if body.length().is_none_or(|length| length == 0) {
            body.drain().await;
            return Err(Problem::body("PATCH body could not be empty for update."));
        }
        let body = self.read_metadata_body(body).await?;
        let changes = patch::parse(body.document()?)?;
        let name = request.name();
        let done = self.operations.patch_metadata(&request.caller, family, name, &changes)?;
        let metadata = self.operations.durable(done).await?;
        Ok(self.metadata_answer(family, request.version, &metadata))
    }

    async fn queue_delete(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let done = self.operations.delete_queue(&request.caller, family, request.name())?;
        self.operations.durable(done).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    fn queue_stats(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let stats = self.operations.stats(&request.caller, family, request.name())?;
        let base = request.path.strip_suffix("stats").unwrap_or(request.path);
        let out = write::stats(base, family, &stats.unwrap_or_default());
        Ok(answer::json(StatusCode::OK, out))
    }

    async fn queue_share(&self, request: &Admitted<'_>, body: Unread) -> Handled {
        let body = read_other(body).await?;
        let now = self.operations.now();
        let share = request::read_share(body.document()?, now)?;
        let base = request.path.strip_suffix("share").unwrap_or(request.path);
        let paths: Vec<_> = share.paths.iter().map(|path| format!("{base}{path}")).collect();
        let project = &request.caller.project;
        let signed = self.gate().signer().sign(&paths, &share.methods, project, share.expires, now);
        let signed = signed.map_err(|error| Problem::invalid(error.to_string()))?;
        Ok(answer::json(StatusCode::OK, write::signed(&signed)))
    }

    async fn queue_purge(&self, family: Family, request: &Admitted<'_>, body: Unread) -> Handled {
        let body = read_other(body).await?;
        let purge = request::read_purge(body.optional_document()?)?;
        let done = self.operations.purge(&request.caller, family, request.name(), purge)?;
        self.operations.durable(done).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    async fn message_post(&self, family: Family, request: &Admitted<'_>, body: Unread) -> Handled {
        let made = self.operations.place_or_new(&request.caller, family, request.name())?;
        let (place, _) = made.answer;
        let rules = &place.rules;
        let limits = self.limits();
        let length = body.length().unwrap_or(0);
        let refused = request::check_post_size(length, rules, limits).err();
        let most = if refused.is_some() { 0 } else { limits.max_messages_post_size };
        let too_large = || refused.unwrap_or_else(|| Problem::body("Request body is too large."));
        let body = body.read(most, too_large).await?;
        let messages = request::read_messages(body.document()?, rules, limits)?;
        let done = self.operations.post(&place, &request.client, &messages)?;
        let posted = self.operations.durable(done).await?;
        let (out, location) = write::posted(request.path, posted);
        Ok(answer::located(answer::json(StatusCode::CREATED, out), location))
    }

    fn message_list(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let query = Query::parse(request.query);
        if let Some(ids) = query.list("ids") {
            return self.messages_by_id(family, request, &ids);
        }
        let asked = MessagesQuery {
            marker: query.text("marker"),
            limit: query.integer("limit")?,
            not_from: (!query.boolean("echo")?.unwrap_or(false)).then_some(&request.client),
            include_claimed: query.boolean("include_claimed")?.unwrap_or(false),
            include_delayed: request.version == Version::V2
                && query.boolean("include_delayed")?.unwrap_or(false),
        };
        let page = self.operations.messages(&request.caller, family, request.name(), &asked)?;
        let out = write::messages(&self.page(request, &page), &asked, request.version);
        Ok(answer::json(StatusCode::OK, out))
    }

    fn messages_by_id(&self, family: Family, request: &Admitted<'_>, ids: &[&str]) -> Handled {
        let most = self.limits().max_messages_per_page;
        if ids.len() > most as usize {
            return Err(Problem::invalid(format!(
                "Limit must be at least 1 and may not be greater than {most}."
            )));
        }
        let (caller, name) = (&request.caller, request.name());
        let page = self.operations.messages_by_id(caller, family, name, ids)?;
        if page.messages.is_empty() {
            let listed: Vec<_> = ids.iter().map(|id| format!("'{id}'")).collect();
            return Err(Problem::not_found(format!(
                "Messages with IDs: [{}] do not exist in queue {name} for project {}",
                listed.join(", "),
                caller.project
            )));
        }
        Ok(answer::json(StatusCode::OK, write::found_messages(&self.page(request, &page))))
    }

    async fn messages_delete(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let query = Query::parse(request.query);
        let (caller, name) = (&request.caller, request.name());
        let pop = query.integer("pop")?;
        let ids = match (query.list("ids"), pop) {
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
                let done = self.operations.pop(caller, family, name, count)?;
                let page = self.operations.durable(done).await?;
                return Ok(answer::json(StatusCode::OK, write::popped(&page)));
            }
            (Some(ids), None) => ids,
        };
        let most = self.limits().max_messages_per_page;
        if ids.len() > most as usize {
            return Err(Problem::invalid(format!(
                "ids parameter should have at least 1 and not greater than {most} values."
            )));
        }
        let claims = query.list("claim_ids");
        let needed = self.limits().message_delete_with_claim_id;
        if needed && claims.is_none() {
            return Err(Problem::invalid(
                "The request should have both \"ids\" and \"claim_ids\" parameter in the request when message_delete_with_claim_id is True.",
            ));
        }
        let claims = claims.as_deref().filter(|_| needed);
        let done = self.operations.delete_messages(caller, family, name, &ids, claims)?;
        self.operations.durable(done).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    fn message_get(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let (caller, name, id) = (&request.caller, request.name(), request.id());
        let page = self.operations.messages_by_id(caller, family, name, &[id])?;
        // The path ends with the id, which the page writes itself.
        let base = request.path.rsplit_once('/').map_or(request.path, |(base, _)| base);
        let out = write::single_message(&Page { path: base, ..self.page(request, &page) });
        out.map(|out| answer::json(StatusCode::OK, out)).ok_or_else(|| {
            Problem::not_found(format!(
                "Message {id} does not exist in queue {name} for project {}",
                caller.project
            ))
        })
    }

    async fn message_delete(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let query = Query::parse(request.query);
        let (name, id, claim) = (request.name(), request.id(), query.text("claim_id"));
        let done = self.operations.delete_message(&request.caller, family, name, id, claim)?;
        self.operations.durable(done).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    async fn claim_create(&self, request: &Admitted<'_>, body: Unread) -> Handled {
        let query = Query::parse(request.query);
        let limit = query.integer("limit")?;
        let body = read_other(body).await?;
        let times =
            request::read_claim(body.optional_document()?, self.limits(), For::Creation { limit })?;
        let done = self.operations.claim(&request.caller, request.name(), times, limit)?;
        let Some(claim) = self.operations.durable(done).await? else {
            return Ok(answer::empty(StatusCode::NO_CONTENT));
        };
        let base = request.path.strip_suffix("/claims").unwrap_or(request.path);
        let messages = format!("{base}/messages");
        let out = write::claimed(&Page { path: &messages, ..self.page(request, &claim.page) });
        let location = format!("{}/{}", request.path, claim.id);
        Ok(answer::located(answer::json(StatusCode::CREATED, out), location))
    }

    fn claim_get(&self, request: &Admitted<'_>) -> Handled {
        let view = self.operations.claim_view(&request.caller, request.name(), request.id())?;
        let base = request.path.split("/claims/").next().unwrap_or_default();
        let messages = format!("{base}/messages");
        let page = Page { path: &messages, ..self.page(request, &view.page) };
        Ok(answer::json(StatusCode::OK, write::claim_view(request.path, &view, &page)))
    }

    async fn claim_update(&self, request: &Admitted<'_>, body: Unread) -> Handled {
        let body = read_other(body).await?;
        let times = request::read_claim(Some(body.document()?), self.limits(), For::Update)?;
        let (name, id) = (request.name(), request.id());
        let done = self.operations.renew_claim(&request.caller, name, id, times)?;
        self.operations.durable(done).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    async fn claim_delete(&self, request: &Admitted<'_>) -> Handled {
        let done = self.operations.release_claim(&request.caller, request.name(), request.id())?;
        self.operations.durable(done).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    fn page<'a>(
        &self,
        request: &Admitted<'a>,
        page: &'a crate::door::zaqar::operation::MessagesPage,
    ) -> Page<'a> {
        Page { path: request.path, page, checksum: self.limits().enable_checksum }
    }
}

impl Admitted<'_> {
    /// The queue's or topic's name.
    pub(super) fn name(&self) -> &str {
        self.variables.name.as_deref().unwrap_or_default()
    }

    /// The message's, claim's or subscription's id.
    pub(super) fn id(&self) -> &str {
        self.variables.id.as_deref().unwrap_or_default()
    }

    pub(super) fn path_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.path.as_bytes())
    }
}

/// Keeps the state of a rare operation out of every connection, which has room for the largest of the others.
fn rare<F: Future>(operation: F) -> Pin<Box<F>> {
    Box::pin(operation)
}

/// Reads a body for which Zaqar has no limit of its own.
pub(super) async fn read_other(body: Unread) -> Result<Body, Problem> {
    let too_large = || {
        Problem::new(
            413,
            "413 Payload Too Large",
            format!("The body must be at most {BODY_BYTES_MAX} bytes."),
        )
    };
    body.read(BODY_BYTES_MAX, too_large).await
}
