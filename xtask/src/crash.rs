//! `cargo xtask crash`: the program is killed, cut off, starved and damaged; nothing confirmed may be lost.
//!
//! Load and checker live in this process, outside of the server's, with an AMQP client of their own. The rules are in
//! `docs/durability-campaigns.md`; [`history`] is the checker, [`load`] the load, one module for each kind of fault.

pub(crate) mod client;
mod cycle;
mod damage;
mod disk_full;
mod fsync;
mod history;
mod kill;
mod ledger;
mod load;
mod message_id;
mod outbox;
mod plan;
mod power;
mod producer;
mod queues;
mod random;
pub(crate) mod server;
mod ticks;
mod topology;
mod volume;
mod wire;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};

use cycle::{Cycle, Rig};
use history::Figures;
use random::Random;
use server::Launch;
use volume::Volume;

/// What can be asked of `cargo xtask crash`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    rig: Option<Rigs>,
    /// Cycles of each kind of fault.
    #[arg(long, default_value_t = 50)]
    cycles: u64,
    /// Seed of the run; printed, so that a run can be had again. Without it the clock gives one.
    #[arg(long)]
    seed: Option<u64>,
    /// Kinds of fault.
    #[arg(long, value_delimiter = ',', default_value = "kill,kill-recovery")]
    faults: Vec<Fault>,
    /// Go on after a cycle in which something was wrong; otherwise its kind of fault ends there.
    #[arg(long)]
    keep_going: bool,
    /// The program; without it the one that cargo builds with the profile `fast`.
    #[arg(long, env = "POSTHOUSE_PROGRAM")]
    program: Option<PathBuf>,
    /// Folder for data, ledgers and logs; without it a temporary one, kept if something is wrong.
    #[arg(long)]
    work_dir: Option<PathBuf>,
}

/// Rigs with faults of their own.
#[derive(Debug, clap::Subcommand)]
enum Rigs {
    /// From one application's database to another's: outbox, relays, broker, consumers.
    Outbox(outbox::Args),
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// kill -9 under load.
    Kill,
    /// kill -9 under load, then of up to five recoveries.
    KillRecovery,
    /// The power of the disk is cut: ext4 on a loop image, shut down without writing its journal.
    Power,
    /// The disk is full for a while.
    DiskFull,
    /// Every sync fails from some moment on.
    Fsync,
    /// The tail of the newest segment is torn.
    Torn,
    /// Bits of stored messages are flipped.
    Flip,
    /// kill -9 under load over HTTP: posts, claims, deletions, webhooks.
    Queues,
}

/// Runs the command to its end.
///
/// # Errors
///
/// If anything was lost, wrong or stuck; what exactly has been printed.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(Rigs::Outbox(args)) = &args.rig {
        return outbox::run(args);
    }
    let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs());
    let seed = args.seed.unwrap_or_else(clock);
    let program = program(args)?;
    let work = match &args.work_dir {
        Some(work) => work.clone(),
        None => tempfile::Builder::new().prefix("posthouse-crash-").tempdir()?.keep(),
    };
    std::fs::create_dir_all(&work)?;
    println!("crash rig: {} cycles of each of {:?}, seed {seed}", args.cycles, args.faults);
    println!("program {}, work in {}", program.display(), work.display());
    let mut failed = false;
    for fault in &args.faults {
        let campaign =
            Campaign { fault: *fault, cycles: args.cycles, seed, keep_going: args.keep_going };
        failed |= !campaign.run(&program, &work)?;
    }
    if failed {
        bail!("the crash rig found faults; data and ledgers are in {}", work.display());
    }
    if args.work_dir.is_none() {
        std::fs::remove_dir_all(&work)?;
    }
    Ok(())
}

/// All cycles of one kind of fault.
#[derive(Debug)]
struct Campaign {
    fault: Fault,
    cycles: u64,
    seed: u64,
    keep_going: bool,
}

impl Campaign {
    /// Runs the cycles; false if something was wrong.
    fn run(&self, program: &Path, work: &Path) -> anyhow::Result<bool> {
        let folder = work.join(name(self.fault));
        std::fs::create_dir_all(&folder)?;
        let mut volume = match self.volume(&folder) {
            Ok(volume) => volume,
            Err(error) => {
                println!("SKIPPED {}: this machine does not allow it: {error:#}", name(self.fault));
                return Ok(true);
            }
        };
        let mut rig = self.rig(program, &folder, volume.as_ref());
        let began = Instant::now();
        let mut last_line = Instant::now();
        let mut bad = 0;
        for number in 1..=self.cycles {
            let complaints = rig.cycle(|cycle| self.one(cycle, volume.as_mut()))?;
            if !complaints.is_empty() {
                bad += 1;
                self.report(&complaints, number, &folder, &rig.launch.log);
                if !self.keep_going {
                    break;
                }
            }
            if last_line.elapsed() > Duration::from_secs(30) {
                last_line = Instant::now();
                println!("{} {number}/{}: {}", name(self.fault), self.cycles, figures(&rig));
            }
        }
        let (ran, took) = (rig.number, began.elapsed().as_secs_f64());
        println!(
            "{}: {ran} cycles in {took:.0} s, {bad} of them bad: {}",
            name(self.fault),
            figures(&rig)
        );
        Ok(bad == 0)
    }

    fn rig(&self, program: &Path, folder: &Path, volume: Option<&Volume>) -> Rig {
        let mut settings = vec!["store.segment_bytes=4MiB".to_owned()];
        if self.fault == Fault::DiskFull {
            settings = disk_full::SETTINGS.map(str::to_owned).to_vec();
        }
        if self.fault == Fault::Queues {
            settings.extend(queues::SETTINGS.map(str::to_owned));
        }
        Rig {
            launch: Launch {
                command: vec![program.to_path_buf()],
                data_dir: volume.map_or(folder, Volume::path).join("data"),
                settings,
                log: folder.join("server.log"),
            },
            random: Random::new(self.seed).fork(self.fault as u64),
            ledgers: folder.to_path_buf(),
            number: 0,
            total: Figures::default(),
            slowest_start: Duration::ZERO,
            faults: 0,
        }
    }

    /// The file system that the fault needs, if any.
    fn volume(&self, folder: &Path) -> anyhow::Result<Option<Volume>> {
        match self.fault {
            Fault::Power => Volume::create(folder, 1_024).map(Some),
            Fault::DiskFull => Volume::create(folder, 256).map(Some),
            Fault::Fsync => {
                let found = std::process::Command::new("strace").arg("--version").output();
                found.context("no `strace`: apt-get install strace")?;
                Ok(None)
            }
            Fault::Kill | Fault::KillRecovery | Fault::Torn | Fault::Flip | Fault::Queues => {
                Ok(None)
            }
        }
    }

    fn one(&self, cycle: &mut Cycle<'_>, volume: Option<&mut Volume>) -> anyhow::Result<()> {
        match (self.fault, volume) {
            (Fault::Kill, _) => kill::run(cycle, kill::Chain::Single),
            (Fault::KillRecovery, _) => kill::run(cycle, kill::Chain::DuringRecovery),
            (Fault::Power, Some(volume)) => power::run(cycle, volume),
            (Fault::DiskFull, Some(volume)) => disk_full::run(cycle, volume),
            (Fault::Power | Fault::DiskFull, None) => bail!("no volume"),
            (Fault::Fsync, _) => fsync::run(cycle),
            (Fault::Torn, _) => damage::torn(cycle),
            (Fault::Flip, _) => damage::flip(cycle),
            (Fault::Queues, _) => queues::run(cycle),
        }
    }

    fn report(&self, complaints: &[String], number: u64, folder: &Path, log: &Path) {
        let (fault, seed) = (name(self.fault), self.seed);
        println!("{fault} cycle {number} of seed {seed}: {} complaints", complaints.len());
        for complaint in complaints {
            println!("  {complaint}");
        }
        println!("  ledger {}", folder.join(format!("ledger-{number}.txt")).display());
        println!("  the server's last words:\n{}", server::tail(log, 8));
        println!("  again: cargo xtask crash --faults {fault} --cycles {number} --seed {seed}");
    }
}

fn name(fault: Fault) -> String {
    clap::ValueEnum::to_possible_value(&fault)
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn figures(rig: &Rig) -> String {
    let Figures { published, confirmed, delivered, recovered, duplicates, over_flagged, commits } =
        rig.total;
    format!(
        "{} faults, {published} published, {confirmed} confirmed, {delivered} delivered, {commits} \
         transactions, {recovered} of unknown outcome appeared, {duplicates} duplicates (flagged), {over_flagged} \
         flagged without need, slowest start {} ms",
        rig.faults,
        rig.slowest_start.as_millis()
    )
}

fn program(args: &Args) -> anyhow::Result<PathBuf> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => {
            crate::install::run(
                std::process::Command::new(env!("CARGO"))
                    .current_dir(crate::install::root())
                    .args(["build", "--quiet", "--profile", "fast", "--package", "posthouse"]),
            )?;
            crate::install::target().join("fast/posthouse")
        }
    };
    ensure!(program.exists(), "there is no program at {}", program.display());
    std::path::absolute(&program).context("the program's path")
}
