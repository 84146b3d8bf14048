//! `posthouse serve`: the server.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use anyhow::Context;
use clap::Args;
use server::config::{Config, Sources};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::printer::Printer;

/// Run the broker until SIGTERM or SIGINT.
///
/// Prints `listening <door> <address>` for every listener and then `ready`; logs go to standard error.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    configuration: Configuration,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(super) struct Configuration {
    /// Configuration file; see `posthouse check --defaults`.
    #[arg(long, value_name = "FILE", env = "POSTHOUSE_CONFIG")]
    config: Option<PathBuf>,
    /// Folder of messages and definitions; the same as `--set data_dir=DIR`.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Set one option, over file and environment; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Configuration {
    pub(super) fn sources(&self) -> Sources {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let data_dir = self.data_dir.iter().map(|folder| format!("data_dir={folder}"));
        Sources {
            file: self.config.clone(),
            environment: std::env::vars_os().filter_map(text).collect(),
            set: self.set.iter().cloned().chain(data_dir).collect(),
        }
    }
}

impl Serve {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.configuration.sources())?;
        server::telemetry::start(&config.log);
        // Counts the processors that this process may use, not those that the machine has.
        let workers = available_parallelism().map_or(1, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name("posthouse")
            .enable_all()
            .build()
            .context("runtime cannot be started")?;
        runtime.block_on(async {
            // Before anything listens, so that no signal is lost.
            server::run::run(config, |line| announce(&line), told_to_end()?).await
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints a line that scripts wait for. A server whose standard output is closed goes on without it.
fn announce(line: &str) {
    if let Err(error) = Printer::new().line(line) {
        tracing::warn!(%error, line, "standard output is closed");
    }
}

/// Is over when the process is told to end; listens from the call on.
pub(super) fn told_to_end() -> anyhow::Result<impl Future<Output = ()>> {
    Ok(either(listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?))
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("signals cannot be heard")
}

async fn either(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
