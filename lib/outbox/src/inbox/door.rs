//! `POST /inbox/`: messages from django-message-box and from relays, as an axum router.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::future::BoxFuture;
use serde_json::json;
use sqlx::Pool;

use super::{Claim, claim_once, still_claimed};
use crate::dialect::Dialect;
use crate::message::PAYLOAD_BYTES_MAX;
use crate::outbox::begin;
use crate::signature::{Secret, is_same};
use crate::transport::Pattern;

pub use posthouse_message_box::Received;

/// Bytes of a document beside its payload.
const HEAD_BYTES_MAX: usize = 4096;

/// Why a handler that reported success is not believed.
const UNDONE: &str = "the transaction was undone before its commit, as after an error that the handler did not pass on";

/// Why a handler failed; logged, and not told to the sender.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

type Handler<D> = dyn for<'a> Fn(
        &'a mut <D as sqlx::Database>::Connection,
        &'a Received,
    ) -> BoxFuture<'a, Result<(), Failure>>
    + Send
    + Sync;

/// The inbox of an application.
///
/// ```no_run
/// # fn app(pool: sqlx::PgPool) -> axum::Router {
/// use posthouse_outbox::inbox::door::Inbox;
///
/// Inbox::new(pool, "shipping")
///     .token("a long secret")
///     .handle("shop", "orders.*", |connection, message| {
///         Box::pin(async move {
///             let insert = sqlx::query("insert into parcels (order_id) values ($1)");
///             insert.bind(message.json::<i64>()?).execute(connection).await?;
///             Ok(())
///         })
///     })
///     .router()
/// # }
/// ```
pub struct Inbox<D: Dialect> {
    pool: Pool<D>,
    consumer: String,
    routes: Vec<Route<D>>,
    logins: Vec<Login>,
}

struct Route<D: Dialect> {
    source: Pattern,
    topic: Pattern,
    handler: Box<Handler<D>>,
}

/// How a sender shows who it is.
enum Login {
    Token(String),
    Signature(Secret),
}

impl<D: Dialect> Inbox<D> {
    /// An inbox in the database of this pool, whose tables are there. `consumer` is whose duplicates are recognised: two
    /// applications in one database have two names.
    #[must_use]
    pub fn new(pool: Pool<D>, consumer: impl Into<String>) -> Self {
        Self { pool, consumer: consumer.into(), routes: Vec::new(), logins: Vec::new() }
    }

    /// Hands messages of a source and topic to a handler; the first that fits is taken. `*` at the end of either stands
    /// for any rest.
    ///
    /// The handler's effects belong into the connection that it is given: that is the transaction of the message's inbox
    /// row. If it fails, or panics, nothing is kept and the sender sends again.
    #[must_use]
    pub fn handle<F>(mut self, source: &str, topic: &str, handler: F) -> Self
    where
        F: for<'a> Fn(&'a mut D::Connection, &'a Received) -> BoxFuture<'a, Result<(), Failure>>
            + Send
            + Sync
            + 'static,
    {
        let (source, topic) = (Pattern::new(source), Pattern::new(topic));
        self.routes.push(Route { source, topic, handler: Box::new(handler) });
        self
    }

    /// Lets in who says `Authorization: Bearer TOKEN` (or `Token TOKEN`). With several tokens and secrets, any is enough;
    /// with none, everybody is let in.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.logins.push(Login::Token(token.into()));
        self
    }

    /// Lets in who signs as Standard Webhooks says, with this secret, within five minutes of our clock.
    #[must_use]
    pub fn signature(mut self, secret: Secret) -> Self {
        self.logins.push(Login::Signature(secret));
        self
    }

    /// The router, with `POST /inbox/`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/inbox/", post(receive::<D>))
            .layer(DefaultBodyLimit::max(PAYLOAD_BYTES_MAX + HEAD_BYTES_MAX))
            .with_state(Arc::new(self))
    }

    /// Whether the body is worth reading: a token is checked before it, a signature only with it.
    fn may_let_in(&self, headers: &HeaderMap) -> bool {
        let fits = |login: &Login| match login {
            Login::Token(token) => bearer(headers).is_some_and(|said| is_same(said, token)),
            Login::Signature(_) => headers.contains_key("webhook-signature"),
        };
        self.logins.is_empty() || self.logins.iter().any(fits)
    }

    fn lets_in(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let fits = |login: &Login| match login {
            Login::Token(token) => bearer(headers).is_some_and(|said| is_same(said, token)),
            Login::Signature(secret) => {
                secret.verify(|name| headers.get(name).and_then(|value| value.to_str().ok()), body)
            }
        };
        self.logins.is_empty() || self.logins.iter().any(fits)
    }

    /// One transaction: the inbox row and what the handler does.
    async fn take(&self, message: &Received) -> Result<(), Failure> {
        let (source, topic) = (message.source.as_str(), message.topic.as_str());
        let fits = |route: &&Route<D>| route.source.fits(source) && route.topic.fits(topic);
        let mut transaction = begin(&self.pool).await?;
        let id = message.id.to_string();
        if claim_once(&mut *transaction, &self.consumer, &id).await? == Claim::Duplicate {
            transaction.rollback().await?;
            return Ok(());
        }
        let route = self.routes.iter().find(fits).ok_or("no handler")?;
        (route.handler)(&mut transaction, message).await?;
        match still_claimed(&mut *transaction, &self.consumer, &id).await {
            Ok(true) => Ok(transaction.commit().await?),
            Ok(false) => Err(UNDONE.into()),
            Err(error) => Err(format!("{UNDONE}: {error}").into()),
        }
    }
}

impl<D: Dialect> fmt::Debug for Inbox<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let said = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = said.split_once(' ')?;
    let is_known = scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token");
    is_known.then_some(token.trim())
}

async fn receive<D: Dialect>(State(inbox): State<Arc<Inbox<D>>>, request: Request) -> Response {
    if !inbox.may_let_in(request.headers()) {
        return stranger();
    }
    let headers = request.headers().clone();
    let body = match Bytes::from_request(request, &()).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into_response(),
    };
    if !inbox.lets_in(&headers, &body) {
        return stranger();
    }
    let message = match Received::read(&body) {
        Ok(message) => message,
        Err(problem) => return answer(StatusCode::BAD_REQUEST, problem.to_json()),
    };
    let document = message.to_json();
    let (id, topic) = (message.id, message.topic.clone());
    // A task of its own: a sender that hangs up does not cut a handler off, and a handler that panics is an answer.
    let taken = tokio::spawn(async move { inbox.take(&message).await }).await;
    let failure = match taken {
        Ok(Ok(())) => return answer(StatusCode::CREATED, document),
        Ok(Err(failure)) => failure.to_string(),
        Err(panic) => panic.to_string(),
    };
    tracing::error!(%id, topic, error = failure, "message not handled; its sender sends it again");
    let what = json!({ "detail": "The message could not be handled; nothing was kept." });
    (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(what)).into_response()
}

fn stranger() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    let what = json!({ "detail": "Authentication credentials were not provided." });
    (StatusCode::UNAUTHORIZED, challenge, axum::Json(what)).into_response()
}

fn answer(status: StatusCode, json: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], json).into_response()
}
