//! When memory or disk run low: publishers wait, consumers go on.

use std::time::Duration;

use it::{Broker, Connection, Login, PATIENCE, SILENCE};

const WHY: &str = "cannot be told to run out of memory";
/// Any process is larger than this, so the alarm is raised at once.
const ALWAYS: [&str; 2] = ["alarms.memory_high_watermark=1MiB", "alarms.interval=10ms"];

#[test]
fn a_publisher_is_told_once_and_its_messages_wait() {
    let Some(program) = Broker::start_own_with(WHY, &ALWAYS) else { return };
    let publisher = Connection::open(program.address, &Login::default()).unwrap();
    let consumer = Connection::open(program.address, &Login::default()).unwrap();
    let channel = publisher.channel();
    let reader = consumer.channel();
    reader.declare_queue("q", [false; 4], &[]).unwrap();
    publisher.listen(Duration::from_millis(50)).unwrap();

    channel.send("q", "waits");

    let blocked = publisher.next_event(PATIENCE).expect("connection.blocked");
    assert_eq!(blocked.id, (10, 60));
    assert_eq!(it::frame::Reader(&blocked.args).text(), "low on memory");
    channel.send("q", "waits too");
    assert!(publisher.next_event(SILENCE).is_none(), "told once");
}

#[test]
fn who_only_consumes_hears_nothing_and_goes_on() {
    let Some(program) = Broker::start_own_with(WHY, &ALWAYS) else { return };
    let consumer = Connection::open(program.address, &Login::default()).unwrap();
    let channel = consumer.channel();
    channel.declare_queue("q", [false; 4], &[]).unwrap();
    channel.consume("q", "c", &[]).unwrap();

    assert!(consumer.next_event(SILENCE).is_none());
    assert!(channel.cancel("c").is_ok());
}

#[test]
fn a_client_that_did_not_announce_it_is_not_told() {
    let Some(program) = Broker::start_own_with(WHY, &ALWAYS) else { return };
    let login = Login { capabilities: Vec::new(), ..Login::default() };
    let connection = Connection::open(program.address, &login).unwrap();
    let channel = connection.channel();

    channel.send("q", "x");

    assert!(connection.next_event(SILENCE).is_none());
}

#[test]
fn without_an_alarm_nobody_is_blocked() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;

    channel.send(&queue, "x");

    assert!(connection.next_event(SILENCE).is_none());
    assert_eq!(channel.take_soon(&queue).text(), "x");
}
