//! rabbitmq-c: a small C program, compiled here, runs one scenario at a time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use it::Broker;
use it::broker::unique;

use crate::installed::is_installed;

/// The compiled program, or why there is none.
fn behaviour() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        if !is_installed("cc") {
            return None;
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/c/behaviour.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rabbitmq-c-behaviour");
        let output = Command::new("cc")
            .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-o"])
            .arg(&program)
            .arg(source)
            .arg("-lrabbitmq")
            .output()
            .expect("cc");
        let said = String::from_utf8_lossy(&output.stderr);
        let there = output.status.success();
        let complete = std::env::var_os("POSTHOUSE_TESTS_COMPLETE").is_some();
        assert!(there || !complete, "the C program does not build: {said}");
        if !there {
            eprintln!(
                "skipped: the C program does not build, is librabbitmq-dev installed? {said}"
            );
        }
        there.then_some(program)
    });
    program.as_deref()
}

fn run(port: u16, scenario: &str, name: &str) {
    let Some(program) = behaviour() else { return };
    let output = Command::new(program)
        .args([&port.to_string(), scenario, name])
        .output()
        .expect("the C program");
    assert!(output.status.success(), "{scenario}: {}", String::from_utf8_lossy(&output.stderr));
}

fn check(scenario: &str) {
    let broker = Broker::start();
    run(broker.address().port(), scenario, &unique(scenario));
}

#[test]
fn topology_routes() {
    check("topology");
}

#[test]
fn publishes_are_confirmed() {
    check("confirms");
}

#[test]
fn unroutable_messages_are_returned() {
    check("returns");
}

#[test]
fn prefetch_holds_back() {
    check("prefetch");
}

#[test]
fn rejected_messages_are_requeued() {
    check("requeue");
}

#[test]
fn dead_letters_tell_their_reason() {
    check("dead_letters");
}

#[test]
fn messages_expire() {
    check("time_to_live");
}

#[test]
fn priorities_reorder() {
    check("priorities");
}

#[test]
fn delayed_messages_wait() {
    let Some(program) = Broker::start_own("has no delayed exchange") else { return };
    run(program.address.port(), "delayed", "delayed");
}

#[test]
fn transactions_commit_and_roll_back() {
    check("transactions");
}

#[test]
fn messages_are_there_after_a_kill() {
    let Some(mut program) = Broker::start_own("is not ours to kill") else { return };
    run(program.address.port(), "before_kill", "kept");

    program.restart();

    run(program.address.port(), "after_kill", "kept");
}
