//! A RabbitMQ definitions export, taken over unchanged at the start.

use it::broker::unique;
use it::value::table;
use it::{Broker, Connection, Login, Program, Properties, Value};
use serde_json::json;

const WHY: &str = "imports in its own way";

/// An export as RabbitMQ writes it, with things in it that only RabbitMQ understands.
fn export() -> serde_json::Value {
    let all = |user: &str, vhost: &str| json!({"user": user, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"});
    let bind = |source: &str, to: &str, kind: &str, key: &str, arguments: serde_json::Value| {
        json!({"source": source, "vhost": "shop", "destination": to, "destination_type": kind, "routing_key": key,
               "arguments": arguments})
    };
    json!({
        "rabbit_version": "3.10.8",
        "rabbitmq_version": "3.10.8",
        "product_name": "RabbitMQ",
        "users": [
            {"name": "alice", "password_hash": "kI3GCqG+cq65rBQ9tiUUCREygKhmilKrZEWKSz+H0FJ1fk4/",
             "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ["administrator"], "limits": {}},
            {"name": "bob", "hashing_algorithm": "rabbit_password_hashing_sha512", "tags": "monitoring",
             "password_hash": "AQIDBMV9+3xhr3ApsGZAEd4Jja91Khdccpkq9Y9Ko4UuW3cpnQEcMTPOAQ8NMuuiaqbqZpzvI4CSym6BzfO4+4dkQoo="},
        ],
        "vhosts": [{"name": "/"}, {"name": "shop", "description": "orders", "tags": []}],
        "permissions": [all("alice", "/"), all("alice", "shop"), all("bob", "shop")],
        "topic_permissions": [],
        "parameters": [
            {"vhost": "shop", "component": "federation-upstream", "name": "up", "value": {"uri": "amqp://127.0.0.1:1"}}
        ],
        "global_parameters": [{"name": "cluster_name", "value": "rabbit@old"}],
        "policies": [
            {"vhost": "shop", "name": "short", "pattern": "^limited", "apply-to": "queues", "priority": 1,
             "definition": {"max-length": 2, "ha-mode": "all"}},
            {"vhost": "shop", "name": "shorter", "pattern": "^limited", "apply-to": "all", "priority": 0,
             "definition": {"max-length": 1}},
        ],
        "queues": [
            {"name": "paid", "vhost": "shop", "durable": true, "auto_delete": false,
             "arguments": {"x-message-ttl": 3_600_000, "x-queue-mode": "lazy"}},
            {"name": "limited-1", "vhost": "shop", "durable": true, "auto_delete": false, "arguments": {}},
            {"name": "safe", "vhost": "shop", "durable": true, "auto_delete": false,
             "arguments": {"x-queue-type": "quorum"}},
        ],
        "exchanges": [
            {"name": "orders", "vhost": "shop", "type": "topic", "durable": true, "auto_delete": false,
             "internal": false, "arguments": {"alternate-exchange": "rest"}},
            {"name": "rest", "vhost": "shop", "type": "fanout", "durable": true, "auto_delete": false,
             "internal": false, "arguments": {}},
        ],
        "bindings": [
            bind("orders", "paid", "queue", "*.paid", json!({})),
            bind("rest", "safe", "queue", "", json!({})),
            bind("orders", "rest", "exchange", "copy.#", json!({})),
        ],
        "something_new": [{"name": "x"}],
    })
}

fn import(definitions: &serde_json::Value) -> Option<Program> {
    let file = std::env::temp_dir().join(unique("definitions.json"));
    std::fs::write(&file, definitions.to_string()).unwrap();
    let program = Broker::start_own_with(WHY, &[&format!("definitions.file={}", file.display())]);
    std::fs::remove_file(file).unwrap();
    program
}

fn open(program: &Program, user: &str, password: &str) -> Connection {
    let login = Login {
        user: user.to_owned(),
        password: password.to_owned(),
        tenant: "shop".to_owned(),
        ..Login::default()
    };
    Connection::open(program.address, &login).unwrap()
}

#[test]
fn users_keep_their_passwords() {
    let Some(program) = import(&export()) else { return };

    open(&program, "alice", "secret").close();
    open(&program, "bob", "hidden").close();
}

#[test]
fn exchanges_queues_and_bindings_are_there() {
    let Some(program) = import(&export()) else { return };
    let channel = open(&program, "alice", "secret").channel();

    for key in ["eu.paid", "eu.lost", "copy.x"] {
        channel.publish("orders", key, &Properties::default(), key.as_bytes());
    }
    channel.sync();

    assert_eq!(channel.take_all("paid"), ["eu.paid"]);
    assert_eq!(channel.take_all("safe"), ["eu.lost", "copy.x"]);
    let same = table([("x-message-ttl", 3_600_000.into()), ("x-queue-mode", Value::from("lazy"))]);
    assert!(
        channel.declare_durable("paid", &same).is_ok(),
        "declared as its application declares it"
    );
}

#[test]
fn the_policy_of_the_highest_priority_applies_to_old_and_new_queues() {
    let Some(program) = import(&export()) else { return };
    let channel = open(&program, "alice", "secret").channel();
    channel.declare_durable("limited-2", &[]).unwrap();
    channel.declare_durable("limited-3", &table([("x-max-length", 1.into())])).unwrap();

    for queue in ["limited-1", "limited-2", "limited-3"] {
        ["1", "2", "3", "4"].iter().for_each(|body| channel.send(queue, body));
    }
    channel.sync();

    assert_eq!(channel.take_all("limited-1"), ["3", "4"]);
    assert_eq!(channel.take_all("limited-2"), ["3", "4"]);
    assert_eq!(channel.take_all("limited-3"), ["4"], "the lower limit of argument and policy");
}

#[test]
fn what_was_not_understood_is_reported() {
    let Some(program) = import(&export()) else { return };

    let log = program.log();

    for name in ["something_new", "ha-mode"] {
        assert!(log.contains(name), "no word of `{name}` in:\n{log}");
    }
}

#[test]
fn importing_again_after_a_restart_keeps_what_is_there() {
    let file = std::env::temp_dir().join(unique("definitions.json"));
    std::fs::write(&file, export().to_string()).unwrap();
    let setting = format!("definitions.file={}", file.display());
    let Some(mut program) = Broker::start_own_with(WHY, &[&setting]) else { return };
    let channel = open(&program, "alice", "secret").channel();
    channel.confirms();
    channel.publish("orders", "eu.paid", &Properties::persistent(), b"kept");
    channel.wait_confirms(1);

    program.restart();

    assert_eq!(open(&program, "bob", "hidden").channel().take_all("paid"), ["kept"]);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_file_that_is_no_json_stops_the_start_and_says_where() {
    if it::broker::foreign().is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("definitions.json");
    std::fs::write(&file, "{\"users\": [").unwrap();

    let output = it::program::command()
        .args([
            "serve",
            "--set",
            "amqp.listen=127.0.0.1:0",
            "--set",
            "metrics.listen=",
            "--set",
            "queues.listen=",
            "--data-dir",
        ])
        .arg(folder.path().join("data"))
        .args(["--set", &format!("definitions.file={}", file.display())])
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("definitions.json"), "{said}");
}
