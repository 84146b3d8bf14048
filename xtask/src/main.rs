//! The one development tool: `cargo xtask check`, `tidy`, `bench`, `crash`.
//!
//! Each command is a module with an `Args` for clap and a `run` that fails with the reason.
#![allow(clippy::print_stdout, reason = "a tool for people talks on standard output")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod check;
mod crash;
mod http;
mod install;
mod tidy;
mod websocket;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The one development tool", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need, then run all of them.
    Check(check::Args),
    /// Check the rules of the house that neither rustc nor clippy know.
    Tidy(tidy::Args),
    /// Measure the program beside other brokers.
    Bench(bench::Args),
    /// Kill the program at random moments under load and look for lost messages.
    Crash(crash::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Tidy(args) => tidy::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Crash(args) => crash::run(&args),
    };
    let Err(failure) = done else { return ExitCode::SUCCESS };
    println!("{failure:#}");
    ExitCode::FAILURE
}
