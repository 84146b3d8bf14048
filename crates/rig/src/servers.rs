//! A database server for the rig: a process beside the others, which is killed and stopped as the rig says, and ends with it.
//!
//! | line of the standard input | what is done |
//! |---|---|
//! | `kill` | the server and all processes of it get `SIGKILL`, and it stays away |
//! | `start` | it comes back |
//! | `pause`, `continue` | `SIGSTOP` and `SIGCONT` to all its processes |
//!
//! A server that ends by itself, as PostgreSQL does when its disk is full, is started again.

use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use it::database::Installed;

use crate::base::Base;

/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);

/// Between two looks whether it runs.
const LOOK: Duration = Duration::from_millis(100);

/// What can be asked of `rig servers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which.
    kind: Kind,
    /// Where its data is put.
    #[arg(long)]
    folder: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Postgres,
    Mariadb,
}

/// The server, if it runs, and what starts it.
struct Server {
    installed: Installed,
    process: Option<Child>,
    is_wanted: bool,
}

/// Starts the server, makes the databases `app` and `shop`, prints `socket PATH` and does what it is told until its
/// standard input ends.
///
/// # Errors
///
/// If the server does not start, or cannot be killed or stopped.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // Databases wait for a runtime, and this thread for its standard input.
    tokio::task::block_in_place(|| {
        let runtime = tokio::runtime::Handle::current();
        let installed = match args.kind {
            Kind::Postgres => Installed::postgres(&args.folder),
            Kind::Mariadb => Installed::mariadb(&args.folder),
        };
        let socket = installed.socket().display().to_string();
        let mut server = Server { installed, process: None, is_wanted: true };
        server.supervise()?;
        match args.kind {
            Kind::Postgres => {
                let folder = socket.trim_end_matches("/.s.PGSQL.5432");
                let url = format!("postgres:///postgres?host={folder}&user=postgres");
                runtime.block_on(make::<sqlx::Postgres>(&url))?;
            }
            Kind::Mariadb => {
                let url = format!("mysql://root@localhost/mysql?socket={socket}");
                runtime.block_on(make::<sqlx::MySql>(&url))?;
            }
        }
        println!("socket {socket}");
        obey(&mut server, &words())
    })
}

/// The lines of the standard input.
fn words() -> Receiver<String> {
    let (sender, words) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    words
}

fn obey(server: &mut Server, words: &Receiver<String>) -> anyhow::Result<()> {
    loop {
        match words.recv_timeout(LOOK).as_deref() {
            Ok("kill") => server.kill()?,
            Ok("start") => server.is_wanted = true,
            Ok("pause") => server.pause()?,
            Ok("continue") => server.go_on()?,
            Ok(other) => bail!("what is `{other}`?"),
            Err(RecvTimeoutError::Timeout) => {}
            // The server ends with this thread, which started it.
            Err(RecvTimeoutError::Disconnected) => return server.kill(),
        }
        server.supervise()?;
    }
}

impl Server {
    /// Starts it if it should run and does not.
    fn supervise(&mut self) -> anyhow::Result<()> {
        if let Some(process) = &mut self.process {
            let Some(status) = process.try_wait()? else { return Ok(()) };
            tracing::info!(%status, "the server has ended by itself");
            self.process = None;
        }
        if self.is_wanted {
            self.process = Some(self.installed.server()?.spawn().context("the server")?);
        }
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.is_wanted = false;
        let Some(mut process) = self.process.take() else { return Ok(()) };
        // So that it makes no more of them, and does not see them die.
        signal("STOP", &[process.id()])?;
        signal("KILL", &children(process.id())?)?;
        process.kill()?;
        process.wait()?;
        tracing::info!("killed");
        Ok(())
    }

    fn pause(&mut self) -> anyhow::Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        signal("STOP", &[process.id()])?;
        signal("STOP", &children(process.id())?)
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        signal("CONT", &children(process.id())?)?;
        signal("CONT", &[process.id()])
    }
}

/// The processes that a process has started: PostgreSQL has one for each connection.
fn children(of: u32) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        // Others end while we look.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // `pid (name) state parent`, and a name may have anything in it.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        if parent.and_then(|parent| parent.parse().ok()) == Some(of) {
            children.extend(entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
    }
    Ok(children)
}

/// Sends a signal. Some may be gone meanwhile.
fn signal(name: &str, processes: &[u32]) -> anyhow::Result<()> {
    if processes.is_empty() {
        return Ok(());
    }
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).args(processes.iter().map(u32::to_string));
    kill.output().map(drop).context("no `kill`")
}

async fn make<D: Base>(url: &str) -> anyhow::Result<()> {
    let pool = D::open(url)?;
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let mut connection = loop {
        ticks.tick().await;
        match pool.acquire().await {
            Ok(connection) => break connection,
            Err(error) if began.elapsed() > START => bail!("no database server: {error}"),
            Err(_) => {}
        }
    };
    for name in ["app", "shop"] {
        D::run(&mut connection, format!("create database {name}")).await?;
    }
    Ok(())
}
