//! Small inputs that claim to be huge, deep or wide.

use posthouse_amqp::{
    error::EncodeError,
    event::Event,
    method::{BasicPublish, Method, QueueDeclare},
    properties::{Peek, Properties},
    raw_table::RawTable,
    table::{DEPTH_MAX, ENTRIES_MAX, Table, TableError, Value},
};

use crate::peer::{Peer, body, frame, header, method};

/// Tables, or arrays in a table, nested `depth` deep: the outermost included.
fn nested(depth: usize, tag: u8) -> Vec<u8> {
    let mut levels = vec![];
    let mut len = 0_u32;
    for level in 1..depth {
        let mut open = if tag == b'F' || level == depth - 1 { vec![0] } else { vec![] };
        open.push(tag);
        open.extend_from_slice(&len.to_be_bytes());
        len += u32::try_from(open.len()).expect("small");
        levels.push(open);
    }
    levels.into_iter().rev().flatten().collect()
}

#[test]
fn tables_nest_64_deep_and_no_deeper() {
    for tag in *b"FA" {
        let bytes = nested(DEPTH_MAX, tag);
        let table = RawTable::from_bytes(&bytes).decode().expect("deep enough");
        assert_eq!(table.to_entries().as_ref(), Ok(&bytes));
        assert_eq!(table, table.clone());

        for depth in [DEPTH_MAX + 1, 18_000] {
            let bytes = nested(depth, tag);
            assert_eq!(RawTable::from_bytes(&bytes).decode(), Err(TableError::TooDeep));
        }
    }
}

#[test]
fn a_table_too_deep_to_read_is_too_deep_to_write() {
    let mut table = Table::new();
    for _ in 0..DEPTH_MAX {
        table = Table::from_iter([("", table)]);
    }

    let mut out = b"before".to_vec();

    assert_eq!(table.encode(&mut out), Err(EncodeError::TooDeep));
    assert_eq!(out, b"before");
}

#[test]
fn a_table_has_65535_entries_in_all_its_depths() {
    let array = |count: usize| {
        let len = u32::try_from(count).expect("small");
        [&b"\x01aA"[..], &len.to_be_bytes(), &vec![b'V'; count]].concat()
    };

    let most = array(ENTRIES_MAX - 1);
    assert!(RawTable::from_bytes(&most).decode().is_ok());
    let more = array(ENTRIES_MAX);

    assert_eq!(RawTable::from_bytes(&more).decode(), Err(TableError::TooManyEntries));
}

#[test]
fn a_name_twice_is_refused_in_small_and_in_large_tables() {
    for count in [2_u32, 20, 60_000] {
        let mut entries = Vec::new();
        for index in 0..count {
            entries.push(4);
            entries.extend_from_slice(&index.to_be_bytes().map(|octet| octet & 0x7f));
            entries.push(b'V');
        }
        let distinct = count <= 128;
        assert_eq!(RawTable::from_bytes(&entries).decode().is_ok(), distinct);
        entries.extend_from_slice(b"\x04\0\0\0\0V");
        assert_eq!(RawTable::from_bytes(&entries).decode(), Err(TableError::DuplicateName));
    }
}

#[test]
fn claimed_lengths_are_not_believed() {
    for tag in *b"SxAF" {
        for claim in [1_u32, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let entries = [&[1, b'k', tag][..], &claim.to_be_bytes()].concat();
            assert_eq!(RawTable::from_bytes(&entries).decode(), Err(TableError::Truncated));
            assert_eq!(RawTable::from_bytes(&entries).get("k"), Err(TableError::Truncated));
        }
    }
    let declare = [&[0, 50, 0, 10, 0, 0, 1, b'q', 0][..], &u32::MAX.to_be_bytes()].concat();
    assert!(Method::decode(&declare).is_err());
    let headers = [&[0x20, 0][..], &u32::MAX.to_be_bytes()].concat();
    assert!(Peek::decode(&headers).is_err());
}

#[test]
fn names_that_are_not_utf8_are_refused() {
    let entries = b"\x01\xffV";

    assert_eq!(RawTable::from_bytes(entries).decode(), Err(TableError::NameNotUtf8));
    assert_eq!(RawTable::from_bytes(entries).get("k"), Err(TableError::NameNotUtf8));
}

#[test]
fn unknown_types_are_refused() {
    for tag in 0..=u8::MAX {
        if b"tbBsuIilLfdDSATFVx".contains(&tag) {
            continue;
        }
        let entries = [&[0, tag][..], &[0; 16]].concat();
        assert_eq!(RawTable::from_bytes(&entries).decode(), Err(TableError::UnknownType(tag)));
    }
}

#[test]
fn flags_of_no_property_are_refused() {
    for flags in [[0, 1], [0, 2], [0xff, 0xff]] {
        assert!(Properties::decode(&flags).is_err());
        assert!(Peek::decode(&flags).is_err());
    }
}

#[test]
fn names_over_255_bytes_are_not_written() {
    let long = "x".repeat(256);
    let mut out = b"before".to_vec();
    let too_long = Err(EncodeError::ShortStringTooLong(256));

    let declare = QueueDeclare { queue: &long, ..Default::default() };
    assert_eq!(Method::from(declare).encode(1, &mut out), too_long);
    let properties = Properties { message_id: Some(&long), ..Default::default() };
    assert_eq!(properties.encode(&mut out), too_long);
    assert_eq!(Table::from_iter([(&*long, Value::Void)]).encode(&mut out), too_long);
    for names in [[&*long, "", ""], ["", &long, ""], ["", "", &long]] {
        let [tag, exchange, key] = names;
        let written =
            posthouse_amqp::encode::encode_deliver(&mut out, 1, tag, 1, false, exchange, key);
        assert_eq!(written, too_long);
    }

    assert_eq!(out, b"before");
}

#[test]
fn an_announced_size_takes_no_memory() {
    let mut peer = Peer::open();
    for channel in [1, 2] {
        peer.feed(&method(channel, posthouse_amqp::method::ChannelOpen {}));
    }
    let mut peer = Peer::open();
    let publish = method(1, BasicPublish::default());

    // 16 MiB are announced and allowed; empty bodies bring nothing nearer.
    let input = [publish, header(1, 60, 16 * 1024 * 1024, &[0, 0])].concat();
    assert_eq!(peer.feed(&input), []);
    for _ in 0..1000 {
        assert_eq!(peer.feed(&body(1, b"")), []);
    }
    let shown = format!("{:?}", peer.connection);

    assert!(shown.contains("body: []"), "{shown}");
}

#[test]
fn a_frame_of_4_gib_is_refused_by_its_head() {
    let mut head = frame(1, 1, &[])[..7].to_vec();
    head[3..7].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut peer = Peer::open();

    let events = peer.feed(&head);

    assert!(matches!(&events[..], [Event::Failed(failure)]
        if failure.text.ends_with("{frame_too_large,4294967295,4088}")));
}
