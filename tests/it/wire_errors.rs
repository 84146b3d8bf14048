//! Mistakes on the wire: the right code at once, and nobody else is harmed.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use it::broker::unique;
use it::frame::{self, Args, Frame};
use it::{Broker, Channel, Close, Connection, Login, PATIENCE, Properties, Value, quickest};

/// How soon a refusal must come: reliability B3.
const REFUSAL_MAX: Duration = Duration::from_millis(10);
/// A test machine is busy with other things, so the best of so many tries is taken, and of more while none was quick.
const TRIES: u32 = 5;

/// Sends octets on a fresh connection with channel 1 open and answers why the connection was closed.
///
/// Checks that the refusal is quick, and that another connection goes on.
fn refusal(broker: &Broker, bytes: impl Fn(&Channel) -> Vec<u8>) -> Close {
    let witness = broker.connect().channel();
    let queue = witness.declare("", &[]).unwrap().name;
    let (mut best, mut close) = refused_after(broker, &bytes);
    let deadline = Instant::now() + PATIENCE;
    let is_ours = matches!(broker, Broker::Own(_));
    let mut tries = 1;
    while tries < TRIES || (is_ours && best > REFUSAL_MAX && Instant::now() < deadline) {
        let (time, same) = refused_after(broker, &bytes);
        (best, close) = (best.min(time), same);
        tries += 1;
    }
    witness.send(&queue, "unharmed");
    assert_eq!(witness.take_soon(&queue).text(), "unharmed");
    if is_ours {
        assert!(best <= REFUSAL_MAX, "refused after {best:?}: {close:?}");
    }
    close
}

/// How long a refusal takes, and why.
fn refused_after(broker: &Broker, bytes: impl Fn(&Channel) -> Vec<u8>) -> (Duration, Close) {
    let channel = broker.connect().channel();
    let bytes = bytes(&channel);
    let started = Instant::now();
    channel.connection.send(&bytes);
    let close = channel.connection.closed();
    (started.elapsed(), close)
}

fn publish(channel: &Channel) -> Vec<u8> {
    frame::method(channel.number, 60, 40, &Args::default().short(0).text("").text("q").octet(0))
}

fn body(channel: &Channel, size: usize) -> Vec<u8> {
    Frame { kind: frame::BODY, channel: channel.number, payload: vec![b'x'; size] }.encode()
}

fn open(number: u16) -> Vec<u8> {
    frame::method(number, 20, 10, &Args::default().text(""))
}

#[test]
fn a_frame_larger_than_agreed_is_a_frame_error() {
    let broker = Broker::start();
    let close = refusal(&broker, |channel| {
        let size = usize::try_from(channel.connection.frame_max).unwrap() + 1;
        [publish(channel), channel.header(1 << 20, &Properties::default()), body(channel, size)]
            .concat()
    });

    assert_eq!((close.code, close.blames), (501, (0, 0)));
    assert!(close.text.starts_with("FRAME_ERROR - type 3, "), "{}", close.text);
    assert!(close.text.contains("frame_too_large"), "{}", close.text);
}

#[test]
fn a_frame_that_claims_two_gigabytes_is_refused_by_its_header_alone() {
    let broker = Broker::start();
    let close =
        refusal(&broker, |_| Args::default().octet(1).short(1).long(0x7FFF_FFFF).octet(0).0);

    assert_eq!(close.code, 501, "{}", close.text);
}

#[test]
fn a_wrong_end_octet_is_a_frame_error() {
    let broker = Broker::start();
    let close = refusal(&broker, |_| {
        let mut bytes = open(2);
        *bytes.last_mut().unwrap() = 0;
        bytes
    });

    assert_eq!((close.code, close.blames), (501, (0, 0)));
    assert!(close.text.starts_with("FRAME_ERROR - type 1, "), "{}", close.text);
    assert!(close.text.ends_with("{invalid_frame_end_marker,0}"), "{}", close.text);
}

#[test]
fn an_unknown_frame_type_is_a_frame_error() {
    let broker = Broker::start();
    let close =
        refusal(&broker, |_| Frame { kind: 77, channel: 1, payload: b"x".to_vec() }.encode());

    assert_eq!(close.code, 501);
    assert!(close.text.starts_with("FRAME_ERROR - type 77, "), "{}", close.text);
    assert!(close.text.contains("unknown_frame"), "{}", close.text);
}

#[test]
fn a_method_on_a_channel_that_is_not_open_is_a_channel_error() {
    let broker = Broker::start();
    let close = refusal(&broker, |_| {
        frame::method(9, 50, 10, &Args::default().short(0).text("q").octet(0).table(&[]))
    });

    assert_eq!(
        (close.code, &*close.text, close.blames),
        (504, "CHANNEL_ERROR - expected 'channel.open'", (50, 10))
    );
}

#[test]
fn opening_a_channel_twice_is_a_channel_error() {
    let broker = Broker::start();
    let close = refusal(&broker, |channel| open(channel.number));

    assert_eq!((close.code, &*close.text), (504, "CHANNEL_ERROR - second 'channel.open' seen"));
}

#[test]
fn closing_a_closed_channel_is_a_channel_error() {
    let broker = Broker::start();
    let close = refusal(&broker, |_| {
        frame::method(9, 20, 40, &Args::default().short(200).text("").short(0).short(0))
    });

    assert_eq!(
        (close.code, &*close.text, close.blames),
        (504, "CHANNEL_ERROR - expected 'channel.open'", (20, 40))
    );
}

#[test]
fn a_channel_method_on_channel_zero_is_a_channel_error() {
    let broker = Broker::start();
    let close =
        refusal(&broker, |_| frame::method(0, 60, 80, &Args::default().longlong(1).octet(0)));

    let text = "CHANNEL_ERROR - unexpected method in connection state running";
    assert_eq!((close.code, &*close.text), (504, text));
}

#[test]
fn more_channels_than_agreed_are_not_allowed() {
    let broker = Broker::start();
    let login = Login { channel_max: 2, ..Login::default() };
    let connection = Connection::open(broker.address(), &login).unwrap();
    drop((connection.channel(), connection.channel()));

    connection.send(&open(3));

    let close = connection.closed();
    assert_eq!(close.code, 530, "{}", close.text);
    assert!(close.text.starts_with("NOT_ALLOWED - "), "{}", close.text);
}

#[test]
fn a_header_without_a_publish_is_an_unexpected_frame() {
    let broker = Broker::start();
    let close = refusal(&broker, |channel| channel.header(1, &Properties::default()));

    let text = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    assert_eq!((close.code, &*close.text, close.blames), (505, text, (0, 0)));
}

#[test]
fn a_method_where_a_header_is_due_is_an_unexpected_frame() {
    let broker = Broker::start();
    let close = refusal(&broker, |channel| [publish(channel), publish(channel)].concat());

    let text = "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    assert_eq!((close.code, &*close.text, close.blames), (505, text, (60, 40)));
}

#[test]
fn a_header_of_another_class_is_an_unexpected_frame() {
    let broker = Broker::start();
    let close = refusal(&broker, |channel| {
        let payload = Args::default().short(61).short(0).longlong(1).short(0).0;
        [publish(channel), Frame { kind: frame::HEADER, channel: 1, payload }.encode()].concat()
    });

    let text =
        "UNEXPECTED_FRAME - expected content header for class 60, got one for class 61 instead";
    assert_eq!((close.code, &*close.text, close.blames), (505, text, (60, 40)));
}

#[test]
fn a_method_where_a_body_is_due_is_an_unexpected_frame() {
    let broker = Broker::start();
    let close = refusal(&broker, |channel| {
        [publish(channel), channel.header(10, &Properties::default()), publish(channel)].concat()
    });

    let text = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
    assert_eq!((close.code, &*close.text, close.blames), (505, text, (60, 40)));
}

#[test]
fn a_body_longer_than_announced_is_refused() {
    let Some(program) = Broker::start_own("goes on waiting") else { return };
    let broker = Broker::Own(Box::new(program));
    let close = refusal(&broker, |channel| {
        [publish(channel), channel.header(1, &Properties::default()), body(channel, 5)].concat()
    });

    assert!(matches!(close.code, 501 | 505), "{close:?}");
}

#[test]
fn a_body_that_claims_a_terabyte_is_refused_or_waited_for_without_memory() {
    let Some(program) = Broker::start_own("is not measured here") else { return };
    let before = program.resident_bytes();
    let connections: Vec<Connection> = (0..50)
        .map(|_| {
            let connection = Connection::open(program.address, &Login::default()).unwrap();
            let channel = connection.channel();
            let bytes =
                [publish(&channel), channel.header(1 << 40, &Properties::default())].concat();
            connection.send(&bytes);
            connection
        })
        .collect();

    connections.iter().for_each(|connection| drop(connection.listen(Duration::from_millis(5))));

    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for 50 claims of a terabyte");
}

#[test]
fn an_unknown_class_or_method_ends_the_connection() {
    let broker = Broker::start();
    for (class, method) in [(99, 10), (60, 999), (40, 99)] {
        let close = refusal(&broker, |channel| {
            frame::method(channel.number, class, method, &Args::default())
        });

        // RabbitMQ drops the socket; 503 or 540 tells more.
        assert!(matches!(close.code, 0 | 503 | 540), "{close:?}");
    }
}

#[test]
fn truncated_arguments_are_a_syntax_error_or_worse_and_never_a_crash() {
    let broker = Broker::start();
    let declare = Args::default()
        .short(0)
        .text("queue")
        .octet(4)
        .table(&it::value::table([("x", 1.into())]))
        .0;
    for size in 0..declare.len() {
        let close = refusal_once(&broker, |channel| {
            frame::method(channel.number, 50, 10, &Args(declare[..size].to_vec()))
        });

        assert!(matches!(close.code, 0 | 501 | 502), "{size} octets: {close:?}");
    }
}

/// Like [`refusal`] without the clock.
fn refusal_once(broker: &Broker, bytes: impl Fn(&Channel) -> Vec<u8>) -> Close {
    let channel = broker.connect().channel();
    channel.connection.send(&bytes(&channel));
    channel.connection.closed()
}

#[test]
fn a_heartbeat_on_a_channel_is_an_unexpected_frame() {
    let broker = Broker::start();
    let close = refusal(&broker, |_| {
        Frame { kind: frame::HEARTBEAT, channel: 1, payload: Vec::new() }.encode()
    });

    assert_eq!((close.code, &*close.text), (505, "UNEXPECTED_FRAME - type 8, all octets = <<>>"));
}

#[test]
fn immediate_and_a_stopped_flow_are_not_implemented() {
    let broker = Broker::start();
    let immediate = refusal(&broker, |channel| {
        let args = Args::default().short(0).text("").text("q").bits(&[false, true]);
        let publish = frame::method(channel.number, 60, 40, &args);
        [publish, channel.header(0, &Properties::default())].concat()
    });
    let flow = refusal(&broker, |channel| {
        frame::method(channel.number, 20, 20, &Args::default().octet(0))
    });

    assert_eq!((immediate.code, &*immediate.text), (540, "NOT_IMPLEMENTED - immediate=true"));
    assert_eq!((flow.code, &*flow.text), (540, "NOT_IMPLEMENTED - active=false"));
}

#[test]
fn access_request_of_old_clients_is_granted() {
    let broker = Broker::start();
    let channel = broker.connect().channel();

    let answer = channel.call((30, 10), &Args::default().text("/data").octet(0), (30, 11)).unwrap();

    assert_eq!(answer.args, [0, 1]);
}

#[test]
fn what_follows_a_channel_close_is_ignored_until_the_channel_is_opened_again() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.publish(&unique("missing"), "", &Properties::default(), b"x");
    (0..50).for_each(|_| channel.send(&queue, "ignored"));

    assert_eq!(channel.closed().code, 404);
    channel.call((20, 10), &Args::default().text(""), (20, 11)).unwrap();

    assert_eq!(channel.inspect(&queue).unwrap().messages, 0);
}

/// `depth` tables, each the only value of the one around it.
fn nested(depth: u32) -> Vec<u8> {
    let mut inner = Vec::new();
    for _ in 0..depth {
        inner = Args::default().text("").octet(b'F').long_text(&inner).0;
    }
    Args::default().long_text(&inner).0
}

#[test]
fn a_table_nested_18000_deep_is_refused_and_does_not_touch_the_stack() {
    let Some(program) = Broker::start_own("takes its time") else { return };
    let broker = Broker::Own(Box::new(program));
    let table = nested(18_000);
    let close = refusal(&broker, |channel| {
        let args = Args::default().short(0).text("q").octet(4).bytes(&table);
        frame::method(channel.number, 50, 10, &args)
    });

    assert!(matches!(close.code, 501 | 502 | 506), "{close:?}");
}

#[test]
fn a_nested_table_in_the_headers_of_a_message_is_refused_too() {
    let Some(program) = Broker::start_own("takes its time") else { return };
    let broker = Broker::Own(Box::new(program));
    let table = nested(15_000);
    let close = refusal(&broker, |channel| {
        let payload = Args::default().short(60).short(0).longlong(0).short(1 << 13).bytes(&table).0;
        [publish(channel), Frame { kind: frame::HEADER, channel: 1, payload }.encode()].concat()
    });

    assert!(matches!(close.code, 501 | 502 | 506), "{close:?}");
}

#[test]
fn lengths_inside_a_table_that_reach_outside_it_are_a_syntax_error() {
    let Some(program) = Broker::start_own("drops the socket") else { return };
    let broker = Broker::Own(Box::new(program));
    let claims: [&[u8]; 6] = [
        &[0xFF, 0xFF, 0xFF, 0xFF],
        &[0, 0, 0, 9, 1, b'k', b'S', 0x7F, 0xFF, 0xFF, 0xFF, 0, 0],
        &[0, 0, 0, 7, 1, b'k', b'A', 0xFF, 0xFF, 0xFF, 0xFF],
        &[0, 0, 0, 7, 1, b'k', b'F', 0x80, 0, 0, 0],
        &[0, 0, 0, 3, 1, b'k', b'?'],
        &[0, 0, 0, 2, 9, b'k'],
    ];
    for claim in claims {
        let close = refusal(&broker, |channel| {
            frame::method(
                channel.number,
                50,
                10,
                &Args::default().short(0).text("q").octet(4).bytes(claim),
            )
        });

        assert!(matches!(close.code, 501 | 502), "{claim:?}: {close:?}");
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_where_it_names_something() {
    let Some(program) = Broker::start_own("takes any octets") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let args = Args::default().short(0).octet(2).bytes(&[0xFF, 0xFE]).octet(4).table(&[]);

    let close = channel.call((50, 10), &args, (50, 11)).unwrap_err();

    assert!(matches!(close.code, 501 | 502 | 406), "{close:?}");
}

#[test]
fn a_wide_table_costs_no_more_than_its_octets() {
    let Some(program) = Broker::start_own("is not measured here") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    let before = program.resident_bytes();
    let headers: Vec<(String, Value)> =
        (0..8000).map(|number| (format!("{number}"), Value::Void)).collect();
    let properties = Properties { headers: Some(headers), ..Properties::default() };

    for _ in 0..100 {
        channel.publish("", &queue, &properties, b"");
        assert_eq!(
            channel.take_soon(&queue).properties.headers.map(|headers| headers.len()),
            Some(8000)
        );
    }

    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}

#[test]
fn connections_that_say_nothing_or_too_little_are_dropped_and_do_not_disturb() {
    let Some(program) = Broker::start_own_with("waits ten seconds", &["amqp.handshake_timeout=1s"])
    else {
        return;
    };
    let mut drips: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(program.address).unwrap()).collect();
    for (place, drip) in drips.iter_mut().enumerate() {
        drip.write_all(&b"AMQP\0\0\x09\x01"[..place % 8]).unwrap();
    }
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let queue = channel.declare("", &[]).unwrap().name;

    channel.send(&queue, "undisturbed");
    assert_eq!(channel.take_soon(&queue).text(), "undisturbed");

    for drip in &mut drips {
        drip.set_read_timeout(Some(PATIENCE)).unwrap();
        let end = std::io::copy(drip, &mut std::io::sink());
        assert!(end.is_ok_and(|octets| octets == 0), "cut off without a word");
    }
}

#[test]
fn a_flood_of_heartbeats_harms_nobody() {
    let broker = Broker::start();
    let connection = broker.connect();
    let beat = Frame { kind: frame::HEARTBEAT, channel: 0, payload: Vec::new() }.encode();

    connection.send(&beat.repeat(50_000));

    let channel = connection.channel();
    assert!(channel.declare("", &[]).is_ok());
}

#[test]
fn a_topic_pattern_full_of_hashes_is_matched_quickly() {
    let Some(program) = Broker::start_own("is not measured here") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let exchange = unique("bomb");
    channel.exchange(&exchange, "topic").unwrap();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.bind(&queue, &exchange, &["#"; 60].join(".x."), &[]).unwrap();
    channel.bind(&queue, &exchange, &["#"; 120].join("."), &[]).unwrap();
    let bound = Duration::from_secs(2);

    let time = quickest(bound, || {
        for _ in 0..20 {
            channel.publish(&exchange, &["x"; 120].join("."), &Properties::default(), b"x");
        }
        channel.sync();
        assert_eq!(channel.purge(&queue).unwrap(), 20);
    });

    assert!(time < bound, "{time:?}");
}

#[test]
fn a_message_that_is_requeued_forever_costs_no_memory() {
    let Some(program) = Broker::start_own("is not measured here") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    let queue = channel.declare("", &[]).unwrap().name;
    channel.send(&queue, "again");
    let again = |times: u32| {
        for _ in 0..times {
            let message = channel.get(&queue, false).unwrap().unwrap();
            channel.nack(message.tag, [false, true]);
        }
    };
    again(1000);
    let before = program.resident_bytes();

    again(5000);

    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes");
}

#[test]
fn a_client_that_goes_away_without_a_word_does_not_take_its_messages_along() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let queue = unique("fin");
    channel.declare_durable(&queue, &[]).unwrap();

    let leaving = broker.connect();
    leaving.channel().send(&queue, "sent just before the end");
    drop(leaving);

    assert_eq!(channel.take_soon(&queue).text(), "sent just before the end");
    channel.delete(&queue, [false, false]).unwrap();
}

#[test]
fn a_thousand_channels_opened_without_waiting_all_open() {
    let broker = Broker::start();
    let connection = broker.connect();

    connection.send(&(1..=1000).flat_map(open).collect::<Vec<u8>>());

    for number in 1..=1000 {
        let event = connection.channel_unopened(number).next_event(PATIENCE).unwrap();
        assert_eq!(event.id, (20, 11));
    }
}
