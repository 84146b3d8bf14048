//! `cargo xtask check`: install what the tests need, then run all of them.
//!
//! What CI runs and what a developer runs is this, byte for byte. Every step runs even if one before it failed, unless
//! it needs what failed; the summary at the end says which did, and how long each took.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::install;

/// Cycles of the crash rig in a check, by kind of fault; a longer run is `cargo xtask crash --cycles 1000`.
const CRASH_CYCLES: [(&str, &str); 2] = [("kill,kill-recovery", "50"), ("queues", "15")];

/// Databases, faults and messages of the rig of the outbox in a check; a longer run is `cargo xtask crash outbox --faults 80`.
const OUTBOX_DATABASES: [&str; 3] = ["postgres", "mariadb", "sqlite"];
const OUTBOX_FAULTS: &str = "10";
const OUTBOX_MESSAGES: &str = "4000";

/// What can be asked of `cargo xtask check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these steps, such as `tidy lints`; without any, all of them.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(STEPS.map(|step| step.name)))]
    steps: Vec<String>,
}

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn() -> anyhow::Result<()>,
    /// Without it the steps that follow cannot run.
    is_needed: bool,
}

const STEPS: [Step; 9] = [
    Step {
        name: "install",
        what: "tools and packages that the tests need",
        run: install_all,
        is_needed: true,
    },
    Step { name: "tidy", what: "the rules of the house", run: tidy, is_needed: false },
    Step { name: "format", what: "rustfmt", run: format, is_needed: false },
    Step { name: "lints", what: "clippy, warnings are errors", run: lints, is_needed: false },
    Step { name: "build", what: "the programs that the tests drive", run: build, is_needed: true },
    Step {
        name: "rust",
        what: "unit tests, behaviour of the program, lapin, amqp-tools, rabbitmq-c",
        run: rust,
        is_needed: false,
    },
    Step {
        name: "python",
        what: "pika, py-amqp, Kombu, Celery, aio-pika, zaqarclient, openstacksdk, schemathesis, Django",
        run: python,
        is_needed: false,
    },
    Step { name: "node", what: "amqplib", run: node, is_needed: false },
    Step {
        name: "crash",
        what: "kill -9 under load, over AMQP, over HTTP, from database to database",
        run: crash,
        is_needed: false,
    },
];

/// Runs the steps and prints the summary.
///
/// # Errors
///
/// If a step failed; its name is in the summary.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let chosen = STEPS
        .iter()
        .filter(|step| args.steps.is_empty() || args.steps.iter().any(|name| name == step.name));
    let mut done: Vec<(&Step, Duration, Option<anyhow::Error>)> = Vec::new();
    for step in chosen {
        println!("\n==> {}: {}", step.name, step.what);
        let began = Instant::now();
        let failure = (step.run)().err();
        let stop = failure.is_some() && step.is_needed;
        if let Some(failure) = &failure {
            println!("<== {} failed: {failure:#}", step.name);
        }
        done.push((step, began.elapsed(), failure));
        if stop {
            break;
        }
    }
    summarise(&done, started.elapsed())
}

fn summarise(
    done: &[(&Step, Duration, Option<anyhow::Error>)],
    all: Duration,
) -> anyhow::Result<()> {
    println!();
    for (step, took, failure) in done {
        let verdict = if failure.is_none() { "ok" } else { "FAILED" };
        println!("{:8} {:>6.1} s  {verdict:6}  {}", step.name, took.as_secs_f64(), step.what);
    }
    let failed = done.iter().filter(|(.., failure)| failure.is_some()).count();
    println!("{:8} {:>6.1} s", "all", all.as_secs_f64());
    println!("steps: {} passed, {failed} failed", done.len() - failed);
    if failed > 0 {
        bail!("the check failed");
    }
    Ok(())
}

fn install_all() -> anyhow::Result<()> {
    install::tools()?;
    install::components()?;
    install::python_packages()?;
    install::keystone()?;
    install::node_packages()
}

fn tidy() -> anyhow::Result<()> {
    crate::tidy::run(&crate::tidy::Args {})
}

fn format() -> anyhow::Result<()> {
    install::run(cargo().args(["fmt", "--all", "--check", "--message-format", "short"]))
}

fn lints() -> anyhow::Result<()> {
    install::run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--keep-going",
        "--",
        "-D",
        "warnings",
    ]))
}

fn build() -> anyhow::Result<()> {
    let packages = ["--package", "posthouse", "--package", "rig"];
    install::run(cargo().args(["build", "--profile", "fast"]).args(packages))
}

fn rust() -> anyhow::Result<()> {
    install::run(
        cargo()
            .args(["test", "--workspace", "--no-fail-fast"])
            .env("POSTHOUSE_TESTS_COMPLETE", "1"),
    )
}

fn python() -> anyhow::Result<()> {
    let suite = install::root().join("tests/compat/python");
    let mut pytest = Command::new(install::python());
    pytest.args(["-m", "pytest"]).current_dir(suite).env("PYTHONDONTWRITEBYTECODE", "1");
    // Kept between runs: the bootstrap of an identity service is slower than all of its tests.
    let folder = install::target().join("compat/keystone-data");
    pytest.env("POSTHOUSE_TEST_KEYSTONE", install::keystone_python());
    pytest.env("POSTHOUSE_TEST_KEYSTONE_FOLDER", folder);
    install::run(pytest.env("POSTHOUSE_PROGRAM", program()))
}

fn node() -> anyhow::Result<()> {
    let mut node = Command::new("node");
    node.arg("--test").current_dir(install::root().join("tests/compat/node"));
    install::run(node.env("POSTHOUSE_PROGRAM", program()))
}

fn crash() -> anyhow::Result<()> {
    let this = std::env::current_exe().context("the path of xtask")?;
    for (faults, cycles) in CRASH_CYCLES {
        let mut crash = Command::new(&this);
        crash.args(["crash", "--faults", faults, "--cycles", cycles]);
        install::run(crash.env("POSTHOUSE_PROGRAM", program()))?;
    }
    for database in OUTBOX_DATABASES {
        let mut crash = Command::new(&this);
        crash.args(["crash", "outbox", "--database", database]);
        crash.args(["--faults", OUTBOX_FAULTS, "--messages", OUTBOX_MESSAGES]);
        crash.env("POSTHOUSE_RIG", install::target().join("fast/rig"));
        install::run(crash.env("POSTHOUSE_PROGRAM", program()))?;
    }
    Ok(())
}

fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(install::root()).env("POSTHOUSE_PROGRAM", program());
    cargo
}

/// The program that [`build`] makes.
fn program() -> PathBuf {
    install::target().join("fast/posthouse")
}
