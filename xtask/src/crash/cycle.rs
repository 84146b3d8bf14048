//! One cycle: load, fault, recovery, drain, verdict.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::client::{Client, Event, Options};
use super::history::{Figures, History};
use super::ledger::Ledger;
use super::load::{Load, Parts, lock};
use super::plan::{self, Abilities, QUEUES};
use super::random::Random;
use super::server::{Launch, Server};
use super::ticks::Tick;
use super::topology;

/// How long a restarted server may take to accept connections.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// How many starts in a row must be slow before the server is to blame: in a long campaign the machine stands still now
/// and then.
const SLOW_STARTS: usize = 3;

/// How long a healed server may take until everything confirmed was delivered.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);

/// Time between two looks at whether everything was delivered.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long ago the last delayed message must have been due.
const DUE_FOR: Duration = Duration::from_millis(60);

/// In how many looks in a row nothing must have come before the queues count as quiet. Looks, not time: a machine that
/// stands still is not quiet.
const QUIET_LOOKS: u32 = 6;

/// In how many looks in a row nothing must have come before what is missing counts as lost.
const LOST_LOOKS: u32 = 300;

/// A campaign on one data directory, between cycles.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) launch: Launch,
    pub(crate) random: Random,
    /// Where ledgers are written.
    pub(crate) ledgers: PathBuf,
    pub(crate) number: u64,
    pub(crate) total: Figures,
    pub(crate) slowest_start: Duration,
    pub(crate) faults: u64,
}

/// The cycle at hand.
#[derive(Debug)]
pub(crate) struct Cycle<'a> {
    pub(crate) rig: &'a mut Rig,
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) random: Random,
}

/// A server that is ready, and what it can do.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    pub(crate) abilities: Abilities,
}

impl Rig {
    /// Runs one cycle; returns what was wrong.
    ///
    /// # Errors
    ///
    /// If the rig itself could not go on: the server does not start, a file cannot be written.
    pub(crate) fn cycle(
        &mut self,
        fault: impl FnOnce(&mut Cycle<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<String>> {
        self.number += 1;
        let ledger = Ledger::create(&self.ledgers.join(format!("ledger-{}.txt", self.number)))?;
        let history = Arc::new(Mutex::new(History::new(self.number, ledger)));
        let random = self.random.fork(self.number);
        let mut cycle = Cycle { rig: self, history: Arc::clone(&history), random };
        let done = fault(&mut cycle);
        let mut complaints = lock(&history).verdict(done.is_ok())?;
        let figures = lock(&history).figures;
        self.total.add(figures);
        if let Err(error) = done {
            complaints.insert(0, format!("STUCK: {error:#}"));
        }
        if let Ok(history) = Arc::try_unwrap(history) {
            let history = history.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            history.close(!complaints.is_empty())?;
        }
        Ok(complaints)
    }
}

impl Cycle<'_> {
    /// Starts the server and declares what the load needs.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub(crate) fn start(&mut self) -> anyhow::Result<Up> {
        let (server, address) = self.start_soon()?;
        let mut client = Client::connect(address)?;
        let abilities = plan::declare(&mut client).context("declaring the rig's queues")?;
        Ok(Up { server, address, abilities })
    }

    /// Starts the server, and after a slow start once more on the same data.
    fn start_soon(&mut self) -> anyhow::Result<(Server, SocketAddr)> {
        let mut slow = Vec::new();
        loop {
            let mut server = self.rig.launch.spawn()?;
            let (address, took) = server.ready()?;
            lock(&self.history).note(format_args!("ready after {} ms", took.as_millis()));
            self.rig.slowest_start = self.rig.slowest_start.max(took);
            if took <= READY_WITHIN {
                return Ok((server, address));
            }
            slow.push(took.as_millis());
            if slow.len() == SLOW_STARTS {
                let text = format!("SLOW: in {SLOW_STARTS} starts ready after {slow:?} ms");
                lock(&self.history).complain(text);
                return Ok((server, address));
            }
            server.kill()?;
        }
    }

    /// Starts load on a server.
    pub(crate) fn load(&mut self, up: &Up, parts: Parts) -> Load {
        let random = Random::new(self.random.next());
        Load::start(up.address, &self.history, up.abilities, parts, &random)
    }

    /// Lets the load run for a random time of the range, in milliseconds.
    pub(crate) fn run_for(&mut self, low: u64, high: u64) {
        std::thread::sleep(Duration::from_millis(self.random.between(low, high)));
    }

    /// Consumes until everything is out, then checks that nothing is left.
    ///
    /// # Errors
    ///
    /// If the server stops answering.
    pub(crate) fn drain(&mut self, up: &Up) -> anyhow::Result<()> {
        topology::check(up.address, &mut lock(&self.history))?;
        let load = self.load(up, Parts::Consumers);
        self.wait_until_drained(up)?;
        load.finish()?;
        self.settle(up)
    }

    /// Waits until every confirmed message has come, the queues are empty and nothing more comes.
    ///
    /// # Errors
    ///
    /// If the server stops answering.
    pub(crate) fn wait_until_drained(&mut self, up: &Up) -> anyhow::Result<()> {
        let began = Tick::now();
        let mut client = Client::connect(up.address)?;
        let (mut arrivals, mut quiet) = (0, 0);
        loop {
            let (missing, due, now) = {
                let history = lock(&self.history);
                quiet = if history.is_committing() { 0 } else { quiet + 1 };
                (history.missing(), history.last_due(), history.arrivals())
            };
            if now != arrivals {
                (arrivals, quiet) = (now, 0);
            }
            let due = due.is_none_or(|due| due + DUE_FOR < Instant::now());
            let left = left_behind(&mut client)?;
            let enough = if missing == 0 { QUIET_LOOKS } else { LOST_LOOKS };
            if due && quiet > enough && left.is_empty() {
                return Ok(());
            }
            if began.elapsed() > DRAINED_WITHIN {
                let text = format!(
                    "NOT LIVE: after {} s {missing} are missing, waiting: {left:?}",
                    began.elapsed().as_secs()
                );
                lock(&self.history).complain(text);
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Makes what was acknowledged durable, and sees that the queues are empty without consumers too.
    fn settle(&mut self, up: &Up) -> anyhow::Result<()> {
        let mut client = Client::connect(up.address)?;
        client.select_confirms()?;
        client.publish("", "rig.barrier", "barrier", b"", Options::default());
        loop {
            match client.event(Duration::from_secs(10))? {
                Some(Event::Confirmed { positive: true, .. }) => break,
                Some(_) => {}
                None => lock(&self.history).complain("HUNG: the barrier got no confirm".to_owned()),
            }
        }
        let left = left_behind(&mut client)?;
        ensure!(left.is_empty(), "after everything was acknowledged there is still {left:?}");
        topology::clear(&mut client, &lock(&self.history))?;
        Ok(())
    }
}

/// Queues with ready messages.
fn left_behind(client: &mut Client) -> anyhow::Result<Vec<(&'static str, u32)>> {
    let mut left = Vec::new();
    for queue in &QUEUES {
        let ready = client.declare(queue.name, true, &[])?;
        if ready > 0 {
            left.push((queue.name, ready));
        }
    }
    Ok(left)
}

impl Figures {
    /// Adds those of another cycle.
    pub(crate) fn add(&mut self, other: Self) {
        self.published += other.published;
        self.confirmed += other.confirmed;
        self.delivered += other.delivered;
        self.recovered += other.recovered;
        self.duplicates += other.duplicates;
        self.over_flagged += other.over_flagged;
        self.commits += other.commits;
    }
}
