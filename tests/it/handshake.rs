//! Opening a connection, and being refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use it::frame::{self, Args, Reader};
use it::{Broker, Close, Connection, Login, PATIENCE, Value};

fn refused(broker: &Broker, login: &Login) -> Close {
    Connection::open(broker.address(), login).expect_err("refused")
}

/// Reads until the broker closes the socket.
fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return all,
            Ok(count) => all.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("the socket stays open: {error}"),
        }
    }
}

#[test]
fn another_protocol_is_answered_with_the_right_header_and_nothing_else() {
    let broker = Broker::start();
    for header in [*b"AMQP\0\0\x09\0", *b"GET / HT", *b"AMQP\x03\x01\0\0"] {
        let mut stream = TcpStream::connect(broker.address()).unwrap();

        stream.write_all(&header).unwrap();

        assert_eq!(read_to_end(&mut stream), b"AMQP\0\0\x09\x01", "{header:?}");
    }
}

#[test]
fn the_server_says_what_it_can_do() {
    let broker = Broker::start();
    let connection = broker.connect();
    let capabilities = connection.server.field("capabilities").expect("capabilities");

    let expected = [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "consumer_priorities",
        "authentication_failure_close",
        "per_consumer_qos",
        "direct_reply_to",
    ];
    for name in expected {
        assert_eq!(capabilities.field(name), Some(&Value::Bool(true)), "{name}");
    }
    let version = connection.server.field("version").and_then(Value::as_text).expect("a version");
    assert_eq!(
        version.split('.').map(str::parse::<u32>).filter(Result::is_ok).count(),
        3,
        "{version}"
    );
    for name in ["product", "platform", "copyright", "information", "cluster_name"] {
        assert!(connection.server.field(name).and_then(Value::as_text).is_some(), "{name}");
    }
}

#[test]
fn a_wrong_password_is_told_to_those_who_can_hear_it() {
    let broker = Broker::start();
    let wrong = Login { password: "wrong".to_owned(), ..Login::default() };

    let told = refused(&broker, &wrong);
    let untold = refused(&broker, &Login { capabilities: Vec::new(), ..wrong });

    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.";
    assert_eq!((told.code, told.blames), (403, (0, 0)));
    assert!(told.text.starts_with(text), "{}", told.text);
    assert_eq!((untold.code, untold.of_connection), (0, true));
}

#[test]
fn an_unknown_user_looks_like_a_wrong_password() {
    let broker = Broker::start();
    let wrong = |user: &str| Login {
        user: user.to_owned(),
        password: "wrong".to_owned(),
        ..Login::default()
    };

    assert_eq!(refused(&broker, &wrong("nobody")), refused(&broker, &wrong("guest")));
}

#[test]
fn a_missing_virtual_host_is_refused_with_530() {
    let broker = Broker::start();

    let close = refused(&broker, &Login { tenant: "nosuch".to_owned(), ..Login::default() });

    assert_eq!(
        (close.code, &*close.text, close.blames),
        (530, "NOT_ALLOWED - vhost nosuch not found", (10, 40))
    );
}

#[test]
fn a_frame_size_below_4096_or_above_the_offer_ends_the_connection() {
    let broker = Broker::start();
    for frame_max in [100, 4095, 200_000_000] {
        let close = refused(&broker, &Login { frame_max, ..Login::default() });

        assert!(close.of_connection, "{frame_max}");
    }
    assert!(
        Connection::open(broker.address(), &Login { frame_max: 4096, ..Login::default() }).is_ok()
    );
}

#[test]
fn small_frames_carry_large_messages() {
    let broker = Broker::start();
    let login = Login { frame_max: 4096, ..Login::default() };
    let connection = Connection::open(broker.address(), &login).unwrap();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;

    channel.publish("", &queue, &it::Properties::default(), &vec![7; 100_000]);

    assert_eq!(channel.take_soon(&queue).body, vec![7; 100_000]);
}

#[test]
fn amqplain_is_understood() {
    let broker = Broker::start();
    let mut stream = TcpStream::connect(broker.address()).unwrap();
    stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
    let login = it::value::table([("LOGIN", "guest".into()), ("PASSWORD", "guest".into())]);
    let response = Args::default().table(&login).0;
    let start_ok =
        Args::default().table(&[]).text("AMQPLAIN").long_text(&response[4..]).text("en_US");

    stream.write_all(&frame::method(0, 10, 11, &start_ok)).unwrap();

    assert_eq!(read_until(&mut stream, (10, 30)), (10, 30));
}

/// Reads methods until one is `wanted` or the socket ends, and answers the last one.
fn read_until(stream: &mut TcpStream, wanted: (u16, u16)) -> (u16, u16) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    loop {
        let mut head = [0; 7];
        stream.read_exact(&mut head).expect("a frame");
        let size = Reader(&head[3..]).long();
        let mut rest = vec![0; usize::try_from(size).unwrap() + 1];
        stream.read_exact(&mut rest).expect("a payload");
        let mut reader = Reader(&rest);
        let id = (reader.short(), reader.short());
        if id == wanted || id == (10, 50) {
            return id;
        }
    }
}

#[test]
fn heartbeats_come_every_half_of_what_was_agreed() {
    let broker = Broker::start();

    // Three in 1.5 s; with one a second it would be 3 s every time, on a busy machine only now and then.
    let shortest = (0..5)
        .map(|_| time_of_three_heartbeats(&broker))
        .inspect(|time| assert!(*time >= Duration::from_millis(900), "{time:?}"))
        .find(|time| *time < Duration::from_millis(2400));

    assert!(shortest.is_some(), "they come less often");
}

fn time_of_three_heartbeats(broker: &Broker) -> Duration {
    let login = Login { heartbeat_secs: 1, ..Login::default() };
    let started = Instant::now();
    let connection = Connection::open(broker.address(), &login).unwrap();
    while connection.heartbeats() < 3 {
        // One that says nothing would be cut off.
        connection.send(&beat());
        if connection.listen(Duration::from_millis(100)).is_err() {
            return PATIENCE;
        }
        assert!(started.elapsed() < PATIENCE, "only {}", connection.heartbeats());
    }
    started.elapsed()
}

/// A heartbeat of a client.
fn beat() -> Vec<u8> {
    frame::Frame { kind: frame::HEARTBEAT, channel: 0, payload: Vec::new() }.encode()
}

#[test]
fn a_silent_client_is_cut_off() {
    let broker = Broker::start();
    let login = Login { heartbeat_secs: 1, ..Login::default() };
    let connection = Connection::open(broker.address(), &login).unwrap();
    let started = Instant::now();

    let close = connection.closed();

    assert_eq!(close.code, 0, "{}", close.text);
    assert!(started.elapsed() >= Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[test]
fn a_client_that_only_beats_stays() {
    let broker = Broker::start();

    let mut attempts = (0..5).map(|_| beat_for_four_seconds(&broker));
    let connection = attempts.find_map(Result::ok).expect("the machine stands still each time");

    connection.close();
}

/// A connection that beat ten times in four seconds; an error if the machine stood still meanwhile.
fn beat_for_four_seconds(broker: &Broker) -> Result<Connection, Close> {
    let login = Login { heartbeat_secs: 1, ..Login::default() };
    let mut sent = Instant::now();
    let connection = Connection::open(broker.address(), &login).unwrap();
    for _ in 0..10 {
        connection.send(&beat());
        let gap = std::mem::replace(&mut sent, Instant::now()).elapsed();
        if let Err(close) = connection.listen(Duration::from_millis(400)) {
            let gap = gap.max(sent.elapsed());
            assert!(gap > Duration::from_millis(1500), "cut off {gap:?} after a beat: {close:?}");
            return Err(close);
        }
    }
    Ok(connection)
}

#[test]
fn a_secret_can_be_renewed() {
    let broker = Broker::start();
    let connection = broker.connect();

    connection.send(&frame::method(
        0,
        10,
        70,
        &Args::default().long_text(b"guest").text("new token"),
    ));

    assert_eq!(connection.next_event(PATIENCE).map(|event| event.id), Some((10, 71)));
}

#[test]
fn an_aborted_connection_frees_its_exclusive_queue_for_the_next() {
    let broker = Broker::start();
    let name = it::broker::unique("mine");
    let deadline = Instant::now() + PATIENCE;
    for _ in 0..20 {
        loop {
            let connection = broker.connect();
            match connection.channel().declare(&name, &[]) {
                Ok(_) => break,
                Err(close) => assert_eq!(close.code, 405),
            }
            assert!(Instant::now() < deadline, "the queue of a lost connection stays locked");
        }
    }
}

/// Connects from another address of this machine.
fn connect_from(from: &str, to: std::net::SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream
}

#[test]
fn a_flood_of_wrong_passwords_costs_no_work_and_locks_nobody_else_out() {
    // Nothing is remembered, so that every login that is looked at is hashed.
    let settings = ["auth.password_cache=0s"];
    let Some(program) = Broker::start_own_with("has no back-off", &settings) else { return };
    let wrong = Login { password: "guess".to_owned(), ..Login::default() };
    let guess = |from: &str| Connection::over(connect_from(from, program.address), &wrong);

    for _ in 0..300 {
        assert_eq!(guess("127.0.0.1").unwrap_err().code, 403);
    }

    let unseen = program.metric("posthouse_logins_throttled_total");
    assert!(unseen > 250.0, "only {unseen} of 300 cost no hash");
    let elsewhere = connect_from("127.0.0.2", program.address);
    assert!(Connection::over(elsewhere, &Login::default()).is_ok(), "a right login elsewhere");
}

#[test]
fn many_addresses_that_guess_do_not_lock_a_user_out() {
    let settings = ["auth.password_cache=0s"];
    let Some(program) = Broker::start_own_with("has no back-off", &settings) else { return };
    let wrong = Login { password: "guess".to_owned(), ..Login::default() };

    for number in 1..=130 {
        let stream = connect_from(&format!("127.0.1.{number}"), program.address);
        assert_eq!(Connection::over(stream, &wrong).unwrap_err().code, 403);
    }

    let elsewhere = connect_from("127.0.2.1", program.address);
    assert!(Connection::over(elsewhere, &Login::default()).is_ok());
}

#[test]
fn a_client_that_said_goodbye_and_keeps_its_socket_is_cut_off() {
    let broker = Broker::start();
    let connection = broker.connect();

    connection.close();

    assert_eq!(connection.closed().code, 0);
}
