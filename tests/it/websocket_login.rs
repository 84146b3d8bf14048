//! Who may do what on a WebSocket: tokens that are shown once, their end, and signatures in messages.

use std::path::Path;
use std::process::Command;

use it::socket::{Socket, request};
use it::{Broker, Program};
use serde_json::{Value, json};
use tungstenite::protocol::frame::coding::CloseCode;

/// A program that asks for tokens, and a token of project `p` that is called `mine`.
fn start() -> Option<(Program, tempfile::TempDir, String)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.json");
    let token = prints(
        Command::new(it::program::path())
            .args(["token", "create", "--name", "mine"])
            .args(["--project", "p"]),
        &file,
    );
    let tokens = format!("queues.token.tokens={}", file.display());
    let settings = ["queues.auth=token", &tokens, "queues.signed_url.secret=secret"];
    let program = Broker::start_own_with("has no queue service", &settings)?;
    Some((program, folder, token))
}

fn prints(command: &mut Command, tokens: &Path) -> String {
    let output = command.env("POSTHOUSE__QUEUES__TOKEN__TOKENS", tokens).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Shows a token; status and body of the answer.
fn authenticate(socket: &mut Socket, token: &str, project: &str) -> (u64, Value) {
    let headers = json!({ "X-Project-ID": project, "X-Auth-Token": token });
    socket.send(&json!({ "action": "authenticate", "headers": headers }));
    let answer = socket.next_json();
    (answer["headers"]["status"].as_u64().unwrap(), answer["body"].clone())
}

#[test]
fn nothing_is_done_before_a_good_token_and_only_in_its_project() {
    let Some((program, _folder, token)) = start() else { return };
    let mut socket = Socket::of(&program);

    let refused = (403, json!({ "error": "Not authentified." }));
    assert_eq!(socket.ask("queue_list", json!({})), refused);
    let failed = (401, json!({ "error": "Authentication failed." }));
    assert_eq!(authenticate(&mut socket, "wrong", "p"), failed);
    assert_eq!(socket.ask("queue_create", json!({ "queue_name": "q" })), refused);
    assert_eq!(authenticate(&mut socket, &token, "p").0, 200);
    assert_eq!(socket.ask("queue_create", json!({ "queue_name": "q" })).0, 201);

    let mut foreign = request("queue_list", json!({}));
    foreign["headers"]["X-Project-ID"] = json!("other");
    socket.send(&foreign);
    let answer = socket.next_json();
    assert_eq!(answer["headers"]["status"], 403);
    assert_eq!(answer["body"], json!({ "error": "Not authenticated." }));
    assert_eq!(Socket::of(&program).ask("queue_list", json!({})), refused, "another connection");
}

#[test]
fn a_token_that_is_taken_back_ends_its_connections() {
    let Some((program, folder, token)) = start() else { return };
    let mut socket = Socket::of(&program);
    assert_eq!(authenticate(&mut socket, &token, "p").0, 200);

    let file = folder.path().join("tokens.json");
    prints(Command::new(it::program::path()).args(["token", "revoke", "mine"]), &file);

    assert_eq!(socket.closed_with(), CloseCode::Library(4003));
}

#[test]
fn a_signed_message_does_what_was_signed_and_nothing_else() {
    let Some((program, _folder, token)) = start() else { return };
    let mut share = Command::new(it::program::path());
    share.args(["--json", "queue", "share", "q", "--method", "POST", "--project", "p"]).args([
        "--url",
        &format!("http://{}", program.queues.unwrap()),
        "--token",
        &token,
    ]);
    let output = share.output().unwrap();
    let signed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut socket = Socket::of(&program);
    let mut send = |mut request: Value| {
        for (header, member) in [
            ("URL-Signature", "signature"),
            ("URL-Expires", "expires"),
            ("URL-Methods", "methods"),
            ("URL-Paths", "paths"),
        ] {
            request["headers"][header] = signed[member].clone();
        }
        socket.send(&request);
        socket.next_json()["headers"]["status"].clone()
    };
    let message = |queue: &str| json!({ "queue_name": queue, "messages": [{ "body": 1 }] });

    assert_eq!(send(request("message_post", message("q"))), 201);
    assert_eq!(send(request("message_post", message("qq"))), 403, "another queue");
    assert_eq!(send(request("message_list", json!({ "queue_name": "q" }))), 403, "another method");
    assert_eq!(send(request("queue_delete", json!({ "queue_name": "q" }))), 403, "another action");
    let mut foreign = request("message_post", message("q"));
    foreign["headers"]["X-Project-ID"] = json!("other");
    assert_eq!(send(foreign), 403, "another project");
}
