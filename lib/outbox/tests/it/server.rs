//! Real databases for the tests: an empty one for each test, on servers that start once.

use std::future::Future;
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

    /// The address of such a database, as programs take it.
    fn url(pool: &Pool<Self>) -> String;

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
        let folder = it::database::postgres();
        let name = format!("t{}", Uuid::new_v4().simple());
        let server = PgConnectOptions::new().socket(folder).username("postgres");
        let mut connection = connect::<Self>(&server.clone().database("postgres")).await;
        connection.execute(sqlx::AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        let pool = PgPoolOptions::new().max_connections(16);
        pool.connect_with(server.database(&name)).await.expect("PostgreSQL")
    }

    fn url(pool: &Pool<Self>) -> String {
        let (options, folder) = (pool.connect_options(), it::database::postgres());
        let name = options.get_database().unwrap();
        format!("postgres:///{name}?host={}&user=postgres", folder.display())
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
        let name = format!("t{}.db", Uuid::new_v4().simple());
        let file = it::database::folder_of_this_process().join(name);
        let options = SqliteConnectOptions::new().filename(file);
        let options = options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let options = options.synchronous(SqliteSynchronous::Off).busy_timeout(PATIENCE);
        SqlitePoolOptions::new().max_connections(16).connect_with(options).await.expect("SQLite")
    }

    fn url(pool: &Pool<Self>) -> String {
        format!("sqlite:{}", pool.connect_options().get_filename().display())
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
        let server = MySqlConnectOptions::new().socket(it::database::mariadb()).username("root");
        let mut connection = connect::<Self>(&server).await;
        connection.execute(sqlx::AssertSqlSafe(format!("create database {name}"))).await.unwrap();
        let pool = MySqlPoolOptions::new().max_connections(16);
        pool.connect_with(server.database(&name)).await.expect("MariaDB")
    }

    fn url(pool: &Pool<Self>) -> String {
        let (options, socket) = (pool.connect_options(), it::database::mariadb());
        let name = options.get_database().unwrap();
        format!("mysql://root@localhost/{name}?socket={}", socket.display())
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

/// Waits until something holds.
pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "it does not come true");
        ticks.tick().await;
    }
}
