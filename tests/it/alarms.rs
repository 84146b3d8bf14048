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
fn a_publisher_in_a_transaction_is_told_and_its_commit_waits() {
    let Some(program) = Broker::start_own_with(WHY, &ALWAYS) else { return };
    let publisher = Connection::open(program.address, &Login::default()).unwrap();
    let channel = publisher.channel();
    channel.declare_queue("q", [false; 4], &[]).unwrap();
    channel.transaction(10).unwrap();
    publisher.listen(Duration::from_millis(50)).unwrap();

    channel.send("q", "waits");

    let blocked = publisher.next_event(PATIENCE).expect("connection.blocked");
    assert_eq!(blocked.id, (10, 60));
    publisher.send(&it::frame::method(channel.number, 90, 20, &it::frame::Args::default()));
    assert!(channel.next_event(SILENCE).is_none(), "nothing more is read");
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

#[test]
fn a_publisher_is_told_when_the_alarm_ends_and_its_messages_arrive() {
    const GIB: u64 = 1 << 30;
    let folder = tempfile::tempdir().unwrap();
    let disk = rustix::fs::statvfs(folder.path()).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    if free < 8 * GIB {
        eprintln!("skipped: this takes 4 GiB of disk, of which {free} bytes are free");
        return;
    }
    // A large file goes over the limit by so much that what others do on this disk does not matter.
    let settings =
        [format!("alarms.disk_free_min={}", free - 2 * GIB), "alarms.interval=10ms".to_owned()];
    let settings = settings.each_ref().map(String::as_str);
    let Some(program) = Broker::start_own_with(WHY, &settings) else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    let file = std::fs::File::create(folder.path().join("filler")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 4 * GIB).unwrap();

    while connection.next_event(Duration::from_millis(20)).is_none_or(|event| event.id != (10, 60))
    {
        channel.send(&queue, "x");
    }
    file.set_len(0).unwrap();

    let unblocked = connection.next_event(PATIENCE).expect("connection.unblocked");
    assert_eq!(unblocked.id, (10, 61));
    channel.send(&queue, "the last");
    channel.sync();
    assert_eq!(channel.take_all(&queue).last().map(String::as_str), Some("the last"));
}
