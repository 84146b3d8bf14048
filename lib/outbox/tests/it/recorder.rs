//! Transports that note what they are given and answer as the test says, and a relay that runs until it has sent enough.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use posthouse_outbox::{Letter, Outbox, Routes, Schedule, SendError, Settings, Transport};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::server::{PATIENCE, Server};

type Rule = dyn Fn(&Letter) -> Result<(), SendError> + Send + Sync;

/// Notes messages. Clones share their notes.
#[derive(Clone)]
pub(crate) struct Recorder {
    rule: Arc<Rule>,
    tried: Arc<Mutex<Vec<Letter>>>,
    sent: Arc<Mutex<Vec<Letter>>>,
    changed: Arc<Notify>,
}

impl Recorder {
    /// Takes everything.
    pub(crate) fn new() -> Self {
        Self::with(|_| Ok(()))
    }

    /// Answers by a rule.
    pub(crate) fn with(
        rule: impl Fn(&Letter) -> Result<(), SendError> + Send + Sync + 'static,
    ) -> Self {
        let rule = Arc::new(rule);
        Self { rule, tried: Arc::default(), sent: Arc::default(), changed: Arc::default() }
    }

    /// The topics of what was sent, in order.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.sent().into_iter().map(|letter| letter.topic).collect()
    }

    pub(crate) fn sent(&self) -> Vec<Letter> {
        self.sent.lock().unwrap().clone()
    }

    /// What was tried, whatever came of it.
    pub(crate) fn tried(&self) -> Vec<Letter> {
        self.tried.lock().unwrap().clone()
    }

    /// Waits until something holds of this recorder.
    pub(crate) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        loop {
            let changed = self.changed.notified();
            if holds(self) {
                return;
            }
            let left = PATIENCE.saturating_sub(began.elapsed());
            let waited = tokio::time::timeout(left, changed).await;
            assert!(waited.is_ok(), "sent {:?}, tried {}", self.topics(), self.tried().len());
        }
    }

    /// Waits until this many messages were sent.
    pub(crate) async fn until_sent(&self, count: usize) {
        self.until(|recorder| recorder.sent.lock().unwrap().len() >= count).await;
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl Transport for Recorder {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            self.tried.lock().unwrap().push(letter.clone());
            let answer = (self.rule)(letter);
            // Others get a turn, so that what must not overlap would.
            tokio::task::yield_now().await;
            if answer.is_ok() {
                self.sent.lock().unwrap().push(letter.clone());
            }
            self.changed.notify_waiters();
            answer
        })
    }
}

/// Answers when it is let.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    recorder: Recorder,
    gate: Arc<Semaphore>,
}

impl Held {
    pub(crate) fn new(recorder: Recorder) -> Self {
        Self { recorder, gate: Arc::new(Semaphore::new(0)) }
    }

    pub(crate) fn release(&self) {
        self.gate.add_permits(1000);
    }
}

impl Transport for Held {
    fn send<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move {
            let answer = self.recorder.send(letter).await;
            drop(self.gate.acquire().await);
            answer
        })
    }
}

/// A relay that runs beside the test.
pub(crate) struct Running {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    pub(crate) counters: Arc<posthouse_outbox::Counters>,
}

impl Running {
    /// Starts a relay to one transport.
    pub(crate) fn start<S: Server>(
        outbox: &Outbox<S>,
        transport: impl Transport,
        settings: Settings,
    ) -> Self {
        let relay = outbox.relay(Routes::all(transport), settings);
        let counters = relay.counters();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(relay.run(async { drop(stopped.await) }));
        Self { stop: Some(stop), task, counters }
    }

    /// Stops it and waits for its end.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(PATIENCE, &mut self.task).await.expect("an end").unwrap();
    }

    /// Ends it as a crash would: what is under way stays leased.
    pub(crate) async fn crash(mut self) {
        self.task.abort();
        drop((&mut self.task).await);
    }
}

/// Retries at once, so that tests are short.
pub(crate) fn quick() -> Settings {
    let schedule = Schedule {
        attempts: 3,
        unit: Duration::from_millis(1),
        factor: 1.0,
        cap: Duration::from_millis(1),
    };
    Settings { schedule, ..Settings::default() }
}
