//! A request's way: the checks in their order, then the publish.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::{Access, Broker, BrokerError, Counter, Publish, Published, Publisher};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use model::Ticket;
use posthouse_message_box::Received;

use super::message;
use super::refusal::Refusal;
use super::route::Route;
use super::sender::{Peer, Senders, Shown};
use crate::alarms::Alarms;
use crate::auth::signature::Signature;
use crate::http::answer::{Answer, json};
use crate::http::{BodyError, BodyMemory, Unread};

/// Bytes of a document beside its payload.
pub(crate) const HEAD_BYTES_MAX: u64 = 8 * 1024;

/// Longest routing key: AMQP's short strings.
const KEY_BYTES_MAX: usize = 255;

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// New messages that are durable.
    pub accepted: Counter,
    /// Messages that were taken before.
    pub duplicates: Counter,
    /// Requests that their senders have to change: 4xx.
    pub refused: Counter,
    /// Messages that nobody takes: 500.
    pub unroutable: Counter,
    /// Messages that could not be taken now: 503.
    pub unavailable: Counter,
}

/// The inbox, shared by all connections.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) broker: Arc<Broker>,
    pub(super) alarms: Arc<Alarms>,
    pub(super) senders: Senders,
    /// The first that fits is taken.
    pub(super) routes: Vec<Route>,
    pub(super) payload_bytes_max: u64,
    pub(super) body_timeout: Duration,
    pub(super) body_memory: BodyMemory,
    pub(super) counters: Counters,
}

/// A user at work in a tenant; kept between the requests of a connection, and counted as one.
#[derive(Debug)]
pub(super) struct Desk {
    access: Access,
    publisher: Publisher,
}

/// Who has passed the checks before the body.
#[derive(Debug)]
enum Admitted {
    Desk(Desk),
    /// Who that is turns out with the body.
    Signed {
        signature: Signature,
        tenant: String,
    },
}

/// Where a connection keeps its desk while no request is at it.
pub(super) type Kept = Mutex<Option<Desk>>;

/// What became of a message that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    is_duplicate: bool,
    ticket: Ticket,
}

impl Service {
    /// Answers a request. Never fails: what goes wrong is an answer as well.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
        kept: &Kept,
    ) -> Answer {
        let (head, incoming) = request.into_parts();
        let body = Unread::new(incoming, &head.headers, self.body_timeout);
        let mut body = body.within(&self.body_memory);
        let outcome = match self.admit(&head, peer, kept).await {
            Ok(admitted) => self.receive(admitted, &mut body, peer, kept).await,
            Err(refusal) => {
                body.drain().await;
                Err(refusal)
            }
        };
        match outcome {
            Ok(document) => json(StatusCode::CREATED, document),
            Err(refusal) => {
                self.count(&refusal);
                refusal.answer()
            }
        }
    }

    /// The checks before the body.
    async fn admit(&self, head: &Parts, peer: &Peer, kept: &Kept) -> Result<Admitted, Refusal> {
        let tenant = self.senders.tenant(head.uri.path()).ok_or(Refusal::Elsewhere)?;
        if head.method != Method::POST {
            return Err(Refusal::Method);
        }
        let shown = self.senders.shown(&head.headers, &tenant, peer).await?;
        check_types(&head.headers)?;
        if self.alarms.raised().any() {
            let reason = self.alarms.raised().reason();
            return Err(Refusal::Unavailable(format!("The broker is {reason}.")));
        }
        Ok(match shown {
            Shown::User(user) => Admitted::Desk(self.desk(kept, &user, &tenant)?),
            Shown::Signature(signature) => {
                Admitted::Signed { signature, tenant: tenant.into_owned() }
            }
        })
    }

    /// The desk that is there, if it is the user's in this tenant, or a new one.
    fn desk(&self, kept: &Kept, user: &str, tenant: &str) -> Result<Desk, Refusal> {
        let idle = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let own = idle.filter(|Desk { access, .. }| {
            access.user_name() == user && access.tenant_name() == tenant && access.is_valid()
        });
        if let Some(own) = own {
            return Ok(own);
        }
        match self.broker.enter(user, tenant) {
            Ok(access) => {
                self.broker.counters.logins.add(1);
                Ok(Desk { publisher: Publisher::new(access.clone()), access })
            }
            Err(BrokerError::LimitReached(what)) => Err(Refusal::Unavailable(format!("{what}."))),
            // Whether there is such a tenant is not told to who may not be in it.
            Err(_) => Err(Refusal::Forbidden(format!(
                "User '{user}' may not send to the inbox of '{tenant}'."
            ))),
        }
    }

    /// Reads the document, publishes it, and waits until it is durable; the document again.
    async fn receive(
        &self,
        admitted: Admitted,
        body: &mut Unread,
        peer: &Peer,
        kept: &Kept,
    ) -> Result<String, Refusal> {
        let bytes = body.read(self.payload_bytes_max + HEAD_BYTES_MAX).await;
        let bytes = bytes.map_err(|error| self.unread(&error))?;
        let mut desk = match admitted {
            Admitted::Desk(desk) => desk,
            Admitted::Signed { signature, tenant } => {
                let user = self.senders.signer(signature, bytes.clone(), &tenant, peer).await?;
                self.desk(kept, &user, &tenant)?
            }
        };
        let received = Received::read(&bytes).map_err(Refusal::Document)?;
        drop(bytes);
        if received.payload.get().len() as u64 > self.payload_bytes_max {
            return Err(Refusal::TooLarge(self.payload_bytes_max));
        }
        let taken = self.publish(&mut desk, &received);
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(desk);
        let taken = taken?;
        if let Err(error) = self.broker.watch().until_durable(taken.ticket).await {
            tracing::error!(%error, "the store failed before a message was durable");
            return Err(Refusal::Unavailable("The message could not be made durable.".to_owned()));
        }
        match taken.is_duplicate {
            true => self.counters.duplicates.add(1),
            false => self.counters.accepted.add(1),
        }
        Ok(received.to_json())
    }

    /// Publishes a message: all of its queues take it, or none.
    fn publish(&self, desk: &mut Desk, received: &Received) -> Result<Taken, Refusal> {
        let (source, topic) = (received.source.as_str(), received.topic.as_str());
        let tenant = desk.access.tenant_name();
        let Some(route) = self.routes.iter().find(|route| route.fits(tenant, source, topic)) else {
            return Err(Refusal::Nowhere(format!(
                "There is no route for source \"{source}\" and type \"{topic}\"."
            )));
        };
        let properties = message::properties(received)?;
        let routing_key = route.routing_key(source, topic);
        if routing_key.len() > KEY_BYTES_MAX {
            return Err(Refusal::Unreadable(format!(
                "The routing key of source and type must be at most {KEY_BYTES_MAX} bytes."
            )));
        }
        let publish = Publish {
            exchange: route.exchange(),
            routing_key: &routing_key,
            properties: &properties,
            body: received.payload.get().as_bytes(),
            reply_token: None,
        };
        let now = desk.access.now();
        let publisher = &mut desk.publisher;
        match publisher.publish(publish, now).map_err(|error| Refusal::of(&error))? {
            Published::Queued => {}
            Published::Unroutable => {
                publisher.count_received();
                self.broker.counters.unroutable_returned.add(1);
                let exchange = route.exchange();
                return Err(Refusal::Nowhere(format!(
                    "No queue takes routing key \"{routing_key}\" of exchange \"{exchange}\"."
                )));
            }
            Published::Refused => {
                // No queue keeps any of it: its sender tries again, and that is no duplicate.
                publisher.discard();
                return Err(Refusal::Unavailable("A queue is full and refuses messages.".into()));
            }
        }
        let receipt =
            publisher.commit_transaction(Vec::new(), now).map_err(|error| Refusal::of(&error))?;
        Ok(Taken { is_duplicate: !receipt.duplicates.is_empty(), ticket: receipt.ticket })
    }

    fn unread(&self, error: &BodyError) -> Refusal {
        match error {
            BodyError::TooLarge => Refusal::TooLarge(self.payload_bytes_max),
            BodyError::NoMemory => Refusal::Busy,
            BodyError::Late(timeout) => Refusal::Late(*timeout),
            BodyError::Broken => Refusal::Unreadable("The body could not be read.".to_owned()),
        }
    }

    fn count(&self, refusal: &Refusal) {
        let counter = match refusal {
            Refusal::Nowhere(_) => &self.counters.unroutable,
            Refusal::Unavailable(_) | Refusal::Busy => &self.counters.unavailable,
            _ => &self.counters.refused,
        };
        counter.add(1);
        match refusal {
            // One line per doubling: its senders try again and again.
            Refusal::Nowhere(why) if counter.value().is_power_of_two() => {
                tracing::warn!(?why, "a message has nowhere to go; its sender will send it again");
            }
            other => tracing::debug!(?other, "a message was not taken"),
        }
    }
}

/// Only JSON, and not compressed.
fn check_types(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let kind = text(CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::Type(kind.into_owned()));
    }
    match text(CONTENT_ENCODING) {
        Some(coding) if !coding.trim().eq_ignore_ascii_case("identity") => {
            Err(Refusal::Type(format!("{kind}, {coding}")))
        }
        _ => Ok(()),
    }
}
