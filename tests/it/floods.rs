//! Much of what is allowed: bindings, circles, handshakes that never end.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use it::broker::unique;
use it::frame::{self, Args};
use it::{Broker, Connection, Login, Properties};

#[test]
fn a_hundred_thousand_bindings_are_made_and_matched_quickly() {
    let Some(program) = Broker::start_own("is not measured here") else { return };
    let connection = Connection::open(program.address, &Login::default()).unwrap();
    let channel = connection.channel();
    channel.exchange("many", "topic").unwrap();
    let queue = channel.declare("", &[]).unwrap().name;
    let bind = |key: String| {
        let args = Args::default().short(0).text(&queue).text("many").text(&key);
        frame::method(channel.number, 50, 20, &args.octet(1).table(&[]))
    };

    for lot in 0..100 {
        let keys = (0..1000).map(|place| format!("{lot}.{place}.*"));
        connection.send(&keys.flat_map(bind).collect::<Vec<u8>>());
    }
    channel.sync();
    let started = Instant::now();
    for place in 0..1000 {
        channel.publish("many", &format!("77.{place}.x"), &Properties::default(), b"x");
    }
    channel.sync();

    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(channel.inspect(&queue).unwrap().messages, 1000);
    let started = Instant::now();
    channel.delete(&queue, [false, false]).unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn exchanges_bound_in_circles_give_a_queue_one_copy() {
    let broker = Broker::start();
    let connection = broker.connect();
    let channel = connection.channel();
    let ring: Vec<String> = (0..50).map(|_| unique("ring")).collect();
    ring.iter().for_each(|name| channel.exchange(name, "fanout").unwrap());
    for (place, name) in ring.iter().enumerate() {
        channel.bind_exchange(&ring[(place + 1) % ring.len()], name, "").unwrap();
        channel.bind_exchange(name, name, "").unwrap();
    }
    let queue = channel.declare("", &[]).unwrap().name;
    ring.iter().for_each(|name| channel.bind(&queue, name, "", &[]).unwrap());

    channel.publish(&ring[0], "", &Properties::default(), b"once");

    assert_eq!(channel.take_all(&queue), ["once"]);
    ring.iter().for_each(|name| channel.delete_exchange(name, false).unwrap());
}

/// A certificate for localhost and its key, in files of `folder`.
fn certificate(folder: &std::path::Path) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files =
        [("certificate.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())];
    files.map(|(name, text)| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    })
}

#[test]
fn a_flood_of_tls_handshakes_that_never_end_is_dropped_and_does_not_disturb() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = certificate(folder.path());
    let settings = [
        "amqp.tls.listen=127.0.0.1:0".to_owned(),
        format!("amqp.tls.certificate={certificate}"),
        format!("amqp.tls.key={key}"),
        "amqp.tls.handshake_timeout=1s".to_owned(),
    ];
    let settings = settings.each_ref().map(String::as_str);
    let Some(program) = Broker::start_own_with("has no TLS here", &settings) else { return };
    let address = program.tls.expect("a TLS listener");
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let queue = channel.declare("", &[]).unwrap().name;
    let before = program.resident_bytes();
    // The head of a client's first message, cut at every place; then nothing.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

    let mut flood: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (place, stream) in flood.iter_mut().enumerate() {
        stream.write_all(&hello[..place % hello.len()]).unwrap();
    }
    let started = Instant::now();
    channel.send(&queue, "undisturbed");
    assert_eq!(channel.take_soon(&queue).text(), "undisturbed");

    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 300 * 64 * 1024, "{grown} bytes for 300 handshakes");
    for stream in &mut flood {
        stream.set_read_timeout(Some(it::PATIENCE)).unwrap();
        // An alert may come before the end, and a reset instead of it.
        match std::io::copy(stream, &mut std::io::sink()) {
            Ok(octets) => assert!(octets < 64, "{octets}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}
