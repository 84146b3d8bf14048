//! Transports over TLS with an authority of one's own, and requests that are signed instead of showing a password: the program
//! and the library against a real server.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use it::Channel;
use posthouse_outbox::signature::Secret;
use posthouse_outbox::transport::http::Inbox;
use posthouse_outbox::{Message, Outbox};
use serde_json::json;
use sqlx::Sqlite;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use crate::process::Process;
use crate::recorder::{Running, quick};
use crate::server::{Server, eventually};

/// A server with AMQP and an inbox over TLS, whose certificate is `certificate` in the folder; and its queue `q`, where
/// everything arrives.
fn start(folder: &Path) -> (it::Program, Channel) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut settings = vec!["inbox.routes=*/* = queue q".to_owned()];
    for door in ["amqp", "inbox"] {
        settings.push(format!("{door}.tls.listen=127.0.0.1:0"));
    }
    for (name, text) in
        [("certificate", made.cert.pem()), ("key", made.signing_key.serialize_pem())]
    {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        for door in ["amqp", "inbox"] {
            settings.push(format!("{door}.tls.{name}={}", path.display()));
        }
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = it::Program::start_with(&settings);
    let channel = it::Broker::Foreign(server.address).connect().channel();
    channel.declare_durable("q", &[]).unwrap();
    (server, channel)
}

/// An outbox in a file of the folder.
async fn outbox(folder: &Path) -> (Outbox<Sqlite>, String) {
    let file = folder.join("app.db");
    let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let outbox: Outbox<Sqlite> = Outbox::new(pool);
    outbox.migrate().await.unwrap();
    (outbox, format!("sqlite://{}", file.display()))
}

async fn send(outbox: &Outbox<Sqlite>) -> Message {
    let message = Message::json("q", &json!({ "total": 1.5 })).unwrap().source("shop");
    let mut transaction = outbox.begin().await.unwrap();
    transaction.send(&message).await.unwrap();
    transaction.commit().await.unwrap();
    message
}

/// Relays one message by the program to an address that the server and its certificate make.
async fn relays(to: impl FnOnce(&it::Program, &str) -> String) {
    let folder = tempfile::tempdir().unwrap();
    let (server, channel) = start(folder.path());
    let (outbox, database) = outbox(folder.path()).await;
    let to = to(&server, &folder.path().join("certificate").display().to_string());
    let mut relay: Command = it::program::command();
    relay.args(["relay", "--database", &database, "--to", &to]);
    let mut relay = Process::start(&mut relay);
    relay.until("ready");

    let message = send(&outbox).await;

    let got = channel.take_soon("q");
    relay.stop();
    assert_eq!(got.text(), r#"{"total":1.5}"#);
    assert_eq!(got.properties.message_id, Some(message.id.to_string()));
    assert_eq!(outbox.count().await.unwrap().waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_relays_to_a_broker_over_tls_with_an_authority_of_its_own() {
    relays(|server, authority| {
        let port = server.tls.expect("AMQP over TLS").port();
        format!("amqps://guest:guest@localhost:{port}/?cacertfile={authority}")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_relays_to_an_inbox_over_tls_with_an_authority_of_its_own() {
    relays(|server, authority| {
        let port = server.inbox_tls.expect("an inbox over TLS").port();
        format!("https://guest:guest@localhost:{port}/inbox/?cacertfile={authority}")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_gets_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let (server, channel) = start(folder.path());
    let other = tempfile::tempdir().unwrap();
    let (_other, _) = start(other.path());
    let (outbox, _) = Sqlite::outbox().await;
    let port = server.inbox_tls.expect("an inbox over TLS").port();
    let wrong = other.path().join("certificate").display().to_string();
    let to = format!("https://guest:guest@localhost:{port}/inbox/?cacertfile={wrong}");
    let relay = Running::start(&outbox, Inbox::new(&to).unwrap(), quick());

    send(&outbox).await;

    let tried = |counters: &posthouse_outbox::Counters| {
        counters.failed() + counters.released() + counters.dead()
    };
    eventually(async || tried(&relay.counters) > 0).await;
    relay.stop().await;
    assert!(channel.take("q").is_none());
}

/// A server with a file of tokens, which has a secret of the user `guest` in the tenant `/`; and the secret, which is in the
/// file `secret` as well.
fn start_signed(folder: &Path) -> (it::Program, Channel, Secret) {
    let tokens = folder.join("tokens.json");
    let mut create = it::program::command();
    let arguments = ["token", "create", "--signing", "--name", "shop", "--user", "guest"];
    create.args(arguments).args(["--project", "/"]).arg("--file").arg(&tokens);
    let made = create.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = String::from_utf8(made.stdout).unwrap();
    secret_file(folder, "secret", &text, 0o600);
    let secret = Secret::new(text.trim()).unwrap();
    let server = it::Program::start_with(&[
        "inbox.listen=127.0.0.1:0",
        "inbox.routes=*/* = queue q",
        &format!("inbox.tokens={}", tokens.display()),
    ]);
    let channel = it::Broker::Foreign(server.address).connect().channel();
    channel.declare_durable("q", &[]).unwrap();
    (server, channel, secret)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_signs_needs_to_show_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (server, channel, secret) = start_signed(folder.path());
    let (outbox, _) = Sqlite::outbox().await;
    let to = format!("http://{}/inbox/", server.inbox.expect("an inbox"));
    let relay = Running::start(&outbox, Inbox::new(&to).unwrap().signed(secret), quick());

    let message = send(&outbox).await;

    assert_eq!(channel.take_soon("q").properties.message_id, Some(message.id.to_string()));
    relay.stop().await;
}

fn secret_file(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

/// The program as a relay that signs with the secret of a file.
fn signing(database: &str, to: &str, secret_file: &Path) -> Command {
    let mut relay = it::program::command();
    relay.args(["relay", "--database", database, "--to", to, "--factor", "1"]);
    relay.arg("--secret-file").arg(secret_file);
    relay
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_signs_and_what_a_wrong_secret_has_signed_stays_until_the_right_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let (server, channel, _) = start_signed(folder.path());
    let (outbox, database) = outbox(folder.path()).await;
    let to = format!("http://{}/inbox/", server.inbox.expect("an inbox"));
    let wrong = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let wrong = secret_file(folder.path(), "wrong", wrong, 0o600);
    let mut relay = Process::start(&mut signing(&database, &to, &wrong));
    relay.until("ready");

    let message = send(&outbox).await;

    let noted = async || {
        let mut connection = outbox.begin().await.unwrap();
        let error = "select coalesce(max(last_error), '') from posthouse_outbox where state = 0";
        sqlx::query_scalar::<_, String>(error).fetch_one(&mut *connection).await.unwrap()
    };
    eventually(async || noted().await.contains("401")).await;
    relay.stop();
    assert_eq!(outbox.count().await.unwrap().waiting, 1);
    assert!(channel.take("q").is_none());

    let right = folder.path().join("secret");
    let mut relay = Process::start(&mut signing(&database, &to, &right));
    relay.until("ready");
    assert_eq!(channel.take_soon("q").properties.message_id, Some(message.id.to_string()));
    relay.stop();
    assert_eq!(outbox.count().await.unwrap().waiting, 0);
}

#[test]
fn a_secret_that_cannot_be_used_and_one_that_signs_nothing_are_errors_that_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name, text, mode| secret_file(folder.path(), name, text, mode);
    let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n";
    let (inbox, broker) = ("http://127.0.0.1:1/inbox/", "amqp://127.0.0.1:1/");
    let queue = "http://127.0.0.1:1/v2/queues/q";

    for (to, path, why) in [
        (inbox, folder.path().join("missing"), "missing cannot be read: No such file"),
        (inbox, file("empty", " \n", 0o600), "empty is empty"),
        (
            inbox,
            file("malformed", "whsec_short\n", 0o600),
            "malformed cannot be used: secret must be",
        ),
        (inbox, file("open", good, 0o644), "do chmod 0600"),
        (broker, file("good", good, 0o600), "--secret-file signs requests to inboxes"),
        (queue, file("good", good, 0o600), "--secret-file signs requests to inboxes"),
    ] {
        let output = signing("sqlite:/no/such/database", to, &path).output().unwrap();

        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{to} {path:?}: {said}");
        assert!(!said.contains("whsec_M"), "{said}");
    }
}

#[test]
fn what_is_not_signed_for_the_tenant_now_by_a_known_secret_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (server, channel, secret) = start_signed(folder.path());
    let stranger = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let body = |padding: usize| {
        let document = json!({
            "uuid": "0190d2c8-5d5e-7c6a-9b1f-000000000001", "message_source": "shop",
            "message_type": "t", "origin_create_time": "2026-11-21T12:00:00Z",
            "payload": "x".repeat(padding)
        });
        document.to_string()
    };
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = since.as_secs();
    let post = |path: &str, time: u64, signature: &str, body: &str| {
        it::Http::connect(server.inbox.expect("an inbox"))
            .with("Content-Type", "application/json")
            .with("webhook-id", "m-1")
            .with("webhook-timestamp", &time.to_string())
            .with("webhook-signature", signature)
            .post(path, body)
            .status
    };
    let small = body(1);
    let good = secret.sign("m-1", now, small.as_bytes());

    assert_eq!(post("/inbox/", now, &good, &small), 201);
    assert_eq!(post("/inbox/", now, &good, &small), 201, "a replay is a duplicate");
    let old = secret.sign("m-1", now - 1000, small.as_bytes());
    assert_eq!(post("/inbox/", now - 1000, &old, &small), 401);
    assert_eq!(post("/inbox/", now, &good, &body(2)), 401, "another body");
    let foreign = stranger.sign("m-1", now, small.as_bytes());
    assert_eq!(post("/inbox/", now, &foreign, &small), 401);
    let both = format!("{foreign} {good}");
    assert_eq!(post("/inbox/", now, &both, &small), 201, "one of several is enough");
    assert_eq!(post("/theirs/inbox/", now, &good, &small), 401, "another tenant");
    let large = body(1_000_000);
    assert_eq!(post("/inbox/", now, &good, &large), 401);
    let good = secret.sign("m-1", now, large.as_bytes());
    assert_eq!(post("/inbox/", now, &good, &large), 201, "and the same message");

    assert!(channel.take("q").is_some() && channel.take("q").is_none());
}
