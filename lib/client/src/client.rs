//! The handle of an application: publish, call, declare, ask.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use posthouse_amqp::table::Value;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::codec::Format;
use crate::drain::Drain;
use crate::error::{AskError, ConnectError, PublishError, Result};
use crate::link::{Command, Link};
use crate::message::Message;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::plan::{Plan, look};
use crate::publish::{Draft, Publish};
use crate::question::{Answer, Manner, Question};
use crate::session::questions_of;
use crate::topology::{Queue, Topology, TopologyError};

/// A connection that comes back. Clones share it.
///
/// What was declared through it, calls that wait and messages that are not confirmed outlive a lost connection. When the
/// last clone is dropped, what is not confirmed then is lost and logged; [`Client::close`] waits for it.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) link: Arc<Link>,
}

impl Client {
    /// Connects to `amqp://user:password@host:port/vhost`, or `amqps://…`.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if the first attempt fails; later losses are repaired by themselves.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Self::connect_with(url, Options::default()).await
    }

    /// As [`Client::connect`], with other limits.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub async fn connect_with(url: &str, options: Options) -> Result<Self, ConnectError> {
        Self::open(url, options, Metrics::default()).await
    }

    pub(crate) async fn open(
        url: &str,
        options: Options,
        metrics: Metrics,
    ) -> Result<Self, ConnectError> {
        let link = Link::open(url.parse()?, options, metrics).await?;
        Ok(Self { link: Arc::new(link) })
    }

    /// A message of a type that says where it goes.
    pub fn publish<M: Message>(&self, message: &M) -> Publish {
        Publish::new(Arc::clone(&self.link), draft(message))
    }

    /// Any bytes to any exchange; the empty one takes the name of a queue as routing key.
    pub fn publish_to(
        &self,
        exchange: impl Into<Cow<'static, str>>,
        routing_key: impl Into<Cow<'static, str>>,
        body: impl Into<Bytes>,
    ) -> Publish {
        let draft = Draft {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            body: body.into(),
            mandatory: true,
            persistent: true,
            ..Draft::default()
        };
        Publish::new(Arc::clone(&self.link), Ok(draft))
    }

    /// Any value to any exchange, in one of the formats.
    pub fn publish_as<T: serde::Serialize + ?Sized>(
        &self,
        exchange: impl Into<Cow<'static, str>>,
        routing_key: impl Into<Cow<'static, str>>,
        format: Format,
        value: &T,
    ) -> Publish {
        match format.encode(value) {
            Ok(body) => {
                self.publish_to(exchange, routing_key, body).content_type(format.content_type())
            }
            Err(error) => Publish::new(Arc::clone(&self.link), Err(unencodable(&error))),
        }
    }

    /// Declares everything in a topology, and again on every new connection.
    ///
    /// # Errors
    ///
    /// [`TopologyError::Refused`] with the broker's words about the first thing that it has otherwise; what stands before
    /// that is declared.
    pub async fn apply(&self, topology: &Topology) -> Result<(), TopologyError> {
        apply(&self.link, topology).await
    }

    /// What [`Client::apply`] would do. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`TopologyError::Ask`] if the broker does not answer.
    pub async fn plan(&self, topology: &Topology) -> Result<Plan, TopologyError> {
        look(&self.link, topology).await
    }

    /// How many messages are ready in a queue, and how many consumers it has.
    ///
    /// # Errors
    ///
    /// [`AskError::Refused`] with 404 if there is no such queue.
    pub async fn queue_length(&self, queue: &str) -> Result<QueueLength, AskError> {
        let question = Question::Queue(Queue::new(queue), Manner::Look);
        let answers = self.link.ask(vec![question]).await?;
        match answers.first() {
            Some(Answer::Queue { messages, consumers }) => {
                Ok(QueueLength { messages: *messages, consumers: *consumers })
            }
            Some(Answer::Done | Answer::Gone(_)) | None => Err(AskError::Lost),
        }
    }

    /// Drops the ready messages of a queue; returns how many there were.
    ///
    /// # Errors
    ///
    /// [`AskError::Refused`].
    pub async fn purge(&self, queue: &str) -> Result<u32, AskError> {
        let answers = self.link.ask(vec![Question::Purge(queue.to_owned())]).await?;
        Ok(gone(&answers))
    }

    /// Deletes a queue with its messages; returns how many there were.
    ///
    /// # Errors
    ///
    /// [`AskError::Refused`].
    pub async fn delete_queue(&self, queue: &str) -> Result<u32, AskError> {
        let answers = self.link.ask(vec![Question::DeleteQueue(queue.to_owned())]).await?;
        Ok(gone(&answers))
    }

    /// Deletes an exchange with its bindings.
    ///
    /// # Errors
    ///
    /// [`AskError::Refused`].
    pub async fn delete_exchange(&self, exchange: &str) -> Result<(), AskError> {
        self.link.ask(vec![Question::DeleteExchange(exchange.to_owned())]).await.map(drop)
    }

    /// Removes a binding of a queue; fine if there is none.
    ///
    /// # Errors
    ///
    /// [`AskError::Refused`].
    pub async fn unbind(&self, queue: &str, exchange: &str, key: &str) -> Result<(), AskError> {
        let unbind = Question::Unbind {
            queue: queue.to_owned(),
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            arguments: std::iter::empty::<(&str, Value)>().collect(),
        };
        self.link.ask(vec![unbind]).await.map(drop)
    }

    /// What was counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.link.metrics
    }

    /// Whether the connection stands now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.is_up()
    }

    /// Which broker this is, or was when the connection last stood.
    #[must_use]
    pub fn broker(&self) -> Broker {
        self.link.broker()
    }

    /// Waits until the connection stands; false if the client is closed.
    pub async fn until_connected(&self) -> bool {
        self.link.until_up().await
    }

    /// Messages that wait for their confirm, and their bytes.
    #[must_use]
    pub fn unconfirmed(&self) -> (usize, usize) {
        self.link.outgoing.waiting()
    }

    /// Waits for the confirms of everything that was published, then closes the connection, for all clones.
    ///
    /// Waits at most [`Options::drain_timeout`] for both; what is not confirmed then is logged.
    pub async fn close(&self) {
        let timeout = self.link.options.drain_timeout;
        self.link.close(Drain::within(Instant::now(), timeout)).await;
    }
}

/// How full a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueLength {
    /// Ready messages: neither those with consumers nor those that wait.
    pub messages: u32,
    /// Consumers.
    pub consumers: u32,
}

/// Declares a topology on a connection and remembers it for the next ones.
pub(crate) async fn apply(link: &Link, topology: &Topology) -> Result<(), TopologyError> {
    let asked = link.ask(questions_of(topology)).await;
    asked.map_err(|error| match error {
        refused @ AskError::Refused { .. } => TopologyError::Refused(refused),
        other => TopologyError::Ask(other),
    })?;
    link.send(Command::Remember(topology.clone())).await.map_err(TopologyError::Ask)
}

/// A message as its type says it.
pub(crate) fn draft<M: Message>(message: &M) -> Result<Draft, PublishError> {
    let body = M::FORMAT.encode(message).map_err(|error| unencodable(&error))?;
    let mut draft = Draft {
        exchange: M::EXCHANGE.into(),
        routing_key: message.routing_key(),
        mandatory: true,
        persistent: true,
        body: body.into(),
        content_type: Some(M::FORMAT.content_type().into()),
        kind: Some(M::TOPIC.into()),
        ..Draft::default()
    };
    if M::VERSION != 1 {
        draft.headers.insert("version", i32::from(M::VERSION));
    }
    Ok(draft)
}

/// The whole chain, because the error that carries it can be compared and cloned.
fn unencodable(error: &dyn std::error::Error) -> PublishError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    PublishError::Encode(text.into())
}

fn gone(answers: &[Answer]) -> u32 {
    match answers.first() {
        Some(Answer::Gone(count)) => *count,
        Some(Answer::Done | Answer::Queue { .. }) | None => 0,
    }
}
