//! Everything that takes part in a run: the database, the broker, the processes, the wires between them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::Args;
use super::actor::Actor;
use super::database::Database;
use super::fault::{Fault, Targets};
use super::wire::{Mode, Place, Wire};
use crate::crash::disk_full::SETTINGS;
use crate::crash::server::{Launch, Server, signal};
use crate::crash::volume::Volume;

/// Sizes of the disks; images have holes where nothing was written.
const BROKER_MIB: u64 = 2_048;
const DATABASE_MIB: u64 = 6_144;

/// What is left of a disk that is not full to its last block: less than the broker's alarm asks for.
const LEFT_BYTES: u64 = 12 << 20;

/// What the broker is called where faults are counted.
const BROKER: &str = "broker";

/// Until a broker that could not start on a full disk is started again.
const AWAY_WHEN_FULL: Duration = Duration::from_millis(500);

/// So many wires lead to the broker, the others to the database.
const TO_BROKER: usize = 2;

/// How long the queue may take to be there.
const CONSUMED_WITHIN: Duration = Duration::from_secs(60);

/// Arguments of the relays that make them come back soon: their leases end, and what failed is tried again, in seconds.
const RELAY: [&str; 12] = [
    "--lease",
    "3s",
    "--send-timeout",
    "1500ms",
    "--attempts",
    "1000000000",
    "--factor",
    "1",
    "--cap",
    "1s",
    "--retention",
    "0s",
];

/// What a fault ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Continue(Struck),
    Mend { wire: usize, is_lost: bool },
    Room { disk: usize },
}

/// Who was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Struck {
    Process(u32),
    Database,
}

/// A wire and whom it connects.
#[derive(Debug)]
struct Line {
    name: &'static str,
    wire: Wire,
}

/// A disk and whose it is.
#[derive(Debug)]
struct Disk {
    name: &'static str,
    volume: Volume,
}

/// A run.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The application first.
    actors: Vec<Actor>,
    broker: Option<Server>,
    broker_back: Instant,
    launch: Launch,
    /// Those that lead to the broker come first.
    lines: Vec<Line>,
    database: Database,
    database_back: Instant,
    endings: Vec<(Instant, Ending)>,
    /// Orders that the application says are committed.
    pub(crate) committed: u64,
    /// All faults were done.
    pub(crate) is_told_to_end: bool,
    urls: [String; 2],
    /// The last, because they can be unmounted only when nobody uses them.
    disks: Vec<Disk>,
}

/// A disk in a folder; none where this machine does not allow it.
fn disk(name: &'static str, folder: &Path, mib: u64) -> anyhow::Result<Option<Disk>> {
    std::fs::create_dir_all(folder)?;
    match Volume::create(folder, mib) {
        Ok(volume) => Ok(Some(Disk { name, volume })),
        Err(error) => {
            println!("SKIPPED full disk of the {name}: this machine does not allow it: {error:#}");
            Ok(None)
        }
    }
}

/// A command that does not outlive the rig.
fn tied(program: &Path) -> Vec<PathBuf> {
    ["setpriv", "--pdeathsig", "KILL"]
        .iter()
        .map(PathBuf::from)
        .chain([program.to_path_buf()])
        .collect()
}

impl Stage {
    /// Starts everything; returns when messages are consumed.
    ///
    /// # Errors
    ///
    /// If something does not start.
    pub(crate) fn start(
        args: &Args,
        program: &Path,
        rig: &Path,
        work: &Path,
    ) -> anyhow::Result<Self> {
        let (of_broker, of_database) = (work.join("broker"), work.join("database"));
        let broker_disk = disk(BROKER, &of_broker, BROKER_MIB)?;
        let database_disk = disk("database", &of_database, DATABASE_MIB)?;
        let place = |disk: &Option<Disk>, folder: PathBuf| {
            disk.as_ref().map_or(folder, |disk| disk.volume.path().to_path_buf())
        };
        let launch = Launch {
            command: tied(program),
            data_dir: place(&broker_disk, of_broker).join("data"),
            settings: SETTINGS.map(str::to_owned).to_vec(),
            log: work.join("broker.log"),
        };
        let database = Database::start(
            args.database,
            rig,
            &place(&database_disk, of_database),
            &work.join("database.log"),
        )?;
        let urls = [database.url("app"), database.url("shop")];
        let [app, shop] = &urls;
        let mut prepare = Command::new(rig);
        crate::install::run(prepare.args(["prepare", "--app", app, "--shop", shop]))?;
        let mut stage = Self {
            actors: Vec::new(),
            broker: None,
            broker_back: Instant::now(),
            launch,
            lines: Vec::new(),
            database,
            database_back: Instant::now(),
            endings: Vec::new(),
            committed: 0,
            is_told_to_end: false,
            urls,
            disks: [broker_disk, database_disk].into_iter().flatten().collect(),
        };
        stage.cast(args, program, rig, work)?;
        stage.until_consumed()?;
        Ok(stage)
    }

    /// The processes, not yet started, and the wires between them.
    fn cast(&mut self, args: &Args, program: &Path, rig: &Path, work: &Path) -> anyhow::Result<()> {
        let mut to_broker = |name| {
            let (wire, port) = Wire::at_port()?;
            self.lines.push(Line { name, wire });
            anyhow::Ok(format!("amqp://guest:guest@{port}"))
        };
        let relay_to = to_broker("relays to broker")?;
        let consumer_from = to_broker("consumers to broker")?;
        let mut wired = |database, name, folder| {
            let (url, wire) = self.database.wired(database, &work.join(folder))?;
            self.lines.extend(wire.map(|wire| Line { name, wire }));
            anyhow::Ok(url)
        };
        let app = wired("app", "application to database", "w-app")?;
        let app_of_relay = wired("app", "relays to database", "w-relay")?;
        let shop = wired("shop", "consumers to database", "w-shop")?;
        let messages = args.messages.to_string();
        let end = super::end(work).display().to_string();
        let [_, shop_straight] = &self.urls;
        let application = ["application", "--app", &app, "--shop", shop_straight];
        let application = [&application[..], &["--messages", &messages, "--until", &end]].concat();
        let relay = ["relay", "--database", &app_of_relay, "--to", &relay_to];
        let relay = [relay.as_slice(), &RELAY].concat();
        let without = args.without.map(super::Without::name);
        let mut consumer = vec!["consumer", "--shop", &shop, "--broker", &consumer_from];
        consumer.extend(without.as_deref().into_iter().flat_map(|name| ["--without", name]));
        let (program, rig) = (tied(program), tied(rig));
        self.actors = vec![
            Actor::new("application", &rig, &application, work),
            Actor::new("relay-1", &program, &relay, work),
            Actor::new("relay-2", &program, &relay, work),
            Actor::new("consumer-1", &rig, &consumer, work),
            Actor::new("consumer-2", &rig, &consumer, work),
        ];
        Ok(())
    }

    /// Starts the consumers, which make the queue.
    fn until_consumed(&mut self) -> anyhow::Result<()> {
        self.broker_up()?;
        let began = Instant::now();
        let consumer = self.actors.last_mut().context("no consumer")?;
        loop {
            consumer.supervise()?;
            if consumer.lines().any(|line| line == "ready") {
                return Ok(());
            }
            ensure!(began.elapsed() < CONSUMED_WITHIN, "the consumer does not start; see its log");
            std::thread::sleep(super::LOOK);
        }
    }

    /// Starts the broker. Where it has no block of its disk left it may need one to start; then it is tried again.
    fn broker_up(&mut self) -> anyhow::Result<()> {
        let mut broker = self.launch.spawn()?;
        let address = match broker.ready() {
            Ok((address, _)) => address,
            Err(_) if self.is_full(BROKER) => {
                self.broker_back = Instant::now() + AWAY_WHEN_FULL;
                return Ok(());
            }
            Err(error) => return Err(error.context("the broker; see broker.log")),
        };
        for line in self.lines.iter().take(TO_BROKER) {
            line.wire.lead_to(Place::Port(address));
        }
        self.broker = Some(broker);
        Ok(())
    }

    fn is_full(&self, whose: &str) -> bool {
        let name = |disk: usize| self.disks.get(disk).map(|disk| disk.name);
        self.endings.iter().any(
            |(_, ending)| matches!(ending, Ending::Room { disk } if name(*disk) == Some(whose)),
        )
    }

    /// What faults may choose from: behind the actors come the broker and the database's server.
    pub(crate) fn targets(&self) -> Targets {
        Targets {
            processes: self.actors.len() + 1 + usize::from(self.database.has_server()),
            wires: self.lines.len(),
            disks: self.disks.len(),
        }
    }

    /// How often processes have ended without being killed.
    pub(crate) fn own_ends(&self) -> u64 {
        self.actors.iter().map(|actor| actor.own_ends).sum()
    }

    /// Does what a fault is, and says to whom; `None` if there is nothing to do it to: it is away, or suffers already.
    ///
    /// # Errors
    ///
    /// If it cannot be done.
    pub(crate) fn strike(&mut self, fault: Fault) -> anyhow::Result<Option<String>> {
        let (lasts, ending) = match fault {
            Fault::Kill { whom, away } => return self.kill(whom, away),
            Fault::Pause { whom, lasts } => (lasts, Ending::Continue(self.struck(whom))),
            Fault::Cut { wire, lasts } => (lasts, Ending::Mend { wire, is_lost: false }),
            Fault::Stall { wire, lasts, then_lost } => {
                (lasts, Ending::Mend { wire, is_lost: then_lost })
            }
            Fault::Disk { disk, lasts, .. } => (lasts, Ending::Room { disk }),
        };
        if self.endings.iter().any(|(_, pending)| pending.is_of_same(&ending)) {
            return Ok(None);
        }
        let struck = match fault {
            Fault::Kill { .. } => None,
            Fault::Pause { whom, .. } => self.pause(whom)?,
            Fault::Cut { wire, .. } => Some(self.line(wire)?.set(Mode::Cut)),
            Fault::Stall { wire, .. } => Some(self.line(wire)?.set(Mode::Stalled)),
            Fault::Disk { disk, to_the_last_block, .. } => self.fill(disk, to_the_last_block)?,
        };
        if struck.is_some() {
            self.endings.push((Instant::now() + lasts, ending));
        }
        Ok(struck)
    }

    fn line(&self, number: usize) -> anyhow::Result<&Line> {
        self.lines.get(number).context("no such wire")
    }

    /// Who a pause is about; nobody has the process 0.
    fn struck(&self, whom: usize) -> Struck {
        let broker = self.broker.as_ref().map(Server::pid);
        match self.actors.get(whom) {
            Some(actor) => Struck::Process(actor.pid().unwrap_or_default()),
            None if whom == self.actors.len() => Struck::Process(broker.unwrap_or_default()),
            None => Struck::Database,
        }
    }

    fn name(&self, whom: usize) -> String {
        let behind = if whom == self.actors.len() { BROKER } else { "database" };
        self.actors.get(whom).map_or(behind, |actor| actor.name).to_owned()
    }

    fn kill(&mut self, whom: usize, away: Duration) -> anyhow::Result<Option<String>> {
        let back = Instant::now() + away;
        let is_broker = whom == self.actors.len();
        let is_struck = match self.actors.get_mut(whom) {
            Some(actor) => actor.kill(away)?,
            None if !is_broker => {
                self.database_back = back;
                self.database.kill()?
            }
            None => match self.broker.take() {
                Some(broker) => {
                    broker.kill().context("the broker; see broker.log")?;
                    self.broker_back = back;
                    true
                }
                None => false,
            },
        };
        Ok(is_struck.then(|| self.name(whom)))
    }

    fn pause(&mut self, whom: usize) -> anyhow::Result<Option<String>> {
        let is_struck = match self.struck(whom) {
            Struck::Process(0) => false,
            Struck::Process(pid) => signal(pid, "STOP").map(|()| true)?,
            Struck::Database => self.database.pause()?,
        };
        Ok(is_struck.then(|| self.name(whom)))
    }

    fn fill(&self, disk: usize, to_the_last_block: bool) -> anyhow::Result<Option<String>> {
        let Disk { name, volume } = self.disks.get(disk).context("no such disk")?;
        let left = if to_the_last_block { 0 } else { LEFT_BYTES };
        if volume.free()? <= left + LEFT_BYTES {
            return Ok(None);
        }
        volume.fill_up_to(left)?;
        Ok(Some((*name).to_owned()))
    }

    /// Ends faults whose time is over, starts what has ended. True when the application is through.
    ///
    /// # Errors
    ///
    /// If something cannot be started.
    pub(crate) fn supervise(&mut self) -> anyhow::Result<bool> {
        let now = Instant::now();
        let (over, lasting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.endings).into_iter().partition(|(at, _)| *at <= now);
        self.endings = lasting;
        for (_, ending) in &over {
            self.end(ending)?;
        }
        if self.database.is_away() && now >= self.database_back {
            self.database.bring_back()?;
        }
        self.database.supervise()?;
        if self.broker.is_none() && now >= self.broker_back {
            self.broker_up()?;
        }
        if let Some(broker) = &mut self.broker {
            let ended = broker.ended(Duration::ZERO)?;
            ensure!(ended.is_none(), "the broker has ended by itself: {ended:?}; see broker.log");
        }
        let mut is_through = false;
        for (number, actor) in self.actors.iter_mut().enumerate() {
            let ended_well = actor.supervise()?;
            ensure!(number == 0 || !ended_well, "{} has ended as if it were told to", actor.name);
            for line in actor.lines() {
                if let Some(count) = line.strip_prefix("committed ") {
                    self.committed = count.parse().unwrap_or(self.committed);
                }
            }
            is_through |= ended_well;
        }
        Ok(is_through)
    }

    fn end(&mut self, ending: &Ending) -> anyhow::Result<()> {
        match ending {
            Ending::Continue(Struck::Database) => self.database.go_on()?,
            Ending::Continue(Struck::Process(pid)) => {
                let is_there = self.actors.iter().any(|actor| actor.pid() == Some(*pid))
                    || self.broker.as_ref().map(Server::pid) == Some(*pid);
                if is_there {
                    signal(*pid, "CONT")?;
                }
            }
            Ending::Mend { wire, is_lost } => {
                let Line { wire, .. } = self.line(*wire)?;
                if *is_lost {
                    wire.drop_connections();
                }
                wire.set(Mode::Open);
            }
            Ending::Room { disk } => {
                self.disks.get(*disk).context("no such disk")?.volume.make_room()?;
            }
        }
        Ok(())
    }

    /// Nobody is away and no fault lasts.
    fn is_calm(&self) -> bool {
        self.endings.is_empty() && self.broker.is_some() && !self.database.is_away()
    }

    /// Lets everybody finish, and has the checker look.
    ///
    /// # Errors
    ///
    /// If it complains.
    pub(crate) fn verdict(&mut self, rig: &Path) -> anyhow::Result<()> {
        while !self.is_calm() {
            self.supervise()?;
            std::thread::sleep(super::LOOK);
        }
        let began = Instant::now();
        let [app, shop] = &self.urls;
        let mut verdict = Command::new(rig);
        verdict.args(["verdict", "--app", app, "--shop", shop]).stdin(Stdio::null());
        let mut verdict = verdict.spawn().context("the checker")?;
        loop {
            // The application has ended well, so it stays away.
            self.supervise()?;
            if let Some(status) = verdict.try_wait()? {
                let took = began.elapsed().as_secs_f64();
                println!("everything was handled and read {took:.0} s after the last fault");
                ensure!(status.success(), "the outbox rig found faults");
                return Ok(());
            }
            std::thread::sleep(super::LOOK);
        }
    }
}

impl Line {
    /// Changes what becomes of what is on it; says which it is.
    fn set(&self, mode: Mode) -> String {
        self.wire.set(mode);
        self.name.to_owned()
    }
}

impl Ending {
    /// Whether both are about the same process, wire or disk.
    const fn is_of_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Continue(Struck::Process(a)), Self::Continue(Struck::Process(b))) => *a == *b,
            (Self::Continue(Struck::Database), Self::Continue(Struck::Database)) => true,
            (Self::Mend { wire: a, .. }, Self::Mend { wire: b, .. })
            | (Self::Room { disk: a }, Self::Room { disk: b }) => *a == *b,
            (Self::Continue(_) | Self::Mend { .. } | Self::Room { .. }, _) => false,
        }
    }
}
