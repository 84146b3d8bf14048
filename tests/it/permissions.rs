//! Who may do what; users come with a definitions file, as in a migration.

use it::value::table;
use it::{Broker, Close, Connection, Login, Program, Properties};
use serde_json::json;

const WHY: &str = "has other users";

/// A program with these users, `secret` being everyone's password.
fn program(users: &serde_json::Value, permissions: &serde_json::Value) -> Option<Program> {
    // base64(salt + SHA-256(salt + "secret")), as RabbitMQ exports it.
    let hash = "kI3GCqG+cq65rBQ9tiUUCREygKhmilKrZEWKSz+H0FJ1fk4/";
    let named = |name: &serde_json::Value| json!({"name": name, "password_hash": hash, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []});
    let users: Vec<_> = users.as_array().unwrap().iter().map(named).collect();
    let definitions = json!({
        "users": users,
        "vhosts": [{"name": "/"}, {"name": "other"}],
        "permissions": permissions,
        "topic_permissions": [
            {"user": "limited", "vhost": "/", "exchange": "amq.topic", "write": "^mine\\.", "read": "^mine\\."}
        ],
    });
    let folder = tempfile::tempdir().unwrap().keep();
    let file = folder.join("definitions.json");
    std::fs::write(&file, definitions.to_string()).unwrap();
    let program = Broker::start_own_with(WHY, &[&format!("definitions.file={}", file.display())]);
    std::fs::remove_dir_all(folder).unwrap();
    program
}

fn limited() -> Option<Program> {
    let all = |user: &str, vhost: &str, scope: &str| json!({"user": user, "vhost": vhost, "configure": scope, "write": scope, "read": scope});
    let permissions = json!([
        {"user": "limited", "vhost": "/", "configure": "^mine-", "write": "^mine-|^amq\\.", "read": "^mine-|^amq\\."},
        all("owner", "/", ".*"),
        all("nothing", "/", ""),
    ]);
    program(&json!(["limited", "owner", "nothing"]), &permissions)
}

fn login(user: &str) -> Login {
    Login { user: user.to_owned(), password: "secret".to_owned(), ..Login::default() }
}

fn refuses(close: &Close, what: &str, user: &str) {
    assert_eq!((close.code, close.of_connection), (403, false), "{close:?}");
    let text = format!("access to {what} in vhost '/' refused for user '{user}'");
    assert!(
        close.text.starts_with("ACCESS_REFUSED - ") && close.text.ends_with(&text),
        "{}",
        close.text
    );
}

#[test]
fn what_a_user_may_do_with_names_of_his_own_he_may_not_with_others() {
    let Some(program) = limited() else { return };
    let connection = Connection::open(program.address, &login("limited")).unwrap();
    let owner = Connection::open(program.address, &login("owner")).unwrap().channel();
    owner.declare_durable("theirs", &[]).unwrap();
    owner.declare_exchange("theirs", "fanout", [false, true, false, false], &[]).unwrap();
    let mine = connection.channel();
    mine.declare("mine-q", &[]).unwrap();
    mine.declare_exchange("mine-x", "fanout", [false; 4], &[]).unwrap();
    mine.bind("mine-q", "mine-x", "", &[]).unwrap();
    mine.publish("mine-x", "", &Properties::default(), b"x");
    assert_eq!(mine.take_soon("mine-q").text(), "x");

    let queue = "queue 'theirs'";
    refuses(
        &connection.channel().declare("theirs-2", &[]).unwrap_err(),
        "queue 'theirs-2'",
        "limited",
    );
    refuses(&connection.channel().delete("theirs", [false, false]).unwrap_err(), queue, "limited");
    refuses(&connection.channel().get("theirs", true).unwrap_err(), queue, "limited");
    refuses(&connection.channel().consume("theirs", "", &[]).unwrap_err(), queue, "limited");
    refuses(&connection.channel().purge("theirs").unwrap_err(), queue, "limited");
    refuses(&connection.channel().bind("theirs", "mine-x", "", &[]).unwrap_err(), queue, "limited");
    refuses(
        &connection.channel().bind("mine-q", "theirs", "", &[]).unwrap_err(),
        "exchange 'theirs'",
        "limited",
    );
    let publisher = connection.channel();
    publisher.publish("theirs", "", &Properties::default(), b"x");
    refuses(&publisher.closed(), "exchange 'theirs'", "limited");
}

#[test]
fn the_default_exchange_is_called_amq_default_in_permissions() {
    let Some(program) = limited() else { return };
    let limited = Connection::open(program.address, &login("limited")).unwrap().channel();
    limited.declare("mine-q", &[]).unwrap();
    limited.send("mine-q", "allowed by ^amq\\.");
    assert!(limited.take_soon("mine-q").text().starts_with("allowed"));

    let nothing = Connection::open(program.address, &login("nothing")).unwrap().channel();
    nothing.send("mine-q", "refused");

    refuses(&nothing.closed(), "exchange 'amq.default'", "nothing");
}

#[test]
fn an_empty_pattern_permits_nothing_but_opening_the_virtual_host() {
    let Some(program) = limited() else { return };
    let connection = Connection::open(program.address, &login("nothing")).unwrap();

    refuses(&connection.channel().declare("q", &[]).unwrap_err(), "queue 'q'", "nothing");
}

#[test]
fn a_user_without_permissions_in_a_virtual_host_is_not_let_in() {
    let Some(program) = limited() else { return };
    let elsewhere = Login { tenant: "other".to_owned(), ..login("limited") };

    let close = Connection::open(program.address, &elsewhere).unwrap_err();

    let text = "NOT_ALLOWED - access to vhost 'other' refused for user 'limited'";
    assert_eq!((close.code, &*close.text), (530, text));
}

#[test]
fn dead_letter_and_alternate_exchanges_ask_for_permission_when_they_are_declared() {
    let Some(program) = limited() else { return };
    let connection = Connection::open(program.address, &login("limited")).unwrap();

    let dead = table([("x-dead-letter-exchange", "theirs".into())]);
    refuses(
        &connection.channel().declare("mine-q", &dead).unwrap_err(),
        "exchange 'theirs'",
        "limited",
    );
    let alternate = table([("alternate-exchange", "theirs".into())]);
    let declared =
        connection.channel().declare_exchange("mine-x", "fanout", [false; 4], &alternate);
    refuses(&declared.unwrap_err(), "exchange 'theirs'", "limited");
}

#[test]
fn topic_permissions_look_at_the_routing_key() {
    let Some(program) = limited() else { return };
    let connection = Connection::open(program.address, &login("limited")).unwrap();
    let channel = connection.channel();
    channel.declare("mine-q", &[]).unwrap();
    channel.bind("mine-q", "amq.topic", "mine.#", &[]).unwrap();
    channel.publish("amq.topic", "mine.a", &Properties::default(), b"x");
    assert_eq!(channel.take_soon("mine-q").text(), "x");

    let other = connection.channel();
    other.publish("amq.topic", "theirs.a", &Properties::default(), b"x");
    let close = other.closed();
    assert_eq!(close.code, 403, "{close:?}");
    let binding = connection.channel().bind("mine-q", "amq.topic", "theirs.#", &[]).unwrap_err();
    assert_eq!(binding.code, 403, "{binding:?}");
}

#[test]
fn passwords_imported_from_rabbitmq_are_still_checked() {
    let Some(program) = limited() else { return };

    let close = Connection::open(
        program.address,
        &Login { password: "wrong".to_owned(), ..login("owner") },
    );

    assert_eq!(close.unwrap_err().code, 403);
}

#[test]
fn tenants_do_not_see_each_other() {
    let all = |vhost: &str| json!({"user": "owner", "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"});
    let Some(program) = program(&json!(["owner"]), &json!([all("/"), all("other")])) else {
        return;
    };
    let here = Connection::open(program.address, &login("owner")).unwrap().channel();
    let there = Login { tenant: "other".to_owned(), ..login("owner") };
    let there = Connection::open(program.address, &there).unwrap();
    here.declare_durable("q", &[]).unwrap();
    here.send("q", "here");

    let close = there.channel().inspect("q").unwrap_err();
    assert_eq!((close.code, &*close.text), (404, "NOT_FOUND - no queue 'q' in vhost 'other'"));
    let channel = there.channel();
    channel.declare_durable("q", &[]).unwrap();
    channel.send("q", "there");

    assert_eq!(channel.take_soon("q").text(), "there");
    assert_eq!(here.take_soon("q").text(), "here");
}
