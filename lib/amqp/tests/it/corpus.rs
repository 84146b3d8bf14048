//! Replays the inputs that fuzzing found worth keeping, and writes the ones it starts from.

use std::{fs, path::PathBuf};

use posthouse_amqp::{
    capabilities::Capabilities,
    frame::PROTOCOL_HEADER,
    method::{
        BasicPublish, ChannelClose, ChannelOpen, ConnectionClose, ConnectionOpen, ConnectionTuneOk,
    },
    sasl::Credentials,
};

use crate::{
    fuzzed,
    peer::{body, frame, header, method, start_ok},
    round_trip::{all_methods, full_properties, full_table},
};

fn folder(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", target].iter().collect()
}

fn replay(target: &str, check: fn(&[u8])) {
    let inputs = fs::read_dir(folder(target)).expect("the corpus is committed");
    let mut count = 0;
    for input in inputs {
        check(&fs::read(input.expect("readable").path()).expect("readable"));
        count += 1;
    }
    assert!(count > 0, "no input for {target}");
}

#[test]
fn the_corpus_of_every_target_holds() {
    replay("frame_and_connection", fuzzed::check_frame_and_connection);
    replay("method", fuzzed::check_method);
    replay("table", fuzzed::check_table);
    replay("properties", fuzzed::check_properties);
    replay("amqplain", fuzzed::check_amqplain);
}

/// A whole life of a connection, cut after every `step` octets.
fn life(step: u8, last: &[u8]) -> Vec<u8> {
    let tune_ok = ConnectionTuneOk { channel_max: 9, frame_max: 4096, heartbeat: 9 };
    let publish = BasicPublish { exchange: "e", routing_key: "k", ..Default::default() };
    let mut bytes = vec![step];
    bytes.extend_from_slice(PROTOCOL_HEADER);
    bytes.extend(start_ok(Capabilities::CLIENT));
    bytes.extend(method(0, tune_ok));
    bytes.extend(method(0, ConnectionOpen { virtual_host: "/" }));
    bytes.extend(method(1, ChannelOpen {}));
    bytes.extend(method(1, publish));
    bytes.extend(header(1, 60, 5, &[0x10, 0, 2]));
    bytes.extend(body(1, b"hel"));
    bytes.extend(body(1, b"lo"));
    bytes.extend(frame(8, 0, b""));
    bytes.extend_from_slice(last);
    bytes
}

/// The seeds: whatever the encoders can write. Fuzzing adds to them.
fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let entries = full_table().to_entries().expect("encodes");
    let mut seeds = vec![("table", "all".to_owned(), entries.clone())];
    for whole in all_methods(b"\x01kI\0\0\0\x01") {
        let bytes = method(1, whole);
        let payload = bytes[7..bytes.len() - 1].to_vec();
        seeds.push(("method", whole.name().to_owned(), payload));
    }
    let mut raw = Vec::new();
    full_properties(b"\x01kI\0\0\0\x01").encode(&mut raw).expect("encodes");
    seeds.push(("properties", "all".to_owned(), raw));
    seeds.push(("properties", "persistent".to_owned(), vec![0x10, 0, 2]));
    let login = Credentials { login: "guest", password: b"guest" };
    seeds.push(("amqplain", "amqplain".to_owned(), login.to_amqplain().expect("encodes")));
    seeds.push(("amqplain", "plain".to_owned(), login.to_plain()));
    let endings = [
        ("close", method(0, ConnectionClose::default())),
        ("channel-close", method(1, ChannelClose::default())),
        ("unknown-type", frame(77, 1, b"x")),
        ("body-without-publish", body(1, b"x")),
        ("second-open", method(1, ChannelOpen {})),
    ];
    for (index, (name, bytes)) in endings.into_iter().enumerate() {
        let step = u8::try_from(index * 5).expect("small");
        seeds.push(("frame_and_connection", name.to_owned(), life(step, &bytes)));
    }
    seeds
}

#[test]
fn the_seeds_are_what_the_encoders_write() {
    for (target, name, bytes) in seeds() {
        let path = folder(target).join(name);
        // `UPDATE_SEEDS=1 cargo test -p posthouse-amqp seeds` writes them.
        if std::env::var_os("UPDATE_SEEDS").is_some() {
            fs::create_dir_all(folder(target)).expect("writable");
            fs::write(&path, &bytes).expect("writable");
        }
        assert_eq!(fs::read(&path).expect("the seed is committed"), bytes, "{}", path.display());
    }
}
