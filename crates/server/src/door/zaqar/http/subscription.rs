//! Requests about subscriptions.

use hyper::StatusCode;

use super::answer;
use super::body::Unread;
use super::handle::{Handled, read_other};
use super::service::{Admitted, Service};
use super::write;
use crate::door::zaqar::identity::Family;
use crate::door::zaqar::operation::{Made, exists};
use crate::door::zaqar::query::Query;
use crate::door::zaqar::request;

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
        let wanted = request::read_subscription(body.optional_document()?, self.limits(), now)?;
        let mut done = self.operations.subscribe(caller, family, name, &wanted)?;
        done.ticket = done.ticket.max(made.ticket);
        let answer = match self.operations.durable(done).await? {
            Made::Subscribed(id) => {
                let body = format!("{{\"subscription_id\":\"{id}\"}}");
                answer::json(StatusCode::CREATED, body)
            }
            Made::Exists => answer::problem(&exists()),
        };
        Ok(answer::located(answer, request.path_bytes()))
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
