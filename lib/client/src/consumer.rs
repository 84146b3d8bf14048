//! A consumer as it is declared: the handler, its queue, and what happens when it fails.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use posthouse_amqp::table::{Table, Value};
use tower::util::BoxCloneService;
use tower::{Layer, Service, ServiceExt};

use crate::backoff::Backoff;
use crate::batch::BatchHandler;
use crate::delivery::Delivery;
use crate::handler::{Handler, HandlerService};
use crate::inbox::Order;
use crate::outcome::{IntoOutcome, Outcome};
use crate::topology::{Binding, Exchange, Queue, Topology, millis, text};

/// Any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What a delivery goes through: layers, then the handler.
pub type DeliveryService = BoxCloneService<Delivery, Outcome, BoxError>;

type Batches = Arc<dyn Fn(Vec<Delivery>) -> BatchFuture + Send + Sync>;

/// One outcome per delivery.
pub(crate) type BatchFuture = Pin<Box<dyn Future<Output = Vec<Outcome>> + Send>>;

/// What does the work once the state is known.
pub(crate) enum Work {
    Each(DeliveryService),
    Batch { handle: Batches, up_to: usize, within: Duration },
}

type Build<S> = Box<dyn FnOnce(S) -> Work + Send>;
type Wrap = Box<dyn FnOnce(DeliveryService) -> DeliveryService + Send>;

/// Where messages go that are given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DeadLetters {
    /// Into this queue, with the reason in a header.
    Queue(String),
    /// `basic.reject`: where the broker's own settings say.
    Broker,
    /// Nowhere; whoever called is told.
    Answer,
}

/// Where messages wait that are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// In queues with a time to live, one per step of the backoff. Any broker.
    Queues,
    /// In their own queue, by `x-delayed-retry-type`. Posthouse; RabbitMQ from 4.3.
    Broker,
}

/// What happens to messages that are not handled well.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    pub(crate) backoff: Backoff,
    pub(crate) dead: Option<DeadLetters>,
    pub(crate) waiting: Waiting,
    /// For messages that are settled after their handler has returned.
    pub(crate) settle_within: Duration,
}

/// How long a message may be held; brokers take it for lost after half an hour (RabbitMQ: `consumer_timeout`).
const SETTLE_WITHIN: Duration = Duration::from_mins(15);

/// A handler and everything about its queue. Made by [`consume`], [`consume_batch`], [`crate::rpc`] or
/// [`crate::http_consumer`].
///
/// Safe unless said otherwise: messages are acknowledged after the handler has returned, 64 are prefetched, failures are
/// tried again with growing waits until the 8th attempt and then put into the queue `<queue>.dead`; so is, at once, what
/// cannot be read. A panic is a failure.
pub struct Consumer<S> {
    pub(crate) build: Build<S>,
    pub(crate) wraps: Vec<Wrap>,
    pub(crate) prefetch: u16,
    pub(crate) workers: usize,
    pub(crate) order: Order,
    pub(crate) policy: Policy,
    pub(crate) exclusive: bool,
    pub(crate) arguments: Table,
    queue: Option<Queue>,
    declares: bool,
    beside: Topology,
    bindings: Vec<(String, String)>,
}

impl Work {
    /// The same for each of so many workers.
    pub(crate) fn several(self, count: usize) -> Vec<Self> {
        let one = |_| match &self {
            Self::Each(service) => Self::Each(service.clone()),
            Self::Batch { handle, up_to, within } => {
                Self::Batch { handle: Arc::clone(handle), up_to: *up_to, within: *within }
            }
        };
        (0..count).map(one).collect()
    }
}

impl<S> std::fmt::Debug for Consumer<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("prefetch", &self.prefetch)
            .field("workers", &self.workers)
            .field("order", &self.order)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// A consumer whose handler takes one message.
pub fn consume<H, T, S>(handler: H) -> Consumer<S>
where
    H: Handler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    Consumer::new(Box::new(|state| {
        let service = HandlerService::<H, T, S>::new(handler, state);
        let never = |never: Infallible| -> BoxError { match never {} };
        Work::Each(BoxCloneService::new(service.map_err(never)))
    }))
}

/// A consumer whose handler takes several messages at once: up to 100, or what has come within 200 ms.
///
/// The handler takes a [`crate::Batch`], and the state in front of it if it likes. Its outcome is that of every message.
pub fn consume_batch<H, T, S>(handler: H) -> Consumer<S>
where
    H: BatchHandler<T, S>,
    T: 'static,
    S: Clone + Send + Sync + 'static,
{
    let consumer = Consumer::new(Box::new(|state: S| Work::Batch {
        handle: Arc::new(move |deliveries| handler.clone().call(deliveries, state.clone())),
        up_to: 100,
        within: Duration::from_millis(200),
    }));
    consumer.prefetch(200).workers(1)
}

impl<S: 'static> Consumer<S> {
    pub(crate) fn new(build: Build<S>) -> Self {
        Self {
            build,
            wraps: Vec::new(),
            prefetch: 64,
            workers: 16,
            order: Order::None,
            policy: Policy {
                backoff: Backoff::default(),
                dead: None,
                waiting: Waiting::Queues,
                settle_within: SETTLE_WITHIN,
            },
            exclusive: false,
            arguments: Table::new(),
            queue: None,
            declares: true,
            beside: Topology::new(),
            bindings: Vec::new(),
        }
    }

    /// Messages of an exchange with such a key enter the queue. The exchange must be there, or be declared with
    /// [`Consumer::exchange`] or [`crate::Router::exchange`].
    #[must_use]
    pub fn bind(mut self, exchange: &str, key: &str) -> Self {
        self.bindings.push((exchange.to_owned(), key.to_owned()));
        self
    }

    /// Declares an exchange as well.
    #[must_use]
    pub fn exchange(mut self, exchange: Exchange) -> Self {
        self.beside = self.beside.exchange(exchange);
        self
    }

    /// Declares the queue like this; its name is the one that the router says. Default: durable, of the broker's type.
    #[must_use]
    pub fn declared_as(mut self, queue: Queue) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Neither the queue nor its bindings are declared: they are somebody else's. Queues for waiting and for dead letters
    /// are still.
    #[must_use]
    pub const fn undeclared(mut self) -> Self {
        self.declares = false;
        self
    }

    /// How many messages may be on their way to this consumer or in its hands; at least 1. Default: 64.
    #[must_use]
    pub fn prefetch(mut self, count: u16) -> Self {
        self.prefetch = count.max(1);
        self
    }

    /// How many messages are worked on at the same time; at least 1, and never more than are prefetched. Default: 16.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count.max(1);
        self
    }

    /// Messages with the same value of a header are worked on one at a time, in their order; others beside them.
    ///
    /// A message that is tried again keeps its place: it waits in the worker's hands, and those of its key behind it. So
    /// waits should be short. The order holds as long as this is the only consumer of the queue. Not for batches: starting
    /// one is an error ([`crate::Error::OrderedBatch`]).
    #[must_use]
    pub fn ordered_by_header(mut self, name: &str) -> Self {
        self.order = Order::Header(name.to_owned());
        self
    }

    /// As [`Consumer::ordered_by_header`], by the routing key.
    #[must_use]
    pub fn ordered_by_routing_key(mut self) -> Self {
        self.order = Order::RoutingKey;
        self
    }

    /// How long failed messages wait, and how often they are tried.
    ///
    /// They wait in queues beside, `<queue>.retry.<milliseconds>`, one per step, and come back behind what is there. That
    /// works with any broker. The copy is confirmed before the original is acknowledged, so a crash in between leaves
    /// both. The copy has no `expiration` and no `user-id`.
    #[must_use]
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.policy.backoff = backoff;
        self.policy.waiting = Waiting::Queues;
        self
    }

    /// Failed messages wait in their own queue and in their place, `min` × attempts but at most `max`, and are given up
    /// after so many attempts. Nothing is copied, so nothing is ever doubled. Needs Posthouse, or RabbitMQ from 4.3: an older
    /// one would deliver them again at once, so starting there is an error ([`crate::Error::Unsupported`]).
    #[must_use]
    pub fn retry_in_queue(mut self, min: Duration, max: Duration, attempts: u32) -> Self {
        self.policy.backoff = Backoff::constant(min).attempts(attempts);
        self.policy.waiting = Waiting::Broker;
        let queue = self.queue.take().unwrap_or_else(|| Queue::new(""));
        let queue = queue
            .argument("x-delayed-retry-type", text("all"))
            .argument("x-delayed-retry-min", millis(min))
            .argument("x-delayed-retry-max", millis(max))
            // Above ours, so that the handler's reason is what is told; a consumer that dies over and over meets it.
            .argument("x-delivery-limit", i64::from(attempts.saturating_mul(2)));
        self.declared_as(queue)
    }

    /// Messages that are given up go into this queue, with why and from where in headers.
    /// Default: `<queue>.dead`.
    #[must_use]
    pub fn dead_letter(mut self, queue: &str) -> Self {
        self.policy.dead = Some(DeadLetters::Queue(queue.to_owned()));
        self
    }

    /// Messages that are given up are rejected: the broker does what the queue's own settings say, in one step, and
    /// without the reason. A queue without a dead-letter exchange forgets them.
    #[must_use]
    pub fn dead_letter_by_broker(mut self) -> Self {
        self.policy.dead = Some(DeadLetters::Broker);
        self
    }

    /// How long a message may take that is settled later ([`crate::Later`]); then it is tried again. Keep it below the
    /// broker's timeout for consumers, which is 30 minutes with RabbitMQ. Default: 15 minutes.
    #[must_use]
    pub const fn settle_within(mut self, time: Duration) -> Self {
        self.policy.settle_within = time;
        self
    }

    /// Nobody else may consume from the queue.
    #[must_use]
    pub const fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// With an argument of `basic.consume`, such as `x-priority`.
    #[must_use]
    pub fn consume_argument(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name, value);
        self
    }

    /// Around the handler, outside of what is there. Not for batches.
    ///
    /// Any tower layer for services of [`Delivery`] whose answer is an [`Outcome`]; an error of the layer's is a failure
    /// that is tried again.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<DeliveryService> + Send + 'static,
        L::Service: Service<Delivery, Response: IntoOutcome, Error: Into<BoxError>>
            + Clone
            + Send
            + 'static,
        <L::Service as Service<Delivery>>::Future: Send + 'static,
        <L::Service as Service<Delivery>>::Response: Send + 'static,
        <L::Service as Service<Delivery>>::Error: Send + 'static,
    {
        self.wraps.push(Box::new(move |service| wrap(&layer, service)));
        self
    }

    /// Batches: at most so many messages at once. The prefetch becomes at least twice that.
    #[must_use]
    pub fn up_to(mut self, count: usize) -> Self {
        let count = count.max(1);
        let build = self.build;
        self.build = Box::new(move |state| match build(state) {
            Work::Batch { handle, within, .. } => Work::Batch { handle, up_to: count, within },
            each @ Work::Each(_) => each,
        });
        let twice = u16::try_from(count.saturating_mul(2)).unwrap_or(u16::MAX);
        self.prefetch = self.prefetch.max(twice);
        self
    }

    /// Batches: how long the first message may wait for others.
    #[must_use]
    pub fn within(mut self, wait: Duration) -> Self {
        let build = self.build;
        self.build = Box::new(move |state| match build(state) {
            Work::Batch { handle, up_to, .. } => Work::Batch { handle, up_to, within: wait },
            each @ Work::Each(_) => each,
        });
        self
    }

    /// The same with the state that its handler needs.
    pub(crate) fn with_state(self, state: S) -> Consumer<()>
    where
        S: Send,
    {
        let build = self.build;
        Consumer {
            build: Box::new(move |()| build(state)),
            wraps: self.wraps,
            prefetch: self.prefetch,
            workers: self.workers,
            order: self.order,
            policy: self.policy,
            exclusive: self.exclusive,
            arguments: self.arguments,
            queue: self.queue,
            declares: self.declares,
            beside: self.beside,
            bindings: self.bindings,
        }
    }

    /// Everything that has to be there for this consumer of a queue.
    pub(crate) fn topology(&self, name: &str) -> Topology {
        let mut topology = self.beside.clone();
        if self.declares {
            let mut queue = self.queue.clone().unwrap_or_else(|| Queue::new(name));
            name.clone_into(&mut queue.name);
            topology = topology.queue(queue);
            for (exchange, key) in &self.bindings {
                topology = topology.binding(Binding::new(name, exchange, key));
            }
        }
        if self.policy.waiting == Waiting::Queues && self.order == Order::None {
            for step in self.policy.backoff.steps() {
                let waiting = Queue::new(waiting_queue(name, *step));
                topology = topology.queue(waiting.message_ttl(*step).dead_letter_to("", name));
            }
        }
        if let DeadLetters::Queue(dead) = self.dead_letters(name) {
            topology = topology.queue(Queue::new(dead));
        }
        topology
    }

    pub(crate) fn dead_letters(&self, name: &str) -> DeadLetters {
        let usual = || DeadLetters::Queue(format!("{name}.dead"));
        self.policy.dead.clone().unwrap_or_else(usual)
    }
}

/// The queue in which messages wait so long.
pub(crate) fn waiting_queue(name: &str, wait: Duration) -> String {
    format!("{name}.retry.{}", wait.as_millis())
}

/// A layer around a service, in the service's own shape.
pub(crate) fn wrap<L>(layer: &L, service: DeliveryService) -> DeliveryService
where
    L: Layer<DeliveryService>,
    L::Service:
        Service<Delivery, Response: IntoOutcome, Error: Into<BoxError>> + Clone + Send + 'static,
    <L::Service as Service<Delivery>>::Future: Send + 'static,
    <L::Service as Service<Delivery>>::Response: Send + 'static,
    <L::Service as Service<Delivery>>::Error: Send + 'static,
{
    let service = layer.layer(service);
    let service = service.map_response(IntoOutcome::into_outcome).map_err(Into::into);
    BoxCloneService::new(service)
}
