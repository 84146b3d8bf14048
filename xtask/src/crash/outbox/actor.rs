//! A process of the rig that is killed, paused, and started again whenever it has ended.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::crash::server::lines_of;

/// How long a process that has ended by itself stays away, as a service manager would have it.
const AWAY: Duration = Duration::from_millis(100);

/// A process.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) name: &'static str,
    /// The program, with what stands before it.
    command: Vec<PathBuf>,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    lines: Option<Receiver<String>>,
    comes_back: Instant,
    /// How often it has ended without being killed.
    pub(crate) own_ends: u64,
}

impl Actor {
    /// One that has not been started yet.
    pub(crate) fn new(
        name: &'static str,
        command: &[PathBuf],
        arguments: &[&str],
        folder: &Path,
    ) -> Self {
        Self {
            name,
            command: command.to_vec(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            log: folder.join(format!("{name}.log")),
            child: None,
            lines: None,
            comes_back: Instant::now(),
            own_ends: 0,
        }
    }

    /// Starts it if it is not there and its time has come. True if it has ended well: then it stays away.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(crate) fn supervise(&mut self) -> anyhow::Result<bool> {
        if let Some(child) = &mut self.child {
            match child.try_wait()? {
                None => return Ok(false),
                Some(status) if status.success() => return Ok(true),
                Some(_) => {
                    self.own_ends += 1;
                    self.gone(AWAY);
                }
            }
        }
        if Instant::now() >= self.comes_back {
            self.start()?;
        }
        Ok(false)
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let (first, rest) = self.command.split_first().context("no program")?;
        let mut command = Command::new(first);
        command
            .args(rest)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let lines = lines_of(stdout);
        (self.child, self.lines) = (Some(child), Some(lines));
        Ok(())
    }

    /// What it has said since; at most what there is.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.lines.iter().flat_map(Receiver::try_iter)
    }

    /// The process, if it is there.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `SIGKILL`; it comes back after a while. False if it is away already.
    ///
    /// # Errors
    ///
    /// If it cannot be killed.
    pub(crate) fn kill(&mut self, away: Duration) -> anyhow::Result<bool> {
        let Some(child) = &mut self.child else { return Ok(false) };
        child.kill()?;
        child.wait()?;
        self.gone(away);
        Ok(true)
    }

    fn gone(&mut self, away: Duration) {
        (self.child, self.lines) = (None, None);
        self.comes_back = Instant::now() + away;
    }
}

impl Drop for Actor {
    /// Nothing is left behind.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && child.kill().is_ok()
        {
            drop(child.wait());
        }
    }
}
