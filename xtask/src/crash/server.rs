//! The program under test as a process: start, wait until ready, kill, stop.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::ticks::Tick;

/// How long a start may take before the run is given up.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How to start the program.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The program, with what stands before it (`strace …`) if anything.
    pub(crate) command: Vec<PathBuf>,
    /// Its data.
    pub(crate) data_dir: PathBuf,
    /// Further `--set key=value`.
    pub(crate) settings: Vec<String>,
    /// Where its standard error goes, appended.
    pub(crate) log: PathBuf,
}

/// A process that has been started and may not be ready yet.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    lines: Receiver<String>,
    began: Instant,
    queues: Option<SocketAddr>,
}

impl Launch {
    /// Starts the process.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(crate) fn spawn(&self) -> anyhow::Result<Server> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let (program, before) = self.command.split_last().context("no program")?;
        let mut command = match before.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(["serve", "--data-dir"]).arg(&self.data_dir);
        command.args([
            "--set",
            "amqp.listen=127.0.0.1:0",
            "--set",
            "metrics.listen=",
            "--set",
            "queues.listen=",
        ]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let began = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let lines = lines_of(stdout);
        Ok(Server { child, lines, began, queues: None })
    }
}

/// What a process says, line by line, as it says it.
pub(crate) fn lines_of(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Server {
    /// Waits until it says `ready`; returns where it listens and how long it took.
    ///
    /// # Errors
    ///
    /// If it exits or is not ready in time.
    pub(crate) fn ready(&mut self) -> anyhow::Result<(SocketAddr, Duration)> {
        let mut address = None;
        loop {
            let left = START_WITHIN.saturating_sub(self.began.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.trim() == "ready" => {
                    let address =
                        address.context("`ready` came before `listening amqp ADDRESS`")?;
                    return Ok((address, self.began.elapsed()));
                }
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix("listening amqp ") {
                        address = Some(rest.trim().parse().context(line)?);
                    } else if let Some(rest) = line.strip_prefix("listening queues ") {
                        self.queues = Some(rest.trim().parse().context(line)?);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("not ready within {} s", START_WITHIN.as_secs());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("it ended before it was ready: {status}");
                }
            }
        }
    }

    /// Where its queue service listens, once it is ready.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub(crate) fn queues(&self) -> anyhow::Result<SocketAddr> {
        self.queues.context("it did not say `listening queues ADDRESS`")
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `SIGKILL`; returns the moment it was sent.
    ///
    /// # Errors
    ///
    /// If it is gone already: then it died by itself.
    pub(crate) fn kill(mut self) -> anyhow::Result<Tick> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server had ended by itself: {status}");
        }
        let at = Tick::now();
        self.child.kill()?;
        self.child.wait()?;
        Ok(at)
    }

    /// `SIGTERM`, then waits for the end.
    ///
    /// # Errors
    ///
    /// If it does not end with 0 in time.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        signal(self.pid(), "TERM")?;
        match self.ended(Duration::from_secs(20))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("after SIGTERM it ended with {status}"),
            None => {
                self.child.kill()?;
                self.child.wait()?;
                bail!("it did not end within 20 s after SIGTERM")
            }
        }
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    ///
    /// If the process cannot be asked.
    pub(crate) fn ended(&mut self, within: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    /// Nothing of a failed run is left behind.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

/// Sends a signal by name.
///
/// # Errors
///
/// If `kill` fails.
pub(crate) fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    crate::install::run(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()))
}

/// The last lines of a log, for a report.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let Ok(file) = File::open(log) else { return String::new() };
    let all: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
    all.into_iter()
        .rev()
        .take(lines)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect::<Vec<_>>()
        .join("\n")
}
