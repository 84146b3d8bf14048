//! `cargo xtask bench`: the program beside RabbitMQ and beside the ceiling of one core.
//!
//! Brokers run one after the other on core 0, the load tool on core 1, each run on a fresh data directory of the same
//! disk. Ratios of one run are what counts; `docs/performance.md` has the table of the day and says how to read it.
//! With `--queues` it is the queue service beside real Zaqar instead, see [`queues`].

mod backlog;
mod broker;
mod queues;
mod report;
mod rows;
mod syncs;
mod tool;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use broker::{Broker, Peer, Programs};
use report::{Answers, Measured};
use rows::{Figure, Floor, QUEUE_MEMORY, ROWS, Row};

/// How long an idle broker takes until its memory is what it needs when idle.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);

/// What can be asked of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these rows, by name; `backlog` is fill, memory, kill -9, first delivery and drain. Without it all of them.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// The queue service beside real Zaqar, over HTTP, instead of the broker beside RabbitMQ.
    #[arg(long)]
    queues: bool,
    /// How often each row is measured; medians count.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Short windows and small numbers: to see that everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// Without RabbitMQ.
    #[arg(long)]
    no_rabbitmq: bool,
    /// Without Zaqar.
    #[arg(long)]
    no_zaqar: bool,
    /// The load tool; without it the one in `../shared/tools/amqp-load` is built.
    #[arg(long, env = "AMQP_LOAD")]
    amqp_load: Option<PathBuf>,
    /// The program; without it the one that cargo builds with the profile `release`.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Folder for data directories; its disk is what is measured. Without it one in the target folder.
    #[arg(long)]
    work_dir: Option<PathBuf>,
    /// Makes every sync of every broker so many milliseconds slower, as most disks are.
    #[arg(long)]
    slow_sync: Option<u64>,
    /// Where the answers go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs the command to its end.
///
/// # Errors
///
/// If a broker or the load tool fails. A missed floor is said in the table and is no error.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.queues {
        return queues::run(args);
    }
    for name in &args.rows {
        let known = name == "backlog" || ROWS.iter().any(|row| row.name == name);
        ensure!(
            known,
            "no row is called {name}; there are backlog, {}",
            ROWS.map(|row| row.name).join(", ")
        );
    }
    let session = Session::prepare(args)?;
    let conditions = session.conditions()?;
    for line in &conditions {
        println!("{line}");
    }
    let mut measured = Vec::new();
    for row in ROWS
        .iter()
        .filter(|row| args.rows.is_empty() || args.rows.iter().any(|name| name == row.name))
    {
        measured.push(session.row(row)?);
        if row.name == QUEUE_MEMORY.0
            && let Some(queues) = measured.last()
        {
            let memory = queue_memory(queues);
            measured.push(memory);
        }
    }
    if args.rows.is_empty() || args.rows.iter().any(|name| name == "backlog") {
        measured.extend(session.backlog()?);
    }
    println!("\n{}", report::table(&measured));
    let json = args.json.clone().unwrap_or_else(|| session.work.join("bench.json"));
    std::fs::write(&json, serde_json::to_string_pretty(&report::json(&measured, &conditions))?)?;
    println!("answers: {}", json.display());
    Ok(())
}

/// Programs and folders of one comparison.
#[derive(Debug)]
struct Session<'a> {
    args: &'a Args,
    programs: Programs,
    work: PathBuf,
}

impl<'a> Session<'a> {
    fn prepare(args: &'a Args) -> anyhow::Result<Self> {
        ensure!(
            std::thread::available_parallelism()?.get() >= 2,
            "the comparison needs two cores: one for the broker, one for the load tool"
        );
        let work = args.work_dir.clone().unwrap_or_else(|| install_target().join("bench"));
        std::fs::create_dir_all(&work)?;
        let programs = Programs {
            ours: program(args)?,
            tool: tool::find(args.amqp_load.as_deref())?,
            rabbit: if args.no_rabbitmq { PathBuf::new() } else { tool::rabbit()? },
            slow_sync_ms: args.slow_sync,
        };
        let programs = Programs { ours: std::path::absolute(&programs.ours)?, ..programs };
        Ok(Self { args, programs, work: std::path::absolute(work)? })
    }

    /// Under which conditions the figures were taken, and what each peer's confirm means.
    fn conditions(&self) -> anyhow::Result<Vec<String>> {
        let mut lines = vec![
            format!("kernel and machine: {}", said("uname", &["-srm"])),
            format!(
                "processors: {}",
                said("sh", &["-c", "grep -m1 'model name' /proc/cpuinfo; nproc"])
                    .replace('\n', ", ")
            ),
            format!(
                "file system of the data: {}",
                said("df", &["--output=fstype,source", &self.work.display().to_string()])
                    .replace('\n', " ")
            ),
            format!("load of the machine before: {}", said("cat", &["/proc/loadavg"])),
            format!(
                "runs: {}, quick: {}, syncs made slower by: {:?} ms",
                self.args.runs, self.args.quick, self.args.slow_sync
            ),
        ];
        if self.args.slow_sync.is_none() {
            for peer in self.peers(&[Peer::NullJournal, Peer::Rabbit]) {
                let folder = self.fresh(peer)?;
                lines.push(format!("confirms of {}", syncs::count(&self.programs, peer, &folder)?));
            }
        }
        Ok(lines)
    }

    /// We and the peers that take part.
    fn peers(&self, peers: &[Peer]) -> Vec<Peer> {
        let wanted =
            peers.iter().copied().filter(|peer| !(self.args.no_rabbitmq && *peer == Peer::Rabbit));
        std::iter::once(Peer::Ours).chain(wanted).collect()
    }

    /// An empty folder.
    fn fresh(&self, peer: Peer) -> anyhow::Result<PathBuf> {
        let folder = self.work.join(peer.name());
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn row(&self, row: &Row) -> anyhow::Result<Measured> {
        println!("{}: {}", row.name, row.what);
        let mut answers: Vec<Answers> = self
            .peers(row.peers)
            .into_iter()
            .map(|peer| Answers { peer, runs: Vec::new() })
            .collect();
        for _ in 0..self.args.runs.max(1) {
            for one in &mut answers {
                let broker = self.start(one.peer, row.settings)?;
                if row.figure.unit == "KiB" || row.name == QUEUE_MEMORY.0 {
                    // What the start and our own login took goes back to the system first.
                    std::thread::sleep(SETTLES_WITHIN);
                }
                match tool::load(&self.programs.tool, &broker, &row.arguments(self.args.quick)) {
                    Ok(answer) => {
                        let rate = tool::figure(&answer, row.figure.at).unwrap_or(f64::NAN);
                        println!("  {:13} {rate:>12.1} {}", one.peer.name(), row.figure.unit);
                        one.runs.push(answer);
                    }
                    // The row goes on, and is not judged if nothing came of it.
                    Err(error) => println!("  {:13} FAILED: {error:#}", one.peer.name()),
                }
                broker.kill()?;
            }
        }
        Ok(Measured {
            name: row.name.to_owned(),
            what: row.what.to_owned(),
            figure: row.figure,
            floors: row.floors.to_vec(),
            cpu_at: if row.figure.at == "/consumed_s" {
                "/broker_cpu_us_per_msg"
            } else {
                cpu_at(row.args)
            },
            answers,
        })
    }

    fn start(&self, peer: Peer, settings: &[&str]) -> anyhow::Result<Broker> {
        self.programs.start(peer, &self.fresh(peer)?, settings)
    }

    fn backlog(&self) -> anyhow::Result<Vec<Measured>> {
        let count = if self.args.quick { 100_000 } else { 1_000_000 };
        println!("backlog: {count} messages of 1 KiB, persistent");
        let mut answers: Vec<Answers> = self
            .peers(&[Peer::Rabbit])
            .into_iter()
            .map(|peer| Answers { peer, runs: Vec::new() })
            .collect();
        for _ in 0..self.args.runs.max(1) {
            for one in &mut answers {
                let folder = self.fresh(one.peer)?;
                match backlog::play(&self.programs, one.peer, &folder, count) {
                    Ok(answer) => {
                        println!("  {:13} {answer}", one.peer.name());
                        one.runs.push(answer);
                    }
                    Err(error) => println!("  {:13} FAILED: {error:#}", one.peer.name()),
                }
                self.fresh(one.peer)?;
            }
        }
        Ok(acts(&answers))
    }
}

/// The rows that the backlog gives.
fn acts(answers: &[Answers]) -> Vec<Measured> {
    let acts: [(&str, &str, Figure, Floor, &'static str); 4] = [
        (
            "fill",
            "fill 1 million × 1 KiB persistent",
            Figure { at: "/fill_s", unit: "msg/s" },
            Floor::AtLeast(Peer::Rabbit, 5.0),
            "/fill_cpu_us",
        ),
        (
            "backlog-rss",
            "RSS with that million waiting",
            Figure { at: "/rss_mb", unit: "MB" },
            Floor::Limit(60.0),
            "",
        ),
        (
            "first",
            "first delivery after a kill -9, from the start of the process",
            Figure { at: "/first_ms", unit: "ms" },
            Floor::Limit(200.0),
            "",
        ),
        (
            "drain",
            "drain, acked",
            Figure { at: "/drain_s", unit: "msg/s" },
            Floor::AtLeast(Peer::Rabbit, 13.0),
            "/drain_cpu_us",
        ),
    ];
    let rows = acts.into_iter().map(|(name, what, figure, floor, cpu_at)| Measured {
        name: name.to_owned(),
        what: what.to_owned(),
        figure,
        floors: vec![floor],
        cpu_at,
        answers: copy(answers),
    });
    rows.collect()
}

/// The memory of idle queues, from the row that declares them.
fn queue_memory(queues: &Measured) -> Measured {
    let (_, figure, floor) = QUEUE_MEMORY;
    Measured {
        name: "queue-rss".to_owned(),
        what: "RSS of an idle durable queue".to_owned(),
        figure,
        floors: vec![floor],
        cpu_at: "",
        answers: copy(&queues.answers),
    }
}

fn copy(answers: &[Answers]) -> Vec<Answers> {
    let runs = |one: &Answers| -> Vec<Value> { one.runs.clone() };
    answers.iter().map(|one| Answers { peer: one.peer, runs: runs(one) }).collect()
}

/// Rows of many things count the CPU of each thing.
fn cpu_at(args: &str) -> &'static str {
    if args.starts_with("throughput") || args.starts_with("latency") {
        "/broker_cpu_us_per_msg"
    } else {
        "/broker_cpu_us_each"
    }
}

fn install_target() -> PathBuf {
    crate::install::target()
}

fn program(args: &Args) -> anyhow::Result<PathBuf> {
    if let Some(program) = &args.program {
        ensure!(Path::new(program).is_file(), "there is no program at {}", program.display());
        return Ok(program.clone());
    }
    println!("builds the program with the profile release");
    crate::install::run(Command::new(env!("CARGO")).current_dir(crate::install::root()).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "posthouse",
    ]))?;
    let program = crate::install::target().join("release/posthouse");
    if !program.is_file() {
        bail!("cargo built no program at {}", program.display());
    }
    Ok(program)
}

/// What a command says, for the conditions; empty if it fails.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().context("no output");
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}
