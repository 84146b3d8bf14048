//! `posthouse message`: messages of a queue service.

use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::NOTHING_THERE;
use super::queue::{done, path};
use crate::http::{Connection, Messages, Pages, Service, printable, segment, show};
use crate::input;
use crate::message::Form;
use crate::printer::Printer;

/// Messages sent in one request with --lines: few enough for any service, enough that a round trip is cheap.
const POST_MESSAGES: usize = 100;

/// Bytes of bodies sent in one request with --lines: half of what a service takes unless it is set up otherwise.
const POST_BYTES: usize = 128 * 1024;

/// Post, look at and take messages over HTTP (Zaqar's API).
#[derive(Debug, Args)]
pub(super) struct Message {
    #[command(flatten)]
    service: Service,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Post messages; the queue is made if it does not exist. Prints their ids.
    Post(Post),
    /// List messages, oldest first. They stay where they are.
    List(List),
    /// Show messages by their ids.
    Get(Get),
    /// Delete messages by their ids.
    Delete(Delete),
    /// Take the oldest messages out of a queue; exits with 3 if there are none.
    Pop(Pop),
}

#[derive(Debug, Args)]
struct Post {
    /// Which queue.
    queue: String,
    /// The body; without it and without --file it is read from standard input. JSON is sent as JSON, anything else as a
    /// string.
    body: Option<String>,
    /// Read the body from this file; - is standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    file: Option<PathBuf>,
    /// One message per line of the input instead of one of all of it.
    #[arg(long, conflicts_with = "body")]
    lines: bool,
    /// Send a string even if the body is JSON.
    #[arg(long)]
    text: bool,
    /// Seconds that the messages live. Default: the queue's, then the service's.
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Seconds after which the messages can be seen. Zaqar heeds it on queues with `_default_message_delay` only.
    #[arg(long, value_name = "SECONDS")]
    delay: Option<u64>,
}

#[derive(Debug, Args)]
struct List {
    /// Which queue.
    queue: String,
    /// Show at most this many; all of them by default.
    #[arg(long, short = 'n')]
    count: Option<u64>,
    /// Begin after this place, as a link of the service says it.
    #[arg(long)]
    marker: Option<String>,
    /// Also what this client has posted (see --client-id).
    #[arg(long)]
    echo: bool,
    /// Also claimed messages.
    #[arg(long)]
    claimed: bool,
    /// Also messages whose delay is not over.
    #[arg(long)]
    delayed: bool,
    /// Print bodies only.
    #[arg(long)]
    body: bool,
}

#[derive(Debug, Args)]
struct Get {
    /// Which queue.
    queue: String,
    /// Which messages.
    #[arg(required = true)]
    ids: Vec<String>,
    /// Print bodies only.
    #[arg(long)]
    body: bool,
}

#[derive(Debug, Args)]
struct Delete {
    /// Which queue.
    queue: String,
    /// Which messages. Those that are gone already are no failure.
    #[arg(required = true)]
    ids: Vec<String>,
    /// The claim that holds them; without it a claimed message is not deleted.
    #[arg(long)]
    claim: Option<String>,
}

#[derive(Debug, Args)]
struct Pop {
    /// Which queue.
    queue: String,
    /// Most messages.
    #[arg(long, short = 'n', default_value_t = 1)]
    count: u64,
    /// Print bodies only.
    #[arg(long)]
    body: bool,
}

#[derive(Debug, Deserialize)]
struct Posted {
    resources: Vec<String>,
}

impl Message {
    pub(super) async fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let mut connection = self.service.connection()?;
        let connection = &mut connection;
        match self.verb {
            Verb::Post(post) => post.run(connection, json).await,
            Verb::List(list) => list.run(connection, json).await,
            Verb::Get(get) => get.run(connection, json).await,
            Verb::Delete(delete) => delete.run(connection, json).await,
            Verb::Pop(pop) => return pop.run(connection, json).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Post {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        if let Some(body) = &self.body {
            return self.post(connection, &[self.message(body)?], json).await;
        }
        if !self.lines {
            let body = String::from_utf8(input::whole(self.file.as_deref())?)
                .context("a body must be UTF-8")?;
            return self.post(connection, &[self.message(&body)?], json).await;
        }
        let mut input = BufReader::new(input::open(self.file.as_deref())?);
        let mut gathered = Vec::new();
        let mut bytes = 0;
        while let Some(line) = input::next_line(&mut input)? {
            let line = String::from_utf8(line).context("a line must be UTF-8")?;
            if gathered.len() >= POST_MESSAGES || bytes + line.len() > POST_BYTES {
                self.post(connection, &gathered, json).await?;
                gathered.clear();
                bytes = 0;
            }
            bytes += line.len();
            gathered.push(self.message(&line)?);
        }
        if !gathered.is_empty() {
            self.post(connection, &gathered, json).await?;
        }
        Ok(())
    }

    /// A message as the service wants it; the body keeps its bytes.
    fn message(&self, body: &str) -> anyhow::Result<String> {
        let as_json = match self.text {
            true => None,
            false => serde_json::from_str::<Box<RawValue>>(body).ok(),
        };
        let body = match as_json {
            Some(json) => json.get().to_owned(),
            None => serde_json::to_string(body).context("body cannot be sent")?,
        };
        let mut message = format!("{{\"body\":{body}");
        for (name, value) in [("ttl", self.ttl), ("delay", self.delay)] {
            if let Some(value) = value {
                message.push_str(&format!(",\"{name}\":{value}"));
            }
        }
        message.push('}');
        Ok(message)
    }

    async fn post(
        &self,
        connection: &mut Connection,
        messages: &[String],
        json: bool,
    ) -> anyhow::Result<()> {
        let path = format!("{}/messages", path(&self.queue));
        let body = format!("{{\"messages\":[{}]}}", messages.join(","));
        let Posted { resources } = connection.tell(Method::POST, &path, body).await?.json()?;
        for resource in &resources {
            done("posted", resource.rsplit('/').next().unwrap_or(resource), json)?;
        }
        Ok(())
    }
}

impl List {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let mut parameters = Vec::new();
        if let Some(marker) = &self.marker {
            parameters.push(("marker", segment(marker)));
        }
        let switches = [
            ("echo", self.echo),
            ("include_claimed", self.claimed),
            ("include_delayed", self.delayed),
        ];
        parameters.extend(
            switches.iter().filter(|(_, on)| *on).map(|(name, _)| (*name, "true".to_owned())),
        );
        let path = format!("{}/messages", path(&self.queue));
        let mut pages = Pages::new(path, &parameters, self.count);
        while let Some(answer) = pages.next(connection).await? {
            let page: Messages = answer.json()?;
            let wanted = pages.turn(page.messages.len(), &page.links);
            print(page.messages.iter().take(wanted), Form::of(json, self.body))?;
        }
        Ok(())
    }
}

impl Get {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        for id in &self.ids {
            let path = format!("{}/messages/{}", path(&self.queue), segment(id));
            let message: Box<RawValue> = connection.ask(Method::GET, &path).await?.json()?;
            print([&message], Form::of(json, self.body))?;
        }
        Ok(())
    }
}

impl Delete {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        for id in &self.ids {
            let mut path = format!("{}/messages/{}", path(&self.queue), segment(id));
            if let Some(claim) = &self.claim {
                path.push_str(&format!("?claim_id={}", segment(claim)));
            }
            let answer = connection.ask(Method::DELETE, &path).await;
            answer.with_context(|| format!("message {}", printable(id)))?;
            done("deleted", id, json)?;
        }
        Ok(())
    }
}

impl Pop {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<ExitCode> {
        let path = format!("{}/messages?pop={}", path(&self.queue), self.count);
        let popped: Messages = connection.ask(Method::DELETE, &path).await?.json()?;
        if popped.messages.is_empty() {
            return Ok(ExitCode::from(NOTHING_THERE));
        }
        print(&popped.messages, Form::of(json, self.body))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print<'a>(
    messages: impl IntoIterator<Item = &'a Box<RawValue>>,
    form: Form,
) -> anyhow::Result<()> {
    let mut printer = Printer::new();
    for message in messages {
        printer.line(&show(message, form)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(text: bool, ttl: Option<u64>) -> Post {
        Post { queue: "q".to_owned(), body: None, file: None, lines: false, text, ttl, delay: None }
    }

    #[test]
    fn json_is_sent_as_it_is_and_anything_else_as_a_string() {
        let sent = ["{\"b\": 1.0, \"a\": 2}", "hello", "7", "{\"broken\""]
            .map(|body| post(false, None).message(body).unwrap());

        let wanted = [
            "{\"body\":{\"b\": 1.0, \"a\": 2}}",
            "{\"body\":\"hello\"}",
            "{\"body\":7}",
            "{\"body\":\"{\\\"broken\\\"\"}",
        ];
        assert_eq!(sent, wanted);
        assert_eq!(post(true, Some(60)).message("7").unwrap(), "{\"body\":\"7\",\"ttl\":60}");
    }
}
