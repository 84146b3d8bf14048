//! Real database servers, each started once per test program in a folder of its own, without a port; they end with it, and
//! the folder goes.

use std::fs::OpenOptions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Waits for the end of whoever holds the other end of its input, and removes a folder. The servers in it are being killed
/// at that moment and may still write. Of each of them the last log stays beside the folder.
const REMOVE: &str = r#"
cat
for log in "$1"/*/log; do
    folder=${log%/log}; server=${folder##*/}
    if [ -f "$log" ]; then mv -f "$log" "${1%/*}/outbox-${server%%-*}.log"; fi
done
for again in 1 2 3 4 5 6 7 8 9 10; do rm -rf "$1" && exit; sleep 1; done
"#;

/// A folder for databases. It is removed when this process has ended, also if a test failed or something killed it; what
/// a server has logged stays as `outbox-mysql.log` or `outbox-postgres.log` beside it until the next one ends.
///
/// # Panics
///
/// If there can be no folder.
#[must_use]
pub fn folder_of_this_process() -> &'static Path {
    static FOLDER: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (folder, _) = FOLDER.get_or_init(|| {
        let folder = tempfile::Builder::new().prefix("outbox-").tempdir().expect("a folder").keep();
        // The servers run as other users.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&folder, open).expect("a folder of ours");
        let mut remove = Command::new("sh");
        remove.args(["-c", REMOVE, "sh"]).arg(&folder);
        // Whoever interrupts the tests does not mean it, and whoever reads what they print does not wait for it.
        remove.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let waiting = remove.spawn().expect("a shell");
        (folder, waiting)
    });
    folder
}

/// The data of a server that is installed but does not run yet.
#[derive(Debug)]
pub struct Installed {
    user: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    socket: PathBuf,
}

impl Installed {
    /// A PostgreSQL in a new folder below another one. Its superuser is `postgres`, without a password.
    ///
    /// # Panics
    ///
    /// If PostgreSQL is not installed.
    #[must_use]
    pub fn postgres(parent: &Path) -> Self {
        let folder = folder("postgres", parent);
        let bin = postgres_programs();
        let data = folder.join("data");
        let mut init = as_user("postgres", &bin.join("initdb"));
        init.args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]);
        let made = init.arg("-D").arg(&data).stdout(Stdio::null()).status().expect("initdb");
        assert!(made.success(), "initdb failed");
        let (at, sockets) = (data.display(), folder.display());
        let mut arguments = vec![format!("-D{at}"), format!("-k{sockets}")];
        for setting in ["listen_addresses=", "fsync=off", "max_connections=200"] {
            arguments.push(format!("-c{setting}"));
        }
        let (program, socket) = (bin.join("postgres"), folder.join(".s.PGSQL.5432"));
        Self { user: "postgres", program, arguments, folder, socket }
    }

    /// A MariaDB in a new folder below another one. `root` has no password.
    ///
    /// # Panics
    ///
    /// If MariaDB is not installed.
    #[must_use]
    pub fn mariadb(parent: &Path) -> Self {
        let folder = folder("mysql", parent);
        let (socket, data) = (folder.join("socket"), folder.join("data"));
        let mut init = as_user("mysql", Path::new("mariadb-install-db"));
        init.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        init.arg(format!("--datadir={}", data.display()));
        let output = init.output().expect("mariadb-install-db");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // A commit is written but not synced: it survives the server's death, not the machine's.
        let settings = ["--no-defaults", "--skip-networking", "--innodb-flush-log-at-trx-commit=2"];
        let mut arguments: Vec<String> = settings.map(str::to_owned).to_vec();
        arguments
            .extend(["--innodb-buffer-pool-size=64M", "--max-connections=200"].map(str::to_owned));
        arguments.push(format!("--datadir={}", data.display()));
        arguments.push(format!("--socket={}", socket.display()));
        Self { user: "mysql", program: "/usr/sbin/mariadbd".into(), arguments, folder, socket }
    }

    /// Where it listens once it runs.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What starts it. It ends with the thread that starts it, and appends to `log` in its folder.
    ///
    /// # Errors
    ///
    /// If there can be no log.
    pub fn server(&self) -> std::io::Result<Command> {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join("log"))?;
        let mut server = as_user(self.user, &self.program);
        server.args(&self.arguments).stdin(Stdio::null());
        server.stdout(log.try_clone()?).stderr(log);
        Ok(server)
    }
}

/// The folder of the socket of a PostgreSQL that starts with the first call; its superuser is `postgres`, without a password.
///
/// # Panics
///
/// If PostgreSQL is not installed. The server may not be up yet when this returns.
#[must_use]
pub fn postgres() -> &'static Path {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let installed = Installed::postgres(folder_of_this_process());
        keep_running(&installed);
        installed
    });
    &installed.folder
}

/// The socket of a MariaDB that starts with the first call; `root` has no password.
///
/// # Panics
///
/// If MariaDB is not installed. The server may not be up yet when this returns.
#[must_use]
pub fn mariadb() -> &'static Path {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        let installed = Installed::mariadb(folder_of_this_process());
        keep_running(&installed);
        installed
    });
    installed.socket()
}

/// Debian keeps the programs of each version in a folder of its own.
fn postgres_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL; `cargo xtask check` installs it");
    let newest =
        versions.flatten().map(|entry| entry.path()).max().expect("a version of PostgreSQL");
    newest.join("bin")
}

/// A new folder that the user of a server may write to. It goes when its parent goes.
fn folder(user: &str, parent: &Path) -> PathBuf {
    let folder = tempfile::Builder::new().prefix(&format!("{user}-")).tempdir_in(parent);
    let folder = folder.expect("a folder").keep();
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
fn keep_running(installed: &Installed) {
    let mut server = installed.server().expect("a log file");
    std::thread::spawn(move || {
        let mut process = server.spawn().expect("a database server");
        drop(process.wait());
    });
}
