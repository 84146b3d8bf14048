//! `posthouse queue`: queues of a queue service.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::http::{Connection, Link, Pages, Service, members, printable, segment};
use crate::printer::Printer;

/// What a change of metadata is sent as.
const JSON_PATCH: &str = "application/openstack-messaging-v2.0-json-patch";

/// Make, look at and change queues over HTTP (Zaqar's API).
#[derive(Debug, Args)]
pub(super) struct Queue {
    #[command(flatten)]
    service: Service,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a queue; one that exists is left as it is.
    Create(Create),
    /// List queues by name.
    List(List),
    /// Show a queue's metadata, with defaults where nothing was set.
    Show(Named),
    /// Change metadata; what is not named stays.
    Set(Set),
    /// Delete a queue with its messages.
    Delete(Named),
    /// Count a queue's messages.
    Stats(Named),
    /// Empty a queue: its unclaimed messages, its subscriptions, or both.
    Purge(Purge),
    /// Make a signature by which others may use a queue for a while, without a token. Prints the headers to send.
    Share(Share),
}

#[derive(Debug, Args)]
struct Named {
    /// Which queue: 1 to 64 letters, digits, `_`, `.` and `-`.
    queue: String,
}

#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    named: Named,
    /// Metadata: `name=text`, or `name:=JSON` for numbers and objects, such as `_default_message_ttl:=600`.
    metadata: Vec<String>,
}

#[derive(Debug, Args)]
struct List {
    /// Show at most this many; all of them by default.
    #[arg(long, short = 'n')]
    count: Option<u64>,
    /// Begin after this name.
    #[arg(long)]
    marker: Option<String>,
    /// Only queues whose names hold this.
    #[arg(long)]
    name: Option<String>,
    /// Show metadata as well.
    #[arg(long)]
    detailed: bool,
}

#[derive(Debug, Args)]
struct Set {
    #[command(flatten)]
    named: Named,
    /// Metadata: `name=text`, or `name:=JSON`.
    #[arg(required_unless_present = "unset")]
    metadata: Vec<String>,
    /// Remove this one. May be repeated.
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
}

#[derive(Debug, Args)]
struct Purge {
    #[command(flatten)]
    named: Named,
    /// Only these. May be repeated.
    #[arg(long, value_enum)]
    only: Vec<Resource>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Resource {
    Messages,
    Subscriptions,
}

#[derive(Debug, Args)]
struct Share {
    #[command(flatten)]
    named: Named,
    /// What of the queue: messages, subscriptions or claims. May be repeated.
    #[arg(long = "path", default_value = "messages")]
    paths: Vec<String>,
    /// Which HTTP methods. May be repeated.
    #[arg(long = "method", default_value = "GET")]
    methods: Vec<String>,
    /// Until when, as 2027-01-01T00:00:00 in UTC. Default: for a day.
    #[arg(long)]
    expires: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Page {
    queues: Vec<Box<RawValue>>,
    #[serde(default)]
    links: Vec<Link>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    metadata: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct Stats {
    messages: Counts,
}

#[derive(Debug, Deserialize)]
struct Counts {
    claimed: u64,
    free: u64,
    total: u64,
    oldest: Option<End>,
    newest: Option<End>,
}

/// The first or the last message.
#[derive(Debug, Deserialize)]
struct End {
    age: u64,
    created: String,
}

#[derive(Debug, Deserialize)]
struct Shared {
    signature: String,
    expires: String,
    methods: Vec<String>,
    paths: Vec<String>,
    project: String,
}

impl Queue {
    pub(super) async fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let mut connection = self.service.connection()?;
        let connection = &mut connection;
        match self.verb {
            Verb::Create(create) => create.run(connection, json).await,
            Verb::List(list) => list.run(connection, json).await,
            Verb::Show(named) => named.show(connection, json).await,
            Verb::Set(set) => set.run(connection, json).await,
            Verb::Delete(named) => named.delete(connection, json).await,
            Verb::Stats(named) => named.stats(connection, json).await,
            Verb::Purge(purge) => purge.run(connection, json).await,
            Verb::Share(share) => share.run(connection, json).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Named {
    fn path(&self) -> String {
        path(&self.queue)
    }

    async fn show(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let answer = connection.ask(Method::GET, &self.path()).await?;
        print_metadata(&answer.json()?, json)
    }

    async fn delete(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        connection.ask(Method::DELETE, &self.path()).await?;
        done("deleted", &self.queue, json)
    }

    async fn stats(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let answer = connection.ask(Method::GET, &format!("{}/stats", self.path())).await?;
        let stats: Stats = answer.json()?;
        let mut printer = Printer::new();
        if json {
            return printer.line(&answer.text());
        }
        let Counts { claimed, free, total, oldest, newest } = stats.messages;
        printer.line(&format!("claimed {claimed}, free {free}, total {total}"))?;
        for (name, end) in [("oldest", oldest), ("newest", newest)] {
            if let Some(End { age, created }) = end {
                printer.line(&format!("{name} of {}, {age} s ago", printable(&created)))?;
            }
        }
        Ok(())
    }
}

impl Create {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let metadata = Value::Object(members(&self.metadata)?);
        let answer = connection.tell(Method::PUT, &self.named.path(), metadata).await?;
        let word = if answer.status == StatusCode::CREATED { "created" } else { "exists" };
        done(word, &self.named.queue, json)
    }
}

impl List {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let mut parameters = Vec::new();
        if let Some(marker) = &self.marker {
            parameters.push(("marker", segment(marker)));
        }
        if let Some(name) = &self.name {
            parameters.push(("name", segment(name)));
        }
        if self.detailed {
            parameters.push(("detailed", "true".to_owned()));
        }
        let mut pages = Pages::new("/v2/queues".to_owned(), &parameters, self.count);
        let mut printer = Printer::new();
        while let Some(answer) = pages.next(connection).await? {
            let page: Page = answer.json()?;
            let wanted = pages.turn(page.queues.len(), &page.links);
            for queue in page.queues.iter().take(wanted) {
                printer.line(&show_listed(queue, json)?)?;
            }
        }
        Ok(())
    }
}

fn show_listed(queue: &RawValue, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(queue.get().to_owned());
    }
    let listed: Listed = serde_json::from_str(queue.get()).context("a queue without a name")?;
    let name = printable(&listed.name);
    Ok(match listed.metadata {
        Some(metadata) => format!("{name} {}", metadata.get()),
        None => name,
    })
}

impl Set {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let set = members(&self.metadata)?;
        let added = set
            .into_iter()
            .map(|(name, value)| json!({ "op": "add", "path": pointer(&name), "value": value }));
        let removed =
            self.unset.iter().map(|name| json!({ "op": "remove", "path": pointer(name) }));
        let changes = Value::Array(added.chain(removed).collect());
        let answer =
            connection.tell_as(Method::PATCH, &self.named.path(), JSON_PATCH, changes).await?;
        print_metadata(&answer.json()?, json)
    }
}

impl Purge {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let only = match self.only.as_slice() {
            [] => &[Resource::Messages, Resource::Subscriptions],
            only => only,
        };
        let types: Vec<&str> = only
            .iter()
            .map(|resource| match resource {
                Resource::Messages => "messages",
                Resource::Subscriptions => "subscriptions",
            })
            .collect();
        let path = format!("{}/purge", self.named.path());
        connection.tell(Method::POST, &path, json!({ "resource_types": types })).await?;
        done("purged", &self.named.queue, json)
    }
}

impl Share {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let mut what = json!({ "paths": self.paths, "methods": self.methods });
        if let (Some(expires), Value::Object(what)) = (&self.expires, &mut what) {
            what.insert("expires".to_owned(), expires.as_str().into());
        }
        let path = format!("{}/share", self.named.path());
        let answer = connection.tell(Method::POST, &path, what).await?;
        let shared: Shared = answer.json()?;
        let mut printer = Printer::new();
        if json {
            return printer.line(&answer.text());
        }
        for (name, value) in [
            ("URL-Signature", shared.signature),
            ("URL-Expires", shared.expires),
            ("URL-Methods", shared.methods.join(",")),
            ("URL-Paths", shared.paths.join(",")),
            ("X-Project-ID", shared.project),
        ] {
            printer.line(&format!("{name}: {}", printable(&value)))?;
        }
        Ok(())
    }
}

/// The path of a queue.
pub(super) fn path(queue: &str) -> String {
    format!("/v2/queues/{}", segment(queue))
}

/// Says what became of something, by its name.
pub(super) fn done(word: &str, name: &str, json: bool) -> anyhow::Result<()> {
    Printer::new().line(&match json {
        true => json!({ word: name }).to_string(),
        false => format!("{word} {}", printable(name)),
    })
}

fn print_metadata(metadata: &Map<String, Value>, json: bool) -> anyhow::Result<()> {
    let mut printer = Printer::new();
    if json {
        return printer.line(&Value::Object(metadata.clone()).to_string());
    }
    for (name, value) in metadata {
        printer.line(&format!("{}: {value}", printable(name)))?;
    }
    Ok(())
}

/// A key of the metadata as a JSON pointer (RFC 6901 §3).
fn pointer(key: &str) -> String {
    format!("/metadata/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_escaped_in_pointers() {
        assert_eq!(pointer("a/b~c"), "/metadata/a~1b~0c");
    }

    #[test]
    fn a_queue_is_listed_by_its_name() {
        let queue: Box<RawValue> = serde_json::from_str(
            r#"{"name":"jobs","href":"/v2/queues/jobs","metadata":{"b":1,"a":2}}"#,
        )
        .unwrap();

        assert_eq!(show_listed(&queue, false).unwrap(), r#"jobs {"b":1,"a":2}"#);
        assert_eq!(show_listed(&queue, true).unwrap(), queue.get());
    }
}
