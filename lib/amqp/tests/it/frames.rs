//! Section 3: broken frames and frames in the wrong place, with RabbitMQ's exact answers.

use std::time::Duration;

use posthouse_amqp::{
    error::ReplyCode,
    event::Event,
    method::{
        AccessRequest, AccessRequestOk, BasicAck, BasicCancelOk, BasicDeliver, BasicPublish,
        ChannelClose, ChannelCloseOk, ChannelFlow, ChannelFlowOk, ChannelOpen, ChannelOpenOk,
        ConnectionCloseOk, ConnectionTune, Method, QueueDeclare, QueueDeclareOk, TxSelect,
    },
};

use crate::peer::{Peer, body, frame, header, method};

fn publish(channel: u16) -> Vec<u8> {
    method(channel, BasicPublish { exchange: "", routing_key: "q", ..Default::default() })
}

#[test]
fn a_frame_over_the_agreed_size_is_a_frame_error() {
    let text = "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,5000,4088}";

    // The head is enough: nobody waits for the rest.
    let head = &body(1, &[0; 5000])[..7];

    Peer::open().check_close(head, ReplyCode::FrameError, text, (0, 0));
}

#[test]
fn a_frame_of_the_agreed_size_is_taken() {
    let mut peer = Peer::open();
    let octets = [7; 4088];

    let input = [publish(1), header(1, 60, 4088, &[0, 0]), body(1, &octets)].concat();

    let events = peer.feed(&input);
    assert!(matches!(&events[..], [Event::Publish { content, .. }] if *content.body == octets));
}

#[test]
fn a_wrong_end_octet_is_a_frame_error() {
    let mut input = method(1, ChannelCloseOk {});
    *input.last_mut().expect("there is one") = 0;
    let text = "FRAME_ERROR - type 1, all octets = <<0,20,0,41>>: {invalid_frame_end_marker,0}";

    Peer::open().check_close(&input, ReplyCode::FrameError, text, (0, 0));
}

#[test]
fn after_a_broken_frame_only_the_answer_or_the_clock_ends_the_wait() {
    let mut peer = Peer::open();
    peer.feed(&frame(3, 1, &[0; 5000])[..7]);

    assert_eq!(peer.feed_some(&[9; 100_000]), (vec![], &b""[..]));
    assert_eq!(peer.feed(&method(0, ConnectionCloseOk {})), [Event::Closed]);

    let mut peer = Peer::open();
    peer.feed(&frame(3, 1, &[0; 5000])[..7]);
    assert_eq!(peer.pass(Duration::from_secs(10)), Some(Event::Closed));
}

#[test]
fn an_unknown_frame_type_is_a_frame_error() {
    for channel in [0, 1, 2] {
        let text = r#"FRAME_ERROR - type 77, all octets = <<"x">>: unknown_frame"#;
        let input = frame(77, channel, b"x");
        Peer::open().check_close(&input, ReplyCode::FrameError, text, (0, 0));
    }
}

#[test]
fn frames_too_short_for_their_type_are_frame_errors() {
    let text = "FRAME_ERROR - type 1, all octets = <<0,60,0>>: unknown_frame";
    Peer::open().check_close(&frame(1, 1, &[0, 60, 0]), ReplyCode::FrameError, text, (0, 0));
    let text = "FRAME_ERROR - type 2, all octets = <<0,60>>: unknown_frame";
    Peer::open().check_close(&frame(2, 1, &[0, 60]), ReplyCode::FrameError, text, (0, 0));
    let text = r#"FRAME_ERROR - type 8, all octets = <<"beat">>: unknown_frame"#;
    Peer::open().check_close(&frame(8, 0, b"beat"), ReplyCode::FrameError, text, (0, 0));
}

#[test]
fn a_method_on_an_unopened_channel_is_a_channel_error() {
    let text = "CHANNEL_ERROR - expected 'channel.open'";
    let declare = method(2, QueueDeclare::default());
    Peer::open().check_close(&declare, ReplyCode::ChannelError, text, (50, 10));
    let close = method(2, ChannelClose::default());
    Peer::open().check_close(&close, ReplyCode::ChannelError, text, (20, 40));
}

#[test]
fn a_channel_is_opened_once() {
    let text = "CHANNEL_ERROR - second 'channel.open' seen";
    let input = method(1, ChannelOpen {});

    Peer::open().check_close(&input, ReplyCode::ChannelError, text, (20, 10));
}

#[test]
fn a_channel_method_on_channel_0_is_a_channel_error() {
    let text = "CHANNEL_ERROR - unexpected method in connection state running";
    let open = method(0, ChannelOpen {});
    Peer::open().check_close(&open, ReplyCode::ChannelError, text, (20, 10));
    Peer::open().check_close(&publish(0), ReplyCode::ChannelError, text, (60, 40));
    let tune = method(0, ConnectionTune::default());
    Peer::open().check_close(&tune, ReplyCode::ChannelError, text, (10, 30));
}

#[test]
fn more_channels_than_agreed_are_not_allowed_whatever_their_numbers() {
    let mut peer = Peer::open();
    assert_eq!(peer.feed(&method(65_535, ChannelOpen {})), [Event::ChannelOpened(65_535)]);
    assert_eq!(peer.take(), [method(1, ChannelOpenOk {}), method(65_535, ChannelOpenOk {})][1]);

    let text =
        "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)";
    peer.check_close(&method(2, ChannelOpen {}), ReplyCode::NotAllowed, text, (0, 0));
}

#[test]
fn content_on_channel_0_is_unexpected() {
    let text = r#"UNEXPECTED_FRAME - type 3, all octets = <<"x">>"#;
    Peer::open().check_close(&body(0, b"x"), ReplyCode::UnexpectedFrame, text, (0, 0));
}

#[test]
fn content_without_publish_is_unexpected() {
    let text = "UNEXPECTED_FRAME - expected method frame, got non method frame instead";
    for input in [header(1, 60, 1, &[0, 0]), body(1, b"x"), header(2, 60, 1, &[0, 0])] {
        Peer::open().check_close(&input, ReplyCode::UnexpectedFrame, text, (0, 0));
    }
}

#[test]
fn a_method_where_a_header_belongs_is_unexpected() {
    let text = "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead";
    for second in [publish(1), body(1, b"x"), method(1, ChannelClose::default())] {
        let input = [publish(1), second].concat();
        Peer::open().check_close(&input, ReplyCode::UnexpectedFrame, text, (60, 40));
    }
}

#[test]
fn a_header_of_another_class_is_unexpected() {
    let text =
        "UNEXPECTED_FRAME - expected content header for class 60, got one for class 61 instead";
    let input = [publish(1), header(1, 61, 1, &[0, 0])].concat();

    Peer::open().check_close(&input, ReplyCode::UnexpectedFrame, text, (60, 40));
}

#[test]
fn a_method_where_a_body_belongs_is_unexpected() {
    let text = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
    for third in [publish(1), header(1, 60, 1, &[0, 0])] {
        let input = [publish(1), header(1, 60, 1, &[0, 0]), third].concat();
        Peer::open().check_close(&input, ReplyCode::UnexpectedFrame, text, (60, 40));
    }
}

#[test]
fn a_body_longer_than_announced_is_unexpected_at_once() {
    let text = "UNEXPECTED_FRAME - content body has 4 bytes, 3 were announced";
    let input = [publish(1), header(1, 60, 3, &[0, 0]), body(1, b"four")].concat();
    Peer::open().check_close(&input, ReplyCode::UnexpectedFrame, text, (60, 40));
    let input = [publish(1), header(1, 60, 3, &[0, 0]), body(1, b"fo"), body(1, b"ur")].concat();
    Peer::open().check_close(&input, ReplyCode::UnexpectedFrame, text, (60, 40));
}

#[test]
fn an_unknown_method_is_not_implemented() {
    let text = "NOT_IMPLEMENTED - unknown method 60.99";
    let input = frame(1, 1, &[0, 60, 0, 99, 1, 2, 3]);

    Peer::open().check_close(&input, ReplyCode::NotImplemented, text, (60, 99));
}

#[test]
fn a_method_that_cannot_be_read_is_a_syntax_error() {
    let cut = "SYNTAX_ERROR - a field reaches past the end of its frame";
    let input = frame(1, 1, &[0, 60, 0, 40, 0, 0, 5, b'x']);
    Peer::open().check_close(&input, ReplyCode::SyntaxError, cut, (60, 40));
    let text = "SYNTAX_ERROR - a short string is not UTF-8";
    let input = frame(1, 1, &[0, 60, 0, 40, 0, 0, 1, 0xff, 0, 0]);
    Peer::open().check_close(&input, ReplyCode::SyntaxError, text, (60, 40));
    let text = "SYNTAX_ERROR - 1 bytes follow the last field";
    let input = frame(1, 1, &[0, 90, 0, 10, 0]);
    Peer::open().check_close(&input, ReplyCode::SyntaxError, text, (90, 10));
}

#[test]
fn what_only_a_server_sends_is_no_command() {
    let text = "COMMAND_INVALID - unimplemented method";
    for (input, id) in [
        (method(1, BasicCancelOk { consumer_tag: "t" }), (60, 31)),
        (method(1, QueueDeclareOk::default()), (50, 11)),
        (method(1, BasicDeliver::default()), (60, 60)),
        (method(1, ChannelOpenOk {}), (20, 11)),
        (method(1, ChannelFlowOk { active: true }), (20, 21)),
        (method(1, ChannelCloseOk {}), (20, 41)),
        (method(1, ConnectionCloseOk {}), (10, 51)),
    ] {
        Peer::open().check_close(&input, ReplyCode::CommandInvalid, text, id);
    }
}

#[test]
fn an_access_ticket_is_always_1() {
    let mut peer = Peer::open();

    assert_eq!(peer.feed(&method(1, AccessRequest { realm: "/data", ..Default::default() })), []);

    assert_eq!(peer.take(), method(1, AccessRequestOk { ticket: 1 }));
}

#[test]
fn flow_can_be_asked_to_go_on_but_not_to_stop() {
    let mut peer = Peer::open();
    assert_eq!(peer.feed(&method(1, ChannelFlow { active: true })), []);
    assert_eq!(peer.take(), method(1, ChannelFlowOk { active: true }));

    let stop = method(1, ChannelFlow { active: false });
    let text = "NOT_IMPLEMENTED - active=false";
    peer.check_close(&stop, ReplyCode::NotImplemented, text, (20, 20));
}

#[test]
fn other_methods_are_for_the_owner() {
    let mut peer = Peer::open();
    let input = [method(1, TxSelect {}), method(1, BasicAck::default())].concat();

    let events = peer.feed(&input);

    assert_eq!(
        events,
        [
            Event::Method { channel: 1, method: Method::TxSelect(TxSelect {}) },
            Event::Method { channel: 1, method: Method::BasicAck(BasicAck::default()) },
        ]
    );
    assert_eq!(peer.take(), b"");
}

#[test]
fn a_channel_closed_by_the_client_is_free_at_once() {
    let mut peer = Peer::open();

    let input = [method(1, ChannelClose::default()), method(1, ChannelOpen {})].concat();

    assert_eq!(peer.feed(&input), [Event::ChannelClosed(1), Event::ChannelOpened(1)]);
    assert_eq!(peer.take(), [method(1, ChannelCloseOk {}), method(1, ChannelOpenOk {})].concat());
}

#[test]
fn a_channel_closed_by_the_server_ignores_all_until_the_answer() {
    let mut peer = Peer::open();
    let text = "no queue 'q' in vhost '/'";
    peer.connection.close_channel(1, ReplyCode::NotFound, text, (50, 10), &mut peer.out);
    peer.connection.close_channel(1, ReplyCode::NotFound, "again", (0, 0), &mut peer.out);
    let close = ChannelClose {
        reply_code: 404,
        reply_text: "NOT_FOUND - no queue 'q' in vhost '/'",
        class_id: 50,
        method_id: 10,
    };
    assert_eq!(peer.take(), method(1, close));
    assert!(!peer.connection.is_channel_open(1));

    let pipelined = [
        method(1, QueueDeclare::default()),
        publish(1),
        header(1, 60, 1, &[0, 0]),
        body(1, b"x"),
        body(1, b"y"),
        method(1, ChannelOpen {}),
    ]
    .concat();
    assert_eq!(peer.feed(&pipelined), []);
    // Both closed at once.
    assert_eq!(peer.feed(&method(1, ChannelClose::default())), []);
    assert_eq!(peer.take(), method(1, ChannelCloseOk {}));
    assert_eq!(peer.feed(&method(1, ChannelCloseOk {})), [Event::ChannelClosed(1)]);

    assert_eq!(peer.feed(&method(1, ChannelOpen {})), [Event::ChannelOpened(1)]);
}

#[test]
fn after_our_close_everything_but_the_answer_is_ignored() {
    let mut peer = Peer::open();
    let text = "shutdown";
    peer.connection.close(ReplyCode::ConnectionForced, text, (0, 0), &mut peer.out);
    peer.take();

    let input = [
        publish(1),
        frame(77, 3, b""),
        body(9, b"x"),
        method(0, ConnectionTune::default()),
        method(0, ConnectionCloseOk {}),
        method(1, ChannelOpen {}),
    ]
    .concat();

    assert_eq!(peer.feed(&input), [Event::Closed]);
    assert_eq!(peer.take(), b"");
    assert!(peer.connection.is_finished());
}

#[test]
fn a_close_nobody_answers_ends_by_the_clock() {
    let mut peer = Peer::open();
    peer.connection.close(ReplyCode::ConnectionForced, "shutdown", (0, 0), &mut peer.out);

    assert_eq!(peer.pass(Duration::from_millis(9_999)), None);

    assert_eq!(peer.connection.poll_timeout(), Some(peer.now + Duration::from_millis(1)));
    assert_eq!(peer.pass(Duration::from_millis(1)), Some(Event::Closed));
}

#[test]
fn thousands_of_channels_open_and_close_in_any_order() {
    let tune = posthouse_amqp::method::ConnectionTuneOk {
        channel_max: 2047,
        frame_max: 4096,
        heartbeat: 0,
    };
    let mut peer = Peer::tuned(Default::default(), tune);
    let numbers = || (1..=2047_u16).map(|index| index.wrapping_mul(1031) % 2048);

    for number in numbers() {
        let input = method(number, ChannelOpen {});
        assert_eq!(peer.feed(&input), [Event::ChannelOpened(number)]);
    }
    for number in numbers() {
        let input = method(number, ChannelClose::default());
        assert_eq!(peer.feed(&input), [Event::ChannelClosed(number)]);
    }
}

#[test]
fn an_idle_connection_is_small() {
    // Two slots for channels are on the heap, 16 bytes each.
    assert!(size_of::<posthouse_amqp::Connection>() <= 256);
}
