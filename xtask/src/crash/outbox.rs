//! `cargo xtask crash outbox`: the whole way of a message, from one application's database to another's, under faults.
//!
//! An application commits rows and messages, two relays send them, the broker keeps them, two consumers have their effects
//! in transactions; every one is a process that is killed, paused and cut off, the database's server as well, and the disks
//! of broker and database become full. In the end each committed row must have one effect, in the order of its key, and what was rolled back none. The applications
//! and the checker are in `crates/rig`.
//!
//! | file | concept |
//! |---|---|
//! | this | what can be asked, and how a run goes |
//! | [`stage`] | the processes and wires of a run, and what faults do to them |
//! | [`fault`] | which fault is next |
//! | [`actor`], [`wire`], [`database`] | a process; what connects two; the databases |

mod actor;
mod database;
mod fault;
mod stage;
mod wire;

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};

use super::random::Random;
use database::Kind;
use fault::{Fault, Tally};
use stage::Stage;

/// Between two looks at the processes.
const LOOK: Duration = Duration::from_millis(10);

/// After so many looks without progress comes a fault anyway: faults go on if nothing else does.
const IDLE_LOOKS: u32 = 1_000;

/// Between two faults at least.
const FAULT_AFTER: Duration = Duration::from_millis(200);

/// How many looks may be without any progress. Looks and not time, because the whole rig may be stopped for a while.
const STUCK_LOOKS: u32 = 18_000;

/// What can be asked of `cargo xtask crash outbox`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The applications' database.
    #[arg(long)]
    database: Kind,
    /// At least so many messages.
    #[arg(long, default_value_t = 20_000)]
    messages: u64,
    /// So many faults, spread over the messages.
    #[arg(long, default_value_t = 20)]
    faults: u64,
    /// Seed of the faults; printed. Without it the clock gives one.
    #[arg(long)]
    seed: Option<u64>,
    /// Consumers that do something wrong: the checker has to find what comes of it.
    #[arg(long)]
    without: Option<Without>,
    /// The program; without it the one that cargo builds with the profile `fast`.
    #[arg(long, env = "POSTHOUSE_PROGRAM")]
    program: Option<PathBuf>,
    /// The applications; without it the ones that cargo builds with the profile `fast`.
    #[arg(long, env = "POSTHOUSE_RIG")]
    rig: Option<PathBuf>,
    /// Folder for data and logs; without it a temporary one, kept if something is wrong.
    #[arg(long)]
    work_dir: Option<PathBuf>,
}

/// What the consumers do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Without {
    /// Inbox rows: there are duplicates.
    Claim,
    /// The order of each customer: there are disorders.
    Order,
    /// Another attempt after a failure: there are losses.
    Retry,
}

impl Without {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// The file whose presence tells the application to end.
fn end(work: &Path) -> PathBuf {
    work.join("end")
}

/// Runs the command to its end.
///
/// # Errors
///
/// If anything was lost, doubled, out of order or stuck; what exactly has been printed.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs());
    let seed = args.seed.unwrap_or_else(clock);
    let program = built("posthouse", args.program.as_deref())?;
    let rig = built("rig", args.rig.as_deref())?;
    let work = match &args.work_dir {
        Some(work) => work.clone(),
        None => tempfile::Builder::new().prefix("posthouse-crash-").tempdir()?.keep(),
    };
    std::fs::create_dir_all(&work)?;
    // Database servers have users of their own.
    std::fs::set_permissions(&work, Permissions::from_mode(0o755))?;
    let (faults, messages) = (args.faults, args.messages);
    println!(
        "outbox rig: {faults} faults, {messages} messages, {:?}, seed {seed}, work in {}",
        args.database,
        work.display()
    );
    let mut stage = Stage::start(args, &program, &rig, &work)?;
    let told = play(&mut stage, args, seed, &work).and_then(|()| stage.verdict(&rig));
    drop(stage);
    if let Err(error) = told {
        let database = format!("{:?}", args.database).to_lowercase();
        let without = args.without.map(|without| format!(" --without {}", without.name()));
        println!(
            "again: cargo xtask crash outbox --database {database} --faults {faults} --messages {messages} --seed {seed}{}",
            without.unwrap_or_default()
        );
        return Err(error.context(format!("logs and data are in {}", work.display())));
    }
    if args.work_dir.is_none() {
        std::fs::remove_dir_all(&work)?;
    }
    Ok(())
}

/// Faults, one after the other, until all were done and the application has committed enough.
fn play(stage: &mut Stage, args: &Args, seed: u64, work: &Path) -> anyhow::Result<()> {
    let mut random = Random::new(seed);
    let mut tally = Tally::default();
    let mut faults = std::fs::File::create(work.join("faults.log"))?;
    let (began, mut last_fault, mut last_line) = (Instant::now(), Instant::now(), Instant::now());
    let (mut before, mut idle_looks) = (0, 0);
    while !stage.supervise()? {
        idle_looks += 1;
        if stage.committed != before {
            (before, idle_looks) = (stage.committed, 0);
        }
        ensure!(idle_looks < STUCK_LOOKS, "STUCK: no order was committed for three minutes");
        let share = args.messages.saturating_mul(tally.sum() + 1) / (args.faults + 1);
        let is_due = stage.committed >= share && last_fault.elapsed() >= FAULT_AFTER;
        if tally.sum() < args.faults && (is_due || idle_looks % IDLE_LOOKS == IDLE_LOOKS - 1) {
            let fault = Fault::choose(&mut random, stage.targets());
            if let Some(whom) = stage.strike(fault)? {
                writeln!(faults, "{:.1} s: {fault:?}: {whom}", began.elapsed().as_secs_f64())?;
                tally.count(fault, whom);
                last_fault = Instant::now();
            }
        }
        if tally.sum() >= args.faults && !stage.is_told_to_end {
            std::fs::write(end(work), "")?;
            stage.is_told_to_end = true;
        }
        if last_line.elapsed() > Duration::from_secs(30) {
            last_line = Instant::now();
            println!("{} faults, {} committed", tally.sum(), stage.committed);
        }
        std::thread::sleep(LOOK);
    }
    println!("{} faults in {:.0} s: {tally}", tally.sum(), began.elapsed().as_secs_f64());
    println!("{} ends of their own", stage.own_ends());
    Ok(())
}

/// A program that is there, or that cargo makes.
fn built(package: &str, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(program) => program.to_path_buf(),
        None => {
            let mut build = Command::new(env!("CARGO"));
            build.current_dir(crate::install::root()).stdin(Stdio::null());
            // Both at once, because cargo makes what they share once then.
            build.args(["build", "--quiet", "--profile", "fast", "--package", "posthouse"]);
            build.args(["--package", "rig"]);
            crate::install::run(&mut build)?;
            crate::install::target().join("fast").join(package)
        }
    };
    if !program.exists() {
        bail!("there is no program at {}", program.display());
    }
    std::path::absolute(&program).context("the program's path")
}
