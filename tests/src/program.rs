//! Starts, kills and restarts the real program, the way an operator's machine would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{PATIENCE, SmallDisk};

/// One `posthouse serve`; its directory lives as long as this value, over restarts too.
#[derive(Debug)]
pub struct Program {
    directory: TempDir,
    settings: Vec<String>,
    process: Child,
    lines: Receiver<String>,
    /// Where it speaks AMQP; a restart keeps the port.
    pub address: SocketAddr,
    /// Where it speaks AMQP over TLS, if it does.
    pub tls: Option<SocketAddr>,
    /// Where it serves `/metrics`.
    pub metrics: Option<SocketAddr>,
    /// Where the queue service is.
    pub queues: Option<SocketAddr>,
    /// Where it serves WebSockets beside, if it was told to.
    pub websocket: Option<SocketAddr>,
    /// Where its inbox is, if it has one; a restart keeps the port.
    pub inbox: Option<SocketAddr>,
    /// Where its inbox is over TLS, if it is.
    pub inbox_tls: Option<SocketAddr>,
}

impl Program {
    /// Starts it in a new directory and waits for `ready`.
    ///
    /// # Panics
    ///
    /// If it ends or stays silent instead.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with more settings, each `key=value` as for `--set`.
    ///
    /// # Panics
    ///
    /// If it ends or stays silent instead.
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        Self::start_in(TempDir::new().expect("a temporary directory"), settings)
    }

    /// Starts it with its data on a disk that exists longer than it.
    ///
    /// # Panics
    ///
    /// If it ends or stays silent instead.
    #[must_use]
    pub fn start_on(disk: &SmallDisk, settings: &[&str]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let data = disk.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        std::os::unix::fs::symlink(data, directory.path().join("data")).expect("a link");
        Self::start_in(directory, settings)
    }

    fn start_in(directory: TempDir, settings: &[&str]) -> Self {
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let (process, lines) = spawn(directory.path(), "127.0.0.1:0", &settings);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut program = Self {
            directory,
            settings,
            process,
            lines,
            address,
            tls: None,
            metrics: None,
            queues: None,
            websocket: None,
            inbox: None,
            inbox_tls: None,
        };
        program.wait_until_ready();
        program
    }

    /// Ends it as a power switch would and starts it again on the same port and the same data.
    pub fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`].
    pub fn start_again(&mut self) {
        let mut settings = self.settings.clone();
        settings.extend(self.inbox.map(|inbox| format!("inbox.listen={inbox}")));
        (self.process, self.lines) =
            spawn(self.directory.path(), &self.address.to_string(), &settings);
        self.wait_until_ready();
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        self.process.kill().expect("a process to kill");
        self.process.wait().expect("its end");
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.process.wait().expect("its end")
    }

    /// Sends SIGTERM and does not wait.
    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).expect("a process to stop");
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        kill_process(self.pid(), Signal::HUP).expect("a process to tell");
    }

    /// The folder that holds `data` and `log`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The data directory.
    #[must_use]
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Its resident memory in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line VmRSS");
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// What the metrics listener answers for a path, head and all.
    #[must_use]
    pub fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics.expect("a metrics listener")).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The value of a metric without labels, or with the labels in `name`.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        let answer = self.page("/metrics");
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no metric {name} in:\n{answer}")).parse().unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap()
    }

    fn wait_until_ready(&mut self) {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("the program is not ready; its log:\n{}", self.log());
            };
            if let Some(address) = line.strip_prefix("listening amqp ") {
                self.address = address.parse().expect("an address after `listening amqp`");
            }
            if let Some(address) = line.strip_prefix("listening amqps ") {
                self.tls = Some(address.parse().expect("an address after `listening amqps`"));
            }
            if let Some(address) = line.strip_prefix("listening metrics ") {
                self.metrics = Some(address.parse().expect("an address after `listening metrics`"));
            }
            if let Some(address) = line.strip_prefix("listening queues ") {
                self.queues = Some(address.parse().expect("an address after `listening queues`"));
            }
            if let Some(address) = line.strip_prefix("listening websocket ") {
                self.websocket =
                    Some(address.parse().expect("an address after `listening websocket`"));
            }
            if let Some(address) = line.strip_prefix("listening inbox ") {
                self.inbox = Some(address.parse().expect("an address after `listening inbox`"));
            }
            if let Some(address) = line.strip_prefix("listening inbox+tls ") {
                self.inbox_tls =
                    Some(address.parse().expect("an address after `listening inbox+tls`"));
            }
            if line == "ready" {
                return;
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("the program's last lines:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// A command for the program with no arguments yet.
#[must_use]
pub fn command() -> Command {
    Command::new(path())
}

/// The program to test: `POSTHOUSE_PROGRAM`, or one that is built now.
///
/// # Panics
///
/// If it cannot be built.
#[must_use]
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("POSTHOUSE_PROGRAM") {
            return path.into();
        }
        let build = ["build", "--quiet", "--profile", "fast", "--package", "posthouse"];
        let status = Command::new(env!("CARGO")).args(build).status().expect("cargo");
        assert!(status.success(), "the program does not build");
        // This runs from TARGET/debug/deps.
        let target = std::env::current_exe().unwrap();
        target.ancestors().nth(3).unwrap().join("fast/posthouse")
    })
}

fn spawn(directory: &Path, listen: &str, settings: &[String]) -> (Child, Receiver<String>) {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .expect("a log file");
    let mut serve = command();
    serve.args(["serve", "--data-dir"]).arg(directory.join("data"));
    serve.args(["--set", &format!("amqp.listen={listen}"), "--set", "metrics.listen=127.0.0.1:0"]);
    serve.args(["--set", "queues.listen=127.0.0.1:0", "--set", "queues.websocket_listen="]);
    // Webhooks of the tests listen on this machine, on any port.
    serve.args(["--set", "delivery.allow=127.0.0.0/8", "--set", "delivery.ports=1-65535"]);
    for setting in settings {
        serve.args(["--set", setting]);
    }
    let mut process =
        serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("the program");
    let stdout = BufReader::new(process.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            // Nobody listens once the test is over; the pipe is drained all the same.
            drop(sender.send(line));
        }
    });
    (process, lines)
}
