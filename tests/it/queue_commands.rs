//! `posthouse queue | message | claim | subscription`: the program as a client of a queue service.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use it::{Broker, Program};
use serde_json::{Value, json};

/// Starts the program, unless a foreign broker is under test.
fn start() -> Option<Program> {
    Broker::start_own("has no queue service")
}

fn run(program: &Program, args: &[&str], input: &str) -> Output {
    let mut command: Command = it::program::command();
    command
        .args(args)
        .env("POSTHOUSE_URL", format!("http://{}", program.queues.unwrap()))
        .env("POSTHOUSE_PROJECT", "p")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that needs no input may be gone already.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

/// Runs a command and expects success; the lines that it printed.
fn lines(program: &Program, args: &[&str], input: &str) -> Vec<String> {
    let output = run(program, args, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn prints(program: &Program, args: &[&str]) -> Vec<String> {
    lines(program, args, "")
}

/// Runs a command and expects failure; what it said.
fn fails(program: &Program, args: &[&str]) -> String {
    let output = run(program, args, "");
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The second word of a line.
fn word(line: &str) -> String {
    line.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn queues_are_made_listed_changed_and_deleted() {
    let Some(program) = start() else { return };

    assert_eq!(prints(&program, &["queue", "create", "a", "colour=red", "n:=[1]"]), ["created a"]);
    assert_eq!(prints(&program, &["queue", "create", "a"]), ["exists a"]);
    for number in 10..35 {
        prints(&program, &["queue", "create", &format!("b{number}")]);
    }

    assert_eq!(prints(&program, &["queue", "list"]).len(), 26, "all pages");
    assert_eq!(prints(&program, &["queue", "list", "-n", "2"]), ["a", "b10"]);
    assert_eq!(prints(&program, &["queue", "list", "--name", "b3", "--marker", "b33"]), ["b34"]);
    let set = prints(&program, &["queue", "set", "a", "colour:=7", "--unset", "n"]);
    assert!(set.contains(&"colour: 7".to_owned()), "{set:?}");
    let shown: Value =
        serde_json::from_str(&prints(&program, &["--json", "queue", "show", "a"])[0]).unwrap();
    assert_eq!((&shown["colour"], &shown["n"]), (&json!(7), &Value::Null));
    assert_eq!(prints(&program, &["queue", "delete", "a"]), ["deleted a"]);
    assert_eq!(prints(&program, &["queue", "list", "-n", "1"]), ["b10"]);
}

#[test]
fn messages_are_posted_looked_at_and_taken() {
    let Some(program) = start() else { return };

    let posted =
        prints(&program, &["message", "post", "q", r#"{"z": 1.10, "a": 2}"#, "--ttl", "100"]);
    let id = word(&posted[0]);
    lines(&program, &["message", "post", "q", "--lines"], "one\n2\n");
    lines(&program, &["message", "post", "q", "--text", "--file", "-"], "3");

    assert_eq!(prints(&program, &["message", "get", "q", &id])[1], r#"{"z": 1.10, "a": 2}"#);
    let listed = prints(&program, &["message", "list", "q", "--body"]);
    assert_eq!(listed, [r#"{"z": 1.10, "a": 2}"#, "one", "2", "3"]);
    assert_eq!(prints(&program, &["queue", "stats", "q"])[0], "claimed 0, free 4, total 4");
    assert_eq!(prints(&program, &["message", "delete", "q", &id]), [format!("deleted {id}")]);
    let popped = prints(&program, &["--json", "message", "pop", "q", "-n", "2"]);
    let bodies: Vec<Value> = popped
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["body"].clone())
        .collect();
    assert_eq!(bodies, [json!("one"), json!(2)]);
    assert_eq!(prints(&program, &["message", "pop", "q", "--body"]), ["3"]);
    assert_eq!(run(&program, &["message", "pop", "q"], "").status.code(), Some(3));
}

#[test]
fn many_lines_are_posted_in_their_order() {
    let Some(program) = start() else { return };
    let wanted: Vec<String> = (0..350).map(|number| format!("line {number}")).collect();

    let posted = lines(&program, &["message", "post", "q", "--lines"], &wanted.join("\n"));

    assert_eq!(posted.len(), 350);
    assert_eq!(prints(&program, &["message", "list", "q", "--body"]), wanted);
    let first: Vec<_> = wanted.iter().take(25).cloned().collect();
    assert_eq!(prints(&program, &["message", "list", "q", "--body", "-n", "25"]), first);
}

#[test]
fn claims_hold_messages_until_they_are_released() {
    let Some(program) = start() else { return };
    lines(&program, &["message", "post", "q", "--lines"], "one\ntwo\nthree\n");

    let claimed = prints(&program, &["claim", "create", "q", "-n", "2", "--ttl", "100"]);
    let (claim, first) = (word(&claimed[0]), word(&claimed[1]));
    assert_eq!((claimed[2].as_str(), claimed[4].as_str()), ("one", "two"));
    assert!(fails(&program, &["message", "delete", "q", &first]).contains("Unable to delete"));
    prints(&program, &["message", "delete", "q", &first, "--claim", &claim]);
    prints(&program, &["claim", "renew", "q", &claim, "--ttl", "200"]);
    let shown = prints(&program, &["claim", "show", "q", &claim]);
    assert!(shown[0].ends_with("ttl=200"), "{shown:?}");
    assert_eq!(prints(&program, &["claim", "release", "q", &claim]), [format!("released {claim}")]);

    assert_eq!(prints(&program, &["message", "list", "q", "--body"]), ["two", "three"]);
    assert_eq!(prints(&program, &["queue", "purge", "q", "--only", "messages"]), ["purged q"]);
    assert_eq!(run(&program, &["claim", "create", "q"], "").status.code(), Some(3));
}

#[test]
fn what_a_service_refuses_is_said_in_its_words() {
    let Some(program) = start() else { return };

    let name = fails(&program, &["queue", "create", "no such name"]);
    let missing = fails(&program, &["message", "get", "q", "5"]);
    let project = run(&program, &["queue", "list", "--project", ""], "");
    let ttl = fails(&program, &["--json", "message", "post", "q", "x", "--ttl", "1"]);

    assert!(
        name.contains("Invalid queue identification") && name.contains("(status 400)"),
        "{name}"
    );
    assert!(missing.contains("(status 404)"), "{missing}");
    assert_eq!(project.status.code(), Some(1));
    let error: Value = serde_json::from_str(&ttl).unwrap();
    assert!(error["error"].as_str().unwrap().contains("at least 60 seconds"), "{error}");
}
