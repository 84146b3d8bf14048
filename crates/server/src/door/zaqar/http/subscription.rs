//! Requests about subscriptions.

use std::net::Ipv4Addr;

use hyper::StatusCode;

use super::answer;
use super::body::Unread;
use super::handle::{Handled, read_other};
use super::service::{Admitted, Service};
use super::write;
use crate::auth::Credentials;
use crate::auth::keystone::TrustId;
use crate::door::zaqar::identity::Family;
use crate::door::zaqar::operation::{Made, exists};
use crate::door::zaqar::problem::Problem;
use crate::door::zaqar::query::Query;
use crate::door::zaqar::request::{self, SubscriptionChange};

impl Service {
    pub(super) fn subscription_list(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let query = Query::parse(request.query);
        let (marker, limit) = (query.text("marker"), query.integer("limit")?);
        let (caller, name) = (&request.caller, request.name());
        let page = self.operations.subscriptions(caller, family, name, marker, limit)?;
        Ok(answer::json(StatusCode::OK, write::subscriptions(request.path, &page)))
    }

    pub(super) async fn subscription_create(
        &self,
        family: Family,
        request: &Admitted<'_>,
        body: Unread,
    ) -> Handled {
        // The queue is there before the body is looked at, as with messages.
        let (caller, name) = (&request.caller, request.name());
        let made = self.operations.place_or_new(caller, family, name)?;
        let body = read_other(body).await?;
        let now = self.operations.now();
        let mut wanted = request::read_subscription(body.optional_document()?, self.limits(), now)?;
        let trust = self.trusted(request, &mut wanted).await?;
        let mut done = match self.operations.subscribe(caller, family, name, &wanted) {
            Ok(done) => done,
            Err(problem) => {
                self.end_trust(trust).await;
                return Err(problem);
            }
        };
        done.ticket = done.ticket.max(made.ticket);
        if !matches!(done.answer, Made::Subscribed(_)) {
            self.end_trust(trust).await;
        }
        let answer = match self.operations.durable(done).await? {
            Made::Subscribed(id) | Made::Again(id) => {
                let body = format!("{{\"subscription_id\":\"{id}\"}}");
                answer::json(StatusCode::CREATED, body)
            }
            Made::Exists => answer::problem(&exists()),
        };
        Ok(answer::located(answer, request.path_bytes()))
    }

    /// Makes a trust for a `trust+` subscriber that brings none: from the caller to us, for as long as the subscription
    /// lives. Who has no token of Keystone's cannot make one, and is refused by the operation.
    async fn trusted(
        &self,
        request: &Admitted<'_>,
        wanted: &mut SubscriptionChange,
    ) -> Result<Option<TrustId>, Problem> {
        let (Some(keystone), true) = (self.gate().keystone(), wanted.wants_trust()) else {
            return Ok(None);
        };
        let shown = Credentials::from_headers(request.headers, Ipv4Addr::UNSPECIFIED.into());
        let Some(token) = shown.ok().and_then(|shown| shown.token) else { return Ok(None) };
        let ttl_ms = wanted.ttl.unwrap_or_default().saturating_mul(1000);
        let expires = self.operations.now().after_ms(ttl_ms);
        let making = keystone.create_trust(&request.caller, token, expires);
        let trust = Box::pin(making).await.map_err(|error| {
            tracing::info!(%error, "a subscriber has no trust");
            Problem::unavailable("Subscription could not be created.")
        })?;
        wanted.trust(trust.as_str());
        Ok(Some(trust))
    }

    /// Ends a trust that nothing came of; otherwise it ends with its time.
    async fn end_trust(&self, trust: Option<TrustId>) {
        let (Some(keystone), Some(trust)) = (self.gate().keystone(), trust) else { return };
        if let Err(error) = Box::pin(keystone.delete_trust(&trust)).await {
            tracing::info!(%error, "a trust that is of no use is left to its time");
        }
    }

    pub(super) fn subscription_get(&self, family: Family, request: &Admitted<'_>) -> Handled {
        let (caller, name, id) = (&request.caller, request.name(), request.id());
        let view = self.operations.subscription(caller, family, name, id)?;
        Ok(answer::json(StatusCode::OK, write::one_subscription(&view)))
    }

    pub(super) async fn subscription_update(
        &self,
        family: Family,
        request: &Admitted<'_>,
        body: Unread,
    ) -> Handled {
        let body = read_other(body).await?;
        let now = self.operations.now();
        let change = request::read_update(body.optional_document()?, self.limits(), now)?;
        let (caller, name, id) = (&request.caller, request.name(), request.id());
        let done = self.operations.update_subscription(caller, family, name, id, &change)?;
        self.operations.durable(done).await?;
        Ok(answer::located(answer::empty(StatusCode::NO_CONTENT), request.path_bytes()))
    }

    pub(super) async fn subscription_delete(
        &self,
        family: Family,
        request: &Admitted<'_>,
    ) -> Handled {
        let (caller, name, id) = (&request.caller, request.name(), request.id());
        let done = self.operations.unsubscribe(caller, family, name, id)?;
        self.operations.durable(done).await?;
        Ok(answer::empty(StatusCode::NO_CONTENT))
    }

    pub(super) async fn subscription_confirm(
        &self,
        family: Family,
        request: &Admitted<'_>,
        body: Unread,
    ) -> Handled {
        let body = read_other(body).await?;
        let confirmed = request::read_confirmation(body.optional_document()?)?;
        let (caller, name, id) = (&request.caller, request.name(), request.id());
        let done = self.operations.confirm_subscription(caller, family, name, id, confirmed)?;
        self.operations.durable(done).await?;
        Ok(answer::located(answer::empty(StatusCode::NO_CONTENT), request.path_bytes()))
    }
}
