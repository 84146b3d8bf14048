//! `posthouse claim`: messages of a queue service, held for a while to work on them.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::NOTHING_THERE;
use super::queue::{done, path};
use crate::http::{Connection, Messages, Service, printable, segment, show};
use crate::message::Form;
use crate::printer::Printer;

/// Hold messages while working on them, over HTTP (Zaqar's API).
///
/// Delete what is done with `posthouse message delete QUEUE ID --claim CLAIM`; what is not done when the claim ends
/// goes to others.
#[derive(Debug, Args)]
pub(super) struct Claim {
    #[command(flatten)]
    service: Service,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Claim the oldest messages; exits with 3 if there are none.
    Create(Create),
    /// Show a claim and its messages.
    Show(Show),
    /// Begin a claim's time anew.
    Renew(Renew),
    /// Give the messages of a claim back.
    Release(Named),
}

#[derive(Debug, Args)]
struct Create {
    /// Which queue.
    queue: String,
    #[command(flatten)]
    times: Times,
    /// Most messages.
    #[arg(long, short = 'n', default_value_t = 1)]
    count: u64,
    /// Print bodies only.
    #[arg(long)]
    body: bool,
}

#[derive(Debug, Args)]
struct Times {
    /// Seconds that the claim holds. Default: the service's.
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Seconds that claimed messages live beyond the claim at least. Default: the service's.
    #[arg(long, value_name = "SECONDS")]
    grace: Option<u64>,
}

#[derive(Debug, Args)]
struct Named {
    /// Which queue.
    queue: String,
    /// Which claim.
    claim: String,
}

#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    named: Named,
    /// Print bodies only.
    #[arg(long)]
    body: bool,
}

#[derive(Debug, Args)]
struct Renew {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    times: Times,
}

#[derive(Debug, Deserialize)]
struct Shown {
    age: u64,
    ttl: u64,
    messages: Vec<Box<RawValue>>,
}

impl Claim {
    pub(super) async fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let mut connection = self.service.connection()?;
        match self.verb {
            Verb::Create(create) => return create.run(&mut connection, json).await,
            Verb::Show(show) => show.run(&mut connection, json).await,
            Verb::Renew(renew) => {
                let body = renew.times.body();
                connection.tell(Method::PATCH, &renew.named.path(), body).await?;
                done("renewed", &renew.named.claim, json)
            }
            Verb::Release(named) => {
                connection.ask(Method::DELETE, &named.path()).await?;
                done("released", &named.claim, json)
            }
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Times {
    fn body(&self) -> Value {
        let given = [("ttl", self.ttl), ("grace", self.grace)];
        let members =
            given.into_iter().filter_map(|(name, value)| Some((name.into(), value?.into())));
        Value::Object(members.collect::<Map<_, _>>())
    }
}

impl Named {
    fn path(&self) -> String {
        format!("{}/claims/{}", path(&self.queue), segment(&self.claim))
    }
}

impl Create {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<ExitCode> {
        let path = format!("{}/claims?limit={}", path(&self.queue), self.count);
        let answer = connection.tell(Method::POST, &path, self.times.body()).await?;
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(ExitCode::from(NOTHING_THERE));
        }
        let claimed: Messages = answer.json()?;
        let location = answer.location.as_deref().and_then(|path| path.rsplit('/').next());
        let claim = location.context("answer does not say which claim it is")?;
        let form = Form::of(json, self.body);
        print(claim, None, &claimed.messages, form)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    async fn run(&self, connection: &mut Connection, json: bool) -> anyhow::Result<()> {
        let answer = connection.ask(Method::GET, &self.named.path()).await?;
        let Shown { age, ttl, messages } = answer.json()?;
        print(&self.named.claim, Some((age, ttl)), &messages, Form::of(json, self.body))
    }
}

/// Prints a claim, then its messages.
fn print(
    claim: &str,
    times: Option<(u64, u64)>,
    messages: &[Box<RawValue>],
    form: Form,
) -> anyhow::Result<()> {
    let mut printer = Printer::new();
    match (form, times) {
        (Form::Body, _) => {}
        (Form::Text, None) => printer.line(&format!("claim {}", printable(claim)))?,
        (Form::Text, Some((age, ttl))) => {
            printer.line(&format!("claim {} age={age} ttl={ttl}", printable(claim)))?;
        }
        (Form::Json, None) => printer.line(&json!({ "claim": claim }).to_string())?,
        (Form::Json, Some((age, ttl))) => {
            printer.line(&json!({ "claim": claim, "age": age, "ttl": ttl }).to_string())?;
        }
    }
    for message in messages {
        printer.line(&show(message, form)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_said_is_sent() {
        assert_eq!(Times { ttl: None, grace: None }.body(), json!({}));
        assert_eq!(Times { ttl: Some(60), grace: None }.body(), json!({ "ttl": 60 }));
    }
}
