//! Runs every example as its reader would, on a broker of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test says what went wrong"
)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use posthouse_testing::TestBus;

/// Generous, because test machines are busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running example; it ends with the test.
struct Example {
    process: Child,
    lines: Receiver<String>,
}

impl Example {
    fn start(program: &str, bus: &TestBus) -> Self {
        Self::run(Command::new(program), bus)
    }

    fn run(mut command: Command, bus: &TestBus) -> Self {
        command.env("POSTHOUSE_URL", bus.url()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        Self { process, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line of the example")
    }

    /// Reads on until a line begins so, and gives it.
    fn line_with(&self, start: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(start) {
                return line;
            }
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Publishes until the example has declared what takes it.
async fn publish(bus: &TestBus, key: &'static str, body: &'static str) {
    let began = std::time::Instant::now();
    loop {
        let publish = bus.client().publish_to("events", key, body);
        if publish.content_type("application/json").await.is_ok() {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "the example declares nothing");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_ships_orders_and_keeps_what_it_cannot_ship() {
    let bus = TestBus::start().await;
    let example = Example::start(env!("CARGO_BIN_EXE_consumer"), &bus);

    assert_eq!(example.line(), "+ exchange `events`");
    publish(&bus, "orders.placed", r#"{"id":7,"customer":"ada"}"#).await;
    publish(&bus, "orders.placed", r#"{"id":0,"customer":"ada"}"#).await;

    assert_eq!(example.line_with("shipped"), "shipped 7 to ada, attempt 1");
    bus.quiet().await;
    bus.queue("shipping.dead").assert_one().assert_reason("there is no order 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_arrives_twice_is_one_parcel_and_one_piece_of_news() {
    let bus = TestBus::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_consumer_with_tx"));
    let file = folder.path().join("shop.db");
    command.env("DATABASE_URL", format!("sqlite:{}?mode=rwc", file.display()));
    let example = Example::run(command, &bus);

    publish(&bus, "orders.placed", r#"{"id":0,"customer":"ada"}"#).await;
    for _ in 0..2 {
        let order = r#"{"id":7,"customer":"ada"}"#;
        bus.client().publish_to("events", "orders.placed", order).message_id("7").await.unwrap();
    }
    let order = r#"{"id":8,"customer":"ada"}"#;
    bus.client().publish_to("events", "orders.placed", order).message_id("8").await.unwrap();

    let mut lines = [example.line(), example.line()];
    lines.sort_unstable();
    assert_eq!(lines, [7, 8].map(|order| format!("the parcel of order {order} is ready")));
    bus.quiet().await;
    assert!(example.lines.try_recv().is_err(), "there is a third parcel");
    bus.queue("packing.dead").assert_one().assert_reason("there is no order 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_are_answered() {
    let bus = TestBus::start().await;
    let mut example = Example::start(env!("CARGO_BIN_EXE_rpc"), &bus);

    assert_eq!(example.line(), "EUR USD: 1.08");
    assert_eq!(example.line(), "EUR XXX: not-found: no such pair");
    assert!(example.process.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_to_the_routes_of_the_web_application() {
    let bus = TestBus::start().await;
    let example = Example::start(env!("CARGO_BIN_EXE_message_as_request"), &bus);

    publish(&bus, "orders.eu.placed", r#"{"id":7}"#).await;
    publish(&bus, "orders.eu.placed", r#"{"id":0}"#).await;

    let (first, second) = (example.line(), example.line());
    assert!([&first, &second].iter().any(|line| line.starts_with("order 7 from eu, attempt 1")));
    bus.quiet().await;
    bus.queue("orders.dead").assert_len(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_told_of_if_it_was_placed_and_not_if_it_could_not_be_paid() {
    let bus = TestBus::start().await;
    let database = postgres().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox_with_postgres"));
    command.env("DATABASE_URL", &database);
    let example = Example::run(command, &bus);
    let address = example.line_with("listening").replace("listening ", "");
    let broker = bus.url().rsplit('@').next().unwrap().trim_end_matches('/').parse().unwrap();
    let connection = it::Broker::Foreign(broker).connect();
    let channel = connection.channel();
    channel.declare_durable("shipping", &[]).unwrap();
    channel.bind("shipping", "amq.topic", "orders.#", &[]).unwrap();

    let mut http = it::Http::connect(address.parse().unwrap());
    http = http.with("Content-Type", "application/json");
    assert_eq!(http.post("/orders", r#"{"customer":"ada","cents":2000}"#).status, 402);
    assert_eq!(http.post("/orders", r#"{"customer":"ada","cents":700}"#).status, 201);

    // The number of the order that was rolled back is used up; its message was never there.
    assert_eq!(channel.take_soon("shipping").body, br#"{"id":2,"customer":"ada"}"#);
    assert_eq!(channel.take_all("shipping"), Vec::<String>::new());
}

/// The address of an empty database.
async fn postgres() -> String {
    use sqlx::{Connection as _, Executor as _};

    let folder = it::database::postgres().display();
    let address = |name: &str| format!("postgres:///{name}?host={folder}&user=postgres");
    let began = std::time::Instant::now();
    let mut connection = loop {
        match sqlx::PgConnection::connect(&address("postgres")).await {
            Ok(connection) => break connection,
            Err(error) => assert!(began.elapsed() < PATIENCE, "PostgreSQL: {error}"),
        }
        tokio::task::yield_now().await;
    };
    connection.execute("create database shop").await.unwrap();
    address("shop")
}
