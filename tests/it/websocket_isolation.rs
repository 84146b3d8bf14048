//! Who may do what over a WebSocket: every action for nobody, another tenant, a reader and an administrator.

use std::path::Path;
use std::time::{Duration, Instant};

use it::program::command;
use it::socket::Socket;
use it::{Broker, PATIENCE, Program};
use serde_json::{Value, json};
use tungstenite::protocol::frame::coding::CloseCode;

const WHY: &str = "has tokens of its own";
const CLIENT: &str = "3381af92-2b9e-11e3-b191-71861300734c";
const CANARY: &str = "canary-7d10";

/// Actions, what they need besides the queue, and whether they change something.
fn actions(message: &str, claim: &str, subscription: &str) -> Vec<(&'static str, Value, Right)> {
    use Right::{Admin, Read, Write};
    vec![
        ("queue_list", json!({}), Read),
        ("queue_get", json!({}), Read),
        ("queue_get_stats", json!({}), Read),
        ("message_list", json!({"echo": true, "include_claimed": true}), Read),
        ("message_get", json!({"message_id": message}), Read),
        ("message_get_many", json!({"message_ids": [message]}), Read),
        ("claim_get", json!({"claim_id": claim}), Read),
        ("subscription_list", json!({}), Read),
        ("subscription_get", json!({"subscription_id": subscription}), Read),
        ("queue_create", json!({"metadata": {"intruder": true}}), Write),
        ("message_post", json!({"messages": [{"body": "intruder", "ttl": 300}]}), Write),
        ("message_delete", json!({"message_id": message}), Write),
        ("message_delete_many", json!({"message_ids": [message]}), Write),
        ("message_delete_many", json!({"pop": 1}), Write),
        ("claim_create", json!({"ttl": 300, "grace": 60}), Write),
        ("claim_update", json!({"claim_id": claim, "ttl": 301, "grace": 60}), Write),
        ("claim_delete", json!({"claim_id": claim}), Write),
        ("subscription_create", json!({"subscriber": "http://127.0.0.1:1/one", "ttl": 300}), Write),
        ("subscription_create", json!({}), Write),
        ("subscription_delete", json!({"subscription_id": subscription}), Write),
        ("queue_purge", json!({}), Write),
        ("queue_delete", json!({}), Write),
        ("flavor_list", json!({}), Read),
        ("flavor_get", json!({"flavor_name": "gold"}), Read),
        ("flavor_create", json!({"flavor_name": "gold", "pool_list": ["p"]}), Admin),
        ("flavor_update", json!({"flavor_name": "gold", "pool_list": ["p"]}), Admin),
        ("flavor_delete", json!({"flavor_name": "gold"}), Admin),
        ("pool_list", json!({}), Admin),
        ("pool_create", json!({"pool_name": "p", "weight": 1, "uri": "memory:"}), Admin),
        ("pool_get", json!({"pool_name": "p"}), Admin),
        ("pool_update", json!({"pool_name": "p", "weight": 2}), Admin),
        ("pool_delete", json!({"pool_name": "p"}), Admin),
        ("check_node_health", json!({}), Admin),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Right {
    Read,
    Write,
    Admin,
}

struct Town {
    program: Program,
    folder: tempfile::TempDir,
}

impl Town {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        for (name, project, role) in [
            ("victim", "victim", "member"),
            ("reader", "victim", "reader"),
            ("stranger", "other", "admin"),
            ("boss", "victim", "admin"),
        ] {
            make_token(folder.path(), name, &["--project", project, "--role", role]);
        }
        let policy = folder.path().join("policy.json");
        let names = [
            "queues:create",
            "queues:delete",
            "queues:purge",
            "messages:create",
            "messages:delete",
            "messages:delete_all",
            "claims:create",
            "claims:update",
            "claims:delete",
            "subscription:create",
            "subscription:delete",
        ];
        let rules = names.iter().map(|name| ((*name).to_owned(), json!("not role:reader")));
        std::fs::write(&policy, Value::Object(rules.collect()).to_string()).unwrap();
        let settings = [
            "queues.auth=token".to_owned(),
            "queues.admin_mode=true".to_owned(),
            "queues.pooling=true".to_owned(),
            format!("queues.policy={}", policy.display()),
            format!("queues.token.tokens={}", folder.path().join("tokens.json").display()),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Some(Self { program: Broker::start_own_with(WHY, &settings)?, folder })
    }

    /// A connection that has shown this token.
    fn enter(&self, name: &str, project: &str) -> Socket {
        let token = std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        let mut socket = Socket::of(&self.program);
        let headers = json!({"X-Project-ID": project, "X-Auth-Token": token});
        socket.send(&json!({"action": "authenticate", "headers": headers}));
        assert_eq!(socket.next_json()["headers"]["status"], 200);
        socket
    }

    /// A queue with messages, a claim and a subscription; their ids.
    fn settle(&self) -> [String; 3] {
        let mut socket = self.enter("victim", "victim");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        ask(&mut socket, "victim", "queue_create", json!({"metadata": {"note": CANARY}}));
        let bodies: Vec<_> = (0..4).map(|_| json!({"body": CANARY, "ttl": 3600})).collect();
        let posted = ask(&mut socket, "victim", "message_post", json!({ "messages": bodies }));
        let claim = json!({"ttl": 3600, "grace": 60, "limit": 1});
        let claimed = ask(&mut socket, "victim", "claim_create", claim);
        let subscriber = json!({"subscriber": "http://127.0.0.1:1/nine", "ttl": 3600});
        let subscribed = ask(&mut socket, "victim", "subscription_create", subscriber);
        assert_eq!(subscribed.0, 201, "{subscribed:?}");
        [
            text(&posted.1["message_ids"][1]),
            text(&claimed.1["claim_id"]),
            text(&subscribed.1["subscription_id"]),
        ]
    }

    /// What the victim can see, without what time changes.
    fn belongings(&self, ids: &[String; 3]) -> String {
        let mut socket = self.enter("victim", "victim");
        let [message, claim, subscription] = ids;
        let mut seen = Vec::new();
        for (action, body, right) in actions(message, claim, subscription) {
            if right == Right::Read {
                seen.push(ask(&mut socket, "victim", action, body));
            }
        }
        let text = format!("{seen:?}");
        let age = without_ages(&text);
        assert!(age.contains(CANARY));
        age
    }
}

/// Drops the digits behind `"age": Number(`.
fn without_ages(text: &str) -> String {
    let mut parts = text.split("\"age\": Number(");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

fn make_token(folder: &Path, name: &str, more: &[&str]) {
    let mut create = command();
    create.args(["token", "create", "--name", name]).args(more);
    let made = create.arg("--file").arg(folder.join("tokens.json")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let token = String::from_utf8(made.stdout).unwrap();
    std::fs::write(folder.join(name), token.trim()).unwrap();
}

/// Asks for something of the queue `vault`; status and body.
fn ask(socket: &mut Socket, project: &str, action: &str, mut body: Value) -> (u64, Value) {
    let of_queue = !action.starts_with("pool_") && !action.starts_with("flavor_");
    if of_queue && !matches!(action, "queue_list" | "check_node_health") {
        body["queue_name"] = json!("vault");
    }
    let headers = json!({"Client-ID": CLIENT, "X-Project-ID": project});
    socket.send(&json!({"action": action, "headers": headers, "body": body}));
    let answer = socket.next_json();
    assert_eq!(answer["request"]["action"], action, "{answer}");
    (answer["headers"]["status"].as_u64().unwrap(), answer["body"].clone())
}

#[test]
fn another_tenant_sees_and_changes_nothing_by_any_action() {
    let Some(town) = Town::start() else { return };
    let ids = town.settle();
    let before = town.belongings(&ids);
    let mut stranger = town.enter("stranger", "other");

    for (action, body, _) in actions(&ids[0], &ids[1], &ids[2]) {
        for project in ["other", "victim"] {
            let (status, said) = ask(&mut stranger, project, action, body.clone());

            assert!(status < 500, "{action} in {project}: {status} {said}");
            assert!(project == "other" || status == 403, "{action}: {status} {said}");
            assert!(!said.to_string().contains(CANARY), "{action} in {project}: {said}");
        }
        assert_eq!(town.belongings(&ids), before, "{action}");
    }
}

#[test]
fn nobody_may_anything_before_a_login() {
    let Some(town) = Town::start() else { return };
    let ids = town.settle();
    let before = town.belongings(&ids);
    let mut nobody = Socket::of(&town.program);
    let wrong = json!({"X-Project-ID": "victim", "X-Auth-Token": "pht_nonsense"});
    nobody.send(&json!({"action": "authenticate", "headers": wrong}));
    assert_eq!(nobody.next_json()["headers"]["status"], 401);

    for (action, body, _) in actions(&ids[0], &ids[1], &ids[2]) {
        let (status, said) = ask(&mut nobody, "victim", action, body);

        assert_eq!(status, 403, "{action}: {said}");
    }
    assert_eq!(town.belongings(&ids), before);
}

#[test]
fn readers_read_and_administrators_administer() {
    let Some(town) = Town::start() else { return };
    let ids = town.settle();
    let before = town.belongings(&ids);
    let mut reader = town.enter("reader", "victim");

    for (action, body, right) in actions(&ids[0], &ids[1], &ids[2]) {
        let (status, said) = ask(&mut reader, "victim", action, body);

        assert_eq!(status == 403, right != Right::Read, "{action}: {status} {said}");
    }
    assert_eq!(town.belongings(&ids), before);
    let mut boss = town.enter("boss", "victim");
    assert_eq!(ask(&mut boss, "victim", "check_node_health", json!({})).0, 200);
}

#[test]
fn a_connection_ends_with_its_token() {
    let Some(town) = Town::start() else { return };
    make_token(town.folder.path(), "short", &["--project", "victim", "--lifetime", "12s"]);
    let begun = Instant::now();
    // The file is looked at once a second.
    let socket = loop {
        let mut socket = Socket::of(&town.program);
        let token = std::fs::read_to_string(town.folder.path().join("short")).unwrap();
        let headers = json!({"X-Project-ID": "victim", "X-Auth-Token": token});
        socket.send(&json!({"action": "authenticate", "headers": headers}));
        if socket.next_json()["headers"]["status"] == 200 {
            break socket;
        }
        assert!(begun.elapsed() < Duration::from_secs(11), "the token was not seen");
    };

    assert_eq!(socket.closed_with(), CloseCode::Library(4003));

    assert!(begun.elapsed() < Duration::from_secs(12) + PATIENCE, "{:?}", begun.elapsed());
}
