//! From the outbox to the inbox of a Posthouse server, over HTTP, through the library and through the program.

use std::collections::HashSet;

use it::Channel;
use posthouse_outbox::transport::http::Inbox;
use posthouse_outbox::{Message, Outbox, Settings};
use serde_json::json;
use sqlx::Sqlite;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use crate::process::Process;
use crate::recorder::{Running, quick};
use crate::server::{Server, eventually};

/// A server whose inbox leads everything to its queue `q`.
fn start() -> (it::Program, Channel) {
    let server =
        it::Program::start_with(&["inbox.listen=127.0.0.1:0", "inbox.routes=*/* = queue q"]);
    let channel = it::Broker::Foreign(server.address).connect().channel();
    channel.declare_durable("q", &[]).unwrap();
    (server, channel)
}

fn address(server: &it::Program) -> String {
    format!("http://guest:guest@{}/inbox/", server.inbox.expect("an inbox"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_relays_to_the_servers_inbox() {
    let (server, channel) = start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.db");
    let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let outbox: Outbox<Sqlite> = Outbox::new(pool);
    outbox.migrate().await.unwrap();
    let database = format!("sqlite://{}", file.display());
    let mut relay = it::program::command();
    relay.args(["relay", "--database", &database, "--to", &address(&server)]);
    let mut relay = Process::start(&mut relay);
    relay.until("ready");
    let message = Message::json("orders.placed", &json!({ "total": 1.5 })).unwrap().source("shop");

    let mut transaction = outbox.begin().await.unwrap();
    transaction.send(&message).await.unwrap();
    transaction.commit().await.unwrap();
    let got = channel.take_soon("q");

    relay.stop();
    assert_eq!(got.text(), r#"{"total":1.5}"#);
    let properties = got.properties;
    assert_eq!(properties.message_id, Some(message.id.to_string()));
    assert_eq!(properties.kind.as_deref(), Some("orders.placed"));
    assert_eq!(properties.app_id.as_deref(), Some("shop"));
    assert_eq!(outbox.count().await.unwrap().waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_gets_everything_once() {
    let (outbox, _) = Sqlite::outbox().await;
    let (mut server, _) = start();
    let mut settings = Settings { batch: 50, ..quick() };
    settings.schedule.attempts = 1_000_000;
    let relay = Running::start(&outbox, Inbox::new(&address(&server)).unwrap(), settings);

    for round in 0..10 {
        let mut transaction = outbox.begin().await.unwrap();
        for n in 0..50 {
            let message = Message::json("t", &json!([round, n])).unwrap().source("app");
            transaction.send(&message).await.unwrap();
        }
        transaction.commit().await.unwrap();
        if round % 4 == 2 {
            server.restart();
        }
    }
    eventually(async || outbox.count().await.unwrap().waiting == 0).await;
    relay.stop().await;

    let bodies = it::Broker::Foreign(server.address).connect().channel().take_all("q");
    let distinct: HashSet<_> = bodies.iter().collect();
    assert_eq!((bodies.len(), distinct.len()), (500, 500));
}
