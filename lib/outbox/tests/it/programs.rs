//! `posthouse relay` and `posthouse outbox` on each database, for applications in other languages.

use std::io::Write as _;
use std::process::{Command, Stdio};

use posthouse_outbox::Outbox;
use sqlx::{MySql, Postgres, Sqlite};

use crate::on_every_database;
use crate::process::Process;
use crate::server::Server;

on_every_database!(
    the_program_makes_the_tables_relays_what_sql_sends_and_ends_when_told,
    the_programs_script_makes_the_tables,
);

/// How other languages do it.
trait Foreign: Server {
    /// What `--db` calls it.
    const NAMED: &'static str;

    /// Sends by SQL alone: topic `orders.placed`, payload `{"id": 7}`, key `customer-1`.
    const SEND: &'static str;

    /// Runs a script in the database's own client.
    fn run_script(url: &str, script: &str);
}

impl Foreign for Postgres {
    const NAMED: &'static str = "postgres";
    const SEND: &'static str =
        "select posthouse_send('orders.placed', '{\"id\": 7}', key => 'customer-1')";

    fn run_script(url: &str, script: &str) {
        let mut psql = Command::new("psql");
        pipe(psql.args(["--quiet", "-v", "ON_ERROR_STOP=1", "--dbname", url]), script);
    }
}

impl Foreign for MySql {
    const NAMED: &'static str = "mysql";
    const SEND: &'static str =
        "call posthouse_send('orders.placed', '{\"id\": 7}', '{\"key\": \"customer-1\"}', @id)";

    fn run_script(url: &str, script: &str) {
        let (name, socket) = url.rsplit_once("?socket=").unwrap();
        let (_, name) = name.rsplit_once('/').unwrap();
        let mut client = Command::new("mariadb");
        pipe(client.args(["--no-defaults", "--user=root", "--socket", socket, name]), script);
    }
}

impl Foreign for Sqlite {
    const NAMED: &'static str = "sqlite";
    const SEND: &'static str = "insert into posthouse_outbox (id, topic, payload, \"key\") \
         values ('01234567-89ab-cdef-0123-456789abcdef', 'orders.placed', '{\"id\": 7}', 'customer-1')";

    fn run_script(url: &str, script: &str) {
        let run =
            "import sqlite3, sys\nsqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())";
        let file = url.strip_prefix("sqlite:").unwrap();
        pipe(Command::new("python3").args(["-c", run, file]), script);
    }
}

async fn the_program_makes_the_tables_relays_what_sql_sends_and_ends_when_told<S: Foreign>() {
    let pool = S::empty().await;
    let database = S::url(&pool);
    let broker = it::Program::start();
    let connection = it::Broker::Foreign(broker.address).connect();
    let channel = connection.channel();
    channel.declare_durable("orders.placed", &[]).unwrap();
    let to = format!("amqp://guest:guest@{}/", broker.address);
    let mut relay = it::program::command();
    relay.args(["relay", "--migrate", "--database", &database, "--to", &to]);
    let mut relay = Process::start(&mut relay);
    relay.until("ready");

    S::run(&mut pool.acquire().await.unwrap(), S::SEND).await.unwrap();
    let got = channel.take_soon("orders.placed");
    assert_eq!(got.body, br#"{"id": 7}"#);

    relay.stop();
    let status = posthouse(&["--json", "outbox", "status", "--database", &database]);
    assert_eq!(status.trim(), r#"{"waiting":0,"dead":0,"oldest_due_ms":0}"#);
}

async fn the_programs_script_makes_the_tables<S: Foreign>() {
    let pool = S::empty().await;
    let script = posthouse(&["outbox", "schema", "--db", S::NAMED]);

    S::run_script(&S::url(&pool), &script);

    let outbox = Outbox::new(pool.clone());
    outbox.migrate().await.unwrap();
    S::run(&mut pool.acquire().await.unwrap(), S::SEND).await.unwrap();
    assert_eq!(outbox.count().await.unwrap().waiting, 1);
}

fn posthouse(arguments: &[&str]) -> String {
    let output = it::program::command().args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn pipe(command: &mut Command, input: &str) {
    let mut process = command.stdin(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(process.wait().unwrap().success());
}
