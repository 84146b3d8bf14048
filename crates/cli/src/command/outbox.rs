//! `posthouse outbox`: the tables of an application's outbox, how full it is, and its dead letters.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use posthouse_outbox::{DeadLetter, Which, schema};
use serde_json::json;
use uuid::Uuid;

use super::NOTHING_THERE;
use super::conformance::Conformance;
use super::database::{Database, Kind, with_outbox};
use crate::printer::Printer;

/// Look after the outbox in an application's database.
#[derive(Debug, Args)]
pub(super) struct Outbox {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Schema(Schema),
    Migrate(Database),
    Status(Database),
    Dead(Dead),
    Retry(Chosen),
    Purge(Chosen),
    Conformance(Conformance),
}

/// Print the tables and functions as a script for the database's own client.
#[derive(Debug, Args)]
struct Schema {
    /// Which database.
    #[arg(long)]
    db: Kind,
}

/// List messages that were given up, the oldest first.
#[derive(Debug, Args)]
struct Dead {
    #[command(flatten)]
    database: Database,
    /// Most that are listed.
    #[arg(long, default_value_t = 100)]
    limit: u32,
}

/// Which messages that were given up.
#[derive(Debug, Args)]
struct Chosen {
    #[command(flatten)]
    database: Database,
    /// Only the one with this id.
    #[arg(long)]
    id: Option<Uuid>,
    /// Only those of this topic.
    #[arg(long, conflicts_with = "id")]
    topic: Option<String>,
    /// Every one.
    #[arg(long, conflicts_with_all = ["id", "topic"], required_unless_present_any = ["id", "topic"])]
    all: bool,
}

impl Chosen {
    fn which(&self) -> Which {
        match (self.id, &self.topic) {
            (Some(id), _) => Which::Id(id),
            (None, Some(topic)) => Which::Topic(topic.clone()),
            (None, None) => Which::All,
        }
    }
}

impl Outbox {
    pub(super) async fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Schema(Schema { db }) => {
                let script = match db {
                    Kind::Postgres => schema::script::<sqlx::Postgres>(),
                    Kind::Mysql => schema::script::<sqlx::MySql>(),
                    Kind::Sqlite => schema::script::<sqlx::Sqlite>(),
                };
                Printer::new().bytes(script.as_bytes())?;
                Ok(ExitCode::SUCCESS)
            }
            Action::Migrate(database) => {
                let outbox = database.open().await?;
                with_outbox!(outbox, outbox => outbox.migrate().await)
                    .context("the tables cannot be made")?;
                Ok(ExitCode::SUCCESS)
            }
            Action::Status(database) => status(&database, json).await,
            Action::Dead(dead) => list(&dead, json).await,
            Action::Retry(chosen) => {
                let outbox = chosen.database.open().await?;
                let which = chosen.which();
                let count =
                    with_outbox!(outbox, outbox => outbox.retry_dead_letters(&which).await)?;
                report(json, "retried", count)
            }
            Action::Purge(chosen) => {
                let outbox = chosen.database.open().await?;
                let which = chosen.which();
                let count =
                    with_outbox!(outbox, outbox => outbox.purge_dead_letters(&which).await)?;
                report(json, "purged", count)
            }
            Action::Conformance(conformance) => conformance.run(json).await,
        }
    }
}

async fn status(database: &Database, json: bool) -> anyhow::Result<ExitCode> {
    let outbox = database.open().await?;
    let counts = with_outbox!(outbox, outbox => outbox.count().await)?;
    let line = match json {
        true => serde_json::to_string(&counts)?,
        false => format!(
            "waiting {}\ndead {}\noldest due for {} ms",
            counts.waiting, counts.dead, counts.oldest_due_ms
        ),
    };
    Printer::new().line(&line)?;
    Ok(ExitCode::SUCCESS)
}

async fn list(dead: &Dead, json: bool) -> anyhow::Result<ExitCode> {
    let outbox = dead.database.open().await?;
    let letters = with_outbox!(outbox, outbox => outbox.dead_letters(dead.limit).await)?;
    let mut printer = Printer::new();
    for letter in &letters {
        printer.line(&match json {
            true => serde_json::to_string(letter)?,
            false => plain(letter),
        })?;
    }
    match letters.is_empty() {
        true => Ok(ExitCode::from(NOTHING_THERE)),
        false => Ok(ExitCode::SUCCESS),
    }
}

fn plain(letter: &DeadLetter) -> String {
    let DeadLetter { id, source, topic, attempts, error, .. } = letter;
    format!("{id}  {source}/{topic}  {attempts} attempts  {error}")
}

fn report(json: bool, what: &str, count: u64) -> anyhow::Result<ExitCode> {
    let line = match json {
        true => json!({ what: count }).to_string(),
        false => format!("{what} {count}"),
    };
    Printer::new().line(&line)?;
    match count {
        0 => Ok(ExitCode::from(NOTHING_THERE)),
        _ => Ok(ExitCode::SUCCESS),
    }
}
