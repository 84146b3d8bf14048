//! Starts real database servers for the tests, each once, in a folder of its own, without a port; they end with the tests.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use posthouse_outbox::{Dialect, Outbox};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, Executor as _, MySql, Pool, Postgres, Sqlite};
use uuid::Uuid;

/// The longest that anything may take before a test gives up; generous, because test machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The longest that a server may take to start.
const START: Duration = Duration::from_secs(30);

/// A database server under test.
pub(crate) trait Server: Dialect {
    /// Whether two transactions can write at the same time.
    const WRITES_AT_ONCE: bool;

    /// An empty database of its own, with the tables.
    fn outbox() -> impl Future<Output = (Outbox<Self>, Pool<Self>)> + Send {
        async {
            let pool = Self::empty().await;
            let outbox = Outbox::new(pool.clone());
            outbox.migrate().await.expect("the tables");
            (outbox, pool)
        }
    }

    /// An empty database of its own.
    fn empty() -> impl Future<Output = Pool<Self>> + Send;

    /// Runs statements that every database understands.
    fn run(
        connection: &mut Self::Connection,
        sql: &str,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// The one number that a query finds.
    fn number(connection: &mut Self::Connection, sql: &str) -> impl Future<Output = i64> + Send;
}

impl Server for Postgres {
    const WRITES_AT_ONCE: bool = true;

    async fn empty() -> Pool<Self> {
        let folder = postgres();
        let name = format!("t{}", Uuid::new_v4().simple());
        let server = PgConnectOptions::new().socket(folder).username("postgres");
        let mut connection = connect::<Self>(&server.clone().database("postgres")).await;
        connection.execute(sqlx::AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        let pool = PgPoolOptions::new().max_connections(16);
        pool.connect_with(server.database(&name)).await.expect("PostgreSQL")
    }

    async fn run(connection: &mut Self::Connection, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
    }

    async fn number(connection: &mut Self::Connection, sql: &str) -> i64 {
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()));
        query.fetch_one(connection).await.unwrap()
    }
}

impl Server for Sqlite {
    const WRITES_AT_ONCE: bool = false;

    async fn empty() -> Pool<Self> {
        let folder = tempfile::Builder::new().prefix("outbox-").tempdir().expect("a folder").keep();
        let options = SqliteConnectOptions::new().filename(folder.join("app.db"));
        let options = options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let options = options.synchronous(SqliteSynchronous::Off).busy_timeout(PATIENCE);
        SqlitePoolOptions::new().max_connections(16).connect_with(options).await.expect("SQLite")
    }

    async fn run(connection: &mut Self::Connection, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
    }

    async fn number(connection: &mut Self::Connection, sql: &str) -> i64 {
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()));
        query.fetch_one(connection).await.unwrap()
    }
}

impl Server for MySql {
    const WRITES_AT_ONCE: bool = true;

    async fn empty() -> Pool<Self> {
        let name = format!("t{}", Uuid::new_v4().simple());
        let server = MySqlConnectOptions::new().socket(mariadb().join("socket")).username("root");
        let mut connection = connect::<Self>(&server).await;
        connection.execute(sqlx::AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        let pool = MySqlPoolOptions::new().max_connections(16);
        pool.connect_with(server.database(&name)).await.expect("MariaDB")
    }

    async fn run(connection: &mut Self::Connection, sql: &str) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
    }

    async fn number(connection: &mut Self::Connection, sql: &str) -> i64 {
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()));
        query.fetch_one(connection).await.unwrap()
    }
}

/// Waits until the server is up.
async fn connect<D: Dialect>(
    options: &<D::Connection as sqlx::Connection>::Options,
) -> D::Connection {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        match D::Connection::connect_with(options).await {
            Ok(connection) => return connection,
            Err(error) if began.elapsed() > START => panic!("no database server: {error}"),
            Err(_) => {}
        }
    }
}

/// The folder of PostgreSQL's socket.
fn postgres() -> &'static Path {
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

/// The folder of MariaDB's socket.
fn mariadb() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = folder("mysql");
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
        server.arg(format!("--socket={}", folder.join("socket").display()));
        keep_running(server, &folder);
        folder
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

/// Waits until something holds.
pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "it does not come true");
        ticks.tick().await;
    }
}
