//! The brokers of the comparison as processes, each pinned to core 0 with a fresh data directory.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::crash::client::Client;

/// The core that brokers run on; the load tool has the next one.
const CORE: &str = "0";

/// How long a broker may take to start; RabbitMQ with a million messages needs some seconds.
const START_WITHIN: Duration = Duration::from_secs(120);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// Posthouse.
    Ours,
    /// The load tool's broker that only forwards.
    Null,
    /// The same, which appends and syncs before it confirms.
    NullJournal,
    /// Debian's RabbitMQ.
    Rabbit,
}

impl Peer {
    /// For tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "posthouse",
            Self::Null => "null",
            Self::NullJournal => "null+journal",
            Self::Rabbit => "rabbitmq",
        }
    }
}

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    /// Posthouse.
    pub(crate) ours: PathBuf,
    /// The load tool.
    pub(crate) tool: PathBuf,
    /// `rabbitmq-server`, the script itself and not Debian's wrapper, which changes the user.
    pub(crate) rabbit: PathBuf,
    /// Milliseconds that every sync takes longer, by way of `strace`.
    pub(crate) slow_sync_ms: Option<u64>,
}

/// A broker that accepts connections.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    /// Erlang's `epmd`, ours alone and in the foreground so that it ends with the broker.
    port_mapper: Option<Child>,
    peer: Peer,
    folder: PathBuf,
    /// Where it listens.
    pub(crate) port: u16,
    /// From the start of the process to the first login.
    pub(crate) accepted_after: Duration,
    /// When the process was started.
    pub(crate) began: Instant,
}

impl Programs {
    /// Starts a broker on the folder, which may hold its data already, and waits until it accepts connections.
    /// `settings` are ours, `key=value`.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub(crate) fn start(
        &self,
        peer: Peer,
        folder: &Path,
        settings: &[&str],
    ) -> anyhow::Result<Broker> {
        std::fs::create_dir_all(folder)?;
        let port = free_ports()?;
        let mut command = match self.slow_sync_ms {
            Some(ms) => {
                let inject = format!("inject=fdatasync,fsync:delay_exit={}", ms * 1_000);
                let mut command = Command::new("strace");
                command.args([
                    "-D",
                    "-f",
                    "--seccomp-bpf",
                    "-e",
                    "trace=fdatasync,fsync",
                    "-e",
                    &inject,
                ]);
                command.args(["-o", "/dev/null", "taskset"]);
                command
            }
            None => Command::new("taskset"),
        };
        command.args(["-c", CORE]);
        let mut port_mapper = None;
        match peer {
            Peer::Ours => {
                command.arg(&self.ours).args(["serve", "--data-dir"]).arg(folder.join("data"));
                command.args(["--set", &format!("amqp.listen=127.0.0.1:{port}")]);
                command.args([
                    "--set",
                    "metrics.listen=",
                    "--set",
                    "queues.listen=",
                    "--set",
                    "log.level=warn",
                ]);
                command.args(settings.iter().flat_map(|setting| ["--set", *setting]));
            }
            Peer::Null => {
                command.arg(&self.tool).args(["--port", &port.to_string(), "null-broker"]);
            }
            Peer::NullJournal => {
                command.arg(&self.tool).args([
                    "--port",
                    &port.to_string(),
                    "null-broker",
                    "--journal",
                ]);
                command.arg(folder.join("journal"));
            }
            Peer::Rabbit => {
                self.rabbit(&mut command, port, folder)?;
                let mut epmd = Command::new("epmd");
                epmd.args(["-address", "127.0.0.1", "-port", &(port + 2).to_string()]);
                port_mapper = Some(epmd.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
            }
        }
        let log =
            std::fs::File::options().create(true).append(true).open(folder.join("broker.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let began = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {}", peer.name()))?;
        let accepted_after = Duration::ZERO;
        let folder = folder.to_path_buf();
        let mut broker = Broker { child, port_mapper, peer, folder, port, accepted_after, began };
        broker.wait()?;
        Ok(broker)
    }

    /// A node of its own: own name, ports, folders and cookie, no plugins, nothing of an installed service.
    fn rabbit(&self, command: &mut Command, port: u16, folder: &Path) -> anyhow::Result<()> {
        std::fs::write(folder.join("plugins"), "[].\n")?;
        let empty = folder.join("empty");
        std::fs::write(&empty, "")?;
        command
            .arg(&self.rabbit)
            .env("HOME", folder)
            .env("RABBITMQ_NODENAME", "bench@localhost")
            .env("RABBITMQ_NODE_PORT", port.to_string())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", (port + 1).to_string())
            .env("ERL_EPMD_PORT", (port + 2).to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_CONF_ENV_FILE", &empty)
            .env("RABBITMQ_CONFIG_FILE", folder.join("none"));
        Ok(())
    }
}

impl Broker {
    /// The process whose memory and CPU count, its children's with it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        while self.began.elapsed() < START_WITHIN {
            // A whole login: RabbitMQ accepts connections before it answers them.
            if Client::connect(self.address()).is_ok() {
                self.accepted_after = self.began.elapsed();
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended: {status}; see {}",
                    self.peer.name(),
                    self.folder.join("broker.log").display()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("{} does not accept connections", self.peer.name())
    }

    /// `SIGKILL` for the process and everything it has started.
    ///
    /// # Errors
    ///
    /// If it cannot be killed.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        let mut pids = descendants(self.child.id());
        pids.push(self.child.id());
        let words = pids.iter().map(ToString::to_string);
        // Some may have ended between the look and the signal.
        drop(Command::new("kill").arg("-KILL").args(words).stderr(Stdio::null()).status());
        drop(self.child.wait());
        if let Some(mut port_mapper) = self.port_mapper.take() {
            drop(port_mapper.kill());
            drop(port_mapper.wait());
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}

/// The first of three free ports in a row, below the range that the kernel gives to clients: whoever asks one of those
/// again and again until somebody listens may end up connected to himself.
fn free_ports() -> anyhow::Result<u16> {
    let start = u16::try_from(std::process::id() % 5_000)? + 21_000;
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let found = (start..32_000).step_by(3).find(|port| (*port..port + 3).all(is_free));
    found.context("no three free ports in a row")
}

/// All processes that descend from the process.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let list = format!("/proc/{pid}/task/{pid}/children");
    let children: Vec<u32> = std::fs::read_to_string(list)
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let below = children.iter().flat_map(|child| descendants(*child)).collect::<Vec<_>>();
    children.into_iter().chain(below).collect()
}
