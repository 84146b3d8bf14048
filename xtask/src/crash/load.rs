//! The load: producers, consumers, transactions and topology, each on its own connection and thread.
//!
//! Every fact goes to the history before the bytes that cause it are written, and after the bytes that tell it are read.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::client::{Broken, Client, Event};
use super::history::{History, Session};
use super::message_id::MessageId;
use super::plan::{Abilities, Kind, MOVED_TO, QUEUES, QueueIndex, name};
use super::random::Random;
use super::ticks::Tick;
use super::wire::id;
use super::{producer, topology};

/// A transaction was rolled back for lack of space: it closes the channel only.
const PRECONDITION_FAILED: u16 = 406;

/// What all threads of a life of the server share.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) address: SocketAddr,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) abilities: Abilities,
    /// The server may die from now on: a lost connection is no complaint.
    fault: AtomicBool,
    /// Producers, requeues and topology end.
    stop_producing: AtomicBool,
    /// Consumers acknowledge what they hold and end.
    stop_consuming: AtomicBool,
    /// A producer was told that it is blocked.
    pub(crate) blocked: AtomicBool,
}

impl Stage {
    /// The history, also after a thread of the rig has panicked: its panic is the error then.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        lock(&self.history)
    }

    /// Whether producers go on.
    pub(crate) fn producing(&self) -> bool {
        !self.stop_producing.load(Ordering::Relaxed)
    }

    fn consuming(&self) -> bool {
        !self.stop_consuming.load(Ordering::Relaxed)
    }

    /// Says what ended a part, unless it was the fault.
    fn ended(&self, part: &str, broken: &Broken) {
        let expected = self.fault.load(Ordering::SeqCst)
            && matches!(
                broken,
                Broken::Gone(_) | Broken::Silent(_) | Broken::Closed { code: 320, .. }
            );
        let mut history = self.history();
        if expected {
            history.note(format_args!("end {part}: {broken}"));
        } else {
            history.complain(format!("{part}: {broken}"));
        }
    }
}

/// Locks; a poisoned lock is opened, because the join of the thread that poisoned it reports the panic.
pub(crate) fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which parts run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    /// Everything.
    All,
    /// Producers and topology: a backlog grows.
    Producers,
    /// Consumers only, which give nothing back.
    Consumers,
}

/// The running threads.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) stage: Arc<Stage>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts the parts against a server that is ready.
    pub(crate) fn start(
        address: SocketAddr,
        history: &Arc<Mutex<History>>,
        abilities: Abilities,
        parts: Parts,
        random: &Random,
    ) -> Self {
        let flag = || AtomicBool::new(false);
        let stage = Arc::new(Stage {
            address,
            history: Arc::clone(history),
            abilities,
            fault: flag(),
            stop_producing: AtomicBool::new(parts == Parts::Consumers),
            stop_consuming: flag(),
            blocked: flag(),
        });
        let mut load = Self { stage, threads: Vec::new() };
        if parts != Parts::Producers {
            for (index, queue) in QUEUES.iter().enumerate() {
                let random = random.fork(100 + index as u64);
                match queue.kind {
                    Kind::Expiring => {}
                    Kind::Moved => load.spawn("mover", move |stage| move_on(stage, index, random)),
                    Kind::Ordered | Kind::Requeue | Kind::Loose | Kind::Priority => {
                        load.spawn(queue.name, move |stage| consume(stage, index, random));
                    }
                }
            }
        }
        if parts != Parts::Consumers {
            for number in 0..4 {
                let random = random.fork(200 + number);
                load.spawn("producer", move |stage| producer::run(stage, random));
            }
            let random = random.fork(300);
            load.spawn("topology", move |stage| topology::run(stage, random));
        }
        load
    }

    fn spawn(
        &mut self,
        part: &'static str,
        run: impl FnOnce(&Stage) -> Result<(), Broken> + Send + 'static,
    ) {
        let stage = Arc::clone(&self.stage);
        self.threads.push(std::thread::spawn(move || {
            if let Err(broken) = run(&stage) {
                stage.ended(part, &broken);
            }
        }));
    }

    /// From now on the server may die.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be written.
    pub(crate) fn announce(&self, kind: &str) -> anyhow::Result<()> {
        self.stage.fault.store(true, Ordering::SeqCst);
        self.stage.history().fault(kind)
    }

    /// Waits for all threads after the server died at the given moment.
    ///
    /// # Errors
    ///
    /// If a thread of the rig panicked.
    pub(crate) fn bury(self, died: Tick) -> anyhow::Result<()> {
        self.stage.stop_producing.store(true, Ordering::Relaxed);
        self.stage.stop_consuming.store(true, Ordering::Relaxed);
        let stage = Arc::clone(&self.stage);
        self.join()?;
        stage.history().died(died);
        Ok(())
    }

    /// Ends everything in order, acknowledging what is held.
    ///
    /// # Errors
    ///
    /// If a thread of the rig panicked.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        self.stage.stop_producing.store(true, Ordering::Relaxed);
        self.stage.stop_consuming.store(true, Ordering::Relaxed);
        self.join()
    }

    fn join(self) -> anyhow::Result<()> {
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread of the rig panicked"))?;
        }
        Ok(())
    }
}

/// Consumes one queue, acknowledging in batches and giving some back where the queue is for that.
fn consume(stage: &Stage, queue: QueueIndex, mut random: Random) -> Result<(), Broken> {
    let mut client = Client::connect(stage.address)?;
    let mut session = stage.history().session(queue);
    client.consume(name(queue), u16::try_from(random.between(1, 400)).unwrap_or(1))?;
    let gives_back = QUEUES.get(queue).is_some_and(|queue| queue.kind == Kind::Requeue);
    let mut held: Vec<(u64, MessageId)> = Vec::new();
    let mut batch = 1;
    while stage.consuming() {
        let event = client.event(Duration::from_millis(3))?;
        let idle = event.is_none();
        match event {
            Some(Event::Delivered(got)) => {
                let id = stage.history().delivered(&mut session, &got);
                if gives_back && stage.producing() && random.one_in(8) {
                    if let Some(id) = id {
                        stage.history().requeued(queue, id);
                    }
                    client.requeue(got.tag);
                } else {
                    held.push((got.tag, id.unwrap_or(MessageId(0))));
                }
            }
            Some(Event::Cancelled) => {
                let text = format!("{}: the consumer was cancelled", name(queue));
                stage.history().complain(text);
                break;
            }
            Some(_) | None => {}
        }
        if held.len() >= batch || (idle && !held.is_empty()) {
            settle(stage, &mut client, queue, &mut held);
            batch = usize::try_from(random.between(1, 50)).unwrap_or(1);
        }
    }
    settle(stage, &mut client, queue, &mut held);
    close(stage, client)
}

/// Acknowledges everything held with one method.
fn settle(stage: &Stage, client: &mut Client, queue: QueueIndex, held: &mut Vec<(u64, MessageId)>) {
    let Some((tag, _)) = held.last().copied() else { return };
    let multiple = held.len() > 1;
    stage.history().acked(queue, held.drain(..).map(|(_, id)| id));
    client.ack(tag, multiple);
}

/// After a fault nobody answers any more.
fn close(stage: &Stage, mut client: Client) -> Result<(), Broken> {
    client.flush()?;
    if stage.fault.load(Ordering::SeqCst) { Ok(()) } else { client.close() }
}

/// Moves messages to another queue: publish and acknowledgement in one transaction. One that is refused is begun anew.
fn move_on(stage: &Stage, queue: QueueIndex, mut random: Random) -> Result<(), Broken> {
    let mut client = Client::connect(stage.address)?;
    let producer = stage.history().producer();
    let mut sequence = 0;
    loop {
        client.call(id(90, 10), id(90, 11), "tx.select-ok", |_| {})?;
        let session = stage.history().session(queue);
        client.consume(name(queue), 20)?;
        match move_until_refused(
            stage,
            &mut client,
            session,
            (producer, &mut sequence),
            &mut random,
        )? {
            Moved::All => return close(stage, client),
            Moved::Refused => client.reopen()?,
        }
    }
}

/// How a mover ended.
enum Moved {
    /// It was told to.
    All,
    /// A commit was refused, and the channel closed.
    Refused,
}

fn move_until_refused(
    stage: &Stage,
    client: &mut Client,
    mut session: Session,
    (producer, sequence): (u64, &mut u64),
    random: &mut Random,
) -> Result<Moved, Broken> {
    let mut held: Vec<(u64, MessageId)> = Vec::new();
    let mut batch = 1;
    loop {
        let goes_on = stage.consuming();
        let event = if goes_on { client.event(Duration::from_millis(3))? } else { None };
        let idle = event.is_none();
        if let Some(Event::Delivered(got)) = event {
            let id = stage.history().delivered(&mut session, &got).unwrap_or(MessageId(0));
            held.push((got.tag, id));
        }
        if held.len() >= batch || (idle && !held.is_empty()) {
            match commit(stage, client, session.queue(), (producer, sequence), &mut held) {
                Err(Broken::Closed { code: PRECONDITION_FAILED, .. }) => return Ok(Moved::Refused),
                done => done?,
            }
            batch = usize::try_from(random.between(1, 10)).unwrap_or(1);
        }
        if !goes_on {
            return Ok(Moved::All);
        }
    }
}

fn commit(
    stage: &Stage,
    client: &mut Client,
    queue: QueueIndex,
    (producer, sequence): (u64, &mut u64),
    held: &mut Vec<(u64, MessageId)>,
) -> Result<(), Broken> {
    let Some((tag, _)) = held.last().copied() else { return Ok(()) };
    let taken: Vec<MessageId> = held.drain(..).map(|(_, id)| id).collect();
    let mut put = Vec::new();
    let number = {
        let mut history = stage.history();
        for _ in &taken {
            *sequence += 1;
            let id = MessageId::new(history.cycle(), producer, *sequence);
            history.publish_start(id, super::plan::Route::Queue(MOVED_TO), 100, None);
            put.push(id);
        }
        history.commit_start(queue, &taken, &put)
    };
    for id in &put {
        client.publish(
            "",
            name(MOVED_TO),
            &id.text(),
            &id.body(100),
            super::client::Options::default(),
        );
    }
    client.ack(tag, true);
    match client.call(id(90, 20), id(90, 21), "tx.commit-ok", |_| {}) {
        Ok(_) => stage.history().committed(queue, number),
        Err(refused @ Broken::Closed { code: PRECONDITION_FAILED, .. }) => {
            stage.history().commit_refused(number);
            return Err(refused);
        }
        Err(broken) => return Err(broken),
    }
    Ok(())
}
