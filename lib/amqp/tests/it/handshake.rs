//! Section 1: from the protocol header to an open virtual host.

use std::time::Duration;

use posthouse_amqp::{
    capabilities::Capabilities,
    error::{Close, ReplyCode},
    event::Event,
    frame::PROTOCOL_HEADER,
    method::{
        ChannelOpen, ConnectionClose, ConnectionCloseOk, ConnectionOpen, ConnectionOpenOk,
        ConnectionSecure, ConnectionSecureOk, ConnectionStart, ConnectionStartOk, ConnectionTune,
        ConnectionTuneOk, ConnectionUpdateSecret, Method,
    },
    options::ServerOptions,
    raw_table::RawTable,
};

use crate::peer::{Peer, body, close_frame, frame, method, start_ok};

fn start(major: u8, minor: u8) -> Vec<u8> {
    let properties = ServerOptions::default().properties.to_entries().expect("encodes");
    let start = ConnectionStart {
        version_major: major,
        version_minor: minor,
        server_properties: RawTable::from_bytes(&properties),
        mechanisms: b"PLAIN AMQPLAIN",
        locales: b"en_US",
    };
    method(0, start)
}

#[test]
fn the_server_speaks_first_after_the_whole_header_only() {
    let mut peer = Peer::fresh(ServerOptions::default());

    for end in 1..PROTOCOL_HEADER.len() {
        let (events, rest) = peer.feed_some(&PROTOCOL_HEADER[..end]);
        assert_eq!((events.len(), rest.len(), peer.out.len()), (0, end, 0));
    }
    peer.feed(PROTOCOL_HEADER);

    assert_eq!(peer.take(), start(0, 9));
}

#[test]
fn the_older_headers_rabbitmq_takes_are_taken() {
    for (bytes, major, minor) in [(b"AMQP\x01\x01\x00\x09", 0, 9), (b"AMQP\x01\x01\x08\x00", 8, 0)]
    {
        let mut peer = Peer::fresh(ServerOptions::default());
        assert_eq!(peer.feed(bytes), []);
        assert_eq!(peer.take(), start(major, minor));
    }
}

#[test]
fn any_other_header_is_answered_by_exactly_eight_bytes() {
    for bytes in [b"AMQP\x00\x00\x09\x00", b"AMQP\x00\x01\x00\x00", b"GET / HT"] {
        let mut peer = Peer::fresh(ServerOptions::default());

        let mut input = bytes.to_vec();
        input.extend_from_slice(b"TP/1.1\r\n");
        let events = peer.feed(&input);

        assert!(
            matches!(&events[..], [Event::Failed(failure)] if failure.close == Close::SocketOnly)
        );
        assert_eq!(peer.take(), PROTOCOL_HEADER);
        assert!(peer.connection.is_finished());
        assert_eq!(peer.feed_some(b"more"), (vec![], &b""[..]));
    }
}

#[test]
fn a_login_goes_on_to_limits_and_a_virtual_host() {
    let mut peer = Peer::fresh(ServerOptions::default());
    peer.feed(PROTOCOL_HEADER);
    peer.take();

    let input = start_ok(Capabilities::CLIENT);
    let events = peer.feed(&input);
    assert!(matches!(
        &events[..],
        [Event::Authenticate {
            mechanism: "PLAIN",
            response: b"\0guest\0guest",
            locale: "xx_XX",
            ..
        }]
    ));
    assert_eq!(peer.connection.peer_capabilities(), Capabilities::CLIENT);

    peer.connection.authenticated(&mut peer.out);
    let tune = ConnectionTune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    assert_eq!(peer.take(), method(0, tune));

    let tune_ok = ConnectionTuneOk { channel_max: 100, frame_max: 8192, heartbeat: 90 };
    let input = [method(0, tune_ok), method(0, ConnectionOpen { virtual_host: "/v" })].concat();
    assert_eq!(peer.feed(&input), [Event::Open { virtual_host: "/v" }]);
    assert!(!peer.connection.is_open());

    peer.connection.opened(&mut peer.out);
    assert_eq!(peer.take(), method(0, ConnectionOpenOk {}));
    assert!(peer.connection.is_open());
    assert_eq!((peer.connection.channel_max(), peer.connection.frame_max()), (100, 8192));
    assert_eq!(peer.connection.heartbeat(), Some(Duration::from_secs(90)));
}

#[test]
fn a_challenge_waits_for_its_response() {
    let mut peer = Peer::fresh(ServerOptions::default());
    peer.feed(PROTOCOL_HEADER);
    peer.feed(&start_ok(Capabilities::CLIENT));
    peer.take();

    peer.connection.challenge(b"what?", &mut peer.out);
    assert_eq!(peer.take(), method(0, ConnectionSecure { challenge: b"what?" }));
    let input = method(0, ConnectionSecureOk { response: b"that" });
    assert_eq!(peer.feed(&input), [Event::SecureResponse(b"that")]);
    peer.connection.authenticated(&mut peer.out);

    let tune = ConnectionTune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    assert_eq!(peer.take(), method(0, tune));
}

#[test]
fn what_follows_a_login_waits_until_the_owner_has_decided() {
    let mut peer = Peer::fresh(ServerOptions::default());
    peer.feed(PROTOCOL_HEADER);
    let tune_ok = ConnectionTuneOk { channel_max: 1, frame_max: 4096, heartbeat: 0 };
    let input = [
        start_ok(Capabilities::CLIENT),
        method(0, tune_ok),
        method(0, ConnectionOpen { virtual_host: "v" }),
        method(1, ChannelOpen {}),
    ]
    .concat();

    let (events, rest) = peer.feed_some(&input);
    assert!(matches!(&events[..], [Event::Authenticate { .. }]));
    peer.connection.authenticated(&mut peer.out);
    let (events, rest) = peer.feed_some(rest);
    assert_eq!(events, [Event::Open { virtual_host: "v" }]);
    assert_eq!(rest, method(1, ChannelOpen {}));
    peer.connection.opened(&mut peer.out);

    assert_eq!(peer.feed(rest), [Event::ChannelOpened(1)]);
}

#[test]
fn a_refused_login_is_told_only_to_who_asked_for_it() {
    let detail = "Login was refused using authentication mechanism PLAIN. For details see the broker logfile.";
    let text = format!("ACCESS_REFUSED - {detail}");
    let mut peer = Peer::fresh(ServerOptions::default());
    peer.feed(PROTOCOL_HEADER);
    peer.feed(&start_ok(Capabilities::CLIENT));
    peer.take();

    assert_eq!(peer.connection.refuse(detail, &mut peer.out), Close::WithFrame);

    assert_eq!(peer.take(), close_frame(ReplyCode::AccessRefused, &text, (0, 0)));
    assert_eq!(peer.feed(&method(0, ConnectionCloseOk {})), [Event::Closed]);

    let mut peer = Peer::fresh(ServerOptions::default());
    peer.feed(PROTOCOL_HEADER);
    peer.feed(&start_ok(Capabilities::default()));
    peer.take();

    assert_eq!(peer.connection.refuse(detail, &mut peer.out), Close::SocketOnly);

    assert_eq!(peer.take(), b"");
    assert!(peer.connection.is_finished());
}

#[test]
fn an_unknown_mechanism_closes_the_socket() {
    let mut peer = Peer::fresh(ServerOptions::default());
    peer.feed(PROTOCOL_HEADER);
    peer.take();

    peer.check_drop(&method(0, ConnectionStartOk { mechanism: "EXTERNAL", ..Default::default() }));
}

#[test]
fn malformed_client_properties_close_the_socket() {
    let mut peer = Peer::fresh(ServerOptions::default());
    peer.feed(PROTOCOL_HEADER);
    peer.take();

    let client_properties = RawTable::from_bytes(&[200, 1, 2]);
    let start_ok =
        ConnectionStartOk { client_properties, mechanism: "PLAIN", ..Default::default() };
    peer.check_drop(&method(0, start_ok));
}

#[test]
fn nothing_but_start_ok_may_come_first() {
    let others = [
        method(0, ConnectionOpen { virtual_host: "/" }),
        method(0, ConnectionTuneOk::default()),
        method(0, ConnectionClose::default()),
        method(1, ChannelOpen {}),
        body(1, b"x"),
        frame(77, 0, b""),
        frame(1, 0, &[0, 10, 0, 99]),
    ];
    for input in others {
        let mut peer = Peer::fresh(ServerOptions::default());
        peer.feed(PROTOCOL_HEADER);
        peer.take();
        peer.check_drop(&input);
    }
}

#[test]
fn long_frames_are_refused_before_tuning() {
    let mut peer = Peer::fresh(ServerOptions::default());
    peer.feed(PROTOCOL_HEADER);
    peer.take();

    let long = vec![0; 4089];
    peer.check_drop(&frame(1, 0, &long));
}

#[test]
fn limits_beyond_those_offered_close_the_socket() {
    let good = ConnectionTuneOk { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    let wrong = [
        ConnectionTuneOk { channel_max: 0, ..good },
        ConnectionTuneOk { channel_max: 2048, ..good },
        ConnectionTuneOk { frame_max: 0, ..good },
        ConnectionTuneOk { frame_max: 131_073, ..good },
        ConnectionTuneOk { frame_max: 4095, ..good },
    ];
    for tune_ok in wrong {
        Peer::tuning(ServerOptions::default()).check_drop(&method(0, tune_ok));
    }
    let right = [
        good,
        ConnectionTuneOk { frame_max: 4096, ..good },
        ConnectionTuneOk { heartbeat: 0, ..good },
        ConnectionTuneOk { heartbeat: 600, ..good },
    ];
    for tune_ok in right {
        let mut peer = Peer::tuning(ServerOptions::default());
        assert_eq!(peer.feed(&method(0, tune_ok)), []);
        assert!(!peer.connection.is_finished());
    }
}

#[test]
fn a_server_without_limits_takes_none() {
    let options = ServerOptions { channel_max: 0, ..ServerOptions::default() };
    let tune_ok = ConnectionTuneOk { channel_max: 0, frame_max: 131_072, heartbeat: 0 };

    let peer = Peer::tuned(options, tune_ok);

    assert_eq!((peer.connection.channel_max(), peer.connection.heartbeat()), (0, None));
}

#[test]
fn a_missing_virtual_host_closes_with_the_owners_text() {
    let mut peer = Peer::tuning(ServerOptions::default());
    let tune_ok = ConnectionTuneOk { channel_max: 1, frame_max: 4096, heartbeat: 0 };
    peer.feed(&method(0, tune_ok));
    peer.feed(&method(0, ConnectionOpen { virtual_host: "nosuch" }));

    let detail = "vhost nosuch not found";
    let close =
        peer.connection.close(ReplyCode::NotAllowed, detail, ConnectionOpen::ID, &mut peer.out);

    assert_eq!(close, Close::WithFrame);
    let text = "NOT_ALLOWED - vhost nosuch not found";
    assert_eq!(peer.take(), close_frame(ReplyCode::NotAllowed, text, (10, 40)));
    assert_eq!(peer.feed(&method(0, ConnectionCloseOk {})), [Event::Closed]);
    assert!(peer.connection.is_finished());
}

#[test]
fn a_close_is_answered_and_the_client_closes_the_socket() {
    let mut peer = Peer::open();
    let close = ConnectionClose { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };

    let input = [method(0, close), method(1, ChannelOpen {})].concat();
    let events = peer.feed(&input);

    assert_eq!(events, [Event::CloseRequested { code: 200, text: "bye", class_method: (0, 0) }]);
    assert_eq!(peer.take(), method(0, ConnectionCloseOk {}));
    assert!(!peer.connection.is_finished());
    assert_eq!(peer.pass(Duration::from_secs(9)), None);
    assert_eq!(peer.pass(Duration::from_secs(1)), Some(Event::Closed));
}

#[test]
fn a_close_during_the_handshake_is_answered_after_the_login() {
    let mut peer = Peer::tuning(ServerOptions::default());

    let input = method(0, ConnectionClose { reply_code: 320, ..Default::default() });
    let events = peer.feed(&input);

    assert!(matches!(&events[..], [Event::CloseRequested { code: 320, .. }]));
    assert_eq!(peer.take(), method(0, ConnectionCloseOk {}));
}

#[test]
fn a_slow_handshake_is_cut_after_its_deadline() {
    let mut peer = Peer::tuning(ServerOptions::default());
    assert_eq!(peer.connection.poll_timeout(), Some(peer.now + Duration::from_secs(10)));

    assert_eq!(peer.pass(Duration::from_millis(9_999)), None);
    let cut = peer.pass(Duration::from_millis(1));

    assert!(matches!(cut, Some(Event::Failed(failure)) if failure.close == Close::SocketOnly));
    assert_eq!(peer.take(), b"");
    peer.connection.authenticated(&mut peer.out);
    peer.connection.opened(&mut peer.out);
    assert_eq!(peer.take(), b"", "a late decision of the owner changes nothing");
}

#[test]
fn a_fresh_secret_is_for_the_owner() {
    let mut peer = Peer::open();
    let update = ConnectionUpdateSecret { new_secret: b"token", reason: "expiry" };

    let input = method(0, update);

    let expected = Event::Method { channel: 0, method: Method::ConnectionUpdateSecret(update) };
    assert_eq!(peer.feed(&input), [expected]);
}
