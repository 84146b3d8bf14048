//! What the database says: rows, time, and what the functions of the tables do. One branch per database, in its SQL.

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sqlx::{
    AssertSqlSafe, Connection as _, MySqlConnection, PgConnection, Row as _, SqliteConnection,
};
use uuid::Uuid;

use super::sender::{Sent, Transaction, Wish};
use crate::command::database::Kind;

/// A connection that looks at the tables, or sends by their functions.
pub(super) enum Tables {
    Postgres(PgConnection),
    MySql(MySqlConnection),
    Sqlite(SqliteConnection),
}

/// A row of the outbox, the same for every database. Times are microseconds since 1970.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) source: String,
    pub(super) topic: String,
    pub(super) key: Option<String>,
    pub(super) dedupe_id: Option<String>,
    pub(super) cancel_key: Option<String>,
    pub(super) content_type: String,
    pub(super) headers: String,
    /// Hexadecimal.
    payload: String,
    pub(super) created_us: i64,
    pub(super) not_before_us: i64,
    pub(super) next_attempt_us: i64,
    pub(super) expires_us: Option<i64>,
    pub(super) state: i64,
    pub(super) attempts: i64,
    pub(super) lease: i64,
    pub(super) leased: i64,
    pub(super) finished: i64,
    pub(super) last_error: Option<String>,
}

const POSTGRES_ROWS: &str = "
select json_build_object('id', id, 'source', source, 'topic', topic, 'key', key, 'dedupe_id', dedupe_id,
    'cancel_key', cancel_key, 'content_type', content_type, 'headers', headers::text, 'payload', encode(payload, 'hex'),
    'created_us', (extract(epoch from created_at) * 1000000)::bigint,
    'not_before_us', (extract(epoch from not_before) * 1000000)::bigint,
    'next_attempt_us', (extract(epoch from next_attempt) * 1000000)::bigint,
    'expires_us', (extract(epoch from expires_at) * 1000000)::bigint, 'state', state, 'attempts', attempts,
    'lease', lease, 'leased', (lease_until is not null)::int, 'finished', (finished_at is not null)::int,
    'last_error', last_error)::text
from posthouse_outbox where topic = $1 order by seq";

const MYSQL_ROWS: &str = "
select cast(json_object('id', id, 'source', source, 'topic', topic, 'key', `key`, 'dedupe_id', dedupe_id,
    'cancel_key', cancel_key, 'content_type', content_type, 'headers', headers, 'payload', hex(payload),
    'created_us', created_at, 'not_before_us', not_before, 'next_attempt_us', next_attempt,
    'expires_us', expires_at, 'state', state, 'attempts', attempts, 'lease', lease,
    'leased', if(lease_until <> 0, 1, 0), 'finished', if(finished_at is null, 0, 1), 'last_error', last_error) as char)
from posthouse_outbox where topic = ? order by seq";

const SQLITE_ROWS: &str = "
select json_object('id', id, 'source', source, 'topic', topic, 'key', \"key\", 'dedupe_id', dedupe_id,
    'cancel_key', cancel_key, 'content_type', content_type, 'headers', headers, 'payload', hex(payload),
    'created_us', created_at, 'not_before_us', not_before, 'next_attempt_us', next_attempt,
    'expires_us', expires_at, 'state', state, 'attempts', attempts, 'lease', lease,
    'leased', lease_until <> 0, 'finished', finished_at is not null, 'last_error', last_error)
from posthouse_outbox where topic = ? order by seq";

const POSTGRES_NOW: &str = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
const MYSQL_NOW: &str = "select timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))";
/// As the tables have it: of whole milliseconds, in SQLite of any age.
const SQLITE_NOW: &str =
    "select cast(round((julianday('now') - 2440587.5) * 86400000) as integer) * 1000";

/// Does the same with a connection, whichever database it is to.
macro_rules! with_connection {
    ($tables:expr, $connection:ident => $work:expr) => {
        match $tables {
            Tables::Postgres($connection) => $work,
            Tables::MySql($connection) => $work,
            Tables::Sqlite($connection) => $work,
        }
    };
}

impl Tables {
    pub(super) async fn connect(url: &str) -> anyhow::Result<Self> {
        let tables = match Kind::of(url)? {
            Kind::Postgres => PgConnection::connect(url).await.map(Self::Postgres),
            Kind::Mysql => MySqlConnection::connect(url).await.map(Self::MySql),
            Kind::Sqlite => SqliteConnection::connect(url).await.map(Self::Sqlite),
        };
        tables.context("cannot connect to the database (--database)")
    }

    /// The rows of a topic, in their order.
    pub(super) async fn rows(&mut self, topic: &str) -> anyhow::Result<Vec<Row>> {
        let texts: Vec<String> = match self {
            Self::Postgres(connection) => {
                sqlx::query_scalar(POSTGRES_ROWS).bind(topic).fetch_all(connection).await
            }
            Self::MySql(connection) => {
                sqlx::query_scalar(MYSQL_ROWS).bind(topic).fetch_all(connection).await
            }
            Self::Sqlite(connection) => {
                sqlx::query_scalar(SQLITE_ROWS).bind(topic).fetch_all(connection).await
            }
        }?;
        texts.iter().map(|text| serde_json::from_str(text).context("a row")).collect()
    }

    /// The database's clock, in microseconds since 1970.
    pub(super) async fn now_us(&mut self) -> anyhow::Result<i64> {
        Ok(match self {
            Self::Postgres(connection) => {
                sqlx::query_scalar(POSTGRES_NOW).fetch_one(connection).await
            }
            Self::MySql(connection) => sqlx::query_scalar(MYSQL_NOW).fetch_one(connection).await,
            Self::Sqlite(connection) => sqlx::query_scalar(SQLITE_NOW).fetch_one(connection).await,
        }?)
    }

    /// Removes what a trial has written. Its prefix has no characters that mean anything in a pattern or a text.
    pub(super) async fn remove(&mut self, prefix: &str) -> anyhow::Result<()> {
        for statement in [
            format!("delete from posthouse_outbox where topic like '{prefix}%'"),
            format!("delete from posthouse_inbox where consumer like '{prefix}%'"),
        ] {
            let statement = sqlx::raw_sql(AssertSqlSafe(statement));
            with_connection!(self, connection => statement.execute(connection).await.map(drop))?;
        }
        Ok(())
    }

    /// Sends by the functions of the tables, in one transaction.
    pub(super) async fn send(&mut self, transaction: &Transaction) -> Sent {
        match self {
            Self::Postgres(connection) => postgres_transaction(connection, transaction).await,
            Self::MySql(connection) => mysql_transaction(connection, transaction).await,
            Self::Sqlite(connection) => sqlite_transaction(connection, transaction).await,
        }
        .map_err(|error| error.to_string())
    }
}

type Ids = Result<Vec<Option<String>>, sqlx::Error>;

/// The same for each connection: one message after the other, then the end that is wanted, or a rollback at the first
/// refusal. Not by dropping it: its locks would stay until the connection is used again.
macro_rules! transaction {
    ($name:ident, $connection:ty, $send:ident) => {
        async fn $name(connection: &mut $connection, wanted: &Transaction) -> Ids {
            let mut transaction = connection.begin().await?;
            let mut ids = Vec::with_capacity(wanted.messages.len());
            for wish in &wanted.messages {
                match $send(&mut transaction, wish).await {
                    Ok(id) => ids.push(id),
                    Err(refusal) => {
                        transaction.rollback().await?;
                        return Err(refusal);
                    }
                }
            }
            match wanted.commit {
                true => transaction.commit().await?,
                false => transaction.rollback().await?,
            }
            Ok(ids)
        }
    };
}

transaction!(postgres_transaction, PgConnection, postgres_send);
transaction!(mysql_transaction, MySqlConnection, mysql_send);
transaction!(sqlite_transaction, SqliteConnection, sqlite_send);

/// Only what was said is given, so that the function's defaults are checked.
async fn postgres_send(
    connection: &mut PgConnection,
    wish: &Wish,
) -> Result<Option<String>, sqlx::Error> {
    let headers = wish.headers.as_ref().map(|headers| Value::from(headers.clone()).to_string());
    let seconds = |time: Option<u32>| time.map(|time| time.to_string());
    let said = [
        ("source", "$", wish.source.clone()),
        ("key", "$", wish.key.clone()),
        ("dedupe_id", "$", wish.dedupe_id.clone()),
        ("cancel_key", "$", wish.cancel_key.clone()),
        ("delay", "make_interval(secs => $::float8)", seconds(wish.delay)),
        ("expires", "make_interval(secs => $::float8)", seconds(wish.expires)),
        ("headers", "$::jsonb", headers),
    ];
    let mut call = "select posthouse_send($1, $2::jsonb".to_owned();
    let mut values = Vec::new();
    for (name, form, value) in said {
        if let Some(value) = value {
            values.push(value);
            let mark = format!("${}::text", values.len() + 2);
            call.push_str(&format!(", {name} => {}", form.replace('$', &mark)));
        }
    }
    call.push_str(")::text");
    let mut call = sqlx::query_scalar(AssertSqlSafe(call)).bind(&wish.topic);
    call = call.bind(wish.payload.to_string());
    for value in values {
        call = call.bind(value);
    }
    call.fetch_one(connection).await
}

async fn mysql_send(
    connection: &mut MySqlConnection,
    wish: &Wish,
) -> Result<Option<String>, sqlx::Error> {
    let mut options = Map::new();
    let texts = [
        ("source", &wish.source),
        ("key", &wish.key),
        ("dedupe_id", &wish.dedupe_id),
        ("cancel_key", &wish.cancel_key),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            options.insert(name.to_owned(), json!(text));
        }
    }
    for (name, seconds) in [("delay", wish.delay), ("expires", wish.expires)] {
        if let Some(seconds) = seconds {
            options.insert(name.to_owned(), json!(seconds));
        }
    }
    if let Some(headers) = &wish.headers {
        options.insert("headers".to_owned(), Value::from(headers.clone()));
    }
    let options = (!options.is_empty()).then(|| Value::from(options).to_string());
    sqlx::query("call posthouse_send(?, ?, ?, @posthouse_id)")
        .bind(&wish.topic)
        .bind(wish.payload.to_string())
        .bind(options)
        .execute(&mut *connection)
        .await?;
    let answer = sqlx::query("select cast(@posthouse_id as char)").fetch_one(connection).await?;
    answer.try_get(0)
}

/// There are no functions: to send is to insert.
async fn sqlite_send(
    connection: &mut SqliteConnection,
    wish: &Wish,
) -> Result<Option<String>, sqlx::Error> {
    let id = Uuid::now_v7().to_string();
    let later = |seconds: u32| format!("({SQLITE_NOW}) + {seconds} * 1000000");
    let mut columns = vec!["id", "topic", "payload"];
    let mut forms = vec!["?".to_owned(); 3];
    let mut values = vec![id.clone(), wish.topic.clone(), wish.payload.to_string()];
    let headers = wish.headers.as_ref().map(|headers| Value::from(headers.clone()).to_string());
    let texts = [
        ("source", wish.source.clone()),
        ("\"key\"", wish.key.clone()),
        ("dedupe_id", wish.dedupe_id.clone()),
        ("cancel_key", wish.cancel_key.clone()),
        ("headers", headers),
    ];
    for (column, text) in texts {
        if let Some(text) = text {
            columns.push(column);
            forms.push("?".to_owned());
            values.push(text);
        }
    }
    let times =
        [("not_before", wish.delay), ("next_attempt", wish.delay), ("expires_at", wish.expires)];
    for (column, seconds) in times {
        if let Some(seconds) = seconds {
            columns.push(column);
            forms.push(later(seconds));
        }
    }
    let insert = format!(
        "insert into posthouse_outbox ({}) values ({}) \
         on conflict (source, topic, dedupe_id) where dedupe_id is not null do nothing",
        columns.join(", "),
        forms.join(", ")
    );
    let mut insert = sqlx::query(AssertSqlSafe(insert));
    for value in values {
        insert = insert.bind(value);
    }
    let done = insert.execute(connection).await?;
    Ok((done.rows_affected() > 0).then_some(id))
}

impl Row {
    /// The payload as JSON.
    pub(super) fn payload(&self) -> anyhow::Result<Value> {
        let digits = self.payload.as_bytes().chunks(2);
        let octets: anyhow::Result<Vec<u8>> =
            digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect();
        serde_json::from_slice(&octets?).context("the payload is no JSON")
    }

    /// The headers as JSON.
    pub(super) fn headers(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.headers).context("the headers are no JSON")
    }
}
