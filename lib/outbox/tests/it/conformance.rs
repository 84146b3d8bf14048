//! `posthouse outbox conformance`: good tables pass, and each rule that is taken out of them is missed.

use serde_json::Value;
use sqlx::{MySql, Postgres, Sqlite};

use crate::on_every_database;
use crate::server::Server;

on_every_database!(
    the_tables_keep_the_contract_and_nothing_stays_of_the_trial,
    each_rule_that_is_missing_is_found,
    a_trial_leaves_messages_that_wait_alone,
);

const DEFAULTS: &str = "what is not said of a message has its default";
const EVERYTHING: &str = "what is said of a message is in its row";
const PAYLOADS: &str = "a payload is any JSON and stays what it is";
const ORDER: &str = "messages of one key are in the order in which they were sent";
const DEDUPE: &str = "a repeated dedupe id adds nothing, answers null and spoils nothing";
const SCOPE: &str = "a dedupe id is one of its source and topic";
const DELAY: &str = "a delay is counted from the call, by the database's clock";
const EXPIRY: &str = "an expiry is counted from the call, by the database's clock";
const CANCEL: &str = "waiting messages are withdrawn by their cancel key";
const LENGTHS: &str = "names have at most 255 bytes";
const TOPIC: &str = "a message has a topic";
const WHOLE: &str = "a message that is refused takes its transaction with it";
const CLAIMS: &str = "a message is claimed once for a consumer, if the transaction commits";

/// What is to be replaced in the tables, by what, and the sentence that then does not hold.
type Damage = (&'static str, &'static str, &'static str);

trait Damaged: Server {
    const DAMAGES: &'static [Damage];
}

impl Damaged for Postgres {
    const DAMAGES: &'static [Damage] = &[
        (
            "default clock_timestamp(),\n    not_before",
            "default now() - interval '1 hour',\n    not_before",
            DEFAULTS,
        ),
        ("    returning id\n", "    returning gen_random_uuid()\n", DEFAULTS),
        ("select $4, $1, $5, $6,", "select $4, $1, null, $6,", EVERYTHING),
        ("coalesce($9, '{}')", "'{}'", EVERYTHING),
        ("convert_to($2::text, 'UTF8')", "convert_to(left($2::text, 1000), 'UTF8')", PAYLOADS),
        ("generated always as identity", "generated always as identity (increment by -1)", ORDER),
        (
            "where dedupe_id is not null do nothing",
            "where dedupe_id is not null do update set id = default",
            DEDUPE,
        ),
        ("(source, topic, dedupe_id)", "(source, dedupe_id)", SCOPE),
        ("now.now + coalesce($7, interval '0'), now", "now.now, now", DELAY),
        ("now.now + $8", "now.now + $8 / 2", EXPIRY),
        ("$5, $6, $10, $3", "$5, $6, $6, $3", CANCEL),
        ("octet_length(dedupe_id)", "length(dedupe_id)", LENGTHS),
        (" check (topic <> '')", "", TOPIC),
        (" check (topic <> '')", "", WHOLE),
        ("values ($1, $2) on conflict", "values ($1, gen_random_uuid()::text) on conflict", CLAIMS),
    ];
}

impl Damaged for MySql {
    const DAMAGES: &'static [Damage] = &[
        ("set id = uuid()", "set id = upper(uuid())", DEFAULTS),
        ("declare exit handler for 1062 set id = null;", "", DEDUPE),
        ("(source, topic, dedupe_id)", "(source, dedupe_id)", SCOPE),
        ("utf8mb4_bin", "utf8mb4_general_ci", SCOPE),
        ("json_extract(options, '$.headers')", "null", EVERYTHING),
        ("json_value(options, '$.source')", "null", EVERYTHING),
        (
            "content_type, headers, payload, created",
            "content_type, payload, headers, created",
            PAYLOADS,
        ),
        ("json_value(options, '$.delay')", "null", DELAY),
        ("'$.expires') * 1000000", "'$.expires') * 1000", EXPIRY),
        ("json_value(options, '$.cancel_key')", "null", CANCEL),
        ("octet_length(`key`)", "char_length(`key`)", LENGTHS),
        (" check (topic <> '')", "", TOPIC),
        (" check (topic <> '')", "", WHOLE),
        ("set first = 0", "set first = 1", CLAIMS),
    ];
}

impl Damaged for Sqlite {
    const DAMAGES: &'static [Damage] = &[
        (
            "created_at   integer not null default (",
            "created_at   integer not null default (3600000000 + ",
            DEFAULTS,
        ),
        ("default '{}'", "default '{\"a\": \"b\"}'", DEFAULTS),
        ("create unique index", "create index", DEDUPE),
        ("length(cast(\"key\" as blob))", "length(\"key\")", LENGTHS),
        (" check (topic <> '')", "", TOPIC),
        (" check (topic <> '')", "", WHOLE),
        ("primary key (consumer, id)", "primary key (id), unique (consumer, id)", CLAIMS),
    ];
}

async fn the_tables_keep_the_contract_and_nothing_stays_of_the_trial<S: Server>() {
    let (_, pool) = S::outbox().await;

    let (failed, is_good) = conformance(&S::url(&pool));

    assert_eq!(failed, Vec::<String>::new());
    assert!(is_good);
    let mut connection = pool.acquire().await.unwrap();
    for table in ["posthouse_outbox", "posthouse_inbox"] {
        let count = format!("select count(*) from {table}");
        assert_eq!(S::number(&mut connection, &count).await, 0, "{table}");
    }
}

async fn each_rule_that_is_missing_is_found<S: Damaged>() {
    for (rule, instead, sentence) in S::DAMAGES {
        let pool = S::empty().await;
        let sql = S::MIGRATIONS[0].sql;
        assert!(sql.contains(rule), "there is no `{rule}` in the tables");
        let mut connection = pool.acquire().await.unwrap();
        let says = |line: &str| !line.is_empty() && !line.starts_with("--");
        for part in sql.replace(rule, instead).split("-- body\n") {
            if part.lines().any(says) {
                S::run(&mut connection, part).await.unwrap();
            }
        }
        drop(connection);

        let (failed, is_good) = conformance(&S::url(&pool));
        pool.close().await;

        let found = failed.iter().any(|found| found == sentence);
        assert!(found && !is_good, "`{instead}` for `{rule}`: failed are {failed:?}");
    }
}

async fn a_trial_leaves_messages_that_wait_alone<S: Server>() {
    let (outbox, pool) = S::outbox().await;
    let message = posthouse_outbox::Message::new("a", "text/plain", "");
    outbox.send(&mut pool.acquire().await.unwrap(), &message).await.unwrap();

    let mut command = it::program::command();
    let refused = command.args(["outbox", "conformance", "--database", &S::url(&pool)]).output();

    let error = String::from_utf8(refused.unwrap().stderr).unwrap();
    assert!(error.contains("messages wait in this outbox (1)"), "{error}");
    assert_eq!(outbox.count().await.unwrap().waiting, 1);
}

#[tokio::test]
async fn a_sender_that_ends_or_answers_nonsense_is_no_sender() {
    let (_, pool) = Sqlite::outbox().await;
    let database = Sqlite::url(&pool);
    for (send, found) in [
        ("exec sleep 0", "the command of --send "),
        ("while read -r line; do echo '{}'; done", "must answer"),
    ] {
        let arguments =
            ["--json", "outbox", "conformance", "--database", &database, "--send", send];
        let output = it::program::command().args(arguments).output().unwrap();

        let lines = String::from_utf8(output.stdout).unwrap();
        let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        let text = first["found"].as_str().unwrap();
        assert!(text.contains(found), "{text}");
        assert_eq!(output.status.code(), Some(1));
    }
}

/// The sentences that do not hold, and whether the program says that all is good.
fn conformance(database: &str) -> (Vec<String>, bool) {
    let arguments = ["--json", "outbox", "conformance", "--database", database];
    let output = it::program::command().args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let failed = lines.filter(|line| line["passed"] == false);
    let failed = failed.map(|line| line["check"].as_str().unwrap().to_owned()).collect();
    assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (failed, output.status.success())
}
