//! Section 2: heartbeats.

use std::time::Duration;

use posthouse_amqp::{
    error::{Close, ReplyCode},
    event::Event,
    frame::HEARTBEAT,
    method::ConnectionTuneOk,
    options::ServerOptions,
};

use crate::peer::{Peer, frame};

const HALF: Duration = Duration::from_millis(500);

fn beating() -> Peer {
    let tune = ConnectionTuneOk { channel_max: 2, frame_max: 4096, heartbeat: 1 };
    Peer::tuned(ServerOptions::default(), tune)
}

#[test]
fn a_silent_peer_hears_a_beat_each_half_interval_and_is_cut_without_a_frame() {
    let mut peer = beating();

    for _ in 0..4 {
        assert_eq!(peer.connection.poll_timeout(), Some(peer.now + HALF));
        assert_eq!(peer.pass(HALF), None);
        assert_eq!(peer.take(), HEARTBEAT);
    }
    let cut = peer.pass(HALF);

    assert!(matches!(cut, Some(Event::Failed(failure)) if failure.close == Close::SocketOnly));
    assert_eq!(peer.take(), b"");
    assert_eq!(peer.pass(HALF), None);
}

#[test]
fn any_octet_counts_as_life() {
    let mut peer = beating();

    for _ in 0..10 {
        assert_eq!(peer.pass(Duration::from_secs(2)), None);
        // Not even a whole frame.
        assert_eq!(peer.feed_some(&HEARTBEAT[..1]), (vec![], &HEARTBEAT[..1]));
    }
}

#[test]
fn nothing_is_sent_while_the_owner_sends_anyway() {
    let mut peer = beating();

    for _ in 0..4 {
        peer.now += Duration::from_millis(300);
        peer.connection.sent(peer.now);
        assert_eq!(peer.pass(Duration::from_millis(100)), None);
        assert_eq!(peer.take(), b"");
    }
}

#[test]
fn silence_does_not_count_while_the_owner_does_not_read() {
    let mut peer = beating();

    peer.connection.pause_reading();
    assert_eq!(peer.pass(Duration::from_secs(60)), None);
    peer.connection.resume_reading(peer.now);
    assert_eq!(peer.pass(Duration::from_secs(2)), None);

    assert!(matches!(peer.pass(HALF), Some(Event::Failed(_))));
}

#[test]
fn without_heartbeats_there_is_nothing_to_wait_for() {
    let mut peer = Peer::open();

    assert_eq!(peer.connection.poll_timeout(), None);
    assert_eq!(peer.pass(Duration::from_secs(86_400)), None);
    assert_eq!(peer.take(), b"");
}

#[test]
fn a_beat_on_channel_0_is_no_event() {
    let mut peer = Peer::open();

    assert_eq!(peer.feed(HEARTBEAT), []);
    assert_eq!(peer.take(), b"");
}

#[test]
fn a_beat_on_another_channel_closes_the_connection() {
    for channel in [1, 2] {
        let text = "UNEXPECTED_FRAME - type 8, all octets = <<>>";
        let input = frame(8, channel, b"");
        Peer::open().check_close(&input, ReplyCode::UnexpectedFrame, text, (0, 0));
    }
}
