//! Everything that is cut short is an error, or waits for the rest; nothing panics.

use posthouse_amqp::{
    error::DecodeError,
    method::Method,
    properties::{Peek, Properties},
    raw_table::RawTable,
    rewrite::Rewrite,
    table::TableError,
};

use crate::{
    peer::{Peer, body, header, method},
    round_trip::{all_methods, full_properties, full_table},
};

#[test]
fn every_method_cut_short_is_an_error() {
    let entries = full_table().to_entries().expect("encodes");
    for whole in all_methods(&entries) {
        let bytes = method(1, whole);
        let payload = &bytes[7..bytes.len() - 1];
        for end in 0..payload.len() {
            assert_eq!(Method::decode(&payload[..end]), Err(DecodeError::Truncated), "{whole:?}");
        }
        let longer = [payload, &[0]].concat();
        assert_eq!(Method::decode(&longer), Err(DecodeError::Trailing(1)), "{whole:?}");
    }
}

#[test]
fn every_table_cut_short_is_an_error() {
    let entries = full_table().to_entries().expect("encodes");
    let mut starts = vec![];
    let mut rest = &entries[..];
    // Cut between two entries it is a shorter table.
    while !rest.is_empty() {
        starts.push(entries.len() - rest.len());
        let first = RawTable::from_bytes(rest).iter().next().expect("an entry").expect("whole");
        let one = posthouse_amqp::table::Table::from_iter([(
            first.0,
            full_table().get(first.0).expect("it is there").clone(),
        )]);
        rest = &rest[one.to_entries().expect("encodes").len()..];
    }
    for end in 0..entries.len() {
        let cut = RawTable::from_bytes(&entries[..end]).decode();
        if starts.contains(&end) {
            assert!(cut.is_ok());
        } else {
            assert_eq!(cut, Err(TableError::Truncated), "{end}");
        }
    }
}

#[test]
fn every_list_of_properties_cut_short_is_an_error() {
    let entries = full_table().to_entries().expect("encodes");
    let mut raw = Vec::new();
    full_properties(&entries).encode(&mut raw).expect("encodes");

    for end in 0..raw.len() {
        assert_eq!(Properties::decode(&raw[..end]), Err(DecodeError::Truncated));
        assert_eq!(Peek::decode(&raw[..end]), Err(DecodeError::Truncated));
        assert!(matches!(Rewrite::of(&raw[..end]), Err(DecodeError::Truncated)));
    }
    raw.push(0);
    assert_eq!(Peek::decode(&raw), Err(DecodeError::Trailing(1)));
    assert_eq!(Properties::decode(&raw), Err(DecodeError::Trailing(1)));
}

#[test]
fn every_cut_of_the_wire_waits_for_the_rest() {
    let publish =
        method(1, posthouse_amqp::method::BasicPublish { routing_key: "q", ..Default::default() });
    let message = [publish, header(1, 60, 4, &[0, 0]), body(1, b"body")].concat();
    for end in 0..message.len() {
        let mut peer = Peer::open();
        assert_eq!(peer.feed(&message[..end]), []);
        assert_eq!(peer.take(), b"");
        assert!(peer.connection.is_open());
    }
}
