//! What the broker says, owned, as far as the commands listen.

use posthouse_amqp::event::{Content, Event};
use posthouse_amqp::method::Method;

/// Something the broker said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Happened {
    /// The virtual host is open.
    Opened,
    /// Our channel is open.
    ChannelOpened,
    /// An answer to a declaration, with the queue's name.
    QueueDeclared(String),
    /// An answer that says nothing but done.
    Done,
    /// Our consumer is there.
    Consuming,
    /// The broker has ended our consumer.
    Cancelled,
    /// A message for our consumer.
    Delivered(Received),
    /// The message asked for.
    Got(Received),
    /// There is no message.
    GetEmpty,
    /// Publishes are safe; with `multiple` all up to this one.
    Confirmed { tag: u64, multiple: bool },
    /// Publishes were refused.
    Refused { tag: u64, multiple: bool },
    /// A publish met no queue.
    Returned { reason: String, exchange: String, routing_key: String },
    /// An alarm keeps publishes waiting.
    Blocked(String),
    /// It is over.
    Unblocked,
    /// The connection is closed as we wanted.
    Closed,
}

/// A message from the broker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Received {
    pub(crate) delivery_tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    /// Encoded, see [`posthouse_amqp::properties`].
    pub(crate) properties: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// What an event means to us: `None` for what the commands do not listen to.
///
/// # Errors
///
/// If the broker ended channel or connection: why, in its own words.
pub(super) fn translate(event: Event<'_>) -> anyhow::Result<Option<Happened>> {
    Ok(Some(match event {
        Event::Opened => Happened::Opened,
        Event::ChannelOpened(_) => Happened::ChannelOpened,
        Event::Method { method, .. } => return Ok(translate_method(method)),
        Event::Deliver { delivery, content, .. } => Happened::Delivered(received(
            delivery.delivery_tag,
            delivery.redelivered,
            (&delivery.exchange, &delivery.routing_key),
            content,
        )),
        Event::GetOk { got, content, .. } => Happened::Got(received(
            got.delivery_tag,
            got.redelivered,
            (&got.exchange, &got.routing_key),
            content,
        )),
        Event::Return { returned, .. } => Happened::Returned {
            reason: format!("{} {}", returned.reply_code, returned.reply_text),
            exchange: returned.exchange.into_owned(),
            routing_key: returned.routing_key.into_owned(),
        },
        Event::Closed => Happened::Closed,
        Event::ChannelCloseRequested { code, text, .. } => {
            anyhow::bail!("broker refused: {code} {text}")
        }
        Event::CloseRequested { code, text, .. } => {
            anyhow::bail!("broker closed the connection: {code} {text}")
        }
        Event::ChannelFailed { failure, .. } | Event::Failed(failure) => {
            return Err(
                anyhow::Error::new(failure).context("broker broke the protocol or fell silent")
            );
        }
        _ => return Ok(None),
    }))
}

fn translate_method(method: Method<'_>) -> Option<Happened> {
    Some(match method {
        Method::QueueDeclareOk(declared) => Happened::QueueDeclared(declared.queue.to_owned()),
        Method::QueueBindOk(_)
        | Method::BasicQosOk(_)
        | Method::ConfirmSelectOk(_)
        | Method::BasicCancelOk(_) => Happened::Done,
        Method::BasicConsumeOk(_) => Happened::Consuming,
        Method::BasicCancel(_) => Happened::Cancelled,
        Method::BasicGetEmpty(_) => Happened::GetEmpty,
        Method::BasicAck(ack) => {
            Happened::Confirmed { tag: ack.delivery_tag, multiple: ack.multiple }
        }
        Method::BasicNack(nack) => {
            Happened::Refused { tag: nack.delivery_tag, multiple: nack.multiple }
        }
        Method::ConnectionBlocked(blocked) => Happened::Blocked(blocked.reason.to_owned()),
        Method::ConnectionUnblocked(_) => Happened::Unblocked,
        _ => return None,
    })
}

fn received(
    delivery_tag: u64,
    redelivered: bool,
    (exchange, routing_key): (&str, &str),
    content: Content<'_>,
) -> Received {
    Received {
        delivery_tag,
        redelivered,
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        properties: content.properties.into_owned(),
        body: content.body.into_owned(),
    }
}
