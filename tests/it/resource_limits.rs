//! What clients can make the program spend: memory, connections, queues.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use it::broker::unique;
use it::{Broker, Connection, Login, PATIENCE, Program, Properties};
use serde_json::json;

const WHY: &str = "is not measured here";
const MIB: u64 = 1 << 20;

fn open(program: &Program) -> Connection {
    Connection::open(program.address, &Login::default()).unwrap()
}

/// Waits until the program uses less than this.
fn settles_below(program: &Program, bytes: u64) {
    let connection = open(program);
    let deadline = Instant::now() + PATIENCE;
    while program.resident_bytes() > bytes {
        assert!(Instant::now() < deadline, "still {} MiB", program.resident_bytes() / MIB);
        connection.listen(Duration::from_millis(20)).unwrap();
    }
}

#[test]
fn a_consumer_that_does_not_read_costs_a_bounded_buffer() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let connection = open(&program);
    let channel = connection.channel();
    channel.declare_durable("q", &[]).unwrap();
    let slow = open(&program);
    let deaf = slow.channel();
    deaf.consume_flagged("q", "c", [true, false], &[]).unwrap();
    let before = program.resident_bytes();

    channel.confirms();
    for _ in 0..200 {
        channel.publish("", "q", &Properties::persistent(), &vec![7; 1 << 20]);
        assert!(channel.next_confirm(PATIENCE).is_some());
    }

    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 80 * MIB, "{} MiB for 200 MiB that nobody reads", grown / MIB);
    let read = (0..200).map(|_| deaf.next().body.len()).sum::<usize>();
    assert_eq!(read, 200 << 20);
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let Some(program) = Broker::start_own(WHY) else { return };
    let churn = |times: u32| {
        for _ in 0..times {
            let connection = open(&program);
            let channel = connection.channel();
            let queue = channel.declare("", &[]).unwrap().name;
            channel.bind(&queue, "amq.topic", "a.#", &[]).unwrap();
            channel.consume(&queue, "c", &[]).unwrap();
        }
    };
    churn(200);
    let before = program.resident_bytes();

    churn(600);

    settles_below(&program, before + 24 * MIB);
    assert!(!routes_anywhere(&program), "bindings of connections that are gone");
}

fn routes_anywhere(program: &Program) -> bool {
    let channel = open(program).channel();
    let deadline = Instant::now() + PATIENCE;
    loop {
        channel.publish_flagged("amq.topic", "a.b", [true, false], &Properties::default(), b"x");
        channel.sync();
        if channel.next_return(Duration::ZERO).is_some() {
            return false;
        }
        if Instant::now() > deadline {
            return true;
        }
    }
}

#[test]
fn a_flood_of_connections_beyond_the_limit_is_turned_away_and_the_others_go_on() {
    let Some(program) = Broker::start_own_with("has no such option", &["amqp.connections_max=20"])
    else {
        return;
    };
    let connection = open(&program);
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;

    let flood: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(program.address).unwrap()).collect();
    channel.send(&queue, "undisturbed");

    assert_eq!(channel.take_soon(&queue).text(), "undisturbed");
    drop(flood);
    let deadline = Instant::now() + PATIENCE;
    while Connection::open(program.address, &Login::default()).is_err() {
        assert!(Instant::now() < deadline, "nobody is let in after the flood");
    }
}

#[test]
fn limits_of_a_virtual_host_and_a_user_are_kept() {
    let file = std::env::temp_dir().join(unique("limits.json"));
    let definitions = json!({
        "users": [{"name": "u", "password": "p", "tags": [], "limits": {"max-connections": 2, "max-channels": 1}}],
        "vhosts": [{"name": "small"}],
        "permissions": [{"user": "u", "vhost": "small", "configure": ".*", "write": ".*", "read": ".*"}],
        "parameters": [{"vhost": "small", "component": "vhost-limits", "name": "limits", "value": {"max-queues": 1}}],
    });
    std::fs::write(&file, definitions.to_string()).unwrap();
    let setting = format!("definitions.file={}", file.display());
    let Some(program) = Broker::start_own_with("is given limits in another way", &[&setting])
    else {
        return;
    };
    let login = Login {
        user: "u".to_owned(),
        password: "p".to_owned(),
        tenant: "small".to_owned(),
        ..Login::default()
    };
    let connect = || Connection::open(program.address, &login);
    let (first, _second) = (connect().unwrap(), connect().unwrap());

    assert_eq!(connect().unwrap_err().code, 530);
    let channel = first.channel();
    channel.declare_durable("one", &[]).unwrap();
    assert_eq!(
        channel.declare_durable("one", &[]).map(|declared| declared.messages),
        Ok(0),
        "it is there already"
    );
    let full = channel.declare_durable("two", &[]).unwrap_err();
    assert_eq!(full.code, 406, "{full:?}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_message_larger_than_allowed_closes_its_channel() {
    let Some(program) =
        Broker::start_own_with("has a larger limit", &["amqp.message_bytes_max=1MiB"])
    else {
        return;
    };
    let connection = open(&program);
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.publish("", &queue, &Properties::default(), &vec![7; 1 << 20]);
    assert_eq!(channel.take_soon(&queue).body.len(), 1 << 20);

    channel.publish("", &queue, &Properties::default(), &vec![7; (1 << 20) + 1]);

    let close = channel.closed();
    assert_eq!((close.code, close.of_connection), (406, false), "{close:?}");
}

#[test]
fn a_million_unacknowledged_messages_are_not_needed_to_hold_somebody_back() {
    let Some(program) =
        Broker::start_own_with("has no such option", &["limits.unacked_per_channel_max=100"])
    else {
        return;
    };
    let connection = open(&program);
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    (0..150).for_each(|number| channel.send(&queue, &number.to_string()));
    channel.consume(&queue, "c", &[]).unwrap();

    let held: Vec<_> = (0..100).map(|_| channel.next()).collect();
    channel.expect_silence();
    channel.ack_all(held[99].tag);

    assert_eq!(channel.next().text(), "100");
}

/// Octets that no client sends, in every state of a connection: whatever they are, others go on.
#[test]
fn random_octets_harm_nobody() {
    let broker = Broker::start();
    let witness = broker.connect().channel();
    let queue = witness.declare("", &[]).unwrap().name;
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..300 {
        let channel = broker.connect().channel();
        let mut bytes = Vec::new();
        for _ in 0..=random() % 8 {
            let size = usize::try_from(random() % 64).unwrap();
            let mut payload: Vec<u8> = (0..size).map(|_| random().to_le_bytes()[3]).collect();
            // Half of them look like methods that exist.
            if round % 2 == 0 && size >= 4 {
                let class = [10, 20, 40, 50, 60, 85, 90][usize::try_from(random() % 7).unwrap()];
                payload[..4].copy_from_slice(&[
                    0,
                    class,
                    0,
                    [10, 20, 30, 40, 80, 120][usize::try_from(random() % 6).unwrap()],
                ]);
            }
            let kind = [1, 1, 1, 2, 3, 8][usize::try_from(random() % 6).unwrap()];
            let number = u16::try_from(random() % 3).unwrap();
            bytes.extend(it::frame::Frame { kind, channel: number, payload }.encode());
        }
        channel.connection.send(&bytes);
    }

    witness.send(&queue, "unharmed");
    assert_eq!(witness.take_soon(&queue).text(), "unharmed");
    broker.connect().close();
}
