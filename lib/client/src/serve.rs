//! Running a router: two connections, workers, and an end that loses nothing.
//!
//! One connection consumes and one publishes, because a broker that runs full stops reading from whoever publishes: acks
//! must not stand behind messages then.

use std::future::{Future, IntoFuture, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::broker::Feature;
use crate::client::{Client, apply};
use crate::drain::Drain;
use crate::error::{Error, Result};
use crate::inbox::{Inbox, Order};
use crate::intake::Intake;
use crate::link::{Command, Link};
use crate::metrics::{Metrics, QueueMetrics};
use crate::options::Options;
use crate::router::{Route, Router};
use crate::settlements::{Settle, Settlements};
use crate::worker::{Bench, work};

/// Serves a router: connects, declares its topology, works until the shutdown signal, then drains.
///
/// `await` it. Without [`Serve::with_graceful_shutdown`] it works for ever.
pub fn serve(url: impl Into<String>, router: Router) -> Serve {
    let shutdown = Box::pin(pending());
    Serve { url: url.into(), router, options: Options::default(), shutdown }
}

/// What [`serve`] is about to do.
#[must_use = "nothing is served before it is awaited"]
pub struct Serve {
    url: String,
    router: Router,
    options: Options,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl std::fmt::Debug for Serve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serve").field("router", &self.router).finish_non_exhaustive()
    }
}

impl Serve {
    /// Ends, gracefully, when this is ready.
    pub fn with_graceful_shutdown(
        mut self,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.shutdown = Box::pin(shutdown);
        self
    }

    /// With other limits.
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    async fn run(self) -> Result<()> {
        let app = App::start(&self.url, self.router, self.options).await?;
        self.shutdown.await;
        app.stop().await;
        Ok(())
    }
}

impl IntoFuture for Serve {
    type Output = Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A router that is being served.
#[derive(Debug)]
pub struct App {
    client: Client,
    link: Arc<Link>,
    intakes: Vec<Arc<Intake>>,
    workers: JoinSet<()>,
    drain_timeout: Duration,
}

impl App {
    /// Connects, declares the router's topology and starts its consumers; returns when the broker has answered them.
    ///
    /// A consumer that the broker refuses, such as beside an exclusive one, is logged and asks again each second.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`], [`Error::Topology`] if the broker has something otherwise than the router says,
    /// [`Error::Unsupported`] if a consumer wants what this broker is known not to do, and [`Error::OrderedBatch`] if one
    /// wants what none does; nothing is declared then.
    pub async fn start(url: &str, router: Router, options: Options) -> Result<Self> {
        let retries_in_queue = router.retries_in_queue();
        let topology = router.topology()?;
        let routes = router.routes()?;
        let metrics = Metrics::default();
        let publishing = options.clone().named(format!("{} (publishing)", options.name));
        let client = Client::open(url, publishing, metrics.clone()).await?;
        let drain_timeout = options.drain_timeout;
        let address = url.parse().map_err(crate::error::ConnectError::from)?;
        let link = Arc::new(Link::open(address, options, metrics).await?);
        if retries_in_queue {
            link.must_have(Feature::RetryInQueue)?;
        }
        apply(&link, &topology).await?;
        let mut app =
            Self { client, link, intakes: Vec::new(), workers: JoinSet::new(), drain_timeout };
        for route in routes {
            app.consume(route).await?;
        }
        let answered = async {
            for intake in &app.intakes {
                intake.answered.notified().await;
            }
        };
        // A broker that is gone by now is asked again when it is back.
        drop(timeout(app.link.options.answer_timeout, answered).await);
        Ok(app)
    }

    async fn consume(&mut self, route: Route) -> Result<()> {
        let ordered = route.order != Order::None;
        let intake = Arc::new(Intake {
            queue: route.queue.as_str().into(),
            tag: format!("posthouse-{}", uuid::Uuid::new_v4().simple()),
            prefetch: route.prefetch,
            exclusive: route.exclusive,
            arguments: route.arguments,
            inbox: Inbox::new(route.order, route.work.len()),
            settlements: Settlements::new(Arc::clone(&self.link.work)),
            cancelled: AtomicBool::new(false),
            answered: Notify::new(),
            stopped: Notify::new(),
        });
        let bench = Arc::new(Bench {
            intake: Arc::clone(&intake),
            client: self.client.clone(),
            policy: route.policy,
            dead: route.dead,
            ordered,
            metrics: QueueMetrics::of(&self.link.metrics, &route.queue),
        });
        for one in route.work {
            self.workers.spawn(work(Arc::clone(&bench), one));
        }
        self.intakes.push(Arc::clone(&intake));
        self.link.send(Command::Consume(intake)).await.map_err(Error::Ask)
    }

    /// The connection that publishes what consumers put aside; for publishing beside them as well.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// What was counted on both connections.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.link.metrics
    }

    /// Whether the consuming connection stands now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.is_up()
    }

    /// Takes no more messages, works off those that are here, settles them and closes both connections. Messages that are
    /// settled later are waited for as well; a consumer that pauses gives back what it has.
    ///
    /// Takes at most [`Options::drain_timeout`]; what is not done shortly before that goes back to its queue.
    pub async fn stop(mut self) {
        let drain = Drain::within(Instant::now(), self.drain_timeout);
        for intake in &self.intakes {
            intake.cancelled.store(true, Ordering::Release);
        }
        // All at once: a consumer whose end takes long keeps no other one's workers.
        join_all(self.intakes.iter().map(|intake| self.end(intake, drain.work))).await;
        let finished = async { while self.workers.join_next().await.is_some() {} };
        if timeout_at(drain.work, finished).await.is_err() {
            let left = self.workers.len();
            tracing::warn!(left, "workers were stopped; their messages go back to their queues");
            // A handler that blocks its thread ends when it likes.
            drop(timeout_at(drain.end, self.workers.shutdown()).await);
        }
        let settled = async {
            for intake in &self.intakes {
                intake.settlements.drained().await;
            }
        };
        // What was decided is with the connection's task in moments, or the connection is gone.
        let moments = drain.end.min(Instant::now() + Duration::from_secs(1));
        drop(timeout_at(moments, settled).await);
        tokio::join!(self.link.close(drain), self.client.link.close(drain));
    }

    /// Has the broker send no more to a consumer, whose workers end with what is here.
    async fn end(&self, intake: &Arc<Intake>, deadline: Instant) {
        let stopped = async {
            if self.link.send(Command::Cancel(Arc::clone(intake))).await.is_ok() {
                intake.stopped.notified().await;
            }
        };
        drop(timeout_at(deadline, stopped).await);
        for unwanted in intake.inbox.end() {
            intake.settlements.put(unwanted.receipt, Settle::Requeue);
        }
    }
}
