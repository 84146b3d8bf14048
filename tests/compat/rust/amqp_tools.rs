//! The command-line tools of rabbitmq-c, which exit right after what they were asked for.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use it::broker::unique;
use it::{Broker, Connection, Login};

use crate::installed::is_installed;

/// Runs one of the tools against the broker, with `input` on its standard input.
fn tool(broker_port: u16, name: &str, args: &[&str], input: &str) -> Output {
    let mut command = Command::new(format!("amqp-{name}"));
    command.args(["--server", "127.0.0.1", "--port", &broker_port.to_string()]).args(args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool");
    // A tool that needs no input may be gone already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().expect("its output")
}

fn succeeds(port: u16, name: &str, args: &[&str], input: &str) -> String {
    let output = tool(port, name, args, input);
    assert!(
        output.status.success(),
        "amqp-{name} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_message_is_published_fetched_and_its_queue_deleted() {
    if !is_installed("amqp-publish") {
        return;
    }
    let broker = Broker::start();
    let port = broker.address().port();
    let queue = unique("tools");

    assert_eq!(succeeds(port, "declare-queue", &["-d", "-q", &queue], "").trim(), queue);
    succeeds(port, "publish", &["-r", &queue, "-p", "-b", "one"], "");
    succeeds(port, "publish", &["-r", &queue, "-l"], "two\nthree\n");

    assert_eq!(succeeds(port, "get", &["-q", &queue], ""), "one");
    assert!(succeeds(port, "get", &["-q", &queue], "").starts_with("two"));
    assert_eq!(succeeds(port, "delete-queue", &["-q", &queue], "").trim(), "1");
}

#[test]
fn fetching_from_an_empty_queue_exits_with_2_and_from_a_missing_one_fails() {
    if !is_installed("amqp-get") {
        return;
    }
    let broker = Broker::start();
    let port = broker.address().port();
    let queue = unique("tools");
    succeeds(port, "declare-queue", &["-q", &queue], "");

    assert_eq!(tool(port, "get", &["-q", &queue], "").status.code(), Some(2));
    succeeds(port, "delete-queue", &["-q", &queue], "");

    let missing = tool(port, "get", &["-q", &queue], "");
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("404"));
}

#[test]
fn a_consumer_runs_a_command_for_each_message() {
    if !is_installed("amqp-consume") {
        return;
    }
    let broker = Broker::start();
    let port = broker.address().port();
    let queue = unique("tools");
    succeeds(port, "declare-queue", &["-d", "-q", &queue], "");
    for body in ["one ", "two ", "three"] {
        succeeds(port, "publish", &["-r", &queue, "-b", body], "");
    }

    assert_eq!(
        succeeds(port, "consume", &["-q", &queue, "-c", "2", "-p", "1", "cat"], ""),
        "one two "
    );

    // The tool leaves without `connection.close`; what it had not acknowledged goes back.
    let connection = Connection::open(broker.address(), &Login::default()).unwrap();
    let channel = connection.channel();
    assert_eq!(channel.take_soon(&queue).text(), "three");
    channel.delete(&queue, [false, false]).unwrap();
}

#[test]
fn headers_and_exchanges_can_be_given() {
    if !is_installed("amqp-publish") {
        return;
    }
    let broker = Broker::start();
    let connection = Connection::open(broker.address(), &Login::default()).unwrap();
    let channel = connection.channel();
    let exchange = unique("tools");
    channel.exchange(&exchange, "topic").unwrap();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &exchange, "a.#", &[]).unwrap();

    let args = ["-e", &exchange, "-r", "a.b", "-H", "colour: red", "-t", "back", "-b", "x"];
    succeeds(broker.address().port(), "publish", &args, "");

    let message = channel.take_soon(&queue);
    assert_eq!(message.properties.header("colour").and_then(it::Value::as_text), Some("red"));
    assert_eq!(message.properties.reply_to.as_deref(), Some("back"));
}

#[test]
fn a_persistent_message_survives_a_kill() {
    if !is_installed("amqp-publish") {
        return;
    }
    let Some(mut program) = Broker::start_own("is not ours to kill") else { return };
    let port = program.address.port();
    succeeds(port, "declare-queue", &["-d", "-q", "kept"], "");
    succeeds(port, "publish", &["-r", "kept", "-p", "-b", "x"], "");
    // The tool does not wait for a confirm, so ask until the message is there.
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let message = loop {
        if let Some(message) = connection.channel().get("kept", false).unwrap() {
            break message;
        }
    };
    assert_eq!(message.text(), "x");
    let channel = connection.channel();
    channel.confirms();
    channel.publish(
        "",
        "kept",
        &it::Properties::persistent(),
        b"a confirm says that the log is synced",
    );
    channel.wait_confirms(1);

    program.restart();

    assert_eq!(succeeds(port, "get", &["-q", "kept"], ""), "x");
}
