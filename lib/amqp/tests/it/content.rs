//! Messages: in one piece, in many, too large.

use std::borrow::Cow;

use posthouse_amqp::{
    error::{Close, ReplyCode},
    event::{Content, Event, Publish},
    method::{BasicPublish, ChannelClose, ChannelCloseOk, ChannelOpen, TxSelect},
    options::ServerOptions,
};

use crate::peer::{Peer, body, header, method};

const PROPERTIES: &[u8] = &[0x10, 0, 2];

fn publish() -> Vec<u8> {
    let publish = BasicPublish {
        exchange: "amq.topic",
        routing_key: "a.b",
        mandatory: true,
        immediate: false,
    };
    method(1, publish)
}

fn message(pieces: &[&[u8]]) -> Vec<u8> {
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut bytes = [publish(), header(1, 60, len as u64, PROPERTIES)].concat();
    pieces.iter().for_each(|piece| bytes.extend(body(1, piece)));
    bytes
}

fn published(octets: &[u8]) -> Event<'_> {
    let publish = Publish {
        exchange: Cow::Borrowed("amq.topic"),
        routing_key: Cow::Borrowed("a.b"),
        mandatory: true,
        immediate: false,
    };
    let content = Content { properties: Cow::Borrowed(PROPERTIES), body: Cow::Borrowed(octets) };
    Event::Publish { channel: 1, publish, content }
}

#[test]
fn a_message_in_one_piece_is_borrowed() {
    let mut peer = Peer::open();
    let input = [message(&[b"hello"]), message(&[b"world"])].concat();

    let events = peer.feed(&input);

    assert_eq!(events, [published(b"hello"), published(b"world")]);
    for event in events {
        let Event::Publish { publish, content, .. } = event else { unreachable!() };
        assert!(matches!(publish.exchange, Cow::Borrowed(_)));
        assert!(matches!(publish.routing_key, Cow::Borrowed(_)));
        assert!(matches!(content.properties, Cow::Borrowed(_)));
        assert!(matches!(content.body, Cow::Borrowed(_)));
    }
}

#[test]
fn a_message_cut_anywhere_is_the_same_message() {
    let input = [message(&[b"hel", b"", b"lo"]), message(&[b"world"]), message(&[])].concat();
    for cut in 0..=input.len() {
        let mut peer = Peer::open();

        let (before, rest) = peer.feed_some(&input[..cut]);
        let again = [rest, &input[cut..]].concat();
        let (after, rest) = peer.feed_some(&again);

        let events: Vec<_> = before.into_iter().chain(after).collect();
        assert_eq!(events, [published(b"hello"), published(b"world"), published(b"")], "{cut}");
        assert_eq!(rest, b"");
    }
}

#[test]
fn a_message_that_trickles_in_is_the_same_message() {
    let mut peer = Peer::open();
    let input = message(&[b"hel", b"lo"]);
    let mut kept = Vec::new();
    let mut seen = 0;

    for octet in input {
        kept.push(octet);
        let (events, rest) = peer.feed_some(&kept);
        seen += usize::from(events == [published(b"hello")]);
        kept = rest.to_vec();
    }

    assert_eq!((seen, kept.len()), (1, 0));
}

#[test]
fn messages_on_different_channels_interleave() {
    let mut peer = Peer::open();
    peer.feed(&method(2, ChannelOpen {}));
    let other = BasicPublish { routing_key: "other", ..Default::default() };

    let input = [
        publish(),
        method(2, other),
        header(2, 60, 2, PROPERTIES),
        header(1, 60, 5, PROPERTIES),
        body(1, b"he"),
        body(2, b"hi"),
        body(1, b"llo"),
    ]
    .concat();
    let events = peer.feed(&input);

    assert!(
        matches!(&events[0], Event::Publish { channel: 2, content, .. } if *content.body == *b"hi")
    );
    assert_eq!(events[1], published(b"hello"));
}

#[test]
fn a_channel_closed_within_a_message_forgets_it() {
    let mut peer = Peer::open();
    peer.feed(&[publish(), header(1, 60, 5, PROPERTIES)].concat());

    peer.connection.close_channel(1, ReplyCode::NotFound, "x", (0, 0), &mut peer.out);
    assert_eq!(peer.feed(&body(1, b"hello")), []);
    peer.feed(&method(1, ChannelCloseOk {}));
    peer.feed(&method(1, ChannelOpen {}));

    assert_eq!(peer.feed(&message(&[b"again"])), [published(b"again")]);
}

#[test]
fn a_message_over_the_limit_closes_its_channel_only() {
    let options = ServerOptions { message_bytes_max: 16, ..ServerOptions::default() };
    let mut peer = Peer::open_with(options);
    let text = "PRECONDITION_FAILED - message size 123 is larger than configured max size 16";

    let input = message(&[&[0; 100], &[0; 23]]);
    let events = peer.feed(&input);

    let [Event::ChannelFailed { channel: 1, failure }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((failure.code, failure.close), (ReplyCode::PreconditionFailed, Close::WithFrame));
    assert_eq!(failure.text, text);
    let close = ChannelClose { reply_code: 406, reply_text: text, class_id: 60, method_id: 40 };
    assert_eq!(peer.take(), method(1, close));
    assert_eq!(peer.feed(&method(1, ChannelCloseOk {})), [Event::ChannelClosed(1)]);
    peer.feed(&method(1, ChannelOpen {}));
    assert_eq!(peer.feed(&message(&[&[7; 16]])), [published(&[7; 16])]);
}

#[test]
fn no_limit_goes_beyond_512_mib() {
    let options = ServerOptions { message_bytes_max: u64::MAX, ..ServerOptions::default() };
    let mut peer = Peer::open_with(options);

    let input = [publish(), header(1, 60, 512 * 1024 * 1024 + 1, PROPERTIES)].concat();

    assert!(matches!(&peer.feed(&input)[..], [Event::ChannelFailed { .. }]));
}

#[test]
fn a_whole_message_may_precede_a_method() {
    let mut peer = Peer::open();
    let input = [message(&[]), method(1, TxSelect {})].concat();

    let events = peer.feed(&input);

    assert_eq!(events.len(), 2);
    assert_eq!(events[0], published(b""));
}
