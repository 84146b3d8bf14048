//! A connection that comes back: the task that opens it again and again, and the handle to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use posthouse_amqp::Address;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use crate::broker::{Broker, Feature, Unsupported};
use crate::calls::Calls;
use crate::drain::Drain;
use crate::error::{AskError, ConnectError};
use crate::intake::{Flow, Intake};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::outgoing::Outgoing;
use crate::question::{Answer, Question};
use crate::session::{self, End};
use crate::topology::Topology;

/// Commands that wait for the connection's task; whoever has one more waits.
const COMMANDS_MAX: usize = 64;

/// What an application wants of its connection.
#[derive(Debug)]
pub(crate) enum Command {
    /// Asks on a channel of its own; the first refusal ends it.
    Ask(Vec<Question>, oneshot::Sender<Result<Vec<Answer>, AskError>>),
    /// Consumes from now on, on this connection and all that follow.
    Consume(Arc<Intake>),
    /// Ends a consumer; its channel stays.
    Cancel(Arc<Intake>),
    /// To be declared again on each connection.
    Remember(Topology),
    /// Replies to calls are wanted; answered when nothing published later can be in front of it.
    Listen(oneshot::Sender<()>),
    /// Ends the connection.
    Close,
}

/// How the connection is.
#[derive(Debug, Clone)]
pub(crate) enum Status {
    /// Not yet up for the first time.
    Connecting,
    Up,
    Away,
    Closed,
}

/// What outlives a connection.
#[derive(Debug)]
pub(crate) struct Lasting {
    pub(crate) address: Address,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) calls: Arc<Calls>,
    /// Wakes the task: something is to be written.
    pub(crate) work: Arc<Notify>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) status: watch::Sender<Status>,
    /// The broker of the last connection.
    pub(crate) broker: watch::Sender<Broker>,
    /// Who waits for the first connection.
    pub(crate) opened: Option<oneshot::Sender<Result<(), ConnectError>>>,
    pub(crate) topology: Topology,
    pub(crate) flows: Vec<Flow>,
    pub(crate) listens: bool,
    /// The last number given to a channel of a consumer.
    pub(crate) epoch: u64,
    pub(crate) closing: bool,
}

/// The handle. The connection ends with [`Link::close`], or when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) work: Arc<Notify>,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    broker: watch::Receiver<Broker>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    /// Makes message identities unique together with [`Link::prefix`].
    count: AtomicU64,
    prefix: String,
}

impl Link {
    /// Connects; returns when the connection stands.
    pub(crate) async fn open(
        address: Address,
        options: Options,
        metrics: Metrics,
    ) -> Result<Self, ConnectError> {
        let work = Arc::new(Notify::new());
        let outgoing = Arc::new(Outgoing::new(
            options.unconfirmed_max,
            options.unconfirmed_bytes_max,
            Arc::clone(&work),
            metrics.clone(),
        ));
        let calls = Arc::new(Calls::default());
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (status, observed) = watch::channel(Status::Connecting);
        let (broker, introduced) = watch::channel(Broker::default());
        let (opened, outcome) = oneshot::channel();
        let lasting = Lasting {
            address,
            options: options.clone(),
            metrics: metrics.clone(),
            outgoing: Arc::clone(&outgoing),
            calls: Arc::clone(&calls),
            work: Arc::clone(&work),
            commands: receiver,
            status,
            broker,
            opened: Some(opened),
            topology: Topology::new(),
            flows: Vec::new(),
            listens: false,
            epoch: 0,
            closing: false,
        };
        let task = tokio::spawn(run(lasting));
        let link = Self {
            outgoing,
            calls,
            options,
            metrics,
            work,
            commands,
            status: observed,
            broker: introduced,
            task: tokio::sync::Mutex::new(Some(task)),
            count: AtomicU64::new(0),
            prefix: uuid::Uuid::new_v4().simple().to_string(),
        };
        outcome.await.unwrap_or(Err(ConnectError::Silent))?;
        Ok(link)
    }

    /// Asks on a channel of its own, in order; the first refusal ends it.
    pub(crate) async fn ask(&self, questions: Vec<Question>) -> Result<Vec<Answer>, AskError> {
        let (answer, answered) = oneshot::channel();
        let timeout = self.options.answer_timeout;
        let asked = async {
            self.send(Command::Ask(questions, answer)).await?;
            answered.await.unwrap_or(Err(AskError::Lost))
        };
        tokio::time::timeout(timeout, asked).await.unwrap_or(Err(AskError::Timeout(timeout)))
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), AskError> {
        self.commands.send(command).await.map_err(|_| AskError::Closed)
    }

    /// An identity that no other message has.
    pub(crate) fn next_id(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut id = String::with_capacity(self.prefix.len() + 12);
        id.push_str(&self.prefix);
        id.push('-');
        push_hex(&mut id, count);
        id
    }

    /// The broker of this connection, or of the last one.
    pub(crate) fn broker(&self) -> Broker {
        self.broker.borrow().clone()
    }

    pub(crate) fn must_have(&self, feature: Feature) -> Result<(), Unsupported> {
        self.broker.borrow().must_have(feature)
    }

    /// Whether the connection stands now.
    pub(crate) fn is_up(&self) -> bool {
        matches!(*self.status.borrow(), Status::Up)
    }

    /// Waits until the connection stands; false if it never will.
    pub(crate) async fn until_up(&self) -> bool {
        let mut status = self.status.clone();
        let decided = |status: &Status| !matches!(status, Status::Connecting | Status::Away);
        status.wait_for(decided).await.is_ok_and(|status| matches!(*status, Status::Up))
    }

    /// Waits for confirms and then for the end of the connection.
    pub(crate) async fn close(&self, drain: Drain) {
        if timeout_at(drain.work, self.outgoing.drained()).await.is_err() {
            let (messages, _) = self.outgoing.waiting();
            tracing::error!(messages, "closed before everything was confirmed");
        }
        let goodbye = async {
            drop(self.commands.send(Command::Close).await);
            let mut task = self.task.lock().await;
            if let Some(task) = task.as_mut() {
                drop(task.await);
            }
            *task = None;
        };
        // Whoever else has the task's handle closes as well, and has a limit of its own.
        if timeout_at(drain.end, goodbye).await.is_err()
            && let Ok(mut task) = self.task.try_lock()
            && let Some(task) = task.take()
        {
            task.abort();
        }
        self.outgoing.close();
        self.calls.close();
    }
}

/// Without a handle nobody can ask for anything: the task has nothing left to do but to end.
impl Drop for Link {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().take() {
            task.abort();
        }
        self.outgoing.close();
        self.calls.close();
    }
}

fn push_hex(text: &mut String, number: u64) {
    let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = u32::try_from(number >> (4 * place) & 0xf).unwrap_or(0);
        text.push(char::from_digit(digit, 16).unwrap_or('0'));
    }
}

/// Connects, serves and connects again, until it is closed or the first attempt fails.
async fn run(mut lasting: Lasting) {
    let mut pause = lasting.options.reconnect_first;
    let mut first = true;
    while !lasting.closing {
        let began = tokio::time::Instant::now();
        let end = session::run(&mut lasting).await;
        lasting.outgoing.interrupt();
        lasting.flows.iter_mut().for_each(Flow::lost);
        match end {
            End::Closed => break,
            End::NotOpened(error) if first => {
                if let Some(opened) = lasting.opened.take() {
                    drop(opened.send(Err(error)));
                }
                break;
            }
            End::NotOpened(error) | End::Lost(error) => {
                tracing::warn!(%error, broker = lasting.address.place(), "no connection; trying again");
            }
        }
        first = false;
        lasting.status.send_replace(Status::Away);
        // A connection that stood for a while begins with short pauses again.
        if began.elapsed() > lasting.options.reconnect_max {
            pause = lasting.options.reconnect_first;
        }
        wait(&mut lasting, jittered(pause)).await;
        pause = (pause * 2).min(lasting.options.reconnect_max);
    }
    lasting.outgoing.close();
    lasting.calls.close();
    lasting.status.send_replace(Status::Closed);
}

/// Waits for the next attempt and answers commands meanwhile.
async fn wait(lasting: &mut Lasting, pause: Duration) {
    let until = tokio::time::sleep(pause);
    tokio::pin!(until);
    loop {
        let command = tokio::select! {
            () = &mut until => return,
            command = lasting.commands.recv() => command,
        };
        match command {
            None | Some(Command::Close) => {
                lasting.closing = true;
                return;
            }
            Some(Command::Ask(_, answer)) => drop(answer.send(Err(AskError::Lost))),
            Some(Command::Consume(intake)) => lasting.flows.push(Flow::new(intake)),
            Some(Command::Cancel(intake)) => intake.stopped.notify_one(),
            Some(Command::Remember(topology)) => lasting.remember(topology),
            Some(Command::Listen(heard)) => {
                lasting.listens = true;
                heard.send(()).ok();
            }
        }
    }
}

impl Lasting {
    /// What contradicts what is remembered already was refused when it was applied.
    pub(crate) fn remember(&mut self, topology: Topology) {
        match std::mem::take(&mut self.topology).merge(topology) {
            Ok(topology) => self.topology = topology,
            Err(error) => tracing::error!(%error, "a topology is not restored"),
        }
    }
}

/// Between half of the pause and all of it, so that many clients do not come back at once.
pub(crate) fn jittered(pause: Duration) -> Duration {
    // A random identity is random enough; it saves a generator.
    let random = uuid::Uuid::new_v4().as_u128() % 1000;
    let share = u32::try_from(random).unwrap_or(0);
    pause / 2 + pause / 2 * share / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_hexadecimal_digits() {
        for (number, text) in [(0, "0"), (15, "f"), (16, "10"), (0xdead_beef, "deadbeef")] {
            let mut written = String::new();
            push_hex(&mut written, number);
            assert_eq!(written, text);
        }
    }

    #[test]
    fn pauses_are_between_half_and_all_of_what_is_asked() {
        for _ in 0..100 {
            let pause = jittered(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&pause));
        }
    }
}
