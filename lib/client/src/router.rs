//! Which queue is worked off by which handler.

use tower::{Layer, Service};

use crate::consumer::{
    BoxError, Consumer, DeadLetters, DeliveryService, Policy, Waiting, Work, wrap,
};
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::inbox::Order;
use crate::outcome::IntoOutcome;
use crate::topology::{Exchange, Topology, TopologyError};
use posthouse_amqp::table::Table;

type Layers = Vec<Box<dyn Fn(DeliveryService) -> DeliveryService + Send + Sync>>;

/// A queue with its consumer, ready to run.
pub(crate) struct Route {
    pub(crate) queue: String,
    /// One for each worker.
    pub(crate) work: Vec<Work>,
    pub(crate) prefetch: u16,
    pub(crate) order: Order,
    pub(crate) policy: Policy,
    pub(crate) dead: DeadLetters,
    pub(crate) exclusive: bool,
    pub(crate) arguments: Table,
}

/// Queues with their consumers, like axum's router with its routes. `S` is the state that handlers still need.
pub struct Router<S = ()> {
    consumers: Vec<(String, Consumer<S>)>,
    beside: Topology,
    layers: Layers,
}

impl<S> std::fmt::Debug for Router<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queues = self.consumers.iter().map(|(queue, _)| queue);
        f.debug_list().entries(queues).finish()
    }
}

impl<S> Default for Router<S> {
    fn default() -> Self {
        Self { consumers: Vec::new(), beside: Topology::new(), layers: Vec::new() }
    }
}

impl<S: Clone + Send + Sync + 'static> Router<S> {
    /// Without queues.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a queue that this consumer works off.
    #[must_use]
    pub fn queue(mut self, name: &str, consumer: Consumer<S>) -> Self {
        self.consumers.push((name.to_owned(), consumer));
        self
    }

    /// Declares an exchange as well.
    #[must_use]
    pub fn exchange(mut self, exchange: Exchange) -> Self {
        self.beside = self.beside.exchange(exchange);
        self
    }

    /// Around every handler, outside of what is there; see [`Consumer::layer`].
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<DeliveryService> + Send + Sync + 'static,
        L::Service: Service<Delivery, Response: IntoOutcome, Error: Into<BoxError>>
            + Clone
            + Send
            + 'static,
        <L::Service as Service<Delivery>>::Future: Send + 'static,
        <L::Service as Service<Delivery>>::Response: Send + 'static,
        <L::Service as Service<Delivery>>::Error: Send + 'static,
    {
        self.layers.push(Box::new(move |service| wrap(&layer, service)));
        self
    }

    /// Gives every handler its state.
    #[must_use]
    pub fn with_state(self, state: S) -> Router<()> {
        let give =
            |(queue, consumer): (String, Consumer<S>)| (queue, consumer.with_state(state.clone()));
        Router {
            consumers: self.consumers.into_iter().map(give).collect(),
            beside: self.beside,
            layers: self.layers,
        }
    }

    /// Everything that serving this router declares.
    ///
    /// # Errors
    ///
    /// [`TopologyError::Twice`] if two consumers contradict each other.
    pub fn topology(&self) -> Result<Topology, TopologyError> {
        // Merged with itself first, so that what a router says twice counts once.
        let mut topology = Topology::new().merge(self.beside.clone())?;
        for (queue, consumer) in &self.consumers {
            topology = topology.merge(consumer.topology(queue))?;
        }
        Ok(topology)
    }
}

impl Router<()> {
    /// Whether a consumer leaves it to the broker that messages wait.
    pub(crate) fn retries_in_queue(&self) -> bool {
        self.consumers.iter().any(|(_, consumer)| consumer.policy.waiting == Waiting::Broker)
    }

    /// Every queue with its consumer.
    ///
    /// # Errors
    ///
    /// [`Error::OrderedBatch`].
    pub(crate) fn routes(self) -> Result<Vec<Route>> {
        let layers = self.layers;
        let route = |(queue, consumer): (String, Consumer<()>)| {
            let dead = consumer.dead_letters(&queue);
            let workers = consumer.workers.min(usize::from(consumer.prefetch)).max(1);
            let mut work = (consumer.build)(());
            // What fails of a batch is put aside or goes back, and the next of its key overtakes it.
            if matches!(work, Work::Batch { .. }) && consumer.order != Order::None {
                return Err(Error::OrderedBatch { queue });
            }
            if let Work::Each(mut service) = work {
                for wrap in consumer.wraps {
                    service = wrap(service);
                }
                for layer in &layers {
                    service = layer(service);
                }
                work = Work::Each(service);
            }
            Ok(Route {
                queue,
                work: work.several(workers),
                prefetch: consumer.prefetch,
                order: consumer.order,
                policy: consumer.policy,
                dead,
                exclusive: consumer.exclusive,
                arguments: consumer.arguments,
            })
        };
        self.consumers.into_iter().map(route).collect()
    }
}
