//! What is written is read back the same.

use posthouse_amqp::{
    encode::{
        body_frames, content_bytes, encode_ack, encode_body, encode_content_header, encode_nack,
    },
    method::*,
    properties::{Peek, Properties, Property},
    raw_table::{RawTable, ValueRef},
    rewrite::{Rewrite, encode_with_headers},
    table::{Table, Value},
};
use proptest::prelude::*;

/// A table with every type.
pub(crate) fn full_table() -> Table {
    let mut table = Table::new();
    table.insert("bool", true);
    table.insert("i8", -8_i8);
    table.insert("u8", 200_u8);
    table.insert("i16", -16_i16);
    table.insert("u16", 60_000_u16);
    table.insert("i32", -32_i32);
    table.insert("u32", u32::MAX);
    table.insert("i64", i64::MIN);
    table.insert("f32", 1.5_f32);
    table.insert("f64", -2.25_f64);
    table.insert("decimal", Value::Decimal { scale: 2, value: 314 });
    table.insert("string", "text");
    table.insert("not text", Value::LongString(vec![0xff, 0]));
    table.insert("array", vec![Value::from(1_i32), Value::Void, Value::Array(vec![])]);
    table.insert("time", Value::Timestamp(1_700_000_000));
    table.insert("table", Table::from_iter([("inner", Value::Table(Table::new()))]));
    table.insert("void", Value::Void);
    table.insert("bytes", Value::Bytes(vec![1, 2, 3]));
    table
}

pub(crate) fn full_properties(headers: &[u8]) -> Properties<'_> {
    Properties {
        content_type: Some("text/plain"),
        content_encoding: Some("gzip"),
        headers: Some(RawTable::from_bytes(headers)),
        delivery_mode: Some(2),
        priority: Some(9),
        correlation_id: Some("c"),
        reply_to: Some("r"),
        expiration: Some("1000"),
        message_id: Some("m"),
        timestamp: Some(1_700_000_000),
        kind: Some("k"),
        user_id: Some("u"),
        app_id: Some("a"),
        cluster_id: Some(""),
    }
}

/// Every method with its most telling arguments.
#[rustfmt::skip]
pub(crate) fn all_methods(entries: &[u8]) -> Vec<Method<'_>> {
    let arguments = RawTable::from_bytes(entries);
    let (queue, exchange, routing_key, consumer_tag) = ("queue", "exchange", "key", "tag");
    let (reply_code, reply_text, class_id, method_id) = (404, "text", 50, 10);
    vec![
        ConnectionStart { version_major: 0, version_minor: 9, server_properties: arguments, mechanisms: b"PLAIN", locales: b"en_US" }.into(),
        ConnectionStartOk { client_properties: arguments, mechanism: "PLAIN", response: b"\0a\0b", locale: "en_US" }.into(),
        ConnectionSecure { challenge: b"?" }.into(), ConnectionSecureOk { response: b"!" }.into(),
        ConnectionTune { channel_max: 1, frame_max: 2, heartbeat: 3 }.into(),
        ConnectionTuneOk { channel_max: 1, frame_max: 2, heartbeat: 3 }.into(),
        ConnectionOpen { virtual_host: "/" }.into(), ConnectionOpenOk {}.into(),
        ConnectionClose { reply_code, reply_text, class_id, method_id }.into(), ConnectionCloseOk {}.into(),
        ConnectionBlocked { reason: "low on memory" }.into(), ConnectionUnblocked {}.into(),
        ConnectionUpdateSecret { new_secret: b"s", reason: "r" }.into(), ConnectionUpdateSecretOk {}.into(),
        ChannelOpen {}.into(), ChannelOpenOk {}.into(),
        ChannelFlow { active: true }.into(), ChannelFlowOk { active: true }.into(),
        ChannelClose { reply_code, reply_text, class_id, method_id }.into(), ChannelCloseOk {}.into(),
        AccessRequest { realm: "/data", exclusive: true, passive: false, active: true, write: false, read: true }.into(),
        AccessRequestOk { ticket: 1 }.into(),
        ExchangeDeclare { exchange, kind: "topic", passive: false, durable: true, auto_delete: false, internal: true, no_wait: false, arguments }.into(),
        ExchangeDeclareOk {}.into(),
        ExchangeDelete { exchange, if_unused: false, no_wait: true }.into(), ExchangeDeleteOk {}.into(),
        ExchangeBind { destination: "d", source: "s", routing_key, no_wait: true, arguments }.into(), ExchangeBindOk {}.into(),
        ExchangeUnbind { destination: "d", source: "s", routing_key, no_wait: false, arguments }.into(), ExchangeUnbindOk {}.into(),
        QueueDeclare { queue, passive: true, durable: false, exclusive: true, auto_delete: false, no_wait: true, arguments }.into(),
        QueueDeclareOk { queue, message_count: 1, consumer_count: 2 }.into(),
        QueueBind { queue, exchange, routing_key, no_wait: true, arguments }.into(), QueueBindOk {}.into(),
        QueuePurge { queue, no_wait: true }.into(), QueuePurgeOk { message_count: 1 }.into(),
        QueueDelete { queue, if_unused: false, if_empty: true, no_wait: false }.into(), QueueDeleteOk { message_count: 1 }.into(),
        QueueUnbind { queue, exchange, routing_key, arguments }.into(), QueueUnbindOk {}.into(),
        BasicQos { prefetch_size: 1, prefetch_count: 2, global: true }.into(), BasicQosOk {}.into(),
        BasicConsume { queue, consumer_tag, no_local: true, no_ack: false, exclusive: true, no_wait: false, arguments }.into(),
        BasicConsumeOk { consumer_tag }.into(),
        BasicCancel { consumer_tag, no_wait: true }.into(), BasicCancelOk { consumer_tag }.into(),
        BasicPublish { exchange, routing_key, mandatory: false, immediate: true }.into(),
        BasicReturn { reply_code, reply_text, exchange, routing_key }.into(),
        BasicDeliver { consumer_tag, delivery_tag: u64::MAX, redelivered: true, exchange, routing_key }.into(),
        BasicGet { queue, no_ack: true }.into(),
        BasicGetOk { delivery_tag: 1, redelivered: false, exchange, routing_key, message_count: 2 }.into(),
        BasicGetEmpty {}.into(),
        BasicAck { delivery_tag: 1, multiple: true }.into(), BasicReject { delivery_tag: 1, requeue: true }.into(),
        BasicRecoverAsync { requeue: true }.into(), BasicRecover { requeue: true }.into(), BasicRecoverOk {}.into(),
        BasicNack { delivery_tag: 1, multiple: false, requeue: true }.into(),
        ConfirmSelect { no_wait: true }.into(), ConfirmSelectOk {}.into(),
        TxSelect {}.into(), TxSelectOk {}.into(), TxCommit {}.into(), TxCommitOk {}.into(),
        TxRollback {}.into(), TxRollbackOk {}.into(),
    ]
}

fn check(method: Method<'_>) {
    let mut bytes = Vec::new();
    method.encode(7, &mut bytes).expect("encodes");

    assert_eq!(&bytes[..3], [1, 0, 7]);
    assert_eq!(bytes.last(), Some(&206));
    assert_eq!(u32::from_be_bytes(bytes[3..7].try_into().expect("4")) as usize, bytes.len() - 8);
    assert_eq!(Method::decode(&bytes[7..bytes.len() - 1]), Ok(method));
}

#[test]
fn every_method_of_the_table_comes_back() {
    let entries = full_table().to_entries().expect("encodes");
    let methods = all_methods(&entries);

    methods.iter().copied().for_each(check);

    let ids: Vec<_> = methods.iter().map(Method::id).collect();
    let mut missing: Vec<_> = Method::IDS.iter().filter(|id| !ids.contains(id)).collect();
    missing.sort();
    assert_eq!(missing, Vec::<&(u16, u16)>::new());
    assert_eq!(ids.len(), Method::IDS.len());
}

#[test]
fn bits_share_an_octet_in_the_order_of_the_specification() {
    let declare =
        QueueDeclare { queue: "q", durable: true, auto_delete: true, ..Default::default() };
    let mut bytes = Vec::new();

    Method::from(declare).encode(1, &mut bytes).expect("encodes");

    assert_eq!(bytes[7..], [0, 50, 0, 10, 0, 0, 1, b'q', 0b01010, 0, 0, 0, 0, 206]);
    assert_eq!(Method::from(declare).name(), "queue.declare");
}

#[test]
fn the_short_cuts_write_what_the_methods_write() {
    let (mut quick, mut slow) = (Vec::new(), Vec::new());

    encode_ack(&mut quick, 3, 9, true);
    encode_nack(&mut quick, 3, 10, false, true);
    encode_nack(&mut quick, 3, 11, true, false);
    posthouse_amqp::encode::encode_deliver(&mut quick, 3, "t", 12, true, "e", "k").expect("short");

    let settled = [
        Method::from(BasicAck { delivery_tag: 9, multiple: true }),
        Method::from(BasicNack { delivery_tag: 10, multiple: false, requeue: true }),
        Method::from(BasicNack { delivery_tag: 11, multiple: true, requeue: false }),
        Method::from(BasicDeliver {
            consumer_tag: "t",
            delivery_tag: 12,
            redelivered: true,
            exchange: "e",
            routing_key: "k",
        }),
    ];
    settled.iter().for_each(|method| method.encode(3, &mut slow).expect("encodes"));
    assert_eq!(quick, slow);
}

#[test]
fn the_size_of_content_is_known_in_advance() {
    for len in [0, 1, 4087, 4088, 4089, 8176, 8177] {
        let mut out = Vec::new();
        encode_content_header(&mut out, 1, len as u64, &[0x10, 0, 2]);
        encode_body(&mut out, 1, &vec![7; len], 4096);

        assert_eq!(out.len(), content_bytes(3, len, 4096));
        assert_eq!(body_frames(len, 4096).map(|piece| piece.len()).sum::<usize>(), len);
        assert!(body_frames(len, 4096).all(|piece| (1..=4088).contains(&piece.len())));
    }
}

#[test]
fn a_table_with_every_type_comes_back() {
    let table = full_table();
    let mut bytes = Vec::new();
    table.encode(&mut bytes).expect("encodes");

    let raw = RawTable::from_bytes(&bytes[4..]);

    assert_eq!(raw.decode(), Ok(table));
    assert_eq!(raw.get("i16"), Ok(Some(ValueRef::I16(-16))));
    assert_eq!(raw.get("absent"), Ok(None));
    assert_eq!(raw.iter().count(), 18);
}

#[test]
fn an_l_is_read_as_a_long_and_any_octet_as_a_bool() {
    let raw = RawTable::from_bytes(b"\x01aL\xff\xff\xff\xff\xff\xff\xff\xfe\x01bt\x02");

    let table = raw.decode().expect("decodes");

    assert_eq!(table.get("a"), Some(&Value::I64(-2)));
    assert_eq!(table.get("b"), Some(&Value::Bool(true)));
}

#[test]
fn all_properties_come_back_and_can_be_peeked_at() {
    let entries = full_table().to_entries().expect("encodes");
    let properties = full_properties(&entries);
    let mut raw = Vec::new();
    properties.encode(&mut raw).expect("encodes");

    assert_eq!(Properties::decode(&raw), Ok(properties));

    let peek = Peek::decode(&raw).expect("decodes");
    assert_eq!((peek.delivery_mode(), peek.priority()), (Some(2), Some(9)));
    assert!(peek.is_persistent() && peek.has_any_to_act_upon());
    assert!(Property::ALL.into_iter().all(|property| peek.has(property)));
    let none = Peek::decode(&[0, 0]).expect("decodes");
    assert_eq!((none.delivery_mode(), none.priority()), (None, None));
    assert!(!none.has_any_to_act_upon());
}

#[test]
fn a_rewrite_changes_what_it_is_told_and_nothing_else() {
    // A correlation id that is not UTF-8: Properties::decode would refuse it.
    let raw =
        [&[0b0010_0101, 0b0000_0000][..], &[0, 0, 0, 0], &[2, 0xff, 0xfe], &[1, b'9']].concat();
    assert!(Properties::decode(&raw).is_err());
    let mut rewrite = Rewrite::of(&raw).expect("whole");
    assert_eq!(rewrite.headers(), Some(RawTable::EMPTY));

    let mut same = Vec::new();
    rewrite.encode(&mut same);
    assert_eq!(same, raw);

    rewrite.remove(Property::Expiration);
    rewrite.set_headers(&Table::from_iter([("x", 1_u8)])).expect("encodes");
    let mut changed = Vec::new();
    rewrite.encode(&mut changed);
    let expected = [&[0b0010_0100, 0][..], &[0, 0, 0, 4, 1, b'x', b'B', 1], &[2, 0xff, 0xfe]];
    assert_eq!(changed, expected.concat());

    rewrite.set_headers(&Table::new()).expect("encodes");
    let mut without = Vec::new();
    rewrite.encode(&mut without);
    assert_eq!(without, [0b0000_0100, 0, 2, 0xff, 0xfe]);
}

#[test]
fn headers_are_added_to_a_list_that_had_none() {
    let headers = Table::from_iter([("x-delivery-count", 3_i64)]);
    let mut rewrite = Rewrite::of(&[0x10, 0, 2]).expect("whole");
    rewrite.set_headers(&headers).expect("encodes");
    let (mut rewritten, mut built) = (Vec::new(), Vec::new());
    rewrite.encode(&mut rewritten);

    let properties = Properties { delivery_mode: Some(2), ..Default::default() };
    encode_with_headers(&properties, &headers, &mut built).expect("encodes");

    assert_eq!(rewritten, built);
}

fn short() -> impl Strategy<Value = String> {
    "\\PC{0,60}"
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<u64>().prop_map(Value::Timestamp),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| Value::Decimal { scale, value }),
        (-1e9_f32..1e9).prop_map(Value::F32),
        (-1e9_f64..1e9).prop_map(Value::F64),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::LongString),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        Just(Value::Void),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::vec((short(), inner), 0..8)
                .prop_map(|entries| Value::Table(entries.into_iter().collect())),
        ]
    })
}

fn table() -> impl Strategy<Value = Table> {
    prop::collection::vec((short(), value()), 0..12)
        .prop_map(|entries| entries.into_iter().collect())
}

proptest! {
    #[test]
    fn any_table_comes_back(table in table()) {
        let bytes = table.to_entries().expect("encodes");
        prop_assert_eq!(RawTable::from_bytes(&bytes).decode(), Ok(table));
    }

    #[test]
    fn any_names_and_arguments_come_back(
        names in [short(), short(), short()],
        bits in any::<[bool; 5]>(),
        table in table(),
        numbers in any::<(u64, u32, u16)>(),
    ) {
        let entries = table.to_entries().expect("encodes");
        let arguments = RawTable::from_bytes(&entries);
        let [queue, exchange, routing_key] = names.each_ref().map(|name| &**name);
        let [passive, durable, exclusive, auto_delete, no_wait] = bits;
        let (delivery_tag, message_count, reply_code) = numbers;
        check(QueueDeclare { queue, passive, durable, exclusive, auto_delete, no_wait, arguments }.into());
        check(QueueBind { queue, exchange, routing_key, no_wait, arguments }.into());
        check(BasicPublish { exchange, routing_key, mandatory: passive, immediate: durable }.into());
        check(BasicGetOk { delivery_tag, redelivered: passive, exchange, routing_key, message_count }.into());
        check(BasicReturn { reply_code, reply_text: queue, exchange, routing_key }.into());
    }

    #[test]
    fn any_properties_come_back_and_pass_a_rewrite_unchanged(
        texts in any::<[Option<String>; 10]>(),
        octets in any::<[Option<u8>; 2]>(),
        timestamp in any::<Option<u64>>(),
        headers in prop::option::of(table()),
    ) {
        let entries = headers.map(|table| table.to_entries().expect("encodes"));
        let text = |index: usize| {
            texts[index].as_deref().map(posthouse_amqp::error::short_text)
        };
        let properties = Properties {
            content_type: text(0), content_encoding: text(1), correlation_id: text(2),
            reply_to: text(3), expiration: text(4), message_id: text(5), kind: text(6),
            user_id: text(7), app_id: text(8), cluster_id: text(9),
            headers: entries.as_deref().map(RawTable::from_bytes),
            delivery_mode: octets[0], priority: octets[1], timestamp,
        };
        let (mut raw, mut rewritten) = (Vec::new(), Vec::new());
        properties.encode(&mut raw).expect("encodes");

        Rewrite::of(&raw).expect("whole").encode(&mut rewritten);
        let peek = Peek::decode(&raw).expect("whole");

        prop_assert_eq!(Properties::decode(&raw), Ok(properties));
        prop_assert_eq!(&rewritten, &raw);
        prop_assert_eq!((peek.delivery_mode(), peek.priority()), (octets[0], octets[1]));
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _method = Method::decode(&bytes);
        let _properties = Properties::decode(&bytes);
        let _table = RawTable::from_bytes(&bytes).decode();
        prop_assert_eq!(Peek::decode(&bytes).is_ok(), Rewrite::of(&bytes).is_ok());
    }
}
