//! `posthouse publish | get | consume | tail | check`: the program as a client, against any broker.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use it::broker::unique;
use it::{Broker, Value};

fn posthouse(broker: &Broker, args: &[&str]) -> Command {
    let mut command = it::program::command();
    command.args(args).env("POSTHOUSE_URI", format!("amqp://guest:guest@{}/", broker.address()));
    command
}

/// Runs a command with this input and expects success; answers what it printed.
fn prints(broker: &Broker, args: &[&str], input: &str) -> String {
    let output = run(broker, args, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn run(broker: &Broker, args: &[&str], input: &str) -> Output {
    let mut command = posthouse(broker, args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that needs no input may be gone already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

#[test]
fn what_is_published_can_be_looked_at_and_taken() {
    let broker = Broker::start();
    let connection = broker.connect();
    let queue = unique("cli");
    connection.channel().declare_durable(&queue, &[]).unwrap();

    prints(&broker, &["publish", "-q", &queue, "--persistent", "hello"], "");
    assert_eq!(prints(&broker, &["get", &queue, "--body"], ""), "hello\n");
    assert_eq!(prints(&broker, &["get", &queue, "--body", "--ack"], ""), "hello\n");

    assert_eq!(run(&broker, &["get", &queue], "").status.code(), Some(3), "nothing there");
    connection.channel().delete(&queue, [false, false]).unwrap();
}

#[test]
fn lines_of_the_input_become_messages_and_are_consumed_in_order() {
    let broker = Broker::start();
    let connection = broker.connect();
    let queue = unique("cli");
    connection.channel().declare_durable(&queue, &[]).unwrap();

    prints(&broker, &["publish", "-q", &queue, "--lines"], "one\ntwo\nthree\n");

    assert_eq!(prints(&broker, &["consume", &queue, "-n", "3", "--body"], ""), "one\ntwo\nthree\n");
    assert_eq!(connection.channel().inspect(&queue).unwrap().messages, 0);
    connection.channel().delete(&queue, [false, false]).unwrap();
}

#[test]
fn headers_and_properties_arrive_with_their_types() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = unique("cli");
    channel.declare_durable(&queue, &[]).unwrap();

    let headers = [
        "--header",
        "colour=red",
        "--header",
        "size:=7",
        "--property",
        "message-id=m",
        "--persistent",
    ];
    prints(&broker, &[&["publish", "-q", &queue, "x"], headers.as_slice()].concat(), "");

    let message = channel.take_soon(&queue);
    assert_eq!(message.properties.header("colour").and_then(Value::as_text), Some("red"));
    assert_eq!(message.properties.header("size").and_then(Value::as_int), Some(7));
    assert_eq!(message.properties.message_id.as_deref(), Some("m"));
    assert_eq!(message.properties.delivery_mode, Some(2));
    channel.delete(&queue, [false, false]).unwrap();
}

#[test]
fn a_mandatory_message_without_a_queue_fails() {
    let broker = Broker::start();

    let output = run(&broker, &["publish", "-q", &unique("nowhere"), "--mandatory", "x"], "");

    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn json_is_one_object_per_line() {
    let broker = Broker::start();
    let connection = broker.connect();
    let queue = unique("cli");
    connection.channel().declare_durable(&queue, &[]).unwrap();
    prints(&broker, &["publish", "-q", &queue, "--count", "2", "x"], "");

    let printed = prints(&broker, &["--json", "consume", &queue, "-n", "2"], "");

    let lines: Vec<serde_json::Value> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["routing_key"] == queue.as_str()), "{printed}");
    connection.channel().delete(&queue, [false, false]).unwrap();
}

#[test]
fn tail_shows_copies_of_what_an_exchange_routes() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let exchange = unique("cli");
    channel.declare_exchange(&exchange, "topic", [false; 4], &[]).unwrap();
    let mut tail = posthouse(&broker, &["tail", "-e", &exchange, "-k", "a.#", "-n", "1", "--body"]);
    let child = tail.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

    // The binding of `tail` is there when a mandatory message is not returned.
    let deadline = std::time::Instant::now() + it::PATIENCE;
    loop {
        channel.publish_flagged(
            &exchange,
            "a.b",
            [true, false],
            &it::Properties::default(),
            b"seen",
        );
        channel.sync();
        if channel.next_return(std::time::Duration::ZERO).is_none() {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "tail does not listen");
        connection.listen(std::time::Duration::from_millis(10)).unwrap();
    }

    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "seen\n");
    channel.delete_exchange(&exchange, false).unwrap();
}

#[test]
fn an_error_of_the_broker_is_said_and_exits_with_1() {
    let broker = Broker::start();

    let missing = run(&broker, &["consume", &unique("missing"), "-n", "1"], "");
    let refused = it::program::command()
        .args(["get", "q", "--uri", &format!("amqp://guest:wrong@{}/", broker.address())])
        .output()
        .unwrap();

    assert_eq!((missing.status.code(), refused.status.code()), (Some(1), Some(1)));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no queue"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ACCESS_REFUSED"));
}

#[test]
fn a_configuration_can_be_checked_without_starting() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.toml"), folder.path().join("bad.toml"));
    std::fs::write(&good, "[amqp]\nheartbeat = \"30s\"\n").unwrap();
    std::fs::write(&bad, "[amqp]\nheartbeat = \"never\"\n").unwrap();
    let check = |file: &std::path::Path| {
        it::program::command().args(["check", "--config"]).arg(file).output().unwrap()
    };

    assert!(check(&good).status.success());
    let refused = check(&bad);

    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("heartbeat"));
}
