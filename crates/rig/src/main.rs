//! The applications that `cargo xtask crash outbox` starts, kills and checks; each is a process of its own.
//!
//! | command, file | what it does |
//! |---|---|
//! | `servers` | starts PostgreSQL or MariaDB for as long as somebody holds its standard input |
//! | `prepare` | makes the tables |
//! | `application` | commits rows of business and of the outbox in the same transactions, and rolls some back |
//! | `consumer` | has an effect for each message, in a transaction per message |
//! | `verdict` | compares what was committed with the effects; the rules are in `ledger` |
//! | `base` | what the three databases have in common |
#![allow(clippy::print_stdout, reason = "its standard output is read by the rig")]

mod application;
mod base;
mod consumer;
mod ledger;
mod prepare;
mod servers;
mod verdict;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "rig", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a database server.
    Servers(servers::Args),
    /// Make the tables.
    Prepare(prepare::Args),
    /// Commit and send.
    Application(application::Args),
    /// Receive and have effects.
    Consumer(consumer::Args),
    /// Say whether everything is there, once, in its order.
    Verdict(verdict::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .with_ansi(false)
        .init();
    let done = match Cli::parse().command {
        Command::Servers(args) => servers::run(&args),
        Command::Prepare(args) => prepare::run(&args).await,
        Command::Application(args) => application::run(args).await,
        Command::Consumer(args) => consumer::run(args).await,
        Command::Verdict(args) => verdict::run(&args).await,
    };
    let Err(failure) = done else { return ExitCode::SUCCESS };
    tracing::error!("{failure:#}");
    ExitCode::FAILURE
}
