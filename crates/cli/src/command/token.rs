//! `posthouse token`: tokens of the queue service, in the file that `queues.token.tokens` names.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use server::auth::token_file::{Entries, Entry, make_secret, make_token};
use server::clock::time_of_day;
use server::config::units::parse_duration;
use server::iso_time;

use crate::printer::Printer;

/// Make, list and revoke tokens of the queue service (queues.auth = "token").
///
/// The file has hashes only: a token is shown once, when it is made. A running server sees changes within seconds.
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// The file of tokens, as in `queues.token.tokens`.
#[derive(Debug, Args)]
struct File {
    /// File of tokens; made if missing.
    #[arg(long, env = "POSTHOUSE__QUEUES__TOKEN__TOKENS", value_name = "FILE")]
    file: PathBuf,
}

/// Make a token and print it, once.
#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    file: File,
    /// What to call it, for `list` and `revoke`.
    #[arg(long)]
    name: String,
    /// Project in which it is good; may be given several times; * is every project.
    #[arg(long = "project", required = true, value_name = "PROJECT")]
    projects: Vec<String>,
    /// Role for policies; may be given several times.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Whom it stands for.
    #[arg(long)]
    user: Option<String>,
    /// Make a secret to sign requests to the inbox with, instead of a token to show. The file has it as it is.
    #[arg(long, requires = "user")]
    signing: bool,
    /// How long it is good, such as 30d; without, until it is revoked.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    lifetime: Option<Duration>,
}

/// List the tokens of a file, without what they are.
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    file: File,
}

/// Take a token away; connections that use it end within 15 seconds.
#[derive(Debug, Args)]
struct Revoke {
    #[command(flatten)]
    file: File,
    /// The name that it was made with.
    name: String,
}

impl Token {
    pub(super) fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Create(create) => create.run(json),
            Action::List(list) => list.run(json),
            Action::Revoke(revoke) => revoke.run(json),
        }
    }
}

impl Create {
    fn run(self, json: bool) -> anyhow::Result<ExitCode> {
        let path = &self.file.file;
        let mut entries = if path.exists() { Entries::read(path)? } else { Entries::default() };
        let (token, sha256, secret) = match self.signing {
            true => {
                let secret = make_secret()?;
                (secret.0.clone(), String::new(), Some(secret))
            }
            false => {
                let (token, sha256) = make_token()?;
                (token, sha256, None)
            }
        };
        let expires = self.lifetime.map(|life| iso_time::format(time_of_day().after(life)));
        entries.tokens.push(Entry {
            name: self.name,
            sha256,
            secret,
            projects: self.projects,
            user: self.user,
            roles: self.roles,
            expires: expires.clone(),
        });
        entries.write(path)?;
        let line = match json {
            true => json!({ "token": token, "expires": expires }).to_string(),
            false => token,
        };
        Printer::new().line(&line)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let mut printer = Printer::new();
        for entry in read(&self.file.file)?.tokens {
            let line = match json {
                true => json!({
                    "name": entry.name,
                    "projects": entry.projects,
                    "user": entry.user,
                    "roles": entry.roles,
                    "expires": entry.expires,
                })
                .to_string(),
                false => format!(
                    "{}  projects {}  roles {}  {}",
                    entry.name,
                    entry.projects.join(","),
                    if entry.roles.is_empty() { "-".to_owned() } else { entry.roles.join(",") },
                    entry.expires.map_or("for ever".to_owned(), |at| format!("until {at}")),
                ),
            };
            printer.line(&line)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Revoke {
    fn run(&self, json: bool) -> anyhow::Result<ExitCode> {
        let path = &self.file.file;
        let mut entries = read(path)?;
        let before = entries.tokens.len();
        entries.tokens.retain(|entry| entry.name != self.name);
        if entries.tokens.len() == before {
            bail!("there is no token `{}` in {}", self.name, path.display());
        }
        entries.write(path)?;
        let line = match json {
            true => json!({ "revoked": self.name }).to_string(),
            false => format!("{} is revoked", self.name),
        };
        Printer::new().line(&line)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn read(path: &Path) -> anyhow::Result<Entries> {
    Entries::read(path).with_context(|| format!("tokens of {}", path.display()))
}
