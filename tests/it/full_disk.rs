//! A disk without space: what fills queues waits or is refused softly, everything else goes on.

use it::value::table;
use it::{Answer, Receiver, SmallDisk, frame};
use it::{Channel, Connection, Http, Login, PATIENCE, Program, Properties, SILENCE};
use serde_json::json;

const WHY: &str = "is not ours to starve";
const COMMIT: u16 = 20;
const SETTINGS: [&str; 5] = [
    "store.segment_bytes=4MiB",
    "store.reserve_segments=2",
    "alarms.disk_free_min=0",
    "alarms.interval=20ms",
    "delivery.settle_url=http://queues.example.org",
];

/// A program on a disk that has space yet.
fn start() -> Option<(Program, SmallDisk)> {
    if it::broker::foreign().is_some() {
        eprintln!("skipped: another broker is under test, which {WHY}");
        return None;
    }
    let disk = SmallDisk::mount(64)?;
    let program = Program::start_on(&disk, &SETTINGS);
    Some((program, disk))
}

fn connect(program: &Program) -> Connection {
    Connection::open(program.address, &Login::default()).unwrap()
}

/// Takes the disk's space, then publishes until the store finds none; returns who did.
fn starve(program: &Program, disk: &SmallDisk) -> Connection {
    disk.fill();
    let connection = connect(program);
    let channel = connection.channel();
    channel.declare_durable("ballast", &[]).unwrap();
    let body = vec![b'x'; 64 * 1024];
    for _ in 0..1000 {
        channel.publish("", "ballast", &Properties::persistent(), &body);
        if connection
            .next_event(std::time::Duration::from_millis(5))
            .as_ref()
            .is_some_and(is_blocked)
        {
            return connection;
        }
    }
    panic!("the disk does not become full");
}

fn is_blocked(event: &it::connection::Event) -> bool {
    event.id == (10, 60)
}

fn commit(channel: &Channel) {
    channel.connection.send(&frame::method(channel.number, 90, COMMIT, &frame::Args::default()));
}

/// Durable queues with a message in the first.
fn prepare(program: &Program, queues: [&str; 2]) {
    let channel = connect(program).channel();
    channel.declare_durable(queues[1], &[]).unwrap();
    let arguments = table([
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", queues[1].into()),
    ]);
    channel.declare_durable(queues[0], &arguments).unwrap();
    channel.confirms();
    channel.publish("", queues[0], &Properties::persistent(), b"moved");
    assert!(channel.wait_confirms(1).is_empty());
}

#[test]
fn a_transaction_waits_and_is_committed_when_there_is_space_again() {
    let Some((program, disk)) = start() else { return };
    prepare(&program, ["in", "out"]);
    let watcher = connect(&program).channel();
    let mover = connect(&program).channel();
    mover.transaction(10).unwrap();
    let _starving = starve(&program, &disk);

    mover.ack(mover.take_unsettled("in"));
    mover.publish("", "out", &Properties::persistent(), b"moved");
    commit(&mover);

    assert!(mover.connection.next_event(PATIENCE).as_ref().is_some_and(is_blocked));
    assert!(mover.next_event(SILENCE).is_none(), "nothing is committed while there is no space");
    assert_eq!(watcher.inspect("out").unwrap().messages, 0);
    disk.make_room();
    assert_eq!(mover.next_event(PATIENCE).map(|event| event.id), Some((90, 21)));
    assert_eq!(mover.take_soon("out").text(), "moved");
    assert_eq!(watcher.inspect("in").unwrap().messages, 0);
}

#[test]
fn a_transaction_that_dead_letters_waits_as_well() {
    let Some((program, disk)) = start() else { return };
    prepare(&program, ["in", "dead"]);
    let mover = connect(&program).channel();
    mover.transaction(10).unwrap();
    let _starving = starve(&program, &disk);

    mover.reject(mover.take_unsettled("in"), false);
    commit(&mover);

    assert!(mover.next_event(SILENCE).is_none(), "nothing is committed while there is no space");
    disk.make_room();
    assert_eq!(mover.next_event(PATIENCE).map(|event| event.id), Some((90, 21)));
    assert_eq!(mover.take_soon("dead").text(), "moved");
}

#[test]
fn a_transaction_that_only_acknowledges_needs_no_space() {
    let Some((program, disk)) = start() else { return };
    prepare(&program, ["in", "out"]);
    let channel = connect(&program).channel();
    channel.transaction(10).unwrap();
    let _starving = starve(&program, &disk);

    channel.ack(channel.take_unsettled("in"));

    channel.transaction(COMMIT).unwrap();
}

#[test]
fn a_waiting_transaction_whose_server_is_killed_did_not_happen() {
    let Some((mut program, disk)) = start() else { return };
    prepare(&program, ["in", "out"]);
    let mover = connect(&program).channel();
    mover.transaction(10).unwrap();
    let _starving = starve(&program, &disk);
    mover.ack(mover.take_unsettled("in"));
    mover.publish("", "out", &Properties::persistent(), b"moved");
    commit(&mover);
    assert!(mover.connection.next_event(PATIENCE).as_ref().is_some_and(is_blocked));

    program.kill();
    disk.make_room();
    program.start_again();

    let channel = connect(&program).channel();
    assert_eq!(channel.take_soon("in").text(), "moved");
    assert_eq!(channel.inspect("out").unwrap().messages, 0);
}

#[test]
fn a_refused_message_that_cannot_be_dead_lettered_comes_again_and_the_connection_goes_on() {
    let Some((program, disk)) = start() else { return };
    prepare(&program, ["in", "dead"]);
    let channel = connect(&program).channel();
    let _starving = starve(&program, &disk);

    channel.consume("in", "c", &[]).unwrap();
    channel.nack(channel.next().tag, [false, false]);

    let again = channel.next();
    assert!(again.redelivered);
    assert_eq!(channel.inspect("dead").unwrap().messages, 0);
    disk.make_room();
    let until = std::time::Instant::now() + PATIENCE;
    let mut refused = Some(again);
    while channel.inspect("dead").unwrap().messages == 0 {
        if let Some(message) = refused {
            channel.nack(message.tag, [false, false]);
        }
        assert!(std::time::Instant::now() < until, "it is not dead-lettered");
        refused = channel.delivery(SILENCE);
    }
    assert_eq!(program.log().matches("dead letters wait on").count(), 1, "said once");
}

#[test]
fn a_webhook_hears_that_a_message_is_given_up_only_when_it_is() {
    let Some((program, disk)) = start() else { return };
    let channel = connect(&program).channel();
    channel.declare_durable("q", &[]).unwrap();
    let receiver = Receiver::answering(vec![Answer::status(202); 99].into_iter());
    let subscriptions = "/v2/queues/q/subscriptions";
    let options = json!({"form": "request", "settle_within": 3600, "dead_letter_queue": "dead"});
    let body = json!({"subscriber": receiver.url(), "options": options}).to_string();
    let made = Http::new(&program).with("X-Project-Id", "/").post(subscriptions, &body);
    assert_eq!(made.status, 201);
    channel.send("q", "1");
    let url = receiver.next().exact_header("posthouse-ack-url").to_owned();
    let path = url.strip_prefix("http://queues.example.org").unwrap();
    let give_up = || Http::new(&program).with("posthouse-settle", "dead").post(path, "").status;
    let starving = starve(&program, &disk);

    assert_eq!(give_up(), 503);
    // Whoever has published is not read from while there is no space.
    let dead = || connect(&program).channel().inspect("dead").map_or(0, |queue| queue.messages);
    assert_eq!(dead(), 0);

    drop(starving);
    disk.make_room();
    let until = std::time::Instant::now() + PATIENCE;
    while give_up() != 204 {
        assert!(std::time::Instant::now() < until, "it is not given up");
    }
    assert_eq!(dead(), 1);
}

#[test]
fn queues_are_declared_and_deleted_without_space_for_messages() {
    let Some((program, disk)) = start() else { return };
    let channel = connect(&program).channel();
    let _starving = starve(&program, &disk);

    channel.declare_durable("more", &[]).unwrap();
    channel.bind("more", "amq.fanout", "", &[]).unwrap();

    assert!(channel.delete("more", [false; 2]).is_ok());
}

#[test]
fn over_http_posts_are_refused_with_503_and_the_rest_goes_on() {
    let Some((program, disk)) = start() else { return };
    let mut http = Http::new(&program);
    let messages = json!({"messages": [{"ttl": 600, "body": 1}, {"ttl": 600, "body": 2}]});
    let post = |http: &mut Http| http.post("/v2/queues/q/messages", &messages.to_string()).status;
    assert_eq!(post(&mut http), 201);
    let _starving = starve(&program, &disk);

    assert_eq!(post(&mut http), 503);
    assert_eq!(http.put("/v2/queues/other", "{}").status, 201);
    let claimed = http.post("/v2/queues/q/claims", r#"{"ttl": 60, "grace": 60}"#);
    assert_eq!(claimed.status, 201);
    assert_eq!(http.delete(claimed.header("location").unwrap()).status, 204);
    assert_eq!(http.delete("/v2/queues/other").status, 204);

    disk.make_room();
    let until = std::time::Instant::now() + PATIENCE;
    while post(&mut http) != 201 {
        assert!(std::time::Instant::now() < until, "posts are still refused");
    }
}

#[test]
fn at_the_inbox_messages_are_refused_with_503_and_are_taken_when_there_is_space() {
    if it::broker::foreign().is_some() {
        return;
    }
    let Some(disk) = SmallDisk::mount(64) else { return };
    let inbox = ["inbox.listen=127.0.0.1:0", "inbox.routes=*/* = queue q"];
    let program = Program::start_on(&disk, &[&SETTINGS[..], &inbox].concat());
    connect(&program).channel().declare_durable("q", &[]).unwrap();
    let mut http = Http::connect(program.inbox.unwrap())
        .with("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")
        .with("Content-Type", "application/json");
    let message = json!({
        "uuid": "0190d2c8-5d5e-7c6a-9b1f-000000000001", "message_source": "shop", "message_type": "t",
        "origin_create_time": "2026-11-21T12:00:00Z", "payload": 1
    });
    let mut post = || http.post("/inbox/", &message.to_string()).status;
    let _starving = starve(&program, &disk);

    assert_eq!(post(), 503);

    disk.make_room();
    let until = std::time::Instant::now() + PATIENCE;
    while post() != 201 {
        assert!(std::time::Instant::now() < until, "the message is still refused");
    }
    assert_eq!(connect(&program).channel().inspect("q").unwrap().messages, 1);
}

#[test]
fn a_confirm_of_what_no_queue_wants_comes_when_there_is_space_again() {
    let Some((program, disk)) = start() else { return };
    let channel = connect(&program).channel();
    channel.confirms();
    let _starving = starve(&program, &disk);

    channel.publish("amq.fanout", "nobody", &Properties::persistent(), b"unwanted");
    assert!(channel.connection.next_event(PATIENCE).as_ref().is_some_and(is_blocked));
    disk.make_room();

    assert!(channel.wait_confirms(1).is_empty());
}

#[test]
fn what_was_published_just_before_a_goodbye_is_there_when_there_is_space_again() {
    let Some((program, disk)) = start() else { return };
    let watcher = connect(&program).channel();
    watcher.declare_durable("q", &[]).unwrap();
    let _starving = starve(&program, &disk);
    let leaving = connect(&program);
    let channel = leaving.channel();

    let body = b"last words";
    let method = frame::Args::default().short(0).text("").text("q").bits(&[false, false]);
    let goodbye = frame::Args::default().short(200).text("bye").short(0).short(0);
    let all = [
        frame::method(channel.number, 60, 40, &method),
        channel.header(body.len() as u64, &Properties::persistent()),
        frame::Frame { kind: frame::BODY, channel: channel.number, payload: body.to_vec() }
            .encode(),
        frame::method(0, 10, 50, &goodbye),
    ];
    leaving.send(&all.concat());
    while leaving.next_event(PATIENCE).expect("close-ok").id != (10, 51) {}
    // Longer than a socket is waited for after a goodbye.
    let waited = leaving.listen(std::time::Duration::from_secs(11));
    disk.make_room();

    assert_eq!(watcher.take_soon("q").text(), "last words", "{waited:?}");
}
