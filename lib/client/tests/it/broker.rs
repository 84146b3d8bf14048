//! The brokers that every scenario runs on.

use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use posthouse_client::{Client, Options};
use posthouse_testing::TestBus;
use tempfile::TempDir;

/// The longest that anything may take before a test gives up; generous, because test machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a scenario on a Posthouse of its own and on the RabbitMQ of this test program.
///
/// The scenario gets an address and a prefix for names, because RabbitMQ's queues outlive it.
pub(crate) async fn on_both<F: Future<Output = ()>>(scenario: impl Fn(String, String) -> F) {
    let bus = TestBus::start().await;
    scenario(bus.url(), "t".to_owned()).await;
    if let Some(url) = rabbitmq().await {
        let unique = std::thread::current().name().unwrap_or("test").replace("::", "-");
        scenario(url, unique).await;
    }
}

/// A client that comes back quickly.
pub(crate) async fn client(url: &str) -> Client {
    Client::connect_with(url, options()).await.unwrap()
}

pub(crate) fn options() -> Options {
    Options::default()
        .reconnect(Duration::from_millis(20), Duration::from_millis(200))
        .drain_within(Duration::from_secs(10))
}

/// Looks again and again until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::task::yield_now().await;
    }
}

/// RabbitMQ's address; `None` if it is not installed here, unless the run must be complete.
async fn rabbitmq() -> Option<String> {
    static RABBIT: OnceLock<Option<Rabbit>> = OnceLock::new();
    let started = tokio::task::spawn_blocking(|| {
        RABBIT.get_or_init(Rabbit::start).as_ref().map(|rabbit| rabbit.url.clone())
    });
    let url = started.await.unwrap()?;
    let began = Instant::now();
    while Client::connect(&url).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(120), "RabbitMQ does not start");
        tokio::task::spawn_blocking(|| std::thread::park_timeout(Duration::from_millis(100)))
            .await
            .unwrap();
    }
    Some(url)
}

/// A node of its own: own name, ports and folder. It ends, and its folder goes, when this program has ended.
struct Rabbit {
    url: String,
    _processes: Vec<Child>,
}

impl Rabbit {
    fn start() -> Option<Self> {
        let server = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
        if !server.exists() {
            let complete = std::env::var_os("POSTHOUSE_TESTS_COMPLETE").is_some();
            assert!(!complete, "this run must be complete, and RabbitMQ is not installed");
            eprintln!("skipped on RabbitMQ: it is not installed here (Debian: rabbitmq-server)");
            return None;
        }
        // Nothing of this program runs after its last test: the shell below removes it.
        let folder = TempDir::new().unwrap().keep();
        let ports = [free_port(), free_port(), free_port()];
        let [amqp, distribution, mapper] = ports;
        let plugins = folder.join("plugins");
        std::fs::write(&plugins, "[].\n").unwrap();
        std::fs::write(folder.join("empty"), "").unwrap();
        // Other tests fill disks on purpose; this broker is not to block its publishers for that.
        std::fs::write(folder.join("some.conf"), "disk_free_limit.absolute = 1MB\n").unwrap();
        // The shell ends them when our end of its standard input is closed, however we end.
        let guarded = |program: &Path, arguments: &[&str]| {
            let script = "\"$@\" </dev/null & child=$!; read -r end; \
                          pkill -KILL -P $child; kill -KILL $child; wait; rm -rf \"$HOME\"";
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).arg(program).args(arguments);
            command.env("HOME", &folder);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        };
        let mapped = mapper.to_string();
        let epmd = guarded(Path::new("epmd"), &["-address", "127.0.0.1", "-port", &mapped])
            .spawn()
            .unwrap();
        let node = format!("t{}@localhost", std::process::id());
        let rabbit = guarded(server, &[])
            .env("RABBITMQ_NODENAME", node)
            .env("RABBITMQ_NODE_PORT", amqp.to_string())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("ERL_EPMD_PORT", mapped)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", &plugins)
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("empty"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("some.conf"))
            .spawn()
            .unwrap();
        let url = format!("amqp://guest:guest@127.0.0.1:{amqp}");
        Some(Self { url, _processes: vec![epmd, rabbit] })
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
