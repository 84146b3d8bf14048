//! The connecting end, alone and against our own server.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use posthouse_amqp::{
    Connection,
    capabilities::Capabilities,
    connection::OpenChannelError,
    encode::{encode_body, encode_content_header, encode_deliver},
    error::{Close, ReplyCode},
    event::{Delivery, Event},
    frame::PROTOCOL_HEADER,
    method::{
        BasicGetOk, BasicReturn, ChannelClose, ChannelCloseOk, ChannelOpen, ConnectionBlocked,
        ConnectionClose, ConnectionCloseOk, ConnectionOpen, ConnectionOpenOk, ConnectionSecure,
        ConnectionSecureOk, ConnectionStart, ConnectionTune, ConnectionTuneOk, Method,
    },
    options::{ClientOptions, ServerOptions},
    sasl::Credentials,
};

use crate::peer::{Peer, body, header, method};

fn fresh(options: ClientOptions) -> Peer {
    let (mut out, now) = (Vec::new(), Instant::now());
    let connection = Connection::client(options, now, &mut out);
    Peer { connection, out, now }
}

fn start() -> Vec<u8> {
    let start =
        ConnectionStart { version_minor: 9, mechanisms: b"PLAIN AMQPLAIN", ..Default::default() };
    method(0, start)
}

fn open() -> Peer {
    let mut peer = fresh(ClientOptions::default());
    peer.feed(&start());
    let tune = ConnectionTune { channel_max: 7, frame_max: 4096, heartbeat: 0 };
    peer.feed(&[method(0, tune), method(0, ConnectionOpenOk {})].concat());
    peer.connection.open_channel(1, &mut peer.out).expect("it is free");
    assert_eq!(
        peer.feed(&method(1, posthouse_amqp::method::ChannelOpenOk {})),
        [Event::ChannelOpened(1)]
    );
    peer.take();
    peer
}

#[test]
fn a_client_logs_in_agrees_and_opens() {
    let options = ClientOptions {
        virtual_host: "/v".to_owned(),
        channel_max: 10,
        heartbeat_secs: 7,
        ..ClientOptions::default()
    };
    let mut peer = fresh(options);
    assert_eq!(peer.take(), PROTOCOL_HEADER);

    let input = start();
    assert!(matches!(&peer.feed(&input)[..], [Event::Started { .. }]));
    let start_ok = peer.take();
    assert!(matches!(
        Method::decode(&start_ok[7..start_ok.len() - 1]),
        Ok(Method::ConnectionStartOk(start)) if start.response == b"\0guest\0guest"
    ));
    let input = method(0, ConnectionSecure { challenge: b"?" });
    assert_eq!(peer.feed(&input), [Event::Challenge(b"?")]);
    peer.connection.respond(b"!", &mut peer.out);
    assert_eq!(peer.take(), method(0, ConnectionSecureOk { response: b"!" }));
    let tune = ConnectionTune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
    assert_eq!(peer.feed(&method(0, tune)), []);
    let tune_ok = ConnectionTuneOk { channel_max: 10, frame_max: 131_072, heartbeat: 7 };
    let open = ConnectionOpen { virtual_host: "/v" };
    assert_eq!(peer.take(), [method(0, tune_ok), method(0, open)].concat());
    assert_eq!(peer.feed(&method(0, ConnectionOpenOk {})), [Event::Opened]);

    assert!(peer.connection.is_open());
    assert_eq!(peer.connection.heartbeat(), Some(Duration::from_secs(7)));
}

#[test]
fn a_refused_login_is_a_close() {
    let mut peer = fresh(ClientOptions::default());
    peer.feed(&start());
    peer.take();
    let close = ConnectionClose { reply_code: 403, reply_text: "no", class_id: 0, method_id: 0 };

    let input = method(0, close);
    let events = peer.feed(&input);

    assert_eq!(events, [Event::CloseRequested { code: 403, text: "no", class_method: (0, 0) }]);
    assert_eq!(peer.take(), method(0, ConnectionCloseOk {}));
}

#[test]
fn a_server_of_another_version_or_mechanism_is_left() {
    let mut peer = fresh(ClientOptions::default());
    peer.take();
    peer.check_drop(b"AMQP\x00\x01\x00\x00");

    let mut peer = fresh(ClientOptions { mechanism: "EXTERNAL".to_owned(), ..Default::default() });
    peer.take();
    peer.check_drop(&start());
}

#[test]
fn channels_are_opened_once_and_up_to_the_limit() {
    let mut peer = open();

    let mut try_open = |number| peer.connection.open_channel(number, &mut Vec::new());

    assert_eq!(try_open(0), Err(OpenChannelError::InUse(0)));
    assert_eq!(try_open(1), Err(OpenChannelError::InUse(1)));
    assert_eq!(try_open(8), Err(OpenChannelError::TooMany(7)));
    assert_eq!(try_open(7), Ok(()));
    assert!(!peer.connection.is_channel_open(7), "not before the server says so");
}

#[test]
fn a_channel_the_server_closes_says_why() {
    let mut peer = open();
    let close =
        ChannelClose { reply_code: 404, reply_text: "NOT_FOUND - x", class_id: 50, method_id: 10 };

    let input = method(1, close);
    let events = peer.feed(&input);

    let text = "NOT_FOUND - x";
    assert_eq!(
        events,
        [Event::ChannelCloseRequested { channel: 1, code: 404, text, class_method: (50, 10) }]
    );
    assert_eq!(peer.take(), method(1, ChannelCloseOk {}));
    assert_eq!(peer.connection.open_channel(1, &mut peer.out), Ok(()));
    assert_eq!(peer.take(), method(1, ChannelOpen {}));
}

#[test]
fn a_channel_the_client_closes_is_gone_with_the_answer() {
    let mut peer = open();

    peer.connection.close_channel(1, ReplyCode::Success, "bye", (0, 0), &mut peer.out);

    let close = ChannelClose { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };
    assert_eq!(peer.take(), method(1, close));
    assert_eq!(peer.feed(&method(1, ChannelCloseOk {})), [Event::ChannelClosed(1)]);
}

#[test]
fn a_delivery_arrives_as_encoded() {
    let mut peer = open();
    let body: Vec<u8> = (0..10_000_u32).map(|index| index.to_be_bytes()[3]).collect();
    let mut input = Vec::new();
    for body in [&body[..5], &body[..], &[]] {
        encode_deliver(&mut input, 1, "tag", 42, true, "ex", "key").expect("short");
        encode_content_header(&mut input, 1, body.len() as u64, &[0x10, 0, 2]);
        encode_body(&mut input, 1, body, 4096);
    }

    let events = peer.feed(&input);

    let expected = Delivery {
        consumer_tag: Cow::Borrowed("tag"),
        delivery_tag: 42,
        redelivered: true,
        exchange: Cow::Borrowed("ex"),
        routing_key: Cow::Borrowed("key"),
    };
    assert_eq!(events.len(), 3);
    for (event, body) in events.iter().zip([&body[..5], &body[..], &[]]) {
        let Event::Deliver { channel: 1, delivery, content } = event else { panic!("{event:?}") };
        assert_eq!(delivery, &expected);
        assert_eq!(&*content.body, body);
    }
}

#[test]
fn returns_and_answers_to_get_carry_their_message() {
    let mut peer = open();
    let returned = BasicReturn { reply_code: 312, reply_text: "NO_ROUTE", ..Default::default() };
    let got = BasicGetOk { delivery_tag: 1, message_count: 3, ..Default::default() };
    let content = [header(1, 60, 1, &[0, 0]), body(1, b"x")].concat();

    let input = [method(1, returned), content.clone(), method(1, got), content].concat();
    // The second time in pieces.
    for cut in [0, 20, 30, 40, 50, 60] {
        let (mut events, rest) = peer.feed_some(&input[..cut]);
        let rest = [rest, &input[cut..]].concat();
        events.extend(peer.feed(&rest));
        assert!(matches!(&events[0], Event::Return { returned, content, .. }
            if returned.reply_code == 312 && *content.body == *b"x"));
        assert!(matches!(&events[1], Event::GetOk { got, content, .. }
            if got.message_count == 3 && *content.body == *b"x"));
    }
}

#[test]
fn alarms_of_the_server_are_for_the_owner() {
    let mut peer = open();
    let blocked = ConnectionBlocked { reason: "low on memory" };

    let input = method(0, blocked);

    let expected = Event::Method { channel: 0, method: Method::ConnectionBlocked(blocked) };
    assert_eq!(peer.feed(&input), [expected]);
}

#[test]
fn our_client_and_our_server_understand_each_other() {
    let now = Instant::now();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let credentials = Credentials { login: "me", password: b"secret" };
    let options = ClientOptions { response: credentials.to_plain(), ..Default::default() };
    let mut client = Connection::client(options, now, &mut to_server);
    let mut server = Connection::server(Arc::new(ServerOptions::default()), now);

    for _ in 0..4 {
        let input = std::mem::take(&mut to_server);
        let mut rest = &input[..];
        while let Some(event) = server.handle_bytes(now, &mut rest, &mut to_client) {
            match event {
                Event::Authenticate { response, .. } => {
                    assert_eq!(Credentials::from_plain(response), Ok(credentials));
                    server.authenticated(&mut to_client);
                }
                Event::Open { .. } => server.opened(&mut to_client),
                other => panic!("{other:?}"),
            }
        }
        let input = std::mem::take(&mut to_client);
        let mut rest = &input[..];
        while client.handle_bytes(now, &mut rest, &mut to_server).is_some() {}
    }

    assert!(client.is_open() && server.is_open());
    assert_eq!(server.peer_capabilities(), Capabilities::CLIENT);
    assert_eq!(client.peer_capabilities(), Capabilities::SERVER);
    assert_eq!((client.frame_max(), server.frame_max()), (131_072, 131_072));
    let close = client.close(ReplyCode::Success, "bye", (0, 0), &mut to_server);
    assert_eq!(close, Close::WithFrame);
    let mut rest = &to_server[..];
    let event = server.handle_bytes(now, &mut rest, &mut to_client);
    assert!(matches!(event, Some(Event::CloseRequested { text: "bye", .. })));
    let mut rest = &to_client[..];
    assert_eq!(client.handle_bytes(now, &mut rest, &mut Vec::new()), Some(Event::Closed));
}
