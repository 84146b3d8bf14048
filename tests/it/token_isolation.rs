//! Tokens and tenants: every route of the OpenAPI document, with what its query can say, for another tenant's token,
//! nobody, forged headers, readers, members, administrators, and the holder of a pre-signed URL.
//!
//! The matrix is generated, so a new route is in it without being written here. One that has no policy rule, or a variable
//! that is not known here, fails the test.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use it::http::{Http, Reply};
use it::program::command;
use it::{Broker, Program};
use serde_json::{Value, json};

const WHY: &str = "has tokens of its own";

/// In everything that the victim has; in no answer to anybody else.
const CANARY: &str = "canary-5cf2";

/// Rules that Zaqar keeps for the role admin.
const ADMIN_RULES: [&str; 9] = [
    "pools:get_all",
    "pools:create",
    "pools:get",
    "pools:update",
    "pools:delete",
    "flavors:create",
    "flavors:update",
    "flavors:delete",
    "health:get",
];

/// A program with three projects, their tokens, and a policy under which readers only read.
struct Town {
    program: Program,
    tokens: tempfile::TempDir,
}

/// Who asks, in which project.
#[derive(Debug, Clone, Copy)]
struct Who {
    token: &'static str,
    project: &'static str,
    roles: &'static [&'static str],
}

const VICTIM: Who = Who { token: "victim", project: "victim", roles: &["member"] };
const READER: Who = Who { token: "reader", project: "victim", roles: &["reader"] };
const STRANGER: Who = Who { token: "stranger", project: "other", roles: &["member", "admin"] };
const MEMBER: Who = Who { token: "member", project: "busy", roles: &["member"] };
const ADMIN: Who = Who { token: "admin", project: "busy", roles: &["admin"] };
const EVERYBODY: [Who; 5] = [VICTIM, READER, STRANGER, MEMBER, ADMIN];

/// One request of the matrix.
#[derive(Debug, Clone)]
struct Ask {
    method: String,
    path: String,
    rule: Option<String>,
    media: String,
    body: Option<String>,
}

impl Town {
    fn start() -> Option<Self> {
        let tokens = tempfile::tempdir().unwrap();
        for who in EVERYBODY {
            let mut create = command();
            create.args(["token", "create", "--name", who.token, "--project", who.project]);
            for role in who.roles {
                create.args(["--role", role]);
            }
            let made =
                create.arg("--file").arg(tokens.path().join("tokens.json")).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            let token = String::from_utf8(made.stdout).unwrap();
            std::fs::write(tokens.path().join(who.token), token.trim()).unwrap();
        }
        let (file, policy) = (tokens.path().join("tokens.json"), tokens.path().join("policy.json"));
        std::fs::write(&policy, read_only_for_readers().to_string()).unwrap();
        let secret = tokens.path().join("secret");
        std::fs::write(&secret, "the secret").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let setting = |key: &str, path: &Path| format!("{key}={}", path.display());
        let settings = [
            "queues.auth=token".to_owned(),
            "queues.admin_mode=true".to_owned(),
            "queues.pooling=true".to_owned(),
            "queues.enable_deprecated_api_versions=1.1".to_owned(),
            setting("queues.token.tokens", &file),
            setting("queues.policy", &policy),
            setting("queues.signed_url.secret_file", &secret),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Some(Self { program: Broker::start_own_with(WHY, &settings)?, tokens })
    }

    fn token(&self, who: Who) -> String {
        std::fs::read_to_string(self.tokens.path().join(who.token)).unwrap()
    }

    fn as_who(&self, who: Who) -> Http {
        Http::new(&self.program).with("X-Project-Id", "").with("X-Auth-Token", &self.token(who))
    }

    fn nobody(&self) -> Http {
        Http::new(&self.program).with("X-Project-Id", "")
    }

    /// Fills the victim's project and says what its variables are.
    fn settle(&self, who: Who) -> Vec<(&'static str, String)> {
        let mut http = self.as_who(who);
        let metadata = json!({"note": CANARY}).to_string();
        for place in ["/v2/queues/vault", "/v2/topics/vault-topic"] {
            assert_eq!(http.put(place, &metadata).status, 201, "{place}");
        }
        let bodies: Vec<_> = (0..4).map(|_| json!({"body": CANARY, "ttl": 3600})).collect();
        let messages = json!({ "messages": bodies }).to_string();
        let posted = http.post("/v2/queues/vault/messages", &messages);
        assert_eq!(posted.status, 201);
        let id = |path: &Value| path.as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let resources = posted.json()["resources"].clone();
        let claimed = http.post("/v2/queues/vault/claims?limit=1", r#"{"ttl":3600,"grace":60}"#);
        assert_eq!(claimed.status, 201);
        let claim = claimed.header("location").unwrap().rsplit('/').next().unwrap().to_owned();
        vec![
            ("queue_name", "vault".to_owned()),
            ("topic_name", "vault-topic".to_owned()),
            ("message_id", id(&resources[1])),
            ("claim_id", claim),
            ("subscription_id", "5f0000000000000000000001".to_owned()),
            ("pool_name", "a-pool".to_owned()),
            ("flavor_name", "a-flavor".to_owned()),
        ]
    }

    /// Everything that the victim can see, without what time changes.
    fn belongings(&self, variables: &[(&str, String)]) -> Value {
        let mut http = self.as_who(VICTIM);
        let claim = &variables.iter().find(|(name, _)| *name == "claim_id").unwrap().1;
        let seen: Vec<_> = [
            "/v2/queues?detailed=true".to_owned(),
            "/v2/queues/vault".to_owned(),
            "/v2/queues/vault/stats".to_owned(),
            "/v2/queues/vault/messages?echo=true&include_claimed=true&limit=20".to_owned(),
            format!("/v2/queues/vault/claims/{claim}"),
            "/v2/topics?detailed=true".to_owned(),
            "/v2/topics/vault-topic".to_owned(),
        ]
        .iter()
        .map(|path| {
            let answer = http.get(path);
            assert_eq!(answer.status, 200, "{path}");
            timeless(answer.json())
        })
        .collect();
        seen.into()
    }

    /// Every request of the document, with these variables.
    fn matrix(&self, variables: &[(&str, String)]) -> Vec<Ask> {
        let document = self.nobody().get("/openapi.json").json();
        let mut asks = Vec::new();
        for (template, path) in document["paths"].as_object().unwrap() {
            // Two are everybody's; of the third the address itself says who may (`tenant_isolation` tries others').
            if matches!(template.as_str(), "/" | "/openapi.json" | "/v2/settle/{token}") {
                continue;
            }
            for (method, operation) in path.as_object().unwrap() {
                asks.extend(requests(template, method, operation, variables));
            }
        }
        assert!(asks.len() > 40, "only {} requests", asks.len());
        asks
    }
}

fn requests(
    template: &str,
    method: &str,
    operation: &Value,
    variables: &[(&str, String)],
) -> Vec<Ask> {
    let mut path = template.to_owned();
    for (name, value) in variables {
        path = path.replace(&format!("{{{name}}}"), value);
    }
    assert!(!path.contains('{'), "{template} has a variable that this test does not know");
    let rule = operation["x-policy-rule"].as_str().map(ToOwned::to_owned);
    assert!(rule.is_some() || template == "/v2/", "{method} {template} has no policy rule");
    let content = operation["requestBody"]["content"].as_object();
    let body = content.and_then(|content| content.iter().next()).map(|(media, schema)| {
        let schema = schema["schema"]["$ref"].as_str().unwrap_or_default().to_owned();
        (media.clone(), body_of(schema.rsplit('/').next().unwrap_or_default()))
    });
    let base = Ask {
        method: method.to_uppercase(),
        path,
        rule,
        media: body.as_ref().map_or("application/json", |(media, _)| media).to_owned(),
        body: body.map(|(_, body)| body),
    };
    let mut asks = vec![base.clone()];
    let known = |name: &str| variables.iter().find(|(known, _)| *known == name).unwrap().1.clone();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        if parameter["in"] != "query" {
            continue;
        }
        let name = parameter["name"].as_str().unwrap();
        let value = match (name, parameter["schema"]["type"].as_str()) {
            ("ids", _) => known("message_id"),
            ("claim_id" | "claim_ids", _) => known("claim_id"),
            (_, Some("boolean")) => "true".to_owned(),
            (_, Some("integer")) => "5".to_owned(),
            _ => continue,
        };
        asks.push(Ask { path: format!("{}?{name}={value}", base.path), ..base.clone() });
    }
    asks
}

/// A body that gets past the checks of its form.
fn body_of(schema: &str) -> String {
    match schema {
        "messages" => json!({"messages": [{"body": "intruder", "ttl": 300}]}),
        "patch" => json!([{"op": "add", "path": "/metadata/intruder", "value": 1}]),
        "claim" => json!({"ttl": 300, "grace": 60}),
        "subscription" => json!({"subscriber": "http://192.0.2.1/hook", "ttl": 300}),
        "pool" => json!({"uri": "embedded:///tmp/none", "weight": 1}),
        _ => json!({}),
    }
    .to_string()
}

fn read_only_for_readers() -> Value {
    let rules = [
        ("queues", &["create", "delete", "update", "share", "purge"][..]),
        ("messages", &["create", "delete", "delete_all"]),
        ("claims", &["create", "update", "delete"]),
        ("subscription", &["create", "update", "delete", "confirm"]),
        ("topics", &["create", "delete", "update", "purge"]),
    ];
    let rules = rules.iter().flat_map(|(family, verbs)| {
        verbs.iter().map(move |verb| (format!("{family}:{verb}"), json!("not role:reader")))
    });
    Value::Object(rules.collect())
}

fn may(who: Who, rule: Option<&str>) -> bool {
    let Some(rule) = rule else { return true };
    if ADMIN_RULES.contains(&rule) {
        return who.roles.contains(&"admin");
    }
    !who.roles.contains(&"reader") || read_only_for_readers().get(rule).is_none()
}

fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::Object(members) => {
            members.retain(|name, _| !matches!(name.as_str(), "age" | "oldest" | "newest"));
            members.values_mut().for_each(|member| *member = timeless(member.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = timeless(item.take())),
        _ => {}
    }
    value
}

fn send(http: &mut Http, ask: &Ask) -> Reply {
    let mut http = http.again().with("Content-Type", &ask.media);
    http.send(&ask.method, &ask.path, ask.body.as_deref())
}

fn is_refused_by_policy(reply: &Reply) -> bool {
    reply.status == 403 && reply.json()["title"] == "Not authorized"
}

fn holds_canary(reply: &Reply) -> bool {
    let said = format!("{:?} {}", reply.headers, String::from_utf8_lossy(&reply.body));
    said.contains(CANARY)
}

#[test]
fn another_tenant_sees_and_changes_nothing_by_any_route() {
    let Some(town) = Town::start() else { return };
    let variables = town.settle(VICTIM);
    let before = town.belongings(&variables);
    let mut stranger = town.as_who(STRANGER);

    for ask in town.matrix(&variables) {
        for version in ["/v2/", "/v1.1/"] {
            let ask = Ask { path: ask.path.replacen("/v2/", version, 1), ..ask.clone() };
            let reply = send(&mut stranger, &ask);

            assert!(reply.status < 500 && reply.status != 401, "{ask:?}: {reply:?}");
            assert!(!holds_canary(&reply), "{ask:?}: {reply:?}");
            assert_eq!(town.belongings(&variables), before, "{ask:?}");
        }
    }
}

#[test]
fn a_header_moves_nobody_into_another_tenant() {
    let Some(town) = Town::start() else { return };
    let variables = town.settle(VICTIM);
    let before = town.belongings(&variables);
    let mut stranger = town.as_who(STRANGER).with("X-Project-Id", "victim");

    for ask in town.matrix(&variables) {
        let reply = send(&mut stranger, &ask);

        assert_eq!(reply.status, 403, "{ask:?}: {reply:?}");
        assert!(!holds_canary(&reply), "{ask:?}: {reply:?}");
    }
    assert_eq!(town.belongings(&variables), before);
}

#[test]
fn without_credentials_every_route_is_closed() {
    let Some(town) = Town::start() else { return };
    let variables = town.settle(VICTIM);
    let before = town.belongings(&variables);
    let signed_by_somebody_else = "0".repeat(64);
    let attempts: [&[(&str, &str)]; 7] = [
        &[],
        &[("X-Project-Id", "victim")],
        &[("X-Project-Id", "victim"), ("X-Roles", "admin"), ("X-User-Id", "victim")],
        &[("X-Identity-Status", "Confirmed"), ("X-Project-Id", "victim"), ("X-Is-Admin", "True")],
        &[("X-Auth-Token", "pht_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")],
        &[("Authorization", "Basic dmljdGltOnZpY3RpbQ=="), ("X-Project-Id", "victim")],
        &[
            ("URL-Signature", &signed_by_somebody_else),
            ("URL-Expires", "2999-01-01T00:00:00"),
            ("URL-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD"),
            ("URL-Paths", "/v2/queues/vault/messages,/v2/queues/vault"),
            ("X-Project-Id", "victim"),
        ],
    ];

    for ask in town.matrix(&variables) {
        for headers in attempts {
            let mut http = town.nobody();
            for (name, value) in headers {
                http = http.with(name, value);
            }
            let reply = send(&mut http, &ask);

            let signed = headers.iter().any(|(name, _)| *name == "URL-Signature");
            assert_eq!(reply.status, if signed { 404 } else { 401 }, "{ask:?} {headers:?}");
            let challenged = reply.header("www-authenticate").is_some();
            assert!(signed || challenged, "{ask:?} {headers:?}");
            assert!(!holds_canary(&reply), "{ask:?}: {reply:?}");
        }
    }
    assert_eq!(town.belongings(&variables), before);
}

#[test]
fn a_reader_reads_and_changes_nothing() {
    let Some(town) = Town::start() else { return };
    let variables = town.settle(VICTIM);
    let before = town.belongings(&variables);
    let mut reader = town.as_who(READER);

    for ask in town.matrix(&variables) {
        let reply = send(&mut reader, &ask);

        let refused = is_refused_by_policy(&reply);
        assert_eq!(refused, !may(READER, ask.rule.as_deref()), "{ask:?}: {reply:?}");
        assert_eq!(town.belongings(&variables), before, "{ask:?}");
    }
}

#[test]
fn members_and_administrators_may_what_their_roles_allow() {
    let Some(town) = Town::start() else { return };
    let variables = town.settle(MEMBER);

    for who in [MEMBER, ADMIN] {
        let mut http = town.as_who(who);
        for ask in town.matrix(&variables) {
            let reply = send(&mut http, &ask);

            let refused = is_refused_by_policy(&reply);
            assert_eq!(refused, !may(who, ask.rule.as_deref()), "{who:?} {ask:?}: {reply:?}");
            assert!(reply.status < 500 && reply.status != 401, "{who:?} {ask:?}: {reply:?}");
        }
    }
}

#[test]
fn a_signed_url_opens_its_paths_and_methods_and_nothing_else() {
    let Some(town) = Town::start() else { return };
    let variables = town.settle(VICTIM);
    let before = town.belongings(&variables);
    let signed = town.as_who(VICTIM).post("/v2/queues/vault/share", "{}").json();
    let text = |name: &str| signed[name].as_str().unwrap().to_owned();
    let mut holder = town
        .nobody()
        .with("X-Project-Id", "victim")
        .with("URL-Signature", &text("signature"))
        .with("URL-Expires", &text("expires"))
        .with("URL-Methods", "GET")
        .with("URL-Paths", "/v2/queues/vault/messages");

    for ask in town.matrix(&variables) {
        let reply = send(&mut holder, &ask);

        let path = ask.path.split('?').next().unwrap();
        let below =
            path == "/v2/queues/vault/messages" || path.starts_with("/v2/queues/vault/messages/");
        if ask.method == "GET" && below {
            assert_eq!(reply.status, 200, "{ask:?}: {reply:?}");
        } else {
            assert_eq!(reply.status, 404, "{ask:?}: {reply:?}");
        }
    }
    let mut elsewhere = holder.with("X-Project-Id", "other");
    assert_eq!(elsewhere.get("/v2/queues/vault/messages").status, 404);
    assert_eq!(town.belongings(&variables), before);
}
