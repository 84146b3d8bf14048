//! Queues with `_enable_encrypt_messages`: cipher text on the disk, plain text for every reader of the queue service.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use it::socket::Socket;
use it::{Broker, Http, Program};
use serde_json::json;

const WHY: &str = "has keys of its own";
const KEY_1: &str = "k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const KEY_2: &str = "k2:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const CANARY: &str = "canary-91d7";

/// A program whose keys are in a file, which a restart reads again.
fn start(folder: &Path, keys: &str) -> Option<Program> {
    write_keys(folder, keys);
    let file = format!("queues.encryption.keys_file={}", folder.join("keys").display());
    Broker::start_own_with(WHY, &[&file])
}

fn write_keys(folder: &Path, keys: &str) {
    let path = folder.join("keys");
    std::fs::write(&path, keys).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn post(http: &mut Http, queue: &str, body: &str) -> u16 {
    let messages = json!({"messages": [{"body": {"said": body}, "ttl": 3600}]}).to_string();
    http.post(&format!("/v2/queues/{queue}/messages"), &messages).status
}

fn encrypted_queue(http: &mut Http, queue: &str) {
    let made = http.put(&format!("/v2/queues/{queue}"), r#"{"_enable_encrypt_messages": true}"#);
    assert_eq!(made.status, 201);
}

/// What all readings of a queue show, in order: list, claim, pop.
fn read_in_every_way(http: &mut Http, queue: &str) -> Vec<String> {
    let list = http.get(&format!("/v2/queues/{queue}/messages?echo=true"));
    let path = list.json()["messages"][0]["href"].as_str().unwrap().to_owned();
    let one = http.get(&path);
    let claimed = http.post(&format!("/v2/queues/{queue}/claims"), r#"{"ttl":60,"grace":60}"#);
    let claim = claimed.header("location").unwrap().to_owned();
    let viewed = http.get(&claim);
    assert_eq!(http.delete(&claim).status, 204);
    let popped = http.delete(&format!("/v2/queues/{queue}/messages?pop=1"));
    let said = |body: &serde_json::Value| body["said"].as_str().unwrap_or_default().to_owned();
    vec![
        said(&list.json()["messages"][0]["body"]),
        said(&one.json()["body"]),
        said(&claimed.json()["messages"][0]["body"]),
        said(&viewed.json()["messages"][0]["body"]),
        said(&popped.json()["messages"][0]["body"]),
    ]
}

fn is_on_disk(program: &Program, text: &str) -> bool {
    let mut folders = vec![program.data_directory()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                return true;
            }
        }
    }
    false
}

#[test]
fn the_disk_has_cipher_text_and_readers_get_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = start(folder.path(), KEY_1) else { return };
    let mut http = Http::new(&program);
    encrypted_queue(&mut http, "sealed");

    assert_eq!(post(&mut http, "sealed", CANARY), 201);
    assert_eq!(post(&mut http, "open", "control-44c0"), 201);

    assert!(is_on_disk(&program, "control-44c0"), "the control is where it is looked for");
    assert!(!is_on_disk(&program, CANARY));
    assert_eq!(read_in_every_way(&mut http, "sealed"), [CANARY; 5]);
    assert!(!program.log().contains(CANARY));
    assert!(!program.log().contains("AQEBAQEB"));
}

#[test]
fn messages_survive_a_restart_and_a_rotation_of_keys() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut program) = start(folder.path(), KEY_1) else { return };
    let mut http = Http::new(&program);
    encrypted_queue(&mut http, "sealed");
    assert_eq!(post(&mut http, "sealed", "old"), 201);

    write_keys(folder.path(), &format!("{KEY_2}\n{KEY_1}\n"));
    program.restart();
    let mut http = Http::new(&program);
    assert_eq!(post(&mut http, "sealed", "new"), 201);

    assert_eq!(read_in_every_way(&mut http, "sealed"), ["old"; 5]);
    assert_eq!(read_in_every_way(&mut http, "sealed"), ["new"; 5]);
}

#[test]
fn a_message_without_its_key_is_shown_sealed_and_opens_when_the_key_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut program) = start(folder.path(), KEY_1) else { return };
    let mut http = Http::new(&program);
    encrypted_queue(&mut http, "sealed");
    assert_eq!(post(&mut http, "sealed", CANARY), 201);

    write_keys(folder.path(), KEY_2);
    program.restart();
    let mut http = Http::new(&program);
    let listed = http.get("/v2/queues/sealed/messages?echo=true");

    assert_eq!(listed.status, 200);
    let shown = listed.json()["messages"][0]["body"].as_str().unwrap().to_owned();
    assert!(shown.starts_with("UFMB"), "{shown}");
    assert!(program.log().contains("a message could not be decrypted"));
    write_keys(folder.path(), KEY_1);
    program.restart();
    assert_eq!(read_in_every_way(&mut Http::new(&program), "sealed"), [CANARY; 5]);
}

#[test]
fn keys_that_others_can_read_stop_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, KEY_1).unwrap();
    std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o644)).unwrap();

    let check = it::program::command()
        .args(["check", "--set"])
        .arg(format!("queues.encryption.keys_file={}", keys.display()))
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success());
    assert!(said.contains("has mode 0644"), "{said}");
}

#[test]
fn a_subscribed_socket_gets_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let Some(program) = start(folder.path(), KEY_1) else { return };
    let mut http = Http::new(&program);
    encrypted_queue(&mut http, "sealed");
    let mut socket = Socket::of(&program);
    let subscribed = socket.ask("subscription_create", json!({"queue_name": "sealed", "ttl": 300}));
    assert_eq!(subscribed.0, 201);

    assert_eq!(post(&mut http, "sealed", CANARY), 201);

    assert_eq!(socket.next_json()["body"]["said"], CANARY);
    assert!(!is_on_disk(&program, CANARY));
}
