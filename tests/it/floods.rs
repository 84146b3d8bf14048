//! Much of what is allowed: bindings, circles, handshakes that never end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use it::broker::unique;
use it::frame::{self, Args};
use it::{Broker, Connection, Login, Program, Properties, quickest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

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
    let bound = Duration::from_secs(2);
    let time = quickest(bound, || {
        for place in 0..1000 {
            channel.publish("many", &format!("77.{place}.x"), &Properties::default(), b"x");
        }
        channel.sync();
        assert_eq!(channel.purge(&queue).unwrap(), 1000);
    });

    assert!(time < bound, "{time:?}");
    // Answered within PATIENCE: to look at all others for each binding takes minutes.
    channel.delete(&queue, [false, false]).unwrap();
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

/// A program with TLS, whose certificate is in `folder`, and how long a handshake may take.
fn start_with_tls(folder: &std::path::Path, handshake: &str) -> Option<Program> {
    let [certificate, key] = certificate(folder);
    let settings = [
        "amqp.tls.listen=127.0.0.1:0".to_owned(),
        format!("amqp.tls.certificate={certificate}"),
        format!("amqp.tls.key={key}"),
        format!("amqp.tls.handshake_timeout={handshake}"),
    ];
    let settings = settings.each_ref().map(String::as_str);
    Broker::start_own_with("has no TLS here", &settings)
}

/// A client whose TLS is under the test's control.
fn connect_with_tls(
    program: &Program,
    folder: &std::path::Path,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("certificate.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let config = versions.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(program.tls.expect("a TLS listener")).unwrap();
    stream.set_read_timeout(Some(it::PATIENCE)).unwrap();
    let mut stream =
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream);
    stream.conn.complete_io(&mut stream.sock).unwrap();
    stream
}

/// Opens an AMQP connection, everything said at once.
fn log_in(stream: &mut (impl Read + Write)) {
    let secret = b"\0guest\0guest";
    let start_ok = Args::default().table(&[]).text("PLAIN").long_text(secret);
    stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
    stream.write_all(&frame::method(0, 10, 11, &start_ok.text("en_US"))).unwrap();
    let tune_ok = Args::default().short(2047).long(131_072).short(0);
    stream.write_all(&frame::method(0, 10, 31, &tune_ok)).unwrap();
    let open = Args::default().text("/").text("").octet(0);
    stream.write_all(&frame::method(0, 10, 40, &open)).unwrap();
    let mut said = Vec::new();
    while !said.windows(4).any(|method| method == [0, 10, 0, 41]) {
        let mut octets = [0; 1024];
        let len = stream.read(&mut octets).unwrap();
        assert_ne!(len, 0, "closed before connection.open-ok");
        said.extend_from_slice(&octets[..len]);
    }
}

#[test]
fn a_flood_of_tls_key_updates_ends_its_connection_and_does_not_disturb() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = start_with_tls(folder.path(), "30s") else { return };
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let queue = channel.declare("", &[]).unwrap().name;
    let mut flood: Vec<_> = (0..20).map(|_| connect_with_tls(&program, folder.path())).collect();

    for stream in &mut flood {
        for _ in 0..200 {
            stream.conn.refresh_traffic_keys().unwrap();
        }
        // The server may have hung up before it has read all of it.
        drop(stream.conn.write_tls(&mut stream.sock));
    }
    let started = Instant::now();
    channel.send(&queue, "undisturbed");
    assert_eq!(channel.take_soon(&queue).text(), "undisturbed");

    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    for stream in &mut flood {
        let ended = std::io::copy(stream, &mut std::io::sink());
        let error = ended.expect_err("neither an alert nor a reset");
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it is not ended");
    }
}

#[test]
fn tls_key_updates_between_frames_disturb_nobody_and_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = start_with_tls(folder.path(), "30s") else { return };
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let queue = channel.declare("", &[]).unwrap().name;
    let mut stream = connect_with_tls(&program, folder.path());
    log_in(&mut stream);
    let before = program.resident_bytes();

    // Data between them makes them legitimate, for ever.
    let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xce];
    let mut slowest = Duration::ZERO;
    for _ in 0..500 {
        for _ in 0..30 {
            stream.conn.refresh_traffic_keys().unwrap();
        }
        stream.write_all(&heartbeat).unwrap();
        let started = Instant::now();
        channel.send(&queue, "undisturbed");
        assert_eq!(channel.take_soon(&queue).text(), "undisturbed");
        slowest = slowest.max(started.elapsed());
    }

    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes for one connection");
}

/// TLS handshakes that never end.
fn handshakes(program: &Program) -> Vec<TcpStream> {
    // The head of a client's first message, cut at every place; then nothing.
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let address = program.tls.expect("a TLS listener");
    let mut flood: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (place, stream) in flood.iter_mut().enumerate() {
        // One that waited for its turn may be dropped already.
        drop(stream.write_all(&hello[..place % hello.len()]));
    }
    flood
}

#[test]
fn a_flood_of_tls_handshakes_that_never_end_does_not_disturb() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = start_with_tls(folder.path(), "30s") else { return };
    let channel = Connection::open(program.address, &Login::default()).unwrap().channel();
    let queue = channel.declare("", &[]).unwrap().name;
    let before = program.resident_bytes();

    let _flood = handshakes(&program);
    let started = Instant::now();
    channel.send(&queue, "undisturbed");
    assert_eq!(channel.take_soon(&queue).text(), "undisturbed");

    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 300 * 64 * 1024, "{grown} bytes for 300 handshakes");
}

#[test]
fn a_flood_of_tls_handshakes_that_never_end_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = start_with_tls(folder.path(), "1s") else { return };

    for mut stream in handshakes(&program) {
        stream.set_read_timeout(Some(it::PATIENCE)).unwrap();
        // An alert may come before the end, and a reset instead of it.
        match std::io::copy(&mut stream, &mut std::io::sink()) {
            Ok(octets) => assert!(octets < 64, "{octets}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}
