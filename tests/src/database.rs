//! Real database servers, each started once per test program in a folder of its own, without a port; they end with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The folder of the socket of a PostgreSQL that starts with the first call; its superuser is `postgres`, without a password.
///
/// # Panics
///
/// If PostgreSQL is not installed. The server may not be up yet when this returns.
#[must_use]
pub fn postgres() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = folder("postgres");
        let bin = postgres_programs();
        let data = folder.join("data");
        let mut init = as_user("postgres", &bin.join("initdb"));
        init.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]);
        let made = init.arg("-D").arg(&data).stdout(Stdio::null()).status().expect("initdb");
        assert!(made.success(), "initdb failed");
        let mut server = as_user("postgres", &bin.join("postgres"));
        server.arg("-D").arg(&data).arg("-k").arg(&folder);
        for setting in ["listen_addresses=", "fsync=off", "max_connections=200"] {
            server.args(["-c", setting]);
        }
        keep_running(server, &folder);
        folder
    })
}

/// The socket of a MariaDB that starts with the first call; `root` has no password.
///
/// # Panics
///
/// If MariaDB is not installed. The server may not be up yet when this returns.
#[must_use]
pub fn mariadb() -> &'static Path {
    static SOCKET: OnceLock<PathBuf> = OnceLock::new();
    SOCKET.get_or_init(|| {
        let folder = folder("mysql");
        let socket = folder.join("socket");
        let data = folder.join("data");
        let mut init = as_user("mysql", Path::new("mariadb-install-db"));
        init.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        init.arg(format!("--datadir={}", data.display()));
        let output = init.output().expect("mariadb-install-db");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut server = as_user("mysql", Path::new("/usr/sbin/mariadbd"));
        server.args(["--no-defaults", "--skip-networking", "--innodb-flush-log-at-trx-commit=0"]);
        server.args(["--innodb-buffer-pool-size=64M", "--max-connections=200"]);
        server.arg(format!("--datadir={}", data.display()));
        server.arg(format!("--socket={}", socket.display()));
        keep_running(server, &folder);
        socket
    })
}

/// Debian keeps the programs of each version in a folder of its own.
fn postgres_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL; `cargo xtask check` installs it");
    let newest =
        versions.flatten().map(|entry| entry.path()).max().expect("a version of PostgreSQL");
    newest.join("bin")
}

/// A folder that the user of a server may write to. It stays for the post-mortem; the system cleans its temporary files.
fn folder(user: &str) -> PathBuf {
    let folder = tempfile::Builder::new().prefix("outbox-").tempdir().expect("a folder").keep();
    if rustix::process::geteuid().is_root() {
        let owned = Command::new("chown").arg(user).arg(&folder).status().expect("chown");
        assert!(owned.success(), "chown {user}");
    }
    folder
}

/// A command as another user, because these servers refuse to run as root; it ends with the thread that starts it.
fn as_user(user: &str, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid", user, "--regid", user, "--init-groups"]);
    }
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Starts a server whose parent is a thread that lives as long as the tests.
fn keep_running(mut server: Command, folder: &Path) {
    let log = std::fs::File::create(folder.join("log")).expect("a log file");
    server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    std::thread::spawn(move || {
        let mut process = server.spawn().expect("a database server");
        drop(process.wait());
    });
}
