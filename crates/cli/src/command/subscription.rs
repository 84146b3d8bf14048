//! `posthouse subscription`: who is told when a message is posted.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::queue::{done, path};
use crate::http::{Connection, Link, Pages, Service, members, printable, segment};
use crate::printer::Printer;

/// Have messages sent to webhooks and mail addresses, over HTTP (Zaqar's API).
#[derive(Debug, Args)]
pub(super) struct Subscription {
    #[command(flatten)]
    service: Service,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Subscribe an address to a queue; the queue is made if it does not exist.
    Create(Create),
    /// List the subscriptions of a queue.
    List(List),
    /// Show a subscription.
    Show(Named),
    /// Change a subscription; what is not named stays.
    Update(Update),
    /// End a subscription.
    Delete(Named),
    /// Confirm a subscription, or take a confirmation back.
    Confirm(Confirm),
}

#[derive(Debug, Args)]
struct Terms {
    /// Seconds that the subscription lives. Default: the service's.
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// An option: `name=text`, or `name:=JSON`, such as `_retry_policy:={"maximum_delay": 60}`. May be repeated.
    #[arg(long = "option", value_name = "NAME=VALUE")]
    options: Vec<String>,
}

#[derive(Debug, Args)]
struct Create {
    /// Which queue.
    queue: String,
    /// Who is told: http://..., https://..., mailto:....
    subscriber: String,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Debug, Args)]
struct List {
    /// Which queue.
    queue: String,
    /// Show at most this many; all of them by default.
    #[arg(long, short = 'n')]
    count: Option<u64>,
    /// Begin after this subscription.
    #[arg(long)]
    marker: Option<String>,
}

#[derive(Debug, Args)]
struct Named {
    /// Which queue.
    queue: String,
    /// Which subscription.
    subscription: String,
}

#[derive(Debug, Args)]
struct Update {
    #[command(flatten)]
    named: Named,
    /// Who is told from now on.
    #[arg(long)]
    subscriber: Option<String>,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Debug, Args)]
struct Confirm {
    #[command(flatten)]
    named: Named,
    /// Take the confirmation back instead.
    #[arg(long)]
    revoke: bool,
}

#[derive(Debug, Deserialize)]
struct Created {
    subscription_id: String,
}

#[derive(Debug, Deserialize)]
struct Page {
    subscriptions: Vec<Box<RawValue>>,
    #[serde(default)]
    links: Vec<Link>,
}

#[derive(Debug, Deserialize)]
struct Shown {
    id: String,
    subscriber: String,
    ttl: u64,
    age: u64,
    #[serde(default)]
    confirmed: bool,
    options: Option<Box<RawValue>>,
}

impl Subscription {
    pub(super) async fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let mut connection = self.service.connection()?;
        let connection = &mut connection;
        match self.verb {
            Verb::Create(create) => create.run(connection, json).await,
            Verb::List(list) => list.run(connection, json).await,
            Verb::Show(named) => {
                let answer = connection.ask(Method::GET, &named.path()).await?;
                let shown: Box<RawValue> = answer.json()?;
                Printer::new().line(&show(&shown, json)?)
            }
            Verb::Update(update) => update.run(connection, json).await,
            Verb::Delete(named) => {
                connection.ask(Method::DELETE, &named.path()).await?;
                done("deleted", &named.subscription, json)
            }
            Verb::Confirm(confirm) => confirm.run(connection, json).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Terms {
    /// What was said, and nothing else.
    fn body(&self, subscriber: Option<&str>) -> anyhow::Result<Value> {
        let mut body = Map::new();
        if let Some(subscriber) = subscriber {
            body.insert("subscriber".to_owned(), subscriber.into());
        }
        if let Some(ttl) = self.ttl {
            body.insert("ttl".to_owned(), ttl.into());
        }
        if !self.options.is_empty() {
            let options = members(&self.options).context("--option")?;
            body.insert("options".to_owned(), Value::Object(options));
        }
        Ok(Value::Object(body))
    }
}

impl Named {
    fn path(&self) -> String {
        format!("{}/subscriptions/{}", path(&self.queue), segment(&self.subscription))
    }
}

impl Create {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let body = self.terms.body(Some(&self.subscriber))?;
        let path = format!("{}/subscriptions", path(&self.queue));
        let answer = connection.tell(Method::POST, &path, body).await?;
        let Created { subscription_id } = answer.json()?;
        done("subscribed", &subscription_id, json)
    }
}

impl List {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let marker = self.marker.as_deref().map(|marker| ("marker", segment(marker)));
        let path = format!("{}/subscriptions", path(&self.queue));
        let mut pages = Pages::new(path, marker.as_slice(), self.count);
        let mut printer = Printer::new();
        while let Some(answer) = pages.next(connection).await? {
            let page: Page = answer.json()?;
            let wanted = pages.turn(page.subscriptions.len(), &page.links);
            for subscription in page.subscriptions.iter().take(wanted) {
                printer.line(&show(subscription, json)?)?;
            }
        }
        Ok(())
    }
}

impl Update {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let body = self.terms.body(self.subscriber.as_deref())?;
        connection.tell(Method::PATCH, &self.named.path(), body).await?;
        done("updated", &self.named.subscription, json)
    }
}

impl Confirm {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let path = format!("{}/confirm", self.named.path());
        connection.tell(Method::PUT, &path, json!({ "confirmed": !self.revoke })).await?;
        let word = if self.revoke { "revoked" } else { "confirmed" };
        done(word, &self.named.subscription, json)
    }
}

fn show(subscription: &RawValue, json: bool) -> anyhow::Result<String> {
    if json {
        return Ok(subscription.get().to_owned());
    }
    let shown: Shown =
        serde_json::from_str(subscription.get()).context("a subscription that lacks something")?;
    let mut line = format!(
        "{} {} age={} ttl={}",
        printable(&shown.id),
        printable(&shown.subscriber),
        shown.age,
        shown.ttl
    );
    if !shown.confirmed {
        line.push_str(" unconfirmed");
    }
    if let Some(options) = shown.options.filter(|options| options.get() != "{}") {
        line.push_str(&format!(" {}", options.get()));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_one_line() {
        let json = r#"{"id":"s","source":"q","subscriber":"http://x","ttl":60,"age":1,"options":{"a":1},"confirmed":false}"#;
        let subscription: Box<RawValue> = serde_json::from_str(json).unwrap();

        let line = show(&subscription, false).unwrap();

        assert_eq!(line, r#"s http://x age=1 ttl=60 unconfirmed {"a":1}"#);
    }

    #[test]
    fn only_what_was_said_is_sent() {
        let terms = Terms { ttl: None, options: vec!["a:=1".to_owned()] };

        assert_eq!(terms.body(None).unwrap(), json!({ "options": { "a": 1 } }));
    }
}
