//! From the outbox to a real broker, through the library and through the program.

use std::sync::Arc;
use std::time::Duration;

use it::Value;
use posthouse_outbox::transport::amqp::Amqp;
use posthouse_outbox::{Message, Settings};
use sqlx::Postgres;

use crate::process::Process;
use crate::recorder::{Running, quick};
use crate::server::{Server, eventually};

fn amqp(broker: &it::Program, rest: &str) -> String {
    format!("amqp://guest:guest@{}/{rest}", broker.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_arrives_at_a_broker_with_everything_that_was_said() {
    let (outbox, pool) = Postgres::outbox().await;
    let broker = it::Program::start();
    let connection = it::Broker::Foreign(broker.address).connect();
    let channel = connection.channel();
    channel.exchange("events", "topic").unwrap();
    channel.declare_durable("all", &[]).unwrap();
    channel.bind("all", "events", "orders.#", &[]).unwrap();
    let message = Message::json("orders.placed", &serde_json::json!({ "id": 7 }))
        .unwrap()
        .source("shop")
        .header("trace", "abc")
        .expires(Duration::from_secs(3600));

    outbox.send(&mut pool.acquire().await.unwrap(), &message).await.unwrap();
    let transport = Amqp::new(&amqp(&broker, "?exchange=events")).unwrap();
    let relay = Running::start(&outbox, transport, quick());
    let got = channel.take_soon("all");
    relay.stop().await;

    assert_eq!(got.body, br#"{"id":7}"#);
    let properties = got.properties;
    assert_eq!(properties.message_id, Some(message.id.to_string()));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties.app_id.as_deref(), Some("shop"));
    assert_eq!(properties.delivery_mode, Some(2));
    assert_eq!(properties.header("trace"), Some(&Value::Text("abc".into())));
    assert_eq!(properties.header("x-dedup-id"), Some(&Value::Text(message.id.to_string())));
    let left: u64 = properties.expiration.unwrap().parse().unwrap();
    assert!(left <= 3_600_000 && left > 3_000_000, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_queue_takes_waits_until_one_does() {
    let (outbox, pool) = Postgres::outbox().await;
    let broker = it::Program::start();
    let connection = it::Broker::Foreign(broker.address).connect();
    let channel = connection.channel();
    let message = Message::new("later", "text/plain", "x");
    outbox.send(&mut pool.acquire().await.unwrap(), &message).await.unwrap();
    let mut settings = quick();
    settings.schedule.attempts = 1_000_000;

    let relay = Running::start(&outbox, Amqp::new(&amqp(&broker, "")).unwrap(), settings);
    let counters = Arc::clone(&relay.counters);
    eventually(async || counters.failed() > 0).await;
    channel.declare_durable("later", &[]).unwrap();
    let got = channel.take_soon("later");
    relay.stop().await;

    assert_eq!(got.body, b"x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_restarts_gets_everything_once() {
    let (outbox, _) = Postgres::outbox().await;
    let mut broker = it::Program::start();
    let address = broker.address;
    let connection = it::Broker::Foreign(address).connect();
    connection.channel().declare_durable("q", &[]).unwrap();
    let relay = Running::start(
        &outbox,
        Amqp::new(&amqp(&broker, "")).unwrap(),
        Settings { batch: 50, ..quick_and_patient() },
    );

    for round in 0..20 {
        let mut transaction = outbox.begin().await.unwrap();
        for n in 0..50 {
            let message = Message::new("q", "text/plain", format!("{round}-{n}"));
            transaction.send(&message).await.unwrap();
        }
        transaction.commit().await.unwrap();
        if round % 7 == 3 {
            broker.restart();
        }
    }
    eventually(async || outbox.count().await.unwrap().waiting == 0).await;
    relay.stop().await;

    let connection = it::Broker::Foreign(address).connect();
    let bodies = connection.channel().take_all("q");
    let distinct: std::collections::HashSet<_> = bodies.iter().collect();
    // Those that were under way at a restart were published twice; the broker knows them by their ids.
    assert_eq!((bodies.len(), distinct.len()), (1000, 1000));
}

fn quick_and_patient() -> Settings {
    let mut settings = quick();
    settings.schedule.attempts = 1_000_000;
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_makes_the_tables_relays_and_ends_when_told() {
    let pool = Postgres::empty().await;
    let options = pool.connect_options();
    let database = format!(
        "postgres:///{}?host={}&user=postgres",
        options.get_database().unwrap(),
        options.get_socket().unwrap().display()
    );
    let broker = it::Program::start();
    let connection = it::Broker::Foreign(broker.address).connect();
    let channel = connection.channel();
    channel.declare_durable("orders.placed", &[]).unwrap();
    let mut relay = it::program::command();
    relay.args(["relay", "--migrate", "--database", &database, "--to", &amqp(&broker, "")]);
    let mut relay = Process::start(&mut relay);
    relay.until("ready");

    // Any language: one statement.
    let mut connection = pool.acquire().await.unwrap();
    let send = "select posthouse_send('orders.placed', '{\"id\": 7}', key => 'customer-1')";
    Postgres::run(&mut connection, send).await.unwrap();
    let got = channel.take_soon("orders.placed");
    assert_eq!(got.body, br#"{"id": 7}"#);

    relay.stop();
    let status = posthouse(&["--json", "outbox", "status", "--database", &database]);
    assert_eq!(status.trim(), r#"{"waiting":0,"dead":0,"oldest_due_ms":0}"#);
    let script = posthouse(&["outbox", "schema", "--db", "postgres"]);
    let fresh = Postgres::empty().await;
    Postgres::run(&mut fresh.acquire().await.unwrap(), &script).await.unwrap();
    posthouse_outbox::Outbox::new(fresh).migrate().await.unwrap();
}

fn posthouse(arguments: &[&str]) -> String {
    let output = it::program::command().args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
