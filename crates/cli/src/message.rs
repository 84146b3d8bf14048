//! Messages on the command line: how their properties are said, and how they are shown.

use anyhow::Context;
use base64::prelude::{BASE64_STANDARD, Engine};
use clap::Args;
use posthouse_amqp::properties::Properties;
use posthouse_amqp::raw_table::RawTable;
use posthouse_amqp::table::{Table, Value};
use serde_json::{Map, Value as Json, json};
use server::definitions::{json_of_table, table_of_json};

use crate::client::Received;

/// `delivery-mode` of a message that survives a restart.
const PERSISTENT: u8 = 2;

/// Properties and headers as arguments.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MessageOptions {
    /// A header: `name=text`, or `name:=JSON` for numbers, booleans, lists and objects. May be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub(crate) headers: Vec<String>,
    /// A property: content-type, content-encoding, priority, correlation-id, reply-to, expiration (ms), message-id,
    /// timestamp (s), type, user-id, app-id. May be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE")]
    pub(crate) properties: Vec<String>,
    /// Keep the message over a restart of the broker, in a durable queue.
    #[arg(long)]
    pub(crate) persistent: bool,
}

impl MessageOptions {
    /// The properties in the form that goes over the wire.
    ///
    /// # Errors
    ///
    /// If a property is unknown, or a value is not what it must be.
    pub(crate) fn encode(&self) -> anyhow::Result<Vec<u8>> {
        let headers =
            arguments(&self.headers).context("--header")?.to_entries().context("--header")?;
        let mut properties = Properties {
            headers: (!self.headers.is_empty()).then(|| RawTable::from_bytes(&headers)),
            delivery_mode: self.persistent.then_some(PERSISTENT),
            ..Properties::default()
        };
        for pair in &self.properties {
            let (name, value) = pair
                .split_once('=')
                .with_context(|| format!("--property {pair}: must be NAME=VALUE"))?;
            set(&mut properties, name, value).with_context(|| format!("--property {pair}"))?;
        }
        let mut encoded = Vec::new();
        properties.encode(&mut encoded).context("--property")?;
        Ok(encoded)
    }
}

fn set<'a>(properties: &mut Properties<'a>, name: &str, value: &'a str) -> anyhow::Result<()> {
    let text = Some(value);
    match name {
        "content-type" => properties.content_type = text,
        "content-encoding" => properties.content_encoding = text,
        "priority" => properties.priority = Some(value.parse().context("must be 0 to 255")?),
        "delivery-mode" => {
            properties.delivery_mode = Some(value.parse().context("must be 1 or 2")?);
        }
        "correlation-id" => properties.correlation_id = text,
        "reply-to" => properties.reply_to = text,
        "expiration" => properties.expiration = text,
        "message-id" => properties.message_id = text,
        "timestamp" => {
            properties.timestamp = Some(value.parse().context("must be seconds since 1970")?);
        }
        "type" => properties.kind = text,
        "user-id" => properties.user_id = text,
        "app-id" => properties.app_id = text,
        _ => anyhow::bail!("unknown property; see --help"),
    }
    Ok(())
}

/// A table of `name=text` and `name:=JSON` pairs.
///
/// # Errors
///
/// If a pair has no `=`, or its JSON is none.
pub(crate) fn arguments(pairs: &[String]) -> anyhow::Result<Table> {
    let mut table = Table::new();
    for pair in pairs {
        let (name, value) =
            pair.split_once('=').with_context(|| format!("{pair}: must be NAME=VALUE"))?;
        match name.strip_suffix(':') {
            Some(name) => {
                let json: Json = serde_json::from_str(value)
                    .with_context(|| format!("{pair}: not JSON after :="))?;
                let object = Map::from_iter([(name.to_owned(), json)]);
                let one =
                    table_of_json(&object).map_err(|reason| anyhow::anyhow!("{pair}: {reason}"))?;
                for (name, value) in one.iter() {
                    table.insert(name, value.clone());
                }
            }
            None => {
                table.insert(name, Value::LongString(value.as_bytes().to_vec()));
            }
        }
    }
    Ok(table)
}

/// How messages are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A line about the message, then its body.
    Text,
    /// The body and nothing else.
    Body,
    /// One object per line.
    Json,
}

impl Form {
    /// The form that two switches ask for; JSON wins.
    pub(crate) fn of(json: bool, body_only: bool) -> Self {
        match (json, body_only) {
            (true, _) => Self::Json,
            (false, true) => Self::Body,
            (false, false) => Self::Text,
        }
    }
}

/// A message as bytes to print, with a line end behind it.
pub(crate) fn show(message: &Received, form: Form) -> Vec<u8> {
    let mut shown = match form {
        Form::Text => [about(message).as_bytes(), b"\n", &message.body].concat(),
        Form::Body => message.body.clone(),
        Form::Json => to_json(message).to_string().into_bytes(),
    };
    shown.push(b'\n');
    shown
}

/// Where it was published to and what its properties say, in one line.
fn about(message: &Received) -> String {
    let exchange = if message.exchange.is_empty() { "(default)" } else { &message.exchange };
    let mut line = format!("# {} {}", printable(exchange), printable(&message.routing_key));
    if message.redelivered {
        line.push_str(" redelivered");
    }
    for (name, value) in properties(message) {
        match value {
            Json::Object(headers) => {
                for (name, value) in headers {
                    line.push_str(&format!(" {}={}", printable(&name), plain(&value)));
                }
            }
            value => line.push_str(&format!(" {name}={}", plain(&value))),
        }
    }
    line
}

fn to_json(message: &Received) -> Json {
    let mut object = json!({
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "redelivered": message.redelivered,
        "properties": properties(message),
    });
    let body = match std::str::from_utf8(&message.body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_base64", BASE64_STANDARD.encode(&message.body)),
    };
    if let Json::Object(map) = &mut object {
        map.insert(body.0.to_owned(), body.1.into());
    }
    object
}

/// The properties that are there, by the names that `--property` takes; headers under `headers`.
fn properties(message: &Received) -> Map<String, Json> {
    let Ok(properties) = Properties::decode(&message.properties) else {
        return Map::from_iter([(
            "malformed".to_owned(),
            BASE64_STANDARD.encode(&message.properties).into(),
        )]);
    };
    let headers = properties.headers.map(|headers| match headers.decode() {
        Ok(table) => json_of_table(&table),
        Err(error) => json!({ "malformed": error.to_string() }),
    });
    let text = |text: Option<&str>| text.map(Json::from);
    let all = [
        ("content-type", text(properties.content_type)),
        ("content-encoding", text(properties.content_encoding)),
        ("headers", headers),
        ("delivery-mode", properties.delivery_mode.map(Json::from)),
        ("priority", properties.priority.map(Json::from)),
        ("correlation-id", text(properties.correlation_id)),
        ("reply-to", text(properties.reply_to)),
        ("expiration", text(properties.expiration)),
        ("message-id", text(properties.message_id)),
        ("timestamp", properties.timestamp.map(Json::from)),
        ("type", text(properties.kind)),
        ("user-id", text(properties.user_id)),
        ("app-id", text(properties.app_id)),
        ("cluster-id", text(properties.cluster_id)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) if !text.contains(char::is_whitespace) => printable(text),
        other => other.to_string(),
    }
}

/// Names come from strangers: nothing in them may move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(options: &MessageOptions, body: &[u8]) -> Received {
        Received {
            delivery_tag: 1,
            redelivered: true,
            exchange: String::new(),
            routing_key: "jobs\x1b[2J".to_owned(),
            properties: options.encode().unwrap(),
            body: body.to_vec(),
        }
    }

    fn options(headers: &[&str], properties: &[&str]) -> MessageOptions {
        let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        MessageOptions { headers: own(headers), properties: own(properties), persistent: true }
    }

    #[test]
    fn what_is_said_is_shown() {
        let options = options(&["tenant=a b", "n:=5"], &["content-type=text/plain", "priority=3"]);
        let message = received(&options, b"hello");

        let text = String::from_utf8(show(&message, Form::Text)).unwrap();

        let about = "# (default) jobs\u{fffd}[2J redelivered content-type=text/plain delivery-mode=2 n=5 \
                     tenant=\"a b\" priority=3";
        assert_eq!(text, format!("{about}\nhello\n"));
    }

    #[test]
    fn json_has_headers_with_their_kinds_and_bodies_that_are_no_text() {
        let message = received(&options(&["n:=[1,true]"], &[]), &[0xff]);

        let json: Json = serde_json::from_slice(&show(&message, Form::Json)).unwrap();

        assert_eq!(json["properties"]["headers"]["n"], json!([1, true]));
        assert_eq!(json["body_base64"], "/w==");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for properties in [&["colour=red"][..], &["priority=300"], &["nothing"]] {
            assert!(options(&[], properties).encode().is_err(), "{properties:?}");
        }
        assert!(options(&["n:={"], &[]).encode().is_err());
    }
}
