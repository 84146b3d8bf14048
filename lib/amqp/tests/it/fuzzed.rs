//! What must hold for any bytes at all. The fuzz targets call this, and the corpus is replayed through it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use posthouse_amqp::{
    Connection,
    event::Event,
    method::Method,
    options::ServerOptions,
    properties::{Peek, Properties},
    raw_table::RawTable,
    rewrite::Rewrite,
    sasl::Credentials,
};

/// A method that can be read is written the same, or shorter where reserved arguments were not empty.
pub(crate) fn check_method(data: &[u8]) {
    let Ok(method) = Method::decode(data) else { return };
    let mut frame = Vec::new();
    method.encode(1, &mut frame).expect("what was read has an encoding");

    let payload = frame.get(7..frame.len() - 1).expect("head and end are there");

    assert!(payload.len() <= data.len());
    assert_eq!(Method::decode(payload), Ok(method));
}

/// A table that can be read is written the same, give or take the octet of a bool and the type of a long.
pub(crate) fn check_table(data: &[u8]) {
    let raw = RawTable::from_bytes(data);
    let entries = raw.iter().filter(Result::is_ok).count();
    let Ok(table) = raw.decode() else { return };
    assert_eq!(entries, table.len());
    for (name, _) in table.iter() {
        assert!(matches!(raw.get(name), Ok(Some(_))));
    }

    let written = table.to_entries().expect("what was read has an encoding");

    assert_eq!(written.len(), data.len());
    let again = RawTable::from_bytes(&written).decode().expect("it was just written");
    assert_eq!(again.to_entries(), Ok(written));
}

/// All ways to look at properties agree on what a list is.
pub(crate) fn check_properties(data: &[u8]) {
    let peek = Peek::decode(data);
    let rewrite = Rewrite::of(data);
    assert_eq!(peek.is_ok(), rewrite.is_ok());
    if let Ok(rewrite) = rewrite {
        let mut written = Vec::new();
        rewrite.encode(&mut written);
        assert_eq!(written, data);
    }
    let Ok(properties) = Properties::decode(data) else { return };
    let peek = peek.expect("it asks for less");
    assert_eq!(peek.delivery_mode(), properties.delivery_mode);
    assert_eq!(peek.priority(), properties.priority);
    let mut written = Vec::new();
    properties.encode(&mut written).expect("what was read has an encoding");
    assert_eq!(written, data);
}

/// A login that can be read is written and read the same.
pub(crate) fn check_amqplain(data: &[u8]) {
    if let Ok(credentials) = Credentials::from_amqplain(data) {
        let written = credentials.to_amqplain().expect("what was read has an encoding");
        assert_eq!(Credentials::from_amqplain(&written), Ok(credentials));
    }
    if let Ok(credentials) = Credentials::from_plain(data) {
        assert_eq!(credentials.to_plain(), data);
    }
}

/// Nothing a client sends makes a server panic or keep more than it was sent, however the bytes are cut; and the cuts
/// make no difference to what happens.
///
/// The first octet says where to cut, the rest is what the client sends.
pub(crate) fn check_frame_and_connection(data: &[u8]) {
    let Some((&step, sent)) = data.split_first() else { return };
    let step = if step == 0 { sent.len().max(1) } else { usize::from(step) };

    let whole = run(sent, sent.len().max(1));
    let pieces = run(sent, step);

    assert_eq!(whole, pieces);
}

/// What happened, as text, and what was answered.
fn run(sent: &[u8], step: usize) -> (Vec<String>, Vec<u8>) {
    let now = Instant::now();
    let options = ServerOptions { message_bytes_max: 100_000, ..ServerOptions::default() };
    let mut connection = Connection::server(Arc::new(options), now);
    let (mut events, mut out, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for piece in sent.chunks(step) {
        kept.extend_from_slice(piece);
        let mut input = &kept[..];
        while let Some(event) = connection.handle_bytes(now, &mut input, &mut out) {
            events.push(format!("{event:?}"));
            answer(&mut connection, &event, &mut out);
        }
        assert!(input.len() < connection.frame_max() as usize, "no unfinished frame is longer");
        let left = input.len();
        kept.drain(..kept.len() - left);
    }
    let timeout = connection.poll_timeout();
    assert!(timeout.is_none_or(|at| at > now));
    connection.handle_timeout(now + Duration::from_secs(1_000_000), &mut out);
    let shown = format!("{connection:?}");
    assert!(shown.len() < 10_000 + 20 * sent.len());
    // After an error of framing the answer to our close counts only if it comes in one piece.
    events.retain(|event| event != "Closed");
    (events, out)
}

/// Says yes to everything.
fn answer(connection: &mut Connection, event: &Event<'_>, out: &mut Vec<u8>) {
    match event {
        Event::Authenticate { .. } => connection.authenticated(out),
        Event::SecureResponse(_) => connection.challenge(b"again", out),
        Event::Open { .. } => connection.opened(out),
        Event::Publish { content, .. } => {
            check_properties(&content.properties);
            assert!(content.body.len() <= 100_000);
        }
        Event::Method { channel, method } => {
            assert!(*channel == 0 || connection.is_channel_open(*channel));
            method.encode(*channel, &mut Vec::new()).expect("what was read has an encoding");
        }
        _ => {}
    }
}
