//! Debian's RabbitMQ as the other broker: nodes with own names, ports and folders. Tests of a program share one, but for those
//! that change how it is.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Its server script.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// Its tool for operators.
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";

/// The longest that it may take to start, on a machine that has other things to do.
const START: Duration = Duration::from_secs(180);

/// The shell that a process runs under ends it, and removes its folder, when our end of its standard input is closed,
/// however we end.
const GUARD: &str = "\"$@\" </dev/null & child=$!; read -r end; \
                     pkill -KILL -P $child; kill -KILL $child; wait; rm -rf \"$HOME\"";

/// Below the ports that systems give to clients: whoever connects while it starts may not be given one of these.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A node; it ends with this value.
#[derive(Debug)]
pub struct Rabbit {
    /// Where it listens.
    pub address: SocketAddr,
    folder: PathBuf,
    settings: Vec<(&'static str, String)>,
    guards: Vec<Child>,
}

/// Where it listens, when it does; `None`, said on standard error, if it is not installed here.
///
/// # Panics
///
/// If it does not start, or if it is missing in a run that must be complete.
#[must_use]
pub fn rabbitmq() -> Option<SocketAddr> {
    static RABBIT: OnceLock<Option<Rabbit>> = OnceLock::new();
    Some(RABBIT.get_or_init(Rabbit::start).as_ref()?.address)
}

impl Rabbit {
    /// A node for one test; `None`, said on standard error, if it is not installed here.
    ///
    /// # Panics
    ///
    /// If it does not start, or if it is missing in a run that must be complete.
    #[must_use]
    pub fn start() -> Option<Self> {
        let rabbit = start()?;
        wait("RabbitMQ", || greeting(rabbit.address).is_ok());
        Some(rabbit)
    }

    /// Runs `rabbitmqctl`.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn control(&self, arguments: &[&str]) {
        let mut command = Command::new(CONTROL);
        command.args(arguments).env("HOME", &self.folder).envs(self.settings.iter().cloned());
        let output = command.stdin(Stdio::null()).output().expect("rabbitmqctl");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        // The end of their input is what the guards wait for; the server's first, because it uses the other.
        for guard in self.guards.iter_mut().rev() {
            drop(guard.stdin.take());
            drop(guard.wait());
        }
    }
}

fn wait(what: &str, is_there: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_there() {
        assert!(began.elapsed() < START, "{what} does not start");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// The first octet of what a broker says to somebody who speaks AMQP.
fn greeting(address: SocketAddr) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    Ok(first[0])
}

fn start() -> Option<Rabbit> {
    if !Path::new(SERVER).exists() {
        let complete = std::env::var_os("POSTHOUSE_TESTS_COMPLETE").is_some();
        assert!(!complete, "this run must be complete, and RabbitMQ is not installed");
        eprintln!("skipped on RabbitMQ: it is not installed here (Debian: rabbitmq-server)");
        return None;
    }
    // Nothing of this program runs after its last test: the guards remove it.
    let folder = tempfile::tempdir().expect("a folder").keep();
    std::fs::write(folder.join("plugins"), "[].\n").expect("a file");
    std::fs::write(folder.join("empty"), "").expect("a file");
    // Other tests fill disks on purpose; this broker is not to block its publishers for that.
    std::fs::write(folder.join("some.conf"), "disk_free_limit.absolute = 1MB\n").expect("a file");
    let [amqp, distribution, mapper] = free_ports();
    let path = |name: &str| folder.join(name).display().to_string();
    let settings = vec![
        ("RABBITMQ_NODENAME", format!("it{}-{amqp}@localhost", std::process::id())),
        ("RABBITMQ_NODE_PORT", amqp.to_string()),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_DIST_PORT", distribution.to_string()),
        ("ERL_EPMD_PORT", mapper.to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        ("RABBITMQ_MNESIA_BASE", path("mnesia")),
        ("RABBITMQ_LOG_BASE", path("log")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
        ("RABBITMQ_CONF_ENV_FILE", path("empty")),
        ("RABBITMQ_CONFIG_FILE", path("some.conf")),
    ];
    let guarded = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "sh", program]).args(arguments).env("HOME", &folder);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    // Its own table of nodes, and before it: otherwise Erlang would start one that nobody ends.
    let table = ["-address", "127.0.0.1", "-port", &mapper.to_string()];
    let names = guarded("epmd", &table).spawn().expect("epmd");
    wait("epmd", || TcpStream::connect((Ipv4Addr::LOCALHOST, mapper)).is_ok());
    let server = guarded(SERVER, &[]).envs(settings.iter().cloned()).spawn().expect("RabbitMQ");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, amqp));
    Some(Rabbit { address, folder, settings, guards: vec![names, server] })
}

/// Three that nobody listens on, and that nobody in this program was given before. Where the search begins depends on the
/// process, because others may search as well.
fn free_ports() -> [u16; 3] {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let first = usize::try_from(std::process::id()).unwrap_or_default() * 3 % PORTS.len();
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut ports = PORTS.cycle().skip(first).take(PORTS.len());
    std::array::from_fn(|_| {
        let port = ports.find(|port| !given.contains(port) && is_free(port)).expect("a free port");
        given.push(port);
        port
    })
}
