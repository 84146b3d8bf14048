//! The two services as processes: ours, and Zaqar with its Redis.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::crash::server::{Launch, Server, signal};
use crate::http::Connection;
use crate::install;

/// The project of all requests.
pub(super) const PROJECT: &str = "bench";

/// The client of all requests.
pub(super) const CLIENT: &str = "3381af92-2b9e-11e3-b191-71861300734c";

/// How long an answer may take before the run is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Messages of one post when a queue is filled: 200 of 1 KiB are below the greatest size of a post.
const FILL_BATCH: usize = 200;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Posthouse.
    Ours,
    /// OpenStack Zaqar.
    Zaqar,
}

impl Service {
    /// For tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "posthouse",
            Self::Zaqar => "zaqar",
        }
    }
}

/// What is installed, and where.
#[derive(Debug)]
pub(super) struct Services {
    /// Where data, logs and request bodies go.
    pub(super) work: PathBuf,
    ours: PathBuf,
    /// The Python that has Zaqar; `None` if it takes no part.
    zaqar: Option<PathBuf>,
}

/// A service that answers.
#[derive(Debug)]
pub(super) struct Running {
    /// Where its HTTP is.
    pub(super) address: SocketAddr,
    /// Its process; Zaqar's is the script that runs its parts.
    pub(super) pid: u32,
    process: Process,
}

#[derive(Debug)]
enum Process {
    /// Ends with its value.
    Ours {
        _server: Server,
    },
    Zaqar(Child),
}

impl Services {
    /// Installs what is missing, and says so.
    ///
    /// # Errors
    ///
    /// If something cannot be installed or built.
    pub(super) fn prepare(args: &super::super::Args, work: PathBuf) -> anyhow::Result<Self> {
        install::programs(&[("wrk", "wrk")])?;
        let zaqar = if args.no_zaqar {
            None
        } else {
            install::programs(&[("redis-server", "redis-server")])?;
            Some(install::zaqar()?)
        };
        let ours = std::path::absolute(super::super::program(args)?)?;
        Ok(Self { work, ours, zaqar })
    }

    /// Those that take part.
    pub(super) fn all(&self) -> impl Iterator<Item = Service> {
        let both = self.zaqar.is_some();
        super::ORDER.into_iter().filter(move |service| both || *service == Service::Ours)
    }

    /// Starts one of them on an empty folder.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub(super) fn start(&self, service: Service) -> anyhow::Result<Running> {
        match service {
            Service::Ours => self.start_ours(&[]),
            Service::Zaqar => self.start_zaqar(),
        }
    }

    /// Starts ours with further settings.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub(super) fn start_ours(&self, settings: &[&str]) -> anyhow::Result<Running> {
        let folder = self.fresh(Service::Ours)?;
        let usual = ["queues.listen=127.0.0.1:0", "queues.websocket_listen=", "log.level=warn"];
        let all = usual.iter().chain(settings).copied().map(str::to_owned).collect();
        let launch = Launch {
            command: vec![self.ours.clone()],
            data_dir: folder.join("data"),
            settings: all,
            log: folder.join("server.log"),
        };
        let mut server = launch.spawn()?;
        server.ready()?;
        let (address, pid) = (server.queues()?, server.pid());
        Ok(Running { address, pid, process: Process::Ours { _server: server } })
    }

    fn start_zaqar(&self) -> anyhow::Result<Running> {
        let folder = self.fresh(Service::Zaqar)?;
        let script = install::root().join("tests/compat/python/zaqar_peer.py");
        let python = self.zaqar.as_ref().context("Zaqar takes no part")?;
        let mut child = Command::new(python)
            .arg(script)
            .arg(&folder)
            .arg("--no-sockets")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("no standard output")?;
        let pid = child.id();
        let mut address = None;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if let Some(rest) = line.strip_prefix("listening queues ") {
                address = Some(rest.parse().context(line)?);
            } else if line == "ready" {
                break;
            }
        }
        let process = Process::Zaqar(child);
        let address = address.with_context(|| {
            format!("Zaqar does not start; its logs are in {}", folder.display())
        })?;
        Ok(Running { address, pid, process })
    }

    fn fresh(&self, service: Service) -> anyhow::Result<PathBuf> {
        let folder = self.work.join(service.name());
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

impl Running {
    /// Whether it is ours.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.process, Process::Ours { .. })
    }

    /// A connection of the usual caller.
    pub(super) fn connect(&self) -> Connection {
        Connection::new(self.address, PROJECT, CLIENT, PATIENCE)
    }

    /// Posts at least so many messages of 1 KiB to the queue, over several connections.
    ///
    /// # Errors
    ///
    /// If a post fails.
    pub(super) fn fill(&self, queue: &str, count: usize) -> anyhow::Result<()> {
        let (path, posts) = (format!("{queue}/messages"), count.div_ceil(FILL_BATCH));
        let body = messages(FILL_BATCH.min(count));
        let workers = posts.clamp(1, 8);
        std::thread::scope(|scope| {
            let fillers: Vec<_> = (0..workers)
                .map(|number| {
                    let (path, body, mut connection) = (&path, &body, self.connect());
                    scope.spawn(move || -> anyhow::Result<()> {
                        for _ in (number..posts).step_by(workers) {
                            connection.expect(201, "POST", path, body)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            for filler in fillers {
                filler.join().map_err(|_panic| anyhow::anyhow!("a filler panicked"))??;
            }
            Ok(())
        })
    }

    /// Messages that the queue has, claimed or not.
    ///
    /// # Errors
    ///
    /// If it is not answered.
    pub(super) fn total(&self, queue: &str) -> anyhow::Result<u64> {
        let path = format!("{queue}/stats");
        let stats = self.connect().expect(200, "GET", &path, &Value::Null)?;
        stats.pointer("/messages/total").and_then(Value::as_u64).context("no total")
    }

    /// Kilobytes that the process has in memory.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub(super) fn rss_kib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.context("no VmRSS")?.parse().context("VmRSS")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Process::Zaqar(child) = &mut self.process {
            // The script ends what it has started.
            if signal(child.id(), "TERM").is_ok() {
                drop(child.wait());
            }
        }
    }
}

/// A post of so many messages of 1 KiB.
pub(super) fn messages(count: usize) -> Value {
    let message = json!({ "ttl": 3600, "body": "x".repeat(1022) });
    json!({ "messages": vec![message; count] })
}

/// Fails unless the figure is above zero.
///
/// # Errors
///
/// If it is not.
pub(super) fn some(figure: f64, what: &str) -> anyhow::Result<f64> {
    ensure!(figure > 0.0, "{what} is {figure}");
    Ok(figure)
}
