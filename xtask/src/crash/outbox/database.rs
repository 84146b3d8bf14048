//! The database of a run: its server, if it has one, and the addresses that lead to it, straight or over a wire.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};

use super::wire::Wire;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Postgres,
    Mariadb,
    Sqlite,
}

/// A database that runs.
#[derive(Debug)]
pub(crate) struct Database {
    kind: Kind,
    folder: PathBuf,
    /// Where the server listens.
    socket: PathBuf,
    server: Option<Keeper>,
}

/// `rig servers`, which keeps the server, does to it what it is told, and ends when its standard input does.
#[derive(Debug)]
struct Keeper {
    process: Child,
    is_away: bool,
}

impl Database {
    /// Starts the server.
    ///
    /// # Errors
    ///
    /// If it does not start, as when it is not installed.
    pub(crate) fn start(kind: Kind, rig: &Path, folder: &Path, log: &Path) -> anyhow::Result<Self> {
        let name = match kind {
            Kind::Postgres => "postgres",
            Kind::Mariadb => "mariadb",
            Kind::Sqlite => {
                let (folder, socket) = (folder.to_path_buf(), PathBuf::new());
                return Ok(Self { kind, folder, socket, server: None });
            }
        };
        let log = std::fs::File::create(log)?;
        let mut command = Command::new(rig);
        command.args(["servers", name, "--folder"]).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().context("the database server")?;
        let stdout = process.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let socket = lines.find_map(|line| line.strip_prefix("socket ").map(PathBuf::from));
        let server = Some(Keeper { process, is_away: false });
        let socket = socket.context("the database server did not start; see database.log")?;
        Ok(Self { kind, folder: folder.to_path_buf(), socket, server })
    }

    /// Whether there is a server that can be killed.
    pub(crate) const fn has_server(&self) -> bool {
        self.server.is_some()
    }

    /// Kills the server with all its processes. False if it is away already.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    pub(crate) fn kill(&mut self) -> anyhow::Result<bool> {
        let is_there = self.server.as_ref().is_some_and(|server| !server.is_away);
        if is_there {
            self.tell("kill", true)?;
        }
        Ok(is_there)
    }

    /// Starts what was killed.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    pub(crate) fn bring_back(&mut self) -> anyhow::Result<()> {
        self.tell("start", false)
    }

    /// Stops all processes of the server. False if it is away.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    pub(crate) fn pause(&mut self) -> anyhow::Result<bool> {
        let is_there = self.server.as_ref().is_some_and(|server| !server.is_away);
        if is_there {
            self.tell("pause", false)?;
        }
        Ok(is_there)
    }

    /// Lets what was stopped go on; what was killed meanwhile is left alone.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    pub(crate) fn go_on(&mut self) -> anyhow::Result<()> {
        self.tell("continue", self.is_away())
    }

    /// Whether its server was killed and not yet brought back.
    pub(crate) fn is_away(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.is_away)
    }

    fn tell(&mut self, word: &str, is_away: bool) -> anyhow::Result<()> {
        let Some(server) = &mut self.server else { return Ok(()) };
        server.is_away = is_away;
        let stdin = server.process.stdin.as_mut().context("no standard input")?;
        writeln!(stdin, "{word}").context("the keeper of the database; see database.log")
    }

    /// Looks whether somebody still keeps the server.
    ///
    /// # Errors
    ///
    /// If not.
    pub(crate) fn supervise(&mut self) -> anyhow::Result<()> {
        let Some(server) = &mut self.server else { return Ok(()) };
        let ended = server.process.try_wait()?;
        ensure!(ended.is_none(), "the keeper of the database has ended; see database.log");
        Ok(())
    }

    /// The address of a database of it, straight.
    pub(crate) fn url(&self, name: &str) -> String {
        self.url_at(name, &self.socket)
    }

    /// The same over a wire that listens in this folder; none where there is no server.
    ///
    /// # Errors
    ///
    /// If the wire cannot be made.
    pub(crate) fn wired(
        &self,
        name: &str,
        folder: &Path,
    ) -> anyhow::Result<(String, Option<Wire>)> {
        if self.kind == Kind::Sqlite {
            return Ok((self.url(name), None));
        }
        std::fs::create_dir_all(folder)?;
        // PostgreSQL's clients know the folder and the port.
        let socket = folder.join(".s.PGSQL.5432");
        let wire = Wire::at_socket(&socket, self.socket.clone())?;
        Ok((self.url_at(name, &socket), Some(wire)))
    }

    fn url_at(&self, name: &str, socket: &Path) -> String {
        match self.kind {
            Kind::Postgres => {
                let folder = socket.parent().unwrap_or(socket).display();
                format!("postgres:///{name}?host={folder}&user=postgres")
            }
            Kind::Mariadb => format!("mysql://root@localhost/{name}?socket={}", socket.display()),
            Kind::Sqlite => {
                format!("sqlite:{}?mode=rwc", self.folder.join(format!("{name}.db")).display())
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            drop(server.process.stdin.take());
            drop(server.process.wait());
        }
    }
}
